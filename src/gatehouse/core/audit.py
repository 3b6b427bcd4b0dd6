"""One line of the audit log: who did what, when, to what, under which policy, and how it ended. Metadata only; contents never.

A call's `commitment` is a keyed HMAC over its canonical form: it proves later what was asked without telling it.

The log is a Merkle tree (`gatehouse.core.merkle`). The bytes of a leaf are fixed for ever, so that anybody with a JSON
encoder and SHA-256 can check a log without us: the JSON array (RFC 8785 form: UTF-8, no spaces)

    ["gatehouse-audit/1", seq, at, kind, action, actor, tenant, subject, outcome, detail, commitment]

of the row's columns as they are stored: `at` in whole microseconds since the epoch, `detail` the text of the column (itself
a JSON object with sorted keys), `commitment` in lower-case hexadecimal. Whatever column is changed, the leaf changes.

Text is made printable before it is hashed and stored (`printable`), so one event is one line in whatever tool shows it.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

LEAF_VERSION: Final = "gatehouse-audit/1"
LONGEST_TEXT: Final = 1024
"""Characters of one text column or one detail value; longer ones are cut and say so."""


class AuditEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """`kind` is call, admin or system; `action` e.g. "chat", "key.create", "config.reload"; `subject` the request or object id.

    `detail` is flat and small: strings only, escaped on the way out. `at` is seconds since the epoch.
    """

    at: float
    kind: str
    action: str
    actor: str
    tenant: str
    subject: str
    outcome: str
    detail: dict[str, str] = {}
    commitment: bytes = b""


class AuditRow(msgspec.Struct, frozen=True):
    """An event as it stands in the log, column for column. `at` is microseconds since the epoch, `detail` JSON text."""

    seq: int
    at: int
    kind: str
    action: str
    actor: str
    tenant: str
    subject: str
    outcome: str
    detail: str
    commitment: bytes
    leaf: bytes


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong with a log. `seq` is the first event it concerns, `until` the last when that is not known better.

    `kind` is edited (not what was logged, or moved), missing (a gap), unreadable, foreign (an event that cannot be ours),
    rewritten (the log does not lead to a signed checkpoint), cut (shorter than was once signed or sealed), checkpoint (a
    stored checkpoint is not properly signed) or seal (the log's end was altered outside Gatehouse).
    """

    kind: str
    seq: int
    text: str
    until: int | None = None


class VerifyReport(msgspec.Struct, frozen=True):
    """What verification found. `size` events, of which the first `signed` stand under a checkpoint whose signature is good."""

    size: int
    root: str
    """Hexadecimal root over the events found."""
    signed: int
    checkpoints: int
    """Checkpoints whose signature and root are good, the one handed in included."""
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def first_bad(self) -> int | None:
        """The lowest sequence number that a problem concerns."""
        return min((problem.seq for problem in self.problems), default=None)


class AuditSink(Protocol):
    """Where events go that belong to no other change."""

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """Append them; they are durable when this returns. Raises Unavailable when they cannot be."""


class AuditLog(AuditSink, Protocol):
    """The log as operators see it."""

    async def page(self, tenant: str, before: int | None, limit: int) -> tuple[AuditRow, ...]:
        """At most `limit` events of `tenant` with `seq` below `before` (None: from the end), newest first."""

    async def checkpoint(self, at: float) -> str:
        """A signed note over the log as it stands; nothing new is signed when nothing was added."""

    async def verify(self, extends: str | None = None) -> VerifyReport:
        """Check everything; with `extends`, also that the log leads to and beyond that signed checkpoint.

        Raises:
            ValueError: `extends` is not a checkpoint signed by this log's key.
        """


Progress = Callable[[int], None]
"""Told now and then how many events have been looked at."""


def printable(text: str) -> str:
    r"""`text` without anything that could break a line, move a cursor or hide: other characters become \xNN, \uNNNN, \UNNNNNNNN.

    For everything that was written by others and is shown to people: log lines, terminals, CEF and syslog fields.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(ord(character)) for character in text)


def _escaped(point: int) -> str:
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def storable(text: str) -> str:
    """`text` as the log keeps it: printable, and at most LONGEST_TEXT characters of it with a note of how many were cut."""
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]}…(+{len(text) - LONGEST_TEXT})"
    return printable(text)


def canonical_detail(detail: dict[str, str]) -> str:
    """The detail column: a JSON object with sorted keys and printable strings."""
    if not detail:
        return "{}"
    try:
        text = msgspec.json.encode(detail, order="sorted").decode()
    except UnicodeEncodeError:  # a lone surrogate
        text = ""
    if text and len(text) <= LONGEST_TEXT and text.isprintable() and "\\" not in text:
        return text  # nothing was escaped, so every string is printable and short
    clean = {storable(key): storable(value) for key, value in detail.items()}
    return msgspec.json.encode(clean, order="sorted").decode()


Columns = tuple[int, int, str, str, str, str, str, str, str, bytes]
"""seq, at, kind, action, actor, tenant, subject, outcome, detail, commitment: what a leaf hashes, in that order."""


def leaf_data(columns: Columns) -> bytes:
    """The bytes that a leaf hashes."""
    return msgspec.json.encode((LEAF_VERSION, *columns[:9], columns[9].hex()))


def columns_of(seq: int, event: AuditEvent) -> Columns:
    """The columns of `event` at place `seq`."""
    joined = "".join((event.kind, event.action, event.actor, event.tenant, event.subject, event.outcome))
    clean = str if len(joined) <= LONGEST_TEXT and joined.isprintable() else storable
    return (
        seq,
        round(event.at * 1_000_000),
        clean(event.kind),
        clean(event.action),
        clean(event.actor),
        clean(event.tenant),
        clean(event.subject),
        clean(event.outcome),
        canonical_detail(event.detail),
        event.commitment,
    )
