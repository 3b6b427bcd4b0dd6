"""Limit holds what a call may use at most, of every meter its caller has, before it runs; and trues it up when it ended.

The holds are upper bounds: the dearest target that may answer, the prompt counted exactly or by its bytes, and as many
tokens of answer as may come, a number that is written into the call and so is what the target is told.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from operator import add, itemgetter
from typing import Final, Protocol

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.errors import ContextTooLong, LimitExceeded
from gatehouse.core.identity import Principal
from gatehouse.core.limits import NO_HOLDS, Dimension, Holds, Limits, budget_period, meters_of
from gatehouse.core.money import format_usd
from gatehouse.core.plans import Plan, Target
from gatehouse.core.ports import Clock
from gatehouse.core.records import MeterHold
from gatehouse.core.usage import PER_MILLION
from gatehouse.pipeline.counting import OVER_HOLD
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.lease_book import Account, LeaseBook, Pool, Refusal
from gatehouse.pipeline.token_bounds import at_least, at_most

logger = logging.getLogger("gatehouse.limits")


class PromptCounter(Protocol):
    """Counts prompts where targets can."""

    def counts(self, plan: Plan) -> bool:
        """Whether every target of the plan can count: then it is worth asking."""

    async def count_input(self, call: Call, plan: Plan) -> int | None:
        """The prompt's tokens, exact or above for every target of the plan; None when that cannot be told now."""


MOST_CALLERS: Final = 20_000
"""Callers whose meters are kept at hand."""
_ORDER: Final = (Dimension.REQUESTS, Dimension.TOKENS, Dimension.SLOTS, Dimension.MONEY)
_TWICE: Final = (Dimension.TOKENS, Dimension.MONEY)
"""What two attempts use twice."""
_PROMPTS: Final = {"chat": ("messages", "messages"), "completion": ("prompt", "prompt"), "embedding": ("input", "input")}
"""For each operation what a caller calls the prompt, and its field."""
_Asked = tuple[Call | None, Plan | None]
"""A call as it came to be limited, and where it was to go."""
_FULL_WINDOW: Final = "1m2s"
"""After so long without a call a window is whole again, leases and all."""


class _Caller:
    """A caller's meters and everything about them that does not change from call to call."""

    __slots__ = ("account", "limits", "lines", "money", "of", "owners", "principal", "requests", "since", "tokens", "until")

    def __init__(self, principal: Principal, account: Account, owners: tuple[tuple[str, Limits], ...], since: float, until: float) -> None:
        self.principal = principal
        self.limits = principal.limits
        self.account = account
        self.owners = owners
        """For each meter, whose it is ("key") and the limits it comes from."""
        self.since = since
        self.until = until
        """The wall clock's time while which the money meters are those of the current period."""
        kinds = [_ORDER.index(pool.meter.dimension) for pool in account.pools]
        self.of: Callable[[tuple[int, int, int, int]], tuple[int, ...]] = _picks(kinds)
        """Of amounts in `_ORDER`, those that its meters measure."""
        self.money = tuple(index for index, kind in enumerate(kinds) if kind == 3)
        self.requests = _first(account, Dimension.REQUESTS)
        self.tokens = _first(account, Dimension.TOKENS)
        self.lines = ""
        """The header lines that are the same for each of its calls."""
        for name, pool in (("requests", self.requests), ("tokens", self.tokens)):
            if pool is not None:
                self.lines += f"x-ratelimit-limit-{name}: {pool.meter.cap}\r\nx-ratelimit-reset-{name}: {_FULL_WINDOW}\r\n"


