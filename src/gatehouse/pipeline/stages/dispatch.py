"""Dispatch asks a target, and another one when that fails before it has begun to answer; then it counts what comes.

Targets of a group are tried in an order drawn by weight, then those of the fallback groups. After the first event nothing
is retried: the error travels in the stream. Each attempt is in the journal before its bytes go upstream. A target with slots
has a turnstile in front: a call that it turns away goes on to the next target, and has cost no attempt.

What a call used is what its target says. Where it does not say, or the call ends before it could, the tokens so far are
counted here: an answer that was cut off is paid for once, and an attempt that failed before it answered is not paid for.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import msgspec

from gatehouse.core.calls import Call, TextPart
from gatehouse.core.errors import GatehouseError, Unavailable, UpstreamFailed
from gatehouse.core.events import Chunk, Event, Events
from gatehouse.core.limits import Dimension
from gatehouse.core.money import ZERO
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Capability, Deadlines, Plan, Target
from gatehouse.core.ports import Clock, Model, Rng, Tally, TokenCounter
from gatehouse.core.single import Single
from gatehouse.core.usage import Usage
from gatehouse.pipeline.deadlines import CallDeadlines
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.turnstile import Ticket, Turnstile

MAX_ATTEMPTS: Final = 4
RETRY_AFTER: Final = 1.0
"""Seconds a caller is told to wait when nobody said how long a target will be out."""
MOST_TOKENS: Final = 10_000_000
"""More tokens in or out of one choice than any model can take: such a count is not believed."""
MEDIA_TOKENS: Final = 765
"""What an image, a sound or a file is taken for when the target does not say: a large image in OpenAI's tiles."""
CHARACTERS_A_TOKEN: Final = 4
_STARTED: Final = Chunk()


class Books(Protocol):
    """What Dispatch needs of whoever keeps the journal."""

    async def commit(self, x: Exchange) -> None:
        """Make the commitment of a large call beside the loop, before `opened` needs it."""

    def opened(self, x: Exchange, target: Target) -> None:
        """Write that an attempt at `target` begins: `x.attempts`, `x.target` and `x.opened` say so too."""

    async def durable(self) -> None:
        """Return when what was written is on disk."""

    def attempt_failed(self, x: Exchange, error: GatehouseError) -> None:
        """Write that the attempt failed and that another follows."""


class Attempt:
    """What a model is told beside the call."""

    __slots__ = ("deadlines", "request_id", "sent", "tenant", "ticket")

    def __init__(self, request_id: str, tenant: str, deadlines: Deadlines, ticket: Ticket | None) -> None:
        self.request_id = request_id
        self.tenant = tenant
        self.deadlines = deadlines
        self.sent = False
        self.ticket = ticket

    def vacated(self) -> None:
        """See `core.ports.Attempt`."""
        if self.ticket is not None:
            self.ticket.leave(done=True)


class _Run:
    """One call while Dispatch carries it."""

    __slots__ = ("attempt", "begun", "characters", "counted", "model", "pieces", "seconds", "target", "ticket", "usage")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.target: Target | None = None
        self.model: Model | None = None
        self.attempt: Attempt | None = None
        self.ticket: Ticket | None = None
        """Its place at the target's turnstile, where there is one."""
        self.begun = False
        self.counted = False
        self.usage: Usage | None = None
        """The target's last word."""
        self.pieces = 0
        """Pieces of content since then."""
        self.characters = 0
        """Characters in them."""


