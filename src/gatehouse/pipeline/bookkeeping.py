"""The bookkeeper writes what is remembered of each call into the journal: one record before a target is asked, one at the end.

An attempt is opened after the last admit and before a byte goes upstream: when that cannot be written the call is refused,
because a call that cannot be accounted for must not happen. The end of a call is written whatever its end was. When the
disk refuses just then the record waits here and goes in front of the next one; until it is through, nothing new opens.

The commitment proves later what was asked without telling it: HMAC-SHA256, under a key of this installation, over the
canonical MessagePack of the call as it was let through to its targets (guards may have changed it; what `forward` keeps from
one of them is in it), or as it was when it was refused.
It is computed once, when the first record needs it; `commit` does that beside the loop for a call that is large.
"""

import hashlib
import hmac
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from gatehouse.core.attribution import Attribution
from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError, Unavailable
from gatehouse.core.money import ZERO, Money
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Target
from gatehouse.core.ports import Clock, Journal, Refused, Tally
from gatehouse.core.records import Closed, Opened, Record
from gatehouse.core.usage import Usage, added
from gatehouse.pipeline.exchange import NO_USAGE, Exchange, canonical

Offload = Callable[[Callable[[], bytes]], Awaitable[bytes]]
"""Runs a function beside the loop (a thread)."""
Attribute = Callable[[Exchange], Attribution | None]
"""What a call is booked under beside its key, as far as policy keeps it."""

logger = logging.getLogger("gatehouse.pipeline")

HOUSE: Final = "default"
"""The tenant in whose books a caller stands whom nobody identified."""
OVERTAKEN: Final = "overtaken"
"""The error code in the row of an attempt that was stopped because another began first."""
LARGE_CHARACTERS: Final = 200_000
"""A call with more text than this is committed to in a thread: hashing it takes a good part of a millisecond."""
MOST_WAITING: Final = 10_000
"""Records that wait for the disk. What comes beyond them is lost, counted and logged."""