class _Terms:
    """What a plan's targets mean for holds."""

    __slots__ = ("costs", "counts", "ends", "most_output", "plan", "prices", "window")

    def __init__(self, plan: Plan, *, counts: bool = False) -> None:
        targets = plan.everywhere
        self.plan = plan
        self.counts = counts
        """Prompts for them can be counted exactly, which takes a moment."""
        self.prices = tuple(dict.fromkeys(target.price.dearest for target in targets if target.price is not None))
        """For each price that may apply, its dearest million of tokens in and out."""
        self.costs = any(into for into, _ in self.prices)
        """What is read may cost something."""
        self.ends = all(target.ends_at_context for target in targets)
        """Wherever it runs, an answer that fills the context just ends: only the prompt has to fit."""
        outputs = [target.max_output_tokens for target in targets]
        self.most_output = None if None in outputs else max((bound for bound in outputs if bound is not None), default=None)
        """The most that any target writes; None when one of them does not say."""
        self.window = min((target.context_window for target in targets if target.context_window is not None), default=None)
        """The smallest context among them: what fits here fits everywhere."""

    def bound_of(self, call: Call) -> int:
        """Tokens of one choice: what was asked for, or the plan's default, but no more than any target writes."""
        if call.operation == "embedding":
            return 0
        wanted = call.max_tokens if call.max_tokens is not None else self.plan.max_output_tokens
        most = self.most_output
        return wanted if most is None or wanted <= most else most


