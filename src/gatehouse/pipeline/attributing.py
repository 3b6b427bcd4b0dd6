"""Attribution: what of a call's tags, end user, trace and address is kept with its records, by the operator's policy.

Tags come from the call's `metadata` and from the header `x-gatehouse-tags`, which wins. A name that the policy does not list
is not looked at. A value that is too long, not printable, or in which a rule of the guard finds something is left out and the
call is flagged, so that no secret gets into the ledger by this door. A call of nobody is booked under nothing but the address
it came from.
"""

import hashlib
import hmac
from collections.abc import Iterable
from itertools import chain
from typing import Final

from gatehouse.core.attribution import LONGEST_USER, LONGEST_VALUE, Attribution, AttributionPolicy, tags_of_header
from gatehouse.core.calls import Call
from gatehouse.core.identity import Principal
from gatehouse.core.ports import Scanner
from gatehouse.core.traces import parse_traceparent
from gatehouse.pipeline.exchange import Exchange

TAGS_HEADER: Final = b"x-gatehouse-tags"
TRACE_HEADER: Final = b"traceparent"
DROPPED: Final = "tags:dropped"
"""The flag of a call of which a tag was not kept although its name is one of the policy's."""
_HASH_BYTES: Final = 16


class Attributor:
    """Works out a call's attribution. `key` is for hashes of end users; `scanner` reads what will be stored."""

    def __init__(self, key: bytes, scanner: Scanner) -> None:
        if len(key) < 32:
            raise ValueError("the attribution key has at least 32 bytes")
        self._key = key
        self._scanner = scanner
        self._tags: frozenset[str] = frozenset()
        self._user = "off"
        self._peer = False
        self._keeps = False

    def __repr__(self) -> str:
        return "Attributor(***)"

    def configure(self, policy: AttributionPolicy) -> None:
        """Put a policy in force for records that are made from now on."""
        self._tags = policy.tags
        self._user = policy.user
        self._peer = policy.peer != "off"
        self._keeps = bool(policy.tags) or policy.user != "off" or self._peer

    def __call__(self, x: Exchange) -> Attribution | None:
        """What `x` is booked under; None when there is nothing of it."""
        came = x.head.headers.get(TRACE_HEADER)
        if came is None and not self._keeps:
            return None
        peer = x.head.peer if self._peer else ""
        principal = x.principal
        if principal is None:
            return Attribution(peer=peer) if peer else None
        parent = None if came is None else parse_traceparent(came)
        trace = "" if parent is None else parent.trace
        tags = self._kept(x) if self._tags else ()
        user = _end_user(x.call) if x.call is not None and self._user != "off" else None
        end_user = "" if not user else self._named(user, principal)
        return Attribution(tags, end_user, trace, peer) if tags or end_user or trace or peer else None

    def hashed(self, user: str, tenant: str) -> str:
        """The name under which an end user of `tenant` stands in the ledger: nobody without the key can go back, or try names."""
        digest = hmac.digest(self._key, f"{tenant}\0{user}".encode("utf-8", "surrogatepass"), hashlib.sha256)
        return f"u_{digest[:_HASH_BYTES].hex()}"

    def _named(self, user: str, principal: Principal) -> str:
        if self._user == "plain" and len(user) <= LONGEST_USER and user.isprintable() and self._scanner.is_clean(user):
            return user
        return self.hashed(user, principal.tenant)

    def _kept(self, x: Exchange) -> tuple[tuple[str, str], ...]:
        header = x.head.headers.get(TAGS_HEADER)
        metadata = x.call.metadata if x.call is not None else None
        if header is None and not metadata:
            return ()
        written: Iterable[tuple[str, str]] = ()
        dropped = False
        if header is not None:
            pairs = tags_of_header(header)
            dropped = pairs is None
            written = pairs or ()
        kept: dict[str, str] = {}
        for name, value in chain(metadata.items() if metadata else (), written):
            if name not in self._tags:
                continue
            if value and len(value) <= LONGEST_VALUE and value.isprintable() and self._scanner.is_clean(value):
                kept[name] = value
            else:
                dropped = True
        if dropped and DROPPED not in x.flags:
            x.flags.append(DROPPED)
        return tuple(sorted(kept.items()))


def _end_user(call: Call) -> str | None:
    """Who the caller asks for: `user`, or what took its place in OpenAI's API."""
    named = call.user or call.extra.get("safety_identifier")
    return named if isinstance(named, str) else None
