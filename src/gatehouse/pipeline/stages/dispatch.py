"""Dispatch asks a target, and another one when that fails before it has begun to answer; then it counts what comes.

Targets of a group are tried in the order of the model's policy, then those of the fallback groups; those that are left alone
(`target_health`) are passed over. After the first event nothing is retried: the error travels in the stream. Each attempt is in
the journal before its bytes go upstream. A target with slots has a turnstile in front: a call that it turns away goes on to the
next target, and has cost no attempt. Further attempts come out of a budget (`retry_budget`).

One healthy target is the plain way: it costs a look at a dictionary that is empty.
"""

from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError, UpstreamFailed
from gatehouse.core.events import Answer, Event, Events
from gatehouse.core.money import ZERO, Money
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Capability, Deadlines, Plan, Target
from gatehouse.core.ports import Clock, Model, Rng, Tally
from gatehouse.core.records import Record
from gatehouse.core.single import Single
from gatehouse.core.usage import added
from gatehouse.pipeline.attempt import Ask, Attempt, Run, TargetGauges, Way
from gatehouse.pipeline.attempt_books import Books
from gatehouse.pipeline.counting import Counting, read_prompt
from gatehouse.pipeline.deadlines import CallDeadlines
from gatehouse.pipeline.exchange import NO_USAGE, Exchange, Lost
from gatehouse.pipeline.hedging import Hedging, race
from gatehouse.pipeline.ladder import Rungs
from gatehouse.pipeline.prompts import prompt_tokens
from gatehouse.pipeline.reliability import Reliability
from gatehouse.pipeline.retry_budget import RetryBudget
from gatehouse.pipeline.runner import Left, Resume
from gatehouse.pipeline.selection import Selector
from gatehouse.pipeline.target_health import CREDENTIALS, TargetHealth
from gatehouse.pipeline.target_loads import TargetLoads
from gatehouse.pipeline.turnstile import Turnstile

MAX_ATTEMPTS: Final = 4
RETRY_AFTER: Final = 1.0
"""Seconds a caller is told to wait when nobody said how long a target will be out."""
PAUSE: Final = 0.1
"""Seconds before the same target is tried again, more or less by half; twice as long each further time."""
RETRIED: Final = frozenset({"upstream_unreachable", "upstream_timeout", "upstream_broken", "upstream_rejected", "upstream_invalid"})
"""Failures after which the same target may do better."""
MEASURED: Final = frozenset({"least_work", "latency", "cost", "prefix"})
"""Policies that look at what targets are doing."""
ATTEMPTS_HEADER: Final = "x-gatehouse-attempts"
"""How many attempts there were, when there was more than one."""