class Limit:
    """Sets `x.counted`, `x.holds`, `x.money_holds` and `x.ceiling`; writes the answer's bound into `x.call`; narrows `x.plan` to where
    the prompt fits."""

    name = "limit"

    def __init__(self, book: LeaseBook, clock: Clock, counter: PromptCounter | None = None) -> None:
        self._book = book
        self._now = clock.now
        self._counter = counter
        self._callers: dict[str, _Caller] = {}
        self._terms: dict[str, _Terms] = {}

    async def admit(self, x: Exchange) -> None:
        """Hold one request, one slot, the tokens and the money that the call may use at most.

        Raises:
            ContextTooLong: the prompt certainly fits no target.
            LimitExceeded: a limit is used up, or the call alone is larger than it.
            Unavailable: limits cannot be checked.
        """
        terms = self._terms_of(x)
        if terms.counts and self._must_count(x, terms):
            assert self._counter is not None
            assert x.call is not None
            x.counted = await self._counter.count_input(x.call, terms.plan)
        caller, needs, now = self._needs(x, terms)
        account = caller.account
        if not account.pools:
            return
        held = await self._book.hold(account, needs)
        if isinstance(held, Refusal):
            x.lines = _lines(caller)
            raise _refused(x, caller, held, now)
        _hold(x, caller, held)
        x.lines = _lines(caller)

    def clear(self, calls: Sequence[Exchange]) -> Sequence[Exchange]:
        """What the calls of a caller need is taken for all of them in one; those for whom it cannot be."""
        callers: dict[_Caller, tuple[list[Exchange], list[tuple[int, ...]], list[_Asked]]] = {}
        others: list[Exchange] = []
        terms: _Terms | None = None
        for x in calls:
            if terms is None or terms.plan is not x.plan:
                terms = self._terms_of(x)
            asked = x.call, x.plan
            try:
                if terms.counts and self._must_count(x, terms):
                    others.append(x)
                    continue
                caller, needs, _ = self._needs(x, terms)
            except Exception:
                others.append(x)  # asked by itself, it is told why
                continue
            if caller.account.pools:
                theirs = callers.get(caller)
                if theirs is None:
                    theirs = callers[caller] = ([], [], [])
                theirs[0].append(x)
                theirs[1].append(needs)
                theirs[2].append(asked)
        for caller, (asking, all_needs, before) in callers.items():
            held = self._book.take_each(caller.account, all_needs)
            if held is None:
                for x, (call, plan) in zip(asking, before, strict=True):
                    x.call, x.plan = call, plan  # who asks for it again has to find what was asked for
                others += asking
                continue
            lines = _lines(caller)
            for x, holds in zip(asking, held, strict=True):
                _hold(x, caller, holds)
                x.lines = lines
        return others

    def at_once(self, x: Exchange) -> bool:
        """As `admit`, when what the call needs is leased to this process already and nobody has to be asked how long its prompt is."""
        plan = x.plan
        assert plan is not None
        terms = self._terms.get(plan.model)
        if terms is None or terms.plan is not plan:
            terms = self._terms_of(x)
        if terms.counts and self._must_count(x, terms):
            return False
        call = x.call
        caller, needs, _ = self._needs(x, terms)
        account = caller.account
        if not account.pools:
            return True
        holds = self._book.take(account, needs)
        if holds is None:
            x.call, x.plan = call, plan  # `admit` has to find what was asked for
            return False
        _hold(x, caller, holds)
        x.lines = _lines(caller)
        return True

    def _needs(self, x: Exchange, terms: _Terms) -> tuple[_Caller, tuple[int, ...], float]:
        """Who calls, what the call needs of each of the caller's meters at most, and when that was asked. Writes the answer's
        bound into the call."""
        principal, call = x.principal, x.call
        assert principal is not None
        assert call is not None
        exact = x.counted
        prompt = at_most(call) if exact is None else exact
        output = terms.bound_of(call)
        if terms.window is not None and prompt + output > terms.window:
            fitting, output = _fit(call, terms.plan, output, exact)
            if fitting is not terms.plan:
                x.plan = fitting
                terms = _Terms(fitting)
        if output != call.max_tokens and call.operation != "embedding":
            x.call = msgspec.structs.replace(call, max_tokens=output)
        answer = output * (call.choices if call.inputs else call.n)
        now = x.started_at or self._now()
        caller = self._callers.get(principal.key_id)
        if caller is None or caller.principal is not principal or not caller.since <= now < caller.until:
            caller = self._caller(principal, now)
        money = 0
        for into, out in terms.prices:
            # `Price.ceiling`, of what was worked out once for the plan.
            ceiling = -(-(prompt * into + answer * out) // PER_MILLION)
            if ceiling > money:  # noqa: PLR1730 - max() costs three times as much
                money = ceiling
        # Without a budget too: a call whose process dies is charged this, whoever made it.
        x.ceiling = money
        return caller, caller.of((1, prompt + answer, 1, money)), now

    def _must_count(self, x: Exchange, terms: _Terms) -> bool:
        """Whether the prompt's bytes are not enough: its tokens or their price are metered, or it is not certain that it fits everywhere.

        Asking costs a call more than everything else here together.
        """
        principal, call = x.principal, x.call
        assert principal is not None
        assert call is not None
        caller, now = self._callers.get(principal.key_id), x.started_at or self._now()
        if caller is None or caller.principal is not principal or not caller.since <= now < caller.until:
            caller = self._caller(principal, now)
        if caller.tokens is not None or (caller.money and terms.costs):
            return True
        if terms.window is None:
            return False
        output = terms.bound_of(call)
        return at_most(call) + (min(output, 1) if terms.ends else output) > terms.window

    def hold_again(self, x: Exchange) -> bool:
        """Hold tokens and money once more, for a second attempt at the same time; False when that cannot be done here and now."""
        holds = x.holds
        if not holds:
            return True
        caller = self._callers.get(x.principal.key_id) if x.principal is not None else None
        if caller is None or [pool.meter.id for pool in caller.account.pools] != [hold.meter.id for hold in holds]:
            return False
        needs = tuple([hold.amount if hold.meter.dimension in _TWICE else 0 for hold in holds])
        more = self._book.take(caller.account, needs)
        if more is None:
            return False
        if any(extra.amount and extra.stamp != hold.stamp for hold, extra in zip(holds, more, strict=True)):
            # The window has moved on: amounts of two windows are not one hold.
            self._book.release(more)
            return False
        x.holds = Holds(holds.meters, tuple(map(add, holds.amounts, more.amounts)), holds.stamps)
        return True

    def settle(self, x: Exchange) -> None:
        """A call that never reached a model or was answered from the cache gets its tokens and money back; its request stays counted."""
        holds = x.holds
        if not holds:
            return
        x.holds = NO_HOLDS
        if x.cache == "hit":
            self._book.settle(holds, 0, 0)
        else:
            self._book.settle(holds, x.usage.total, x.charge)

    def settle_all(self, calls: Sequence[Exchange]) -> None:
        """As `settle`, for calls that are completed."""
        ended: list[tuple[Holds, int, int]] = []
        for x in calls:
            if x.cache == "hit" or OVER_HOLD in x.flags:
                try:
                    self.settle(x)
                except Exception:
                    logger.exception("call %s: what it held could not be given back", x.request_id)
            elif x.holds:
                ended.append((x.holds, x.usage.total, x.charge))
                x.holds = NO_HOLDS
        if ended:
            self._book.settle_each(ended)

    def _terms_of(self, x: Exchange) -> _Terms:
        plan = x.plan
        assert plan is not None
        terms = self._terms.get(plan.model)
        if terms is None or terms.plan is not plan:
            terms = _Terms(plan, counts=self._counter is not None and self._counter.counts(plan))
            if not plan.label:
                self._terms[plan.model] = terms
        return terms

    def _caller(self, principal: Principal, now: float) -> _Caller:
        """The caller's entry, made anew when its limits or the period have changed."""
        known = self._callers.get(principal.key_id)
        if known is not None:
            if known.limits == principal.limits and known.since <= now < known.until:
                known.principal = principal
                return known
            self._forget(principal.key_id)
        if len(self._callers) >= MOST_CALLERS:
            for key_id in list(self._callers)[: MOST_CALLERS // 10]:
                self._forget(key_id)
        since, until = float("-inf"), float("inf")
        meters, owners = [], []
        for subject, limits in _subjects(principal):
            for meter in meters_of(subject, limits, now):
                meters.append(meter)
                owners.append((subject.partition(":")[0], limits))
            if limits.budget is not None:
                _, start, end = budget_period(limits.budget.period, now)
                since, until = max(since, start), min(until, end)
        caller = _Caller(principal, self._book.open(meters), tuple(owners), since, until)
        self._callers[principal.key_id] = caller
        return caller

    def _forget(self, key_id: str) -> None:
        self._book.close(self._callers.pop(key_id).account)


def _subjects(principal: Principal) -> tuple[tuple[str, Limits], ...]:
    """Whose limits a call counts against."""
    return ((f"key:{principal.key_id}", principal.limits),)


def _picks(kinds: list[int]) -> Callable[[tuple[int, int, int, int]], tuple[int, ...]]:
    """What takes these of four amounts, in their order."""
    if len(kinds) > 1:
        return itemgetter(*kinds)
    return lambda amounts: tuple(amounts[kind] for kind in kinds)


def _first(account: Account, dimension: Dimension) -> Pool | None:
    return next((pool for pool in account.pools if pool.meter.dimension is dimension), None)


def _fit(call: Call, plan: Plan, output: int, exact: int | None) -> tuple[Plan, int]:
    """Leave out targets whose context certainly cannot take the call, and shorten an answer whose length nobody asked for.

    An estimate above the prompt's size proves nothing, so without an exact count only the lower bound refuses.
    """
    # Each input of a call is read by itself, so what counts is the longest.
    one = len(call.inputs) <= 1
    prompt = exact if exact is not None and one else at_least(call)
    asked = call.max_tokens is not None
    room = 0

    def fits(target: Target) -> bool:
        nonlocal room
        bound = output if target.max_output_tokens is None else min(output, target.max_output_tokens)
        if target.context_window is None:
            room = max(room, bound)
            return True
        left = target.context_window - prompt
        if left < (bound if asked and not target.ends_at_context else min(bound, 1)):
            return False
        room = max(room, min(bound, left))
        return True

    groups = [kept for group in (plan.targets, *plan.fallbacks) if (kept := tuple(target for target in group if fits(target)))]
    if not groups:
        raise _too_long(call, plan, prompt, output, exact is not None and one)
    narrowed = (groups[0], tuple(groups[1:]))
    if narrowed != (plan.targets, plan.fallbacks):
        plan = msgspec.structs.replace(plan, targets=narrowed[0], fallbacks=narrowed[1])
    return plan, room


def _too_long(call: Call, plan: Plan, prompt: int, output: int, exact: bool) -> ContextTooLong:
    window = max(target.context_window for target in plan.everywhere if target.context_window is not None)
    said = f"{prompt} tokens" if exact else f"at least {prompt} tokens"
    wanted = f" and max_tokens asks for {output} more" if output and call.max_tokens is not None and prompt < window else ""
    what, param = _PROMPTS[call.operation]
    advice = f"Shorten the {what}" + (" or lower max_tokens." if wanted else ".")
    return ContextTooLong(f"The prompt has {said}{wanted}; the context of model {plan.model!r} holds {window}. {advice}", param=param)


def _hold(x: Exchange, caller: _Caller, holds: Holds) -> None:
    x.holds = holds
    if caller.money:
        x.money_holds = tuple([MeterHold(holds.meters[index].id, holds.amounts[index]) for index in caller.money])


def _lines(caller: _Caller) -> str:
    """The OpenAI API's headers. What remains is what this worker has and what the office last said is left beside it."""
    lines = caller.lines
    if (pool := caller.requests) is not None:
        lines += f"x-ratelimit-remaining-requests: {pool.balance + pool.remaining}\r\n"
    if (pool := caller.tokens) is not None:
        lines += f"x-ratelimit-remaining-tokens: {pool.balance + pool.remaining}\r\n"
    return lines


def _refused(x: Exchange, caller: _Caller, refusal: Refusal, now: float) -> LimitExceeded:
    """Which limit, how much of it, what remains, and when to come back."""
    meter, need = refusal.meter, refusal.need
    owner, limits = next(
        owner
        for owner, pool in zip(caller.owners, caller.account.pools, strict=True)
        if pool.meter.dimension is meter.dimension and pool.meter.id == meter.id
    )
    wait = refusal.retry_after
    code = "rate_limit_exceeded"
    if meter.dimension is Dimension.REQUESTS:
        text = f"This {owner} may make {meter.cap} requests per minute, and {refusal.remaining} are left."
    elif meter.dimension is Dimension.TOKENS and need > meter.cap:
        text = (
            f"This call may need {need} tokens (its prompt and the longest answer it allows), more than the {meter.cap} that this"
            f" {owner} may use in a whole minute. Shorten the prompt or lower max_tokens."
        )
    elif meter.dimension is Dimension.TOKENS:
        text = (
            f"This {owner} may use {meter.cap} tokens per minute; this call may need {need} (its prompt and the longest answer it"
            f" allows), and {refusal.remaining} are left."
        )
    elif meter.dimension is Dimension.SLOTS:
        code = "concurrency_exceeded"
        text = f"This {owner} may run {meter.cap} calls at once, and {refusal.remaining} more can start now."
    else:
        code = "insufficient_quota"
        text, wait = _over_budget(owner, limits, refusal, now)
    if wait is None:
        # What the official SDKs look at before they try again by themselves.
        x.headers["x-should-retry"] = "false"
    elif meter.dimension is not Dimension.MONEY:
        text += f" Try again in {max(wait, 0.1):.1f} s."
    return LimitExceeded(text, code=code, retry_after=wait)


def _over_budget(owner: str, limits: Limits, refusal: Refusal, now: float) -> tuple[str, float | None]:
    meter, need = refusal.meter, refusal.need
    assert limits.budget is not None
    period = limits.budget.period
    span = "in all" if period == "total" else f"per {period}"
    text = (
        f"This {owner} may spend {format_usd(meter.cap)} USD {span}, and {format_usd(refusal.remaining)} USD are left;"
        f" this call may cost up to {format_usd(need)} USD."
    )
    if need > meter.cap:
        return f"{text} Shorten the prompt or lower max_tokens.", None
    if refusal.retry_after is not None:
        # Lent to a worker, or in doubt: nobody here knows whether it is used up in the end.
        wait = refusal.retry_after
        return (
            f"{text} Some of it is set aside for other calls; what these do not use comes back. Try again in {wait:.1f} s or later.",
            wait,
        )
    if period == "total":
        return text, None
    _, _, end = budget_period(period, now)
    return f"{text} The next {period} begins at {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC.", end - now