class Dispatch:
    """The last stage: returns the events of the target that answers. `models` is by provider name and may change between calls."""

    name = "dispatch"

    def __init__(
        self, models: Mapping[str, Model], books: Books, clock: Clock, rng: Rng, tally: Tally, turnstile: Turnstile | None = None
    ) -> None:
        self._models = models
        self._turnstile = turnstile or Turnstile({}, clock, tally)
        self._slotted = self._turnstile.models
        self._books = books
        self._clock = clock
        self._rng = rng
        self._tally = tally
        self._deadlines = CallDeadlines(clock)
        self._runs: dict[Exchange, _Run] = {}

    @property
    def running(self) -> int:
        """Calls that a target is being asked, or is answering."""
        return len(self._runs)

    async def admit(self, x: Exchange) -> Events:
        """The events of the first target that begins to answer well.

        Raises:
            UpstreamFailed: none did, or one refused the request itself; the last failure.
            Unavailable: there is no target to ask, or the journal cannot be written.
        """
        call, plan = x.call, x.plan
        assert call is not None
        assert plan is not None
        candidates: Iterator[Target] | None = None
        if len(plan.targets) == 1 and plan.targets[0].provider in self._models:
            target: Target | None = plan.targets[0]
        else:
            candidates = self._candidates(plan, set())
            target = next(candidates, None)
        if target is None:
            raise Unavailable("No target of this model can be asked now.", retry_after=RETRY_AFTER)
        run = self._runs[x] = _Run(target.deadlines.total)
        self._deadlines.start(x, run.seconds)
        while True:
            try:
                events = await self._ask(x, run, call, plan, target)
            except UpstreamFailed as error:
                if candidates is None:
                    candidates = self._candidates(plan, {target.id})
                target = self._after(x, run, error, target, candidates)
                if target is None:
                    raise
                if x.opened:
                    self._books.attempt_failed(x, error)
            else:
                run.begun = True
                if run.ticket is not None:
                    run.ticket.began()
                x.first_event = self._clock.monotonic() - x.clock_start
                if type(events) is Single:
                    return Single(self._whole(x, run, events.event))
                stream = self._count(x, run, events)
                # A generator that was never entered runs no `finally` when it is closed; now it stands at its first yield.
                await stream.asend(None)
                return stream

    def settle(self, x: Exchange) -> None:
        """Give back the target's slot and the deadline; account for a call that was cut off."""
        run = self._runs.pop(x, None)
        if run is None:
            return
        self._deadlines.stop(x, run.seconds)
        if not run.counted:
            self._account(x, run)
        self._release(run)

    # --- asking ----------------------------------------------------------------------------------------------------

    async def _ask(self, x: Exchange, run: _Run, call: Call, plan: Plan, target: Target) -> Events:
        model = self._models[target.provider]
        deadlines = target.deadlines
        if target.provider in self._slotted:
            deadlines = await self._pass(x, run, target)
        run.target = target
        run.model = model
        run.attempt = Attempt(x.request_id, x.principal.tenant if x.principal is not None else "", deadlines, run.ticket)
        self._tally.gauge("gatehouse_target_running", (target.id,), 1)
        if not x.commitment:
            await self._books.commit(x)
        self._books.opened(x, target)
        if plan.strict_audit:
            await self._books.durable()
        if call.stream and Capability.STREAM not in target.capabilities:
            call = msgspec.structs.replace(call, stream=False)
        most = target.max_output_tokens
        if most is not None and call.max_tokens is not None and call.max_tokens > most:
            # Held for the largest target of the plan; this one writes less and may refuse a bound beyond its own.
            call = msgspec.structs.replace(call, max_tokens=most)
        return await model.answer(call, target, run.attempt)

    async def _pass(self, x: Exchange, run: _Run, target: Target) -> Deadlines:
        """Through the target's turnstile; the deadlines that are left then. Raises UpstreamFailed when it turns the call away."""
        deadlines = target.deadlines
        began = x.marks[-1] if x.marks else x.clock_start
        run.ticket = ticket = self._turnstile.enter(x, target, run.seconds - (self._clock.monotonic() - began))
        waited = await ticket.turn() if ticket is not None else 0.0
        return msgspec.structs.replace(deadlines, first_byte=deadlines.first_byte - waited) if waited else deadlines

    def _after(self, x: Exchange, run: _Run, error: UpstreamFailed, target: Target, candidates: Iterator[Target]) -> Target | None:
        """The target to try after `target` failed or turned the call away; None when that is what the caller is told."""
        if x.opened:
            self._tally.count("gatehouse_attempts_failed_total", (target.id, error.code))
        self._release(run)
        if error.caller_fault:
            return None
        following = next(candidates, None) if x.attempts < MAX_ATTEMPTS else None
        if following is None and error.retry_after is None and error.code in {"upstream_unreachable", "upstream_overloaded"}:
            error.retry_after = RETRY_AFTER
        return following

    def _candidates(self, plan: Plan, tried: set[str]) -> Iterator[Target]:
        for group in (plan.targets, *plan.fallbacks):
            left = [target for target in group if target.provider in self._models and target.id not in tried]
            while left:
                target = left.pop(self._draw(left) if len(left) > 1 else 0)
                tried.add(target.id)
                yield target

    def _draw(self, targets: list[Target]) -> int:
        """An index, by weight; those without weight come last."""
        point = self._rng.random() * sum(target.weight for target in targets)
        for index, target in enumerate(targets):
            point -= target.weight
            if point < 0:
                return index
        return len(targets) - 1

    def _release(self, run: _Run) -> None:
        if run.target is not None:
            self._tally.gauge("gatehouse_target_running", (run.target.id,), -1)
            run.target = None
        if run.ticket is not None:
            run.ticket.leave()
            run.ticket = None

    # --- counting --------------------------------------------------------------------------------------------------

    async def _count(self, x: Exchange, run: _Run, events: Events) -> Events:
        try:
            yield _STARTED
            async for event in events:
                if type(event) is Chunk:
                    for delta in event.choices:
                        size = len(delta.text) + len(delta.reasoning) + len(delta.refusal)
                        if delta.tools:
                            size += sum(len(tool.arguments) + len(tool.name or "") for tool in delta.tools)
                        if size:
                            run.pieces += 1
                            run.characters += size
                    if event.usage is not None:
                        event = self._believe(x, run, event)  # noqa: PLW2901 - without the usage that cannot be true
                else:
                    event = self._whole(x, run, event)  # noqa: PLW2901 - likewise
                yield event
        finally:
            try:
                await events.aclose()
            finally:
                self._account(x, run)

    def _whole(self, x: Exchange, run: _Run, event: Event) -> Event:
        assert not isinstance(event, Chunk)
        for choice in event.choices:
            size = len(choice.text or "") + len(choice.reasoning or "") + len(choice.refusal or "")
            size += sum(len(tool.arguments) + len(tool.name) for tool in choice.tools)
            run.pieces += 1 if size else 0
            run.characters += size
        if event.usage is not None:
            event = self._believe(x, run, event)
        # The last event of its stream: what it cost is known before it is written out.
        self._account(x, run)
        return event

    def _believe(self, x: Exchange, run: _Run, event: Event) -> Event:
        """Take the target's word for what it used, unless it cannot be true."""
        usage = event.usage
        assert usage is not None
        into, out = usage.input_total, usage.output_total
        most = MOST_TOKENS * (x.call.n if x.call is not None else 1)
        if into > MOST_TOKENS or out > most or min(msgspec.structs.astuple(usage)) < 0:
            _flag(x, "absurd_usage")
            return msgspec.structs.replace(event, usage=None, raw=b"")
        if not (into or out) and run.pieces:
            # Some servers send zeros for "not counted".
            return event
        run.usage = usage
        run.pieces = run.characters = 0
        self._charge(x, run, usage)
        return event

    def _charge(self, x: Exchange, run: _Run, usage: Usage) -> None:
        price = run.target.price if run.target is not None else None
        x.usage = usage
        x.charge = price.charge(usage) if price is not None else ZERO

    def _account(self, x: Exchange, run: _Run) -> None:
        """Once a call, when nothing more will come of it: fill in what the target did not say, compare with what was held."""
        if run.counted or run.target is None:
            return
        run.counted = True
        if run.begun:
            if run.usage is None or run.pieces:
                self._estimate(x, run)
        elif x.outcome in {Outcome.CLIENT, Outcome.REVOKED} and run.attempt is not None and run.attempt.sent:
            # The caller left while the target was reading the prompt: that much was asked for and done.
            self._estimate(x, run)
        self._compare(x, run.target)

    def _estimate(self, x: Exchange, run: _Run) -> None:
        call = x.call
        assert call is not None
        usage = run.usage
        if usage is None:
            usage = Usage(input=run.model.count_tokens(call) if isinstance(run.model, TokenCounter) else prompt_tokens(call))
        output = max(run.pieces, -(-run.characters // CHARACTERS_A_TOKEN))
        if call.max_tokens is not None:
            output = min(output, max(0, call.n * call.max_tokens - usage.output_total))
        self._charge(x, run, msgspec.structs.replace(usage, output=usage.output + output))
        _flag(x, "estimated_usage")

    def _compare(self, x: Exchange, target: Target) -> None:
        for hold in x.holds:
            dimension = hold.meter.dimension
            used = x.charge if dimension is Dimension.MONEY else x.usage.total if dimension is Dimension.TOKENS else 0
            if used > hold.amount:
                _flag(x, "over_hold")
                self._tally.count("gatehouse_over_hold_total", (target.id,))
                return


def prompt_tokens(call: Call) -> int:
    """The tokens of a prompt where its target does not tell: a quarter of its characters, and a little for each message."""
    characters = 0
    others = 0
    for message in call.messages:
        content = message.content
        if isinstance(content, str):
            characters += len(content)
        elif content is not None:
            for part in content:
                if isinstance(part, TextPart):
                    characters += len(part.text)
                else:
                    others += 1
        characters += sum(len(tool.arguments) + len(tool.name) for tool in message.tool_calls)
    if call.tools:
        characters += len(msgspec.json.encode(call.tools))
    if call.response_format is not None and call.response_format.schema is not None:
        characters += len(msgspec.json.encode(call.response_format.schema))
    return -(-characters // CHARACTERS_A_TOKEN) + 4 * len(call.messages) + MEDIA_TOKENS * others


def _flag(x: Exchange, flag: str) -> None:
    if flag not in x.flags:
        x.flags.append(flag)
