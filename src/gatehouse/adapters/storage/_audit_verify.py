"""Verification of the audit log, without trust in anything the database holds: events, leaves, state and checkpoints alike.

One pass in order of the sequence, a page at a time. What is found wrong is named by its first event; the pass goes on, so
that one edited event does not hide the next, until so many problems are known that more would help nobody.
"""

import hmac
from collections.abc import Iterator
from typing import Any, Final, cast

import msgspec
from sqlalchemy import Connection, select

from gatehouse.adapters.storage._audit_tables import AUDIT_CHECKPOINTS, AUDIT_EVENTS, AUDIT_STATE
from gatehouse.core.audit import Columns, Problem, Progress, VerifyReport, leaf_data
from gatehouse.core.checkpoints import Checkpoint, NoteVerifier, open_checkpoint
from gatehouse.core.merkle import HASH_SIZE, Frontier, leaf_hash

STATE: Final = "log"
"""The name of the one row of `audit_state`."""
EVENTS_PAGE: Final = 5_000
NOTES_PAGE: Final = 500
MOST_PROBLEMS: Final = 100


def seal_of(key: bytes, size: int, nodes: bytes) -> bytes:
    """The MAC over the log's end."""
    return hmac.digest(key, b"gatehouse-audit-seal/1\n%d\n" % size + nodes, "sha256")


class _Anchor(msgspec.Struct, frozen=True):
    """A size at which the root is known. `given` when it was handed in, not read from the database."""

    size: int
    root: bytes
    given: bool = False


class _Walk:
    """What one pass knows so far."""

    def __init__(self) -> None:
        self.frontier = Frontier()
        self.expected = 0
        """The next sequence number."""
        self.whole = True
        """False once an event is missing: roots after that say nothing more."""
        self.signed = 0
        self.checkpoints = 0
        self.problems: list[Problem] = []

    def blame(self, kind: str, seq: int, text: str, until: int | None = None) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(kind, seq, text, until))

    def event(self, row: "tuple[Any, ...]") -> None:
        """Take the next row."""
        seq, leaf = row[0], row[-1]
        if not isinstance(seq, int) or seq < self.expected:
            self.blame("foreign", self.expected, f"an event with the impossible number {seq!r} lies in the log")
            return
        if seq > self.expected:
            until = seq - 1
            what = f"event {self.expected} is" if until == self.expected else f"events {self.expected} to {until} are"
            self.blame("missing", self.expected, f"{what} missing", until)
            self.whole = False
            self.expected = seq
        if leaf is None or _leaf(row) != leaf:
            self.blame("edited", seq, f"event {seq} is not what was logged: it was edited or moved")
        if not isinstance(leaf, bytes) or len(leaf) != HASH_SIZE:
            self.whole = False
        elif self.whole:
            # The stored leaf, so that one edited event does not make every later root wrong; it has been blamed above.
            self.frontier.append(leaf)
        self.expected += 1

    def unreadable(self, seq: int) -> None:
        """The next event cannot even be read."""
        self.blame("unreadable", seq, f"event {seq} cannot be read")
        self.whole = False
        self.expected = max(self.expected, seq + 1)

    def anchor(self, anchor: _Anchor) -> None:
        """Compare the root at the anchor's size, which is where the walk stands."""
        if not self.whole:
            return
        if self.frontier.root() == anchor.root:
            self.checkpoints += 1
            self.signed = anchor.size
            return
        which = "the checkpoint handed in" if anchor.given else "a signed checkpoint"
        text = f"events {self.signed} to {anchor.size - 1} do not lead to {which} of {anchor.size} events: history was rewritten"
        self.blame("rewritten", self.first_known(), text, anchor.size - 1)

    def first_known(self) -> int:
        """Where the trouble after the last good root begins: at the first event that is known to be bad, else right there."""
        return min((problem.seq for problem in self.problems if problem.seq >= self.signed), default=self.signed)

    def beyond(self, anchor: _Anchor) -> None:
        """The log ended before the anchor's size."""
        which = "the checkpoint handed in tells of" if anchor.given else "a signed checkpoint tells of"
        text = f"the log ends after {self.expected} events, but {which} {anchor.size}: its tail was cut"
        self.blame("cut", self.expected, text, anchor.size - 1)


def _leaf(row: "tuple[Any, ...]") -> bytes | None:
    """The leaf of the row's other columns; None when a column is not even of its type, which is an edit like any other."""
    try:
        return leaf_hash(leaf_data(cast("Columns", row[:10])))
    except (TypeError, AttributeError, UnicodeError, msgspec.MsgspecError):
        return None