class Commitments:
    """Keyed commitments to calls. Holds the key as two hash states, so that a short call costs two updates."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise ValueError("the commitment key has at least 32 bytes")
        block = key if len(key) <= 64 else hashlib.sha256(key).digest()
        block = block.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def __repr__(self) -> str:
        return "Commitments(***)"

    def of(self, call: Call) -> bytes:
        """HMAC-SHA256 over the canonical form of `call`: MessagePack with fields in their order and map keys sorted."""
        return self.of_encoded(canonical(call))

    def of_encoded(self, encoded: bytes) -> bytes:
        """The same, of the canonical form."""
        inner = self._inner.copy()
        inner.update(encoded)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def proves(self, call: Call, commitment: bytes) -> bool:
        """Whether `commitment` was made to exactly this call."""
        return hmac.compare_digest(self.of(call), commitment)


class Bookkeeper:
    """Serves every call of a worker, on its loop. Dispatch opens and fails attempts; the Record stage closes calls."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        tally: Tally,
        commitments: Commitments,
        policy: str,
        offload: Offload | None = None,
        attribute: Attribute = lambda _: None,
    ) -> None:
        self._journal = journal
        self._append = journal.append
        self._post_all = journal.post_all
        self._now = clock.now
        self._monotonic = clock.monotonic
        self._tally = tally
        self._commitments = commitments
        self.policy = policy
        """Version of configuration and guard policy that decides now."""
        self._offload = offload
        self._attribute = attribute
        self._waiting: deque[Record] = deque()

    @property
    def waiting(self) -> int:
        """Records of ended calls that the disk has not taken yet."""
        return len(self._waiting)

    def commits_beside(self, x: Exchange) -> bool:
        """Whether the call is so large that its commitment is made beside the loop: then `commit` is to be awaited before `opened`."""
        if 0 < x.size <= LARGE_CHARACTERS:
            return False  # what came in few bytes has few characters
        call = x.call
        return self._offload is not None and call is not None and not x.commitment and _characters(call) > LARGE_CHARACTERS

    async def commit(self, x: Exchange) -> None:
        """Make the commitment of a large call beside the loop; `opened` does that of others in place."""
        call = x.call
        if self._offload is not None and call is not None and self.commits_beside(x):
            x.commitment = await self._offload(lambda: self._commitments.of(call))

    def opened(self, x: Exchange, target: Target) -> None:
        """An attempt at `target` begins; nothing may be sent before this returns. One that is open goes on beside it.

        Raises:
            Unavailable: the journal refuses. The exchange is as it was.
        """
        if self._waiting:
            self._catch_up()
        self._append(self._opening(x, target, self._now()))
        _opens(x, target)

    def opened_all(self, calls: Sequence[tuple[Exchange, Target]], refused: Refused) -> list[tuple[Exchange, Exception]]:
        """Attempts at these targets begin; their records leave at the end of this turn of the loop, before what is sent then.

        Those of which there is none are as they were, and are given back, each with why. `refused` is called for each that the disk
        refuses then; where there are no turns, at once.
        """
        now = self._now()
        records: list[Record] = []
        left: list[tuple[Exchange, Exception]] = []
        for x, target in calls:
            try:
                if self._waiting:
                    self._catch_up()
                records.append(self._opening(x, target, now))
            except Exception as fault:
                left.append((x, fault))
            else:
                _opens(x, target)
        self._post_all(records, refused)
        return left

    def _opening(self, x: Exchange, target: Target, now: float) -> Opened:
        principal, plan = x.principal, x.plan
        assert principal is not None
        assert plan is not None
        assert x.call is not None
        if not x.commitment:
            x.commitment = self._commitments.of(x.call)
        if x.attribution is None:
            x.attribution = self._attribute(x)
        price = target.price
        record = Opened(
            x.request_id,
            x.attempts + 1,
            now,
            principal.tenant,
            principal.team,
            principal.key_id,
            x.call.operation,
            plan.model,
            target.id,
            "" if price is None else price.snapshot,
            x.money_holds,
            x.ceiling,
            self.policy,
            x.commitment,
            x.attribution,
        )
        if x.opened and x.target is not None:
            price = x.target.price
            other = replace(record, attempt=x.attempt, target=x.target.id, price="" if price is None else price.snapshot)
            record = replace(record, beside=other)
        return record

    def not_opened(self, x: Exchange) -> None:
        """The record of the attempt that is open was refused: no attempt was made."""
        x.attempts -= 1
        x.attempt = x.attempts
        x.target = None
        x.opened = False

    async def durable(self) -> None:
        """Return when everything opened so far would survive a power cut. Raises Unavailable when the disk refuses."""
        await self._journal.sync()

    def attempt_failed(self, x: Exchange, error: GatehouseError) -> None:
        """The attempt that is open has failed and another one, or the end of the call, follows.

        It is booked without usage or charge: what the call has used stands in its last record, so that their sum is the
        call's, whatever was tried before.
        """
        if x.opened:
            x.opened = False
            try:
                record = self._failed(x, error, x.attempt, self._monotonic())
            except Exception:
                self._lost(x)
            else:
                self._write(record)

    def overtaken(self, x: Exchange, attempt: int, target: Target, usage: Usage, charge: Money) -> None:
        """Another attempt of the call began first, and this one was stopped: it is booked with what it has used."""
        ended = self._monotonic()
        try:
            record = replace(
                self._failed(x, None, attempt, ended),
                target=target.id,
                target_model=target.model,
                price="" if target.price is None else target.price.snapshot,
                error=OVERTAKEN,
                usage=usage,
                charge=charge,
                flags=("estimated_usage",) if usage.total else (),
            )
        except Exception:
            self._lost(x)
        else:
            self._write(record)

    def closed(self, calls: Sequence[Exchange]) -> float:
        """They have ended; returns when, by the clock of durations. Never raises: what cannot be written waits and is counted.

        It leaves at the end of this turn of the loop, as their answers do, or before.
        """
        ended, now = self._monotonic(), self._now()
        records: list[Record] = []
        for x in calls:
            attempt = x.attempt if x.opened else 0
            x.opened = False
            try:
                records.append(self._record(x, x.error, attempt, ended, now))
            except Exception:
                self._lost(x)
        try:
            if self._waiting:
                self._catch_up()
        except Exception as problem:
            for record in records:
                self._wait(record, problem)
        else:
            self._post_all(records, self._wait)
        return ended

    def _lost(self, x: Exchange) -> None:
        self._tally.count("gatehouse_journal_errors_total")
        logger.exception("call %s: its record cannot be made", x.request_id)

    def _write(self, record: Record) -> None:
        try:
            if self._waiting:
                self._catch_up()
            self._append(record)
        except Exception as problem:
            self._wait(record, problem)

    def _failed(self, x: Exchange, error: GatehouseError | None, attempt: int, ended: float) -> Closed:
        record = self._record(x, error, attempt, ended, self._now())
        return replace(
            record, outcome=Outcome.FAILED.value, usage=NO_USAGE, charge=ZERO, flags=(), first_event_us=-1, marks=(), final=False
        )

    def _record(self, x: Exchange, error: GatehouseError | None, attempt: int, ended: float, now: float) -> Closed:
        principal, plan, target, call = x.principal, x.plan, x.target, x.call
        if call is not None and not x.commitment:
            x.commitment = self._commitments.of(call)
        if x.attribution is None and not x.attempts:
            # Else the first attempt's record has asked.
            x.attribution = self._attribute(x)
        price = None if target is None else target.price
        return Closed(
            x.request_id,
            attempt,
            now,
            HOUSE if principal is None else principal.tenant,
            None if principal is None else principal.team,
            "" if principal is None else principal.key_id,
            "chat" if call is None else call.operation,
            "" if plan is None else plan.model,
            "" if target is None else target.id,
            "" if target is None else target.model,
            "" if price is None else price.snapshot,
            (x.outcome or Outcome.FAILED)._value_,  # what `value` is, without asking the descriptor
            "" if error is None else error.code,
            x.usage if x.lost is None else added(x.usage, x.lost.usage, -1),
            x.charge if x.lost is None else Money(x.charge - x.lost.charge),
            tuple([hold.meter for hold in holds]) if len(holds := x.money_holds) != 1 else (holds[0].meter,),
            x.cache,
            x.traffic,
            tuple(x.flags),
            int((ended - x.clock_start) * 1e6),
            int(x.first_event * 1e6) if x.first_event >= 0 else -1,
            (),
            self.policy,
            x.commitment,
            True,
            x.attribution,
            (x.clock_start, *x.marks) if len(x.marks) == x.entered else (x.clock_start, *x.marks, ended),
        )

    def _catch_up(self) -> None:
        """Write what waits, oldest first. Raises Unavailable when the disk still refuses."""
        while self._waiting:
            record = self._waiting[0]
            try:
                self._append(record)
            except Unavailable:
                raise
            except Exception as problem:
                self._not_kept(record, problem)
            self._waiting.popleft()
        logger.warning("calls can be recorded again: no end waits any more")

    def _wait(self, record: Record, problem: Exception) -> None:
        self._tally.count("gatehouse_journal_errors_total")
        if not isinstance(problem, Unavailable) or len(self._waiting) >= MOST_WAITING:
            self._not_kept(record, problem)
            return
        if not self._waiting:
            # Once, until none waits any more: a log that has a line for each call is what fills a full disk.
            logger.error("call %s: its end, and those of later calls, cannot be recorded yet: %s", record.request_id, problem)
        self._waiting.append(record)

    @staticmethod
    def _not_kept(record: Record, problem: Exception) -> None:
        """No disk will ever take it, or there are too many: waiting, it would keep every call from opening. What its call held is
        charged when this process ends."""
        # Only the kind of a fault of ours: its words may quote what cannot be written.
        said = problem if isinstance(problem, GatehouseError) else type(problem).__name__
        logger.critical("call %s: its end is not recorded: %s", record.request_id, said)


def _opens(x: Exchange, target: Target) -> None:
    x.attempts += 1
    x.attempt = x.attempts
    x.target = target
    x.opened = True


def _characters(call: Call) -> int:
    """Roughly how much text, image and sound there is in `call`."""
    total = 0
    for message in call.messages:
        content = message.content
        if isinstance(content, str):
            total += len(content)
        elif content is not None:
            for part in content:
                total += sum(len(value) for value in msgspec.structs.astuple(part) if isinstance(value, str))
    for piece in call.inputs:
        total += len(piece)
    return total
