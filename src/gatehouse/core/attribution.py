"""What a call is booked under beside its key: cost tags, end user, trace and address, each as far as the operator's policy allows.

Tags have names from a closed set, so that a report has columns and not a caller's vocabulary. They are for ledger rows and
reports; no metric has them as a label, and the audit log, of which nothing can be taken back, never holds one.
"""

import re
from typing import Final, Literal

import msgspec

TAG_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}", re.ASCII)
MOST_TAGS: Final = 16
LONGEST_VALUE: Final = 64
"""Characters of a tag's value."""
LONGEST_USER: Final = 128
"""Characters of an end user who is kept as he was named."""
TAG_GROUP: Final = "tag:"
"""What a usage group begins with that is a tag; its name follows."""
_PAIR: Final = re.compile(r"([^=,\s]{1,64})\s*=\s*([^,]{1,256})")


class Attribution(msgspec.Struct, frozen=True, array_like=True):
    """Kept with every record of a call. `tags` are sorted by name; `end_user`, `trace` and `peer` are "" when not known or not kept."""

    tags: tuple[tuple[str, str], ...] = ()
    end_user: str = ""
    """As named, or "u_" and 32 hexadecimal digits of a keyed hash."""
    trace: str = ""
    """The W3C trace id (32 hexadecimal digits) that the caller's `traceparent` named."""
    peer: str = ""
    """The address it came from."""


class AttributionPolicy(msgspec.Struct, frozen=True):
    """Which tags are kept, and what becomes of the end user that a call names: nothing, a keyed hash, or his name; and
    whether the address a call came from is kept."""

    tags: frozenset[str] = frozenset()
    user: Literal["off", "hash", "plain"] = "off"
    peer: Literal["off", "keep"] = "off"


def tags_of_header(value: bytes) -> tuple[tuple[str, str], ...] | None:
    """The pairs of an `x-gatehouse-tags` header ("project=apollo, team=blue"); None when it is not written so."""
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        return None
    pairs: list[tuple[str, str]] = []
    for piece in text.split(","):
        pair = _PAIR.fullmatch(piece.strip())
        if pair is None or len(pairs) == MOST_TAGS:
            return None
        pairs.append((pair[1], pair[2].strip()))
    return tuple(pairs)