class Dispatch:
    """The last stage: returns the events of the target that answers. `models` is by provider name and may change between calls."""

    name = "dispatch"

    def __init__(
        self,
        models: Mapping[str, Model],
        books: Books,
        clock: Clock,
        rng: Rng,
        tally: Tally,
        turnstile: Turnstile | None = None,
        reliability: Reliability | None = None,
    ) -> None:
        self._models = models
        self._turnstile = turnstile or Turnstile({}, clock, tally)
        self._slotted = self._turnstile.models
        self.books = books
        self._clock = clock
        self._rng = rng
        self._tally = tally
        self._monotonic = clock.monotonic
        self._deadlines = CallDeadlines(clock)
        self._runs: dict[Exchange, Run] = {}
        self._gauges = TargetGauges(tally)
        parts = reliability or Reliability(TargetHealth(clock, rng, tally), TargetLoads(clock))
        self.health = parts.health
        self.loads = parts.loads
        self._ailing = parts.health.ailing
        self._rungs = Rungs(tally, parts.stale)
        self.spawn = parts.spawn
        self._hold_again = parts.hold_again
        self._shown = parts.forwarding.shown
        self._selector = Selector(parts.loads, clock, rng)
        self._hedging = Hedging()
        self._counting = Counting(tally)
        self._budget = RetryBudget(clock)
        self._retrying = self._budget.accounts

    @property
    def running(self) -> int:
        """Calls that a target is being asked, or is answering."""
        return len(self._runs)

    async def admit(self, x: Exchange) -> Events:
        """The events of the first target that begins to answer well, or what the model's ladder has below its targets.

        Raises:
            UpstreamFailed: none did, or one refused the request itself; the last failure.
            Unavailable: there is no target to ask, or the journal cannot be written.
        """
        call, plan = x.call, x.plan
        assert call is not None
        assert plan is not None
        tried: set[str] | None = None
        target: Target | None
        if x in self._runs:
            return await self._go_on(x, call, plan)
        if len(plan.targets) == 1 and not self._ailing and plan.hedge is None and plan.targets[0].provider in self._models:
            target = plan.targets[0]
        else:
            tried = set()
            target = self._next(x, plan, tried)
            if target is None:
                return self._instead(x, plan, self.health.nobody(self._askable(plan), RETRY_AFTER))
        if self._retrying:
            self._budget.called(plan.model)
        run = self._runs[x] = Run(target.deadlines.total, target)
        self._deadlines.start(x, run.seconds, self._monotonic())
        try:
            events = await (self.ask(x, run, call, plan, target) if tried is None else self._any(x, run, plan, tried))
        except UpstreamFailed as error:
            events = await self._otherwise(x, plan, tried or {target.id}, error)
        return await self._counted(x, plan, events, chosen=tried is not None)

    async def _counted(self, x: Exchange, plan: Plan, events: Events, *, chosen: bool = False) -> Events:
        """What is handed on of an answer that has begun; `chosen` from among several targets, or because others were out."""
        run = self._runs.get(x)
        if run is None:
            return events  # a rung below the last target answers
        if chosen or x.attempts != 1 or plan.fallbacks or plan.ladder is not None:
            self._begun(x, run, plan)
        run.begun = True
        if run.ticket is not None:
            run.ticket.began()
        x.first_event = self._clock.monotonic() - x.clock_start
        if type(events) is Single:
            event = self._counting.whole(x, run, events.event)
            return events if event is events.event else Single(event)
        stream = self._counting.stream(x, run, events)
        # A generator that was never entered runs no `finally` when it is closed; now it stands at its first yield.
        await stream.asend(None)
        return stream

    def start(self, calls: Sequence[Exchange], resume: Resume) -> Left:
        """Ask, where one target answers that can be asked without waiting. See `runner.Starter`."""
        plan: Plan | None = None
        way: Way | None = None
        now = self._monotonic()
        left: list[tuple[Exchange, Exception | None]] = []
        for x in calls:
            if x.plan is not plan:
                plan = x.plan
                assert plan is not None
                way = self._way(plan)
            try:
                if way is None or not self._begins(x, way, resume, now):
                    left.append((x, None))
            except Exception as fault:
                left.append((x, fault))
        try:
            return (*left,)
        finally:
            left.clear()  # a fault holds this function, which must not hold it: nothing is to wait for the cycle collector

    def _begins(self, x: Exchange, way: Way, resume: Resume, now: float) -> bool:
        """Whether the call's target could be asked without waiting; then it leaves at the end of this turn."""
        call, principal, target = x.call, x.principal, way.target
        assert call is not None
        if call.stream or self.books.commits_beside(x):
            return False
        attempt = Attempt(x.request_id, "" if principal is None else principal.tenant, target.deadlines, None, x.attempts + 1)
        run = Run(way.seconds, target, None, way.model, attempt)
        run.resume = resume
        try:
            run.asked = way.ask(way.words(x, call, target, attempt), target, attempt, partial(self._told, x, run))
        except UpstreamFailed:
            return False  # it has no words for this; whether another has is for `admit` to find out
        if run.asked is None:
            return False
        self._runs[x] = run
        self._deadlines.start(x, run.seconds, now)
        return True

    def _way(self, plan: Plan) -> Way | None:
        """How the calls of a plan are asked without waiting; None when they are not."""
        if self._ailing or len(plan.targets) != 1 or plan.hedge is not None or plan.strict_audit or plan.policy in MEASURED:
            return None
        target = plan.targets[0]
        model = self._models.get(target.provider)
        ask: Ask | None = getattr(model, "ask", None)
        if model is None or ask is None or target.provider in self._slotted:
            return None
        return Way(target, target.deadlines.total, model, ask, self._shown if target.max_output_tokens is None else self._worded)

    def started(self, calls: Sequence[Exchange]) -> Left:
        """Write that the attempts begin, before what was asked leaves. See `runner.Starter`."""
        runs = self._runs
        left = self.books.opened_all([(x, runs[x].candidate) for x in calls], partial(self._refused, calls))
        others = {x for x, _ in left}
        for x in calls:
            run = runs.get(x)
            if x in others or run is None or run.asked is None:
                continue  # it cannot be recorded, which was known at once
            target = run.target = run.candidate
            run.number = x.attempts
            self._gauges[target.id].value += 1
            if self._retrying and x.plan is not None:
                self._budget.called(x.plan.model)
        return left

    def _told(self, x: Exchange, run: Run, event: Event | None, fault: Exception | None) -> None:
        """What came of a call that was asked without waiting."""
        if x.outcome is not None:
            return  # ended from outside in this very turn, and about to be settled
        run.asked = None
        plan = x.plan
        assert plan is not None
        assert run.resume is not None
        source: Answer | Events | None = None
        try:
            if event is not None:
                if plan.fallbacks or plan.ladder is not None:
                    self._begun(x, run, plan)
                run.begun = True
                x.first_event = self._monotonic() - x.clock_start
                counted = self._counting.whole(x, run, event)
                source = counted if type(counted) is Answer else Single(counted)
        except Exception as ours:
            fault = ours  # who tells has others to tell: it is this call's, which goes on from here
        run.failure = fault
        run.resume(x, source)

    def _refused(self, calls: Sequence[Exchange], record: Record, error: GatehouseError) -> None:
        """An attempt of one of these calls cannot be recorded, so it is not made: nothing has left yet."""
        x = next(x for x in calls if x.request_id == record.request_id)
        run = self._runs.get(x)
        if run is not None and run.asked is not None:
            run.asked.abandon()
            run.asked = None
            self.books.not_opened(x)
            self._release(x, run)
            run.failure = error
            if x.outcome is None and run.resume is not None:
                run.resume(x, None)

    async def _go_on(self, x: Exchange, call: Call, plan: Plan) -> Events:
        """The call was begun without waiting, and now something has to be waited for: it failed, or was never read."""
        run = self._runs[x]
        target = run.candidate
        try:
            if run.failure is not None:
                raise run.failure
            events = await self._ask(x, run, call, target)
        except UpstreamFailed as error:
            events = await self._otherwise(x, plan, {target.id}, error)
        return await self._counted(x, plan, events)

    async def _otherwise(self, x: Exchange, plan: Plan, tried: set[str], error: UpstreamFailed) -> Events:
        """An attempt failed: the events of the target that begins to answer well after all, or of a lower rung, and then nobody runs."""
        told = error
        while True:
            run = self._runs[x]
            following = await self._after(x, run, error, plan, tried)
            told = _worse(told, error)
            if following is None:
                self._advise(plan, told)
                return self._instead(x, plan, told)
            if x.opened:
                self.books.attempt_failed(x, error)
            run.candidate = following
            spent = x.attempts > 0 and not error.caller_fault
            try:
                events = await self._any(x, run, plan, tried)
            except UpstreamFailed as another:
                error = another
            else:
                if spent:
                    self._budget.answered(plan.model)
                return events

    def _any(self, x: Exchange, run: Run, plan: Plan, tried: set[str]) -> Awaitable[Events]:
        assert x.call is not None
        if plan.hedge is None:
            return self.ask(x, run, x.call, plan, run.candidate)
        return self._hedged(x, run, plan, tried)

    def _begun(self, x: Exchange, run: Run, plan: Plan) -> None:
        """A target has begun to answer, and somebody wants to know."""
        if x.attempts > 1:
            x.headers[ATTEMPTS_HEADER] = str(x.attempts)
        if run.probe:
            self.health.began(run.candidate, probe=True)
            run.probe = False
        if run.visit is not None:
            run.visit.began(self._clock.monotonic())
        if plan.fallbacks or plan.ladder is not None:
            self._rungs.answered(x, plan, run.candidate.rung)

    def settle(self, x: Exchange) -> None:
        """Give back the target's slot and the deadline; account for a call that was cut off; say how its target did."""
        run = self._runs.pop(x, None)
        if run is None:
            return
        self._deadlines.stop(x, run.seconds)
        if run.asked is not None:
            run.asked.abandon()
        if not run.counted:
            self._counting.account(x, run)
        if x.error is not None or run.probe or self._ailing:
            self._judge(x, run)
        self._release(x, run)

    # --- asking ----------------------------------------------------------------------------------------------------

    def ask(self, x: Exchange, run: Run, call: Call, plan: Plan, target: Target) -> Awaitable[Events]:
        """One attempt: the events of `target` once it has begun to answer. Nothing stands between the call and its model unless
        something has to be waited for first."""
        if self._ailing:
            run.probe = self.health.take(target)
        run.model = self._models[target.provider]
        if plan.policy in MEASURED:
            # Before its turnstile: what waits there is work before the target too.
            run.visit = self.loads.enter(target.id, prompt_tokens(call), call)
        if plan.strict_audit or target.provider in self._slotted or (not x.commitment and self.books.commits_beside(x)):
            return self._ask_later(x, run, call, plan, target)
        self._open(x, run, target, target.deadlines)
        return self._ask(x, run, call, target)

    async def _ask_later(self, x: Exchange, run: Run, call: Call, plan: Plan, target: Target) -> Events:
        deadlines = target.deadlines
        if target.provider in self._slotted:
            deadlines = await self._pass(x, run, target)
        if not x.commitment:
            await self.books.commit(x)
        self._open(x, run, target, deadlines)
        if plan.strict_audit:
            await self.books.durable()
        return await self._ask(x, run, call, target)

    def _open(self, x: Exchange, run: Run, target: Target, deadlines: Deadlines) -> None:
        """From here on an attempt runs, and the journal says so."""
        run.target = target
        run.attempt = Attempt(x.request_id, x.principal.tenant if x.principal is not None else "", deadlines, run.ticket, x.attempts + 1)
        self._gauges[target.id].value += 1
        self.books.opened(x, target)
        run.number = x.attempts

    def _ask(self, x: Exchange, run: Run, call: Call, target: Target) -> Awaitable[Events]:
        """The model is asked, in words that suit the target."""
        assert run.model is not None
        assert run.attempt is not None
        return run.model.answer(self._worded(x, call, target, run.attempt), target, run.attempt)

    def _worded(self, x: Exchange, call: Call, target: Target, attempt: Attempt) -> Call:
        if call.stream and Capability.STREAM not in target.capabilities:
            call = msgspec.structs.replace(call, stream=False)
        most = target.max_output_tokens
        if most is not None and call.max_tokens is not None and call.max_tokens > most:
            # Held for the largest target of the plan; this one writes less and may refuse a bound beyond its own.
            call = msgspec.structs.replace(call, max_tokens=most)
        return self._shown(x, call, target, attempt)

    async def _pass(self, x: Exchange, run: Run, target: Target) -> Deadlines:
        """Through the target's turnstile; the deadlines that are left then. Raises UpstreamFailed when it turns the call away."""
        deadlines = target.deadlines
        began = x.marks[-1] if x.marks else x.clock_start  # when the stage before let the call pass
        run.ticket = ticket = self._turnstile.enter(x, target, run.seconds - (self._clock.monotonic() - began))
        waited = await ticket.turn() if ticket is not None else 0.0
        return msgspec.structs.replace(deadlines, first_byte=deadlines.first_byte - waited) if waited else deadlines

    async def _hedged(self, x: Exchange, run: Run, plan: Plan, tried: set[str]) -> Events:
        """As `_ask`; a second target is asked when the first takes too long. The exchange's run is then whoever is left."""
        contest = _Contest(self, x, plan, run, tried)
        after = self._hedging.after(plan)
        began = self._clock.monotonic()
        if after is None or self.spawn is None:
            events = await contest.ask(run)
        else:
            events = await race(contest, run, after, self._clock, self.spawn)
            if contest.other is not None:
                won = self._runs[x] is contest.other
                self._tally.count("gatehouse_hedges_total", (plan.model, "won" if won else "lost"))
        self._hedging.began(plan, self._clock.monotonic() - began)
        return events

    def second(self, x: Exchange, plan: Plan, tried: set[str]) -> Target | None:
        """Who may be asked at the same time: an equal of the first without a failure lately, when share and money allow it."""
        if x.attempts >= MAX_ATTEMPTS or self._hold_again is None or not self._hedging.affordable(plan):
            return None
        able = [
            target
            for target in plan.targets
            if target.id not in tried and target.id not in self._ailing and target.provider in self._models
        ]
        if not able or not self._hold_again(x):
            return None
        target = able[self._pick(x, plan, able)]
        tried.add(target.id)
        self._hedging.hedged(plan)
        return target

    def stands(self, x: Exchange, run: Run) -> None:
        """Of attempts that run at the same time this one is the call's."""
        self._runs[x] = run
        x.opened = run.number > 0
        if run.number:
            x.attempt = run.number
            x.target = run.candidate

    def overtaken(self, x: Exchange, run: Run) -> None:
        """An attempt was stopped because another began first: what it read is paid."""
        target, attempt = run.target, run.attempt
        self.health.left(run.candidate, probe=run.probe)
        run.probe = False
        if target is not None and run.number:
            usage, charge = NO_USAGE, ZERO
            if attempt is not None and attempt.sent:
                usage = read_prompt(x)
                charge = target.price.charge(usage) if target.price is not None else ZERO
                before = x.lost or Lost(NO_USAGE, ZERO)
                x.lost = Lost(added(before.usage, usage), Money(before.charge + charge))
                x.usage, x.charge = added(x.usage, usage), Money(x.charge + charge)
            self.books.overtaken(x, run.number, target, usage, charge)
        self._release(x, run)

    def lost(self, x: Exchange, run: Run, error: UpstreamFailed) -> None:
        """An attempt failed."""
        if run.number:
            self._tally.count("gatehouse_attempts_failed_total", (run.candidate.id, error.code))
            self.health.failed(run.candidate, error, probe=run.probe)
            if not run.candidate.breaker.enabled and not error.caller_fault:
                self._budget.failed(run.candidate.id)
        else:
            self.health.left(run.candidate, probe=run.probe)
        run.probe = False
        self._release(x, run)

    async def _after(self, x: Exchange, run: Run, error: UpstreamFailed, plan: Plan, tried: set[str]) -> Target | None:
        """The target to try after one failed, turned the call away or has no words for it; None when there is none."""
        self.lost(x, run, error)
        run.number = 0
        if error.final or x.attempts >= MAX_ATTEMPTS:
            return None
        following = self._next(x, plan, tried)
        if error.caller_fault or not x.attempts:
            # Nothing was sent: the next is no further attempt of anybody's.
            return following
        if following is not None:
            free = following.id not in self._ailing and not self._budget.failed_lately(following.id)
            if self._budget.spend(plan.model, free=free):
                return following
        elif error.code in RETRIED and len(tried) + plan.retries > x.attempts:
            # There is no other: the same ones again, after a pause, as often as the route says.
            if self._budget.spend(plan.model, free=False):
                await self._clock.sleep(PAUSE * 2 ** (x.attempts - len(tried)) * (0.5 + self._rng.random()))
                following = self._next(x, plan, set())
                if following is None:
                    self._budget.answered(plan.model)
                return following
        else:
            return None
        self._tally.count("gatehouse_retries_refused_total", (plan.model,))
        return None

    def _advise(self, plan: Plan, error: UpstreamFailed) -> None:
        """Say in `error` when a retry can succeed, as far as anybody knows."""
        if error.caller_fault or error.code == CREDENTIALS:
            return
        wait = self.health.earliest(self._askable(plan)) if self._ailing else None
        if wait is not None:
            error.retry_after = wait
        elif error.retry_after is None and error.code in {"upstream_unreachable", "upstream_overloaded"}:
            error.retry_after = RETRY_AFTER

    def _askable(self, plan: Plan) -> list[Target]:
        return [target for target in plan.everywhere if target.provider in self._models]

    def _next(self, x: Exchange, plan: Plan, tried: set[str]) -> Target | None:
        """The next target in order that may be asked now; it is then among those that were tried."""
        for group in (plan.targets, *plan.fallbacks):
            able = [target for target in group if target.id not in tried and target.provider in self._models]
            if self._ailing:
                able = [target for target in able if self.health.lets(target)]
            if able:
                target = able[self._pick(x, plan, able)]
                tried.add(target.id)
                return target
        return None

    def _pick(self, x: Exchange, plan: Plan, able: list[Target]) -> int:
        if len(able) == 1:
            return 0
        if plan.policy == "weighted":
            return self._selector.draw(able)
        assert x.call is not None
        return self._selector.pick(x, plan, able, prompt_tokens(x.call) if plan.policy == "cost" else 0)

    def _release(self, x: Exchange, run: Run) -> None:
        if run.target is not None:
            self._gauges[run.target.id].value -= 1
            run.target = None
        if run.visit is not None:
            run.visit.leave(x.usage.output_total if run.begun else 0)
            run.visit = None
        if run.ticket is not None:
            run.ticket.leave()
            run.ticket = None

    # --- when nobody answers ---------------------------------------------------------------------------------------

    def _instead(self, x: Exchange, plan: Plan, error: GatehouseError) -> Events:
        """What answers below the last target; raises `error` when nothing does."""
        if plan.ladder is None or (isinstance(error, UpstreamFailed) and error.caller_fault):
            raise error
        below = self._rungs.below(x)
        if below is None:
            raise error
        if x.opened:
            self.books.attempt_failed(x, error)
        if (run := self._runs.pop(x, None)) is not None:
            self._deadlines.stop(x, run.seconds)
        return self._rungs.descend(x, plan, below)

    def _judge(self, x: Exchange, run: Run) -> None:
        """How the target did, as far as that is known only now."""
        target = run.target
        if target is None:
            # In line before its turnstile, or told already.
            self.health.left(run.candidate, probe=run.probe)
        elif not run.begun:
            if x.outcome is Outcome.DEADLINE and isinstance(x.error, UpstreamFailed):
                self.health.failed(target, x.error, probe=run.probe)
            else:
                self.health.left(target, probe=run.probe)
        elif x.outcome is Outcome.COMPLETED:
            self.health.ended_well(target)
        elif x.outcome is Outcome.FAILED and isinstance(x.error, UpstreamFailed):
            self.health.failed(target, x.error, probe=False)