def verify_log(
    connection: Connection, verifier: NoteVerifier, extends: str | None, seal_key: bytes | None, progress: Progress | None
) -> VerifyReport:
    """See `audit_log.verify`."""
    given = None if extends is None else open_checkpoint(extends, verifier)
    walk = _Walk()
    anchors = _anchors(connection, verifier, given, walk)
    ahead = next(anchors, None)
    told = 0
    for row in _events(connection):
        while ahead is not None and ahead.size <= walk.expected:
            walk.anchor(ahead)
            ahead = next(anchors, None)
        if isinstance(row, int):
            walk.unreadable(row)
        else:
            walk.event(row)
        if progress is not None and walk.expected - told >= EVENTS_PAGE:
            told = walk.expected
            progress(told)
    while ahead is not None:
        if ahead.size <= walk.expected:
            walk.anchor(ahead)
        else:
            walk.beyond(ahead)
        ahead = next(anchors, None)
    _check_state(connection, walk, seal_key)
    if progress is not None:
        progress(walk.expected)
    return VerifyReport(walk.expected, walk.frontier.root().hex(), walk.signed, walk.checkpoints, tuple(walk.problems))


def _events(connection: Connection) -> Iterator["tuple[Any, ...] | int"]:
    """The rows in order; a bare sequence number for one that cannot be read."""
    query = select(AUDIT_EVENTS).order_by(AUDIT_EVENTS.c.seq).limit(EVENTS_PAGE)
    after: int | None = None
    while True:
        bounded = query if after is None else query.where(AUDIT_EVENTS.c.seq > after)
        try:
            rows: list[Any] = list(connection.execute(bounded))
        except Exception:  # whatever the driver makes of text that is no text; a broken file raises again below
            rows = list(_one_by_one(connection, after))
        if not rows:
            return
        yield from rows
        after = rows[-1] if isinstance(rows[-1], int) else rows[-1][0]


def _one_by_one(connection: Connection, after: int | None) -> Iterator[Any]:
    """The same page, so that one unreadable row hides no other."""
    query = select(AUDIT_EVENTS.c.seq).order_by(AUDIT_EVENTS.c.seq).limit(EVENTS_PAGE)
    for seq in connection.scalars(query if after is None else query.where(AUDIT_EVENTS.c.seq > after)).all():
        try:
            yield connection.execute(select(AUDIT_EVENTS).where(AUDIT_EVENTS.c.seq == seq)).one()
        except Exception:
            yield seq


def _anchors(connection: Connection, verifier: NoteVerifier, given: Checkpoint | None, walk: _Walk) -> Iterator[_Anchor]:
    """The stored checkpoints whose signature is good, in order of size, with the given one among them; others are blamed."""
    for row in _notes(connection, walk):
        try:
            checkpoint = open_checkpoint(row.note, verifier)
        except (ValueError, TypeError) as error:
            walk.blame("checkpoint", walk.signed, f"the stored checkpoint of {row.size} events is no good: {error}")
            continue
        if checkpoint.size != row.size or checkpoint.root != row.root:
            walk.blame("checkpoint", walk.signed, f"the stored checkpoint of {row.size} events does not match its own note")
            continue
        if given is not None and given.size <= checkpoint.size:
            yield _Anchor(given.size, given.root, given=True)
            given = None
        yield _Anchor(checkpoint.size, checkpoint.root)
    if given is not None:
        yield _Anchor(given.size, given.root, given=True)


def _notes(connection: Connection, walk: _Walk) -> Iterator[Any]:
    """The stored checkpoints in order of size."""
    query = select(AUDIT_CHECKPOINTS).order_by(AUDIT_CHECKPOINTS.c.size).limit(NOTES_PAGE)
    after: int | None = None
    while True:
        try:
            rows = connection.execute(query if after is None else query.where(AUDIT_CHECKPOINTS.c.size > after)).all()
        except Exception:  # what is no text or no number cannot be read; the events are verified all the same
            walk.blame("checkpoint", walk.signed, "a stored checkpoint cannot be read, and those behind it are not looked at")
            return
        if not rows:
            return
        yield from rows
        after = rows[-1].size


def _check_state(connection: Connection, walk: _Walk, seal_key: bytes | None) -> None:
    """The sealed end must be where the events end."""
    state = connection.execute(select(AUDIT_STATE).where(AUDIT_STATE.c.name == STATE)).one_or_none()
    if state is None:
        if walk.expected:
            walk.blame("seal", walk.signed, "the log's end is not recorded: its row in audit_state was removed")
        return
    if not (isinstance(state.size, int) and isinstance(state.frontier, bytes) and isinstance(state.seal, bytes)):
        walk.blame("seal", walk.signed, "the log's end cannot be read: its row in audit_state was altered")
        return
    if state.size > walk.expected:
        text = f"the log ends after {walk.expected} events, but {state.size} were written: its tail was cut"
        walk.blame("cut", walk.expected, text, state.size - 1)
    elif state.size < walk.expected:
        walk.blame("foreign", state.size, f"events from {state.size} on were added outside Gatehouse", walk.expected - 1)
    elif walk.whole and state.frontier != walk.frontier.dump():
        text = f"events from {walk.signed} on do not lead to the log's recorded end"
        walk.blame("rewritten", walk.first_known(), text, walk.expected - 1)
    if seal_key is not None and not hmac.compare_digest(state.seal, seal_of(seal_key, state.size, state.frontier)):
        walk.blame("seal", walk.signed, f"the seal of the log's end is broken: events from {walk.signed} on are not vouched for")