class _Contest:
    """The attempts of one call that run at the same time, as a race knows them. Implements `hedging.Contest`."""

    def __init__(self, dispatch: Dispatch, x: Exchange, plan: Plan, first: Run, tried: set[str]) -> None:
        self._dispatch = dispatch
        self._x = x
        self._plan = plan
        self._first = first
        self._tried = tried
        self.other: Run | None = None

    def ask(self, attempt: Run) -> Awaitable[Events]:
        """See `Contest`."""
        assert self._x.call is not None
        return self._dispatch.ask(self._x, attempt, self._x.call, self._plan, attempt.candidate)

    def second(self) -> Run | None:
        """See `Contest`."""
        target = self._dispatch.second(self._x, self._plan, self._tried)
        self.other = None if target is None else Run(self._first.seconds, target)
        return self.other

    def stands(self, attempt: Run) -> None:
        """See `Contest`."""
        self._dispatch.stands(self._x, attempt)

    def failed(self, attempt: Run, error: UpstreamFailed) -> None:
        """See `Contest`."""
        x = self._x
        number, target, opened = x.attempt, x.target, x.opened
        self._dispatch.lost(x, attempt, error)
        if attempt.number:
            self._dispatch.stands(x, attempt)
            self._dispatch.books.attempt_failed(x, error)
        if number != attempt.number:
            x.attempt, x.target, x.opened = number, target, opened

    def overtaken(self, attempt: Run) -> None:
        """See `Contest`."""
        self._dispatch.overtaken(self._x, attempt)


def _worse(told: UpstreamFailed, error: UpstreamFailed) -> UpstreamFailed:
    """What the caller is told of two failures: the later one, but no target's failure as a fault of the caller's."""
    return told if error.caller_fault and not error.sent and not told.caller_fault else error
