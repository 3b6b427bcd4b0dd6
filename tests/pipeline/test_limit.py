"""Limit: holds before, trues up after, and says in plain words what is used up, how much is left and when to come back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from gatehouse.control.lease_office import LocalOffice, Office
from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import ContextTooLong, GatehouseError, LimitExceeded, Unavailable
from gatehouse.core.identity import Principal, Role
from gatehouse.core.limits import NO_HOLDS, Budget, Dimension, Limits, budget_period, meters_of
from gatehouse.core.money import ZERO, Money, parse_usd
from gatehouse.core.plans import Plan, Target
from gatehouse.core.records import MeterHold
from gatehouse.core.usage import Price, Usage
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.lease_book import LeaseBook
from gatehouse.pipeline.stages.limit import Limit
from gatehouse.testing.fakes import NOON, FakeClock, FakeLeaseStore, FakeSpawn, LaggedOffice, settle_loop

M = 10**10  # a dollar, in units
CHEAP = Price("cheap", input=M, output=2 * M, cached_input=M // 10, cache_write=M, reasoning=2 * M, audio_input=M, audio_output=2 * M)
DEAR = Price("dear", input=10 * M, output=20 * M, cached_input=M, cache_write=12 * M, reasoning=30 * M, audio_input=0, audio_output=0)
LAB = Target("lab/a", "lab", "a", price=CHEAP)
OPENAI = Target("openai/b", "openai", "b", price=DEAR)
PLAN = Plan("assistant", (LAB,), max_output_tokens=500)
HI = Call(model="assistant", messages=(Message("user", "hi"),))
PROMPT = 146
"""The bound of HI's prompt: template, message and two bytes."""
DAY = 86_400.0


def key(limits: Limits, key_id: str = "k1") -> Principal:
    """A caller."""
    return Principal(key_id, "test", frozenset({Role.DEVELOPER}), limits=limits)


class Counter:
    """Implements `PromptCounter`."""

    def __init__(self, tokens: int | None, only: Plan | None) -> None:
        self.tokens = tokens
        self.only = only
        self.counted: list[Call] = []

    def counts(self, plan: Plan) -> bool:
        return self.only is None or plan is self.only

    async def count_input(self, call: Call, plan: Plan) -> int | None:
        await asyncio.sleep(0)
        self.counted.append(call)
        return self.tokens


class World:
    """One worker in front of one office."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeLeaseStore()
        self.office = Office(self.store, self.clock)
        self.spawn = FakeSpawn()
        self.line = LaggedOffice(LocalOffice(self.office, "w1"))
        self.book = LeaseBook(self.line, self.clock, self.spawn)
        self.limit = Limit(self.book, self.clock)

    def counting(self, tokens: int | None, *, only: Plan | None = None) -> "Counter":
        """From now on prompts, of this plan only or of all, are counted exactly."""
        counter = Counter(tokens, only)
        self.limit = Limit(self.book, self.clock, counter)
        return counter

    async def admit(self, limits: Limits, call: Call = HI, plan: Plan = PLAN, principal: Principal | None = None) -> Exchange:
        """A call that is let in."""
        x = self.exchange(limits, call, plan, principal)
        await self.limit.admit(x)
        return x

    async def refuse(self, limits: Limits, call: Call = HI, plan: Plan = PLAN) -> tuple[GatehouseError, Exchange]:
        """A call that is not."""
        x = self.exchange(limits, call, plan, None)
        with pytest.raises(GatehouseError) as caught:
            await self.limit.admit(x)
        assert (x.holds, x.money_holds) == (NO_HOLDS, ())
        self.limit.settle(x)
        return caught.value, x

    @staticmethod
    def exchange(limits: Limits, call: Call, plan: Plan, principal: Principal | None) -> Exchange:
        """Everything that earlier stages set."""
        x = Exchange("r1", Head("POST", "/v1/chat/completions", {}), None, None)  # type: ignore[arg-type]
        x.principal = principal or key(limits)
        x.call, x.plan = call, plan
        return x

    def left(self) -> dict[str, int]:
        """What the office has out when this worker keeps nothing idle, by the meter's id."""
        self.book.shut()
        return {state.meter: state.live for state in self.office.statement()}


def told(x: Exchange) -> dict[str, str]:
    """The headers that the caller is told."""
    return {**x.headers, **dict(line.split(": ", 1) for line in x.lines.splitlines())}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Ends with no task running and none failed."""
    world = World()
    yield world
    await world.spawn.close()
    assert world.spawn.errors == []


# -- what is held --------------------------------------------------------------------------------------------------


async def test_each_limit_is_held(world: World) -> None:
    """One request, one slot, the most tokens and the most money; the money is what the journal is told."""
    x = await world.admit(Limits(10, 10_000, 5, Budget(parse_usd("1"), "total")))
    most = CHEAP.ceiling(PROMPT, 500)
    assert [(hold.meter.id, hold.amount) for hold in x.holds] == [
        ("key:k1:requests", 1),
        ("key:k1:tokens", PROMPT + 500),
        ("key:k1:slots", 1),
        ("key:k1:money:total:all", most),
    ]
    assert x.money_holds == (MeterHold("key:k1:money:total:all", most),)


async def test_no_limits_hold_nothing(world: World) -> None:
    """No question, no header; the bound of the answer is still set."""
    x = await world.admit(Limits())
    assert (x.holds, x.money_holds, told(x), world.line.asked) == (NO_HOLDS, (), {}, 0)
    assert x.call is not None
    assert x.call.max_tokens == 500


@pytest.mark.parametrize("limits", [Limits(), Limits(requests_per_minute=10), Limits(budget=Budget(parse_usd("1"), "total"))])
async def test_what_a_call_may_cost_is_known_without_a_budget_too(world: World, limits: Limits) -> None:
    """The journal is told: should the process die, that is what the call is charged. It is the ceiling at the dearest target."""
    plan = Plan("assistant", (LAB,), ((OPENAI,),), max_output_tokens=500)
    assert (await world.admit(limits)).ceiling == CHEAP.ceiling(PROMPT, 500)
    assert (await world.admit(limits, HI, plan)).ceiling == DEAR.ceiling(PROMPT, 500)
    at_once = world.exchange(limits, HI, plan, None)
    world.limit.at_once(at_once)
    assert at_once.ceiling == DEAR.ceiling(PROMPT, 500)
    assert (await world.admit(limits, HI, Plan("assistant", (Target("free/c", "free", "c"),)))).ceiling == 0


@pytest.mark.parametrize(
    ("asked", "caps", "sent"),
    [
        (None, (None,), 500),
        (None, (200,), 200),
        (None, (200, 300), 300),
        (None, (200, None), 500),
        (50, (None,), 50),
        (50, (200,), 50),
        (4000, (200,), 200),
        (4000, (200, 300), 300),
        (4000, (None,), 4000),
    ],
)
async def test_the_answers_bound_is_sent(world: World, asked: int | None, caps: tuple[int | None, ...], sent: int) -> None:
    """What was asked for or the plan's default, but no more than the most any target writes; held for n choices."""
    plan = replace(PLAN, targets=tuple(replace(LAB, id=f"lab/{cap}", max_output_tokens=cap) for cap in caps))
    x = await world.admit(Limits(tokens_per_minute=10**6), replace(HI, max_tokens=asked, n=3), plan)
    assert x.call is not None
    assert (x.call.max_tokens, x.holds[0].amount) == (sent, PROMPT + 3 * sent)


async def test_a_call_with_a_good_bound_stays_the_same(world: World) -> None:
    """No copy is made for nothing."""
    call = replace(HI, max_tokens=100)
    assert (await world.admit(Limits(requests_per_minute=5), call)).call is call


async def test_embeddings_have_no_answer_to_hold_for(world: World) -> None:
    """Only the prompt counts, and no bound is sent."""
    x = await world.admit(Limits(tokens_per_minute=1000), replace(HI, operation="embedding"))
    assert x.call is not None
    assert (x.call.max_tokens, x.holds[0].amount) == (None, PROMPT)


async def test_money_is_held_for_the_dearest_target(world: World) -> None:
    """Fallbacks included, in the dearest buckets; a target without a price costs nothing here."""
    limits = Limits(budget=Budget(parse_usd("1"), "total"))
    plan = replace(PLAN, targets=(LAB, replace(LAB, id="lab/free", price=None)), fallbacks=((OPENAI,),))
    assert (await world.admit(limits, HI, plan)).money_holds[0].amount == PROMPT * 12 * M // 10**6 + 500 * 30 * M // 10**6


async def test_an_unpriced_call_is_still_booked(world: World) -> None:
    """A hold of nothing names the meter, so that a charge, should there be one, has its place; an empty budget does not stop it."""
    limits = Limits(budget=Budget(ZERO, "total"))
    x = await world.admit(limits, HI, replace(PLAN, targets=(replace(LAB, price=None),)))
    assert x.money_holds == (MeterHold("key:k1:money:total:all", 0),)


async def test_exact_counts_are_preferred(world: World) -> None:
    """Where every target can count, that is the prompt, once for a call; where not, its bytes, and nobody is asked."""
    counter = world.counting(7, only=PLAN)
    x = await world.admit(Limits(tokens_per_minute=10_000))
    assert (x.holds[0].amount, x.counted, counter.counted) == (507, 7, [HI])
    x = await world.admit(Limits(tokens_per_minute=10_000), HI, replace(PLAN, model="other"))
    assert (x.holds[0].amount, x.counted, counter.counted) == (PROMPT + 500, None, [HI])


async def test_a_count_that_does_not_come(world: World) -> None:
    """Its bytes bound the prompt, and the call goes on."""
    world.counting(None)
    x = await world.admit(Limits(tokens_per_minute=10_000))
    assert (x.holds[0].amount, x.counted) == (PROMPT + 500, None)


async def test_only_counting_is_waited_for(world: World) -> None:
    """A call whose prompt is counted cannot be let in at once; every other one can, and waits for nothing."""
    world.counting(7, only=PLAN)
    for limits, counted in ((Limits(), False), (Limits(requests_per_minute=9), False), (Limits(tokens_per_minute=10_000), True)):
        await world.admit(limits)
        assert world.limit.at_once(world.exchange(limits, HI, PLAN, None)) is not counted
        assert world.limit.at_once(world.exchange(limits, HI, replace(PLAN, model="other"), None))


FREE = replace(CHEAP, input=0, output=0, cached_input=0, cache_write=0, reasoning=0, audio_input=0, audio_output=0)
BUDGET = Budget(parse_usd("1"), "total")


@pytest.mark.parametrize(
    ("limits", "price", "counts"),
    [
        (Limits(), CHEAP, False),
        (Limits(requests_per_minute=5, concurrency=5), CHEAP, False),
        (Limits(tokens_per_minute=10_000), FREE, True),
        (Limits(budget=BUDGET), CHEAP, True),
        (Limits(budget=BUDGET), FREE, False),
        (Limits(budget=BUDGET), replace(FREE, output=M), False),
        (Limits(budget=BUDGET), None, False),
    ],
)
async def test_a_prompt_is_counted_for_who_meters_it(world: World, limits: Limits, price: Price | None, counts: bool) -> None:
    """Tokens, or money that the prompt may cost. For anybody else its bytes do."""
    counter = world.counting(7)
    x = await world.admit(limits, HI, replace(PLAN, targets=(replace(LAB, price=price),)))
    assert (x.counted, counter.counted) == ((7, [HI]) if counts else (None, []))


@pytest.mark.parametrize(
    ("size", "ends", "asked", "counts"),
    [
        (PROMPT + 500, False, None, False),
        (PROMPT + 499, False, None, True),
        (PROMPT + 20, False, 20, False),
        (PROMPT + 19, False, 20, True),
        (PROMPT + 1, True, None, False),
        (PROMPT + 1, True, 20, False),
        (PROMPT, True, None, True),
        (None, False, None, False),
    ],
)
async def test_a_prompt_is_counted_where_its_bytes_do_not_prove_that_it_fits(
    world: World, size: int | None, ends: bool, asked: int | None, counts: bool
) -> None:
    """The answer has to fit too, except where it just ends when the context is full. The smallest context of all targets decides."""
    counter = world.counting(7)
    plan = replace(PLAN, targets=(replace(window(size), ends_at_context=ends), replace(window(None), ends_at_context=ends)))
    call = replace(HI, max_tokens=asked)
    x = await world.admit(Limits(), call, plan)
    assert (x.counted, counter.counted) == ((7, [call]) if counts else (None, []))
    assert x.plan is plan


# -- does it fit ---------------------------------------------------------------------------------------------------


def window(size: int | None, name: str = "w", cap: int | None = None) -> Target:
    """A target with such a context."""
    return replace(LAB, id=f"{name}/{size}", context_window=size, max_output_tokens=cap)


@pytest.mark.parametrize(
    ("prompt", "asked", "sizes", "fits", "sent"),
    [
        (100, None, (1000,), (1000,), 500),
        (100, None, (300,), (300,), 200),
        (100, None, (300, 1000), (300, 1000), 500),
        (300, None, (300, 1000), (1000,), 500),
        (299, None, (300,), (300,), 1),
        (100, 200, (300,), (300,), 200),
        (100, 201, (300, 1000), (1000,), 201),
        (100, 201, (300, None), (None,), 201),
        (5000, None, (300, None), (None,), 500),
    ],
)
async def test_targets_too_small_are_left_out(
    world: World, prompt: int, asked: int | None, sizes: tuple[int | None, ...], fits: tuple[int | None, ...], sent: int
) -> None:
    """An answer whose length was asked for must fit whole; one whose length is ours to choose is shortened."""
    world.counting(prompt)
    plan = replace(PLAN, targets=tuple(window(size) for size in sizes))
    x = await world.admit(Limits(), replace(HI, max_tokens=asked), plan)
    assert x.plan is not None
    assert x.call is not None
    assert tuple(target.context_window for target in x.plan.targets) == fits
    assert x.call.max_tokens == sent
    assert (x.plan is plan) == (fits == sizes)


@pytest.mark.parametrize(("prompt", "asked", "sent"), [(10, None, 290), (10, 500, 290), (10, 50, 50), (299, 500, 1)])
async def test_an_answer_that_ends_at_the_context(world: World, prompt: int, asked: int | None, sent: int) -> None:
    """Where an answer just ends when the context is full, no bound is too large: it is what is left; only the prompt must fit."""
    plan = replace(PLAN, targets=(replace(window(300), ends_at_context=True),))
    world.counting(prompt)
    x = await world.admit(Limits(tokens_per_minute=10_000), replace(HI, max_tokens=asked), plan)
    assert x.call is not None
    assert (x.call.max_tokens, x.holds[0].amount) == (sent, prompt + sent)
    world.counting(300)
    error, _ = await world.refuse(Limits(tokens_per_minute=10_000), replace(HI, max_tokens=asked), plan)
    assert error.message == "The prompt has 300 tokens; the context of model 'assistant' holds 300. Shorten the messages."


async def test_a_fallback_takes_the_place_of_groups_that_do_not_fit(world: World) -> None:
    """The first group that has a fitting target is asked first, and only its price is held for."""
    world.counting(1000)
    plan = replace(PLAN, targets=(replace(OPENAI, context_window=500),), fallbacks=((window(400),), (window(4000),), (window(None),)))
    x = await world.admit(Limits(budget=Budget(parse_usd("1"), "total")), HI, plan)
    assert x.plan is not None
    assert [target.context_window for target in x.plan.everywhere] == [4000, None]
    assert x.money_holds[0].amount == CHEAP.ceiling(1000, 500)


@pytest.mark.parametrize(
    ("prompt", "asked", "text"),
    [
        (300, None, "The prompt has 300 tokens; the context of model 'assistant' holds 300. Shorten the messages."),
        (
            100,
            201,
            "The prompt has 100 tokens and max_tokens asks for 201 more; the context of model 'assistant' holds 300."
            " Shorten the messages or lower max_tokens.",
        ),
    ],
)
async def test_a_prompt_that_fits_nowhere(world: World, prompt: int, asked: int | None, text: str) -> None:
    """Security scenario 17: a 400 with the figures, before anything is held or queued."""
    world.counting(prompt)
    plan = replace(PLAN, targets=(window(200), window(300)))
    error, _ = await world.refuse(Limits(requests_per_minute=1), replace(HI, max_tokens=asked), plan)
    assert isinstance(error, ContextTooLong)
    assert (error.message, error.code, error.param) == (text, "context_length_exceeded", "messages")
    assert world.line.asked == 0


@pytest.mark.parametrize(
    ("text", "fits"),
    [("word " * 400, False), ("x" * 400 * 128, False), ("word " * 250, True), (" " * 3000, True), ("{\n" + " " * 16 + "}" * 900, True)],
    ids=["words", "bytes", "fewer words", "blanks", "indented"],
)
async def test_an_estimate_refuses_only_what_certainly_is_too_long(world: World, text: str, fits: bool) -> None:
    """Bytes are an upper bound; a prompt that may fit is let through and held for."""
    call = replace(HI, messages=(Message("user", text),))
    plan = replace(PLAN, targets=(window(300),))
    if fits:
        assert (await world.admit(Limits(tokens_per_minute=10**6), call, plan)).holds[0].amount > 300
    else:
        error, _ = await world.refuse(Limits(), call, plan)
        assert "at least" in error.message


# -- what comes back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "charge", "cache", "tokens", "money"),
    [
        (Usage(input=10, output=20), 123, "miss", 30, 123),
        (Usage(input=10, cached_input=5, output=20, reasoning=5), 123, "bypass", 40, 123),
        (Usage(), 0, "miss", 0, 0),
        (Usage(input=10, output=20), 0, "hit", 0, 0),
        (Usage(input=10, output=2000), 10**8, "miss", 2010, 10**8),
    ],
    ids=["answered", "all buckets", "refused, blocked or failed", "cached", "more than held"],
)
async def test_settle_trues_up(world: World, usage: Usage, charge: int, cache: str, tokens: int, money: int) -> None:
    """The request stays counted whatever happened, the slot is free, tokens and money are what was used."""
    x = await world.admit(Limits(10, 10_000, 5, Budget(parse_usd("1"), "total")))
    x.usage, x.charge, x.cache = usage, Money(charge), cache
    world.limit.settle(x)
    world.limit.settle(x)
    assert world.left() == {"key:k1:requests": 1, "key:k1:tokens": tokens, "key:k1:slots": 0, "key:k1:money:total:all": money}


async def test_the_journal_still_finds_the_money_holds(world: World) -> None:
    """Record settles after Limit and books the charge on these meters."""
    x = await world.admit(Limits(budget=Budget(parse_usd("1"), "total")))
    world.limit.settle(x)
    assert [hold.meter for hold in x.money_holds] == ["key:k1:money:total:all"]


async def test_a_caller_that_leaves_while_waiting_holds_nothing(world: World) -> None:
    """Security scenario 18: cancelled on the way to the office, nothing counts, not even the request."""
    world.line.prompt = False
    x = world.exchange(Limits(10, 10_000, 5), HI, PLAN, None)
    task = asyncio.ensure_future(world.limit.admit(x))
    await settle_loop()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.line.deliver_all()
    await settle_loop()
    world.limit.settle(x)
    world.book.shut()
    await world.line.deliver_all()
    assert set(world.left().values()) <= {0}


# -- words ---------------------------------------------------------------------------------------------------------


async def test_out_of_requests(world: World) -> None:
    """Which limit, how much, what is left, when; the wait is also what Retry-After says."""
    limits = Limits(requests_per_minute=2)
    for _ in range(2):
        world.limit.settle(await world.admit(limits))
    error, x = await world.refuse(limits)
    assert isinstance(error, LimitExceeded)
    assert error.message == "This key may make 2 requests per minute, and 0 are left. Try again in 62.0 s."
    assert (error.code, error.retry_after) == ("rate_limit_exceeded", 62.0)
    assert told(x) == {"x-ratelimit-limit-requests": "2", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2s"}
    world.clock.advance(62)
    await world.admit(limits)


async def test_out_of_tokens(world: World) -> None:
    """Both the need of this call and what is left are told."""
    limits = Limits(tokens_per_minute=1000)
    await world.admit(limits)
    error, x = await world.refuse(limits)
    assert error.message == (
        "This key may use 1000 tokens per minute; this call may need 646 (its prompt and the longest answer it allows), and 354 are"
        " left. Try again in 62.0 s."
    )
    assert (error.code, told(x)["x-ratelimit-remaining-tokens"]) == ("rate_limit_exceeded", "354")


async def test_larger_than_a_whole_minute(world: World) -> None:
    """Waiting does not help, which the official SDKs are told too; nothing else is held."""
    error, x = await world.refuse(Limits(requests_per_minute=5, tokens_per_minute=600))
    assert error.message == (
        "This call may need 646 tokens (its prompt and the longest answer it allows), more than the 600 that this key may use in a"
        " whole minute. Shorten the prompt or lower max_tokens."
    )
    assert (error.code, error.retry_after, x.headers["x-should-retry"]) == ("rate_limit_exceeded", None, "false")
    assert set(world.left().values()) == {0}


async def test_too_many_at_once(world: World) -> None:
    """A slot may be free any moment."""
    limits = Limits(concurrency=2)
    x = await world.admit(limits)
    await world.admit(limits)
    error, _ = await world.refuse(limits)
    assert error.message == "This key may run 2 calls at once, and 0 more can start now. Try again in 1.0 s."
    assert (error.code, error.retry_after) == ("concurrency_exceeded", 1.0)
    world.limit.settle(x)
    await world.admit(limits)


@pytest.mark.parametrize(
    ("period", "wait", "text"),
    [
        (
            "day",
            DAY / 2,
            "per day, and 0.0008 USD are left; this call may cost up to 0.001146 USD. The next day begins at 2026-01-02 00:00 UTC.",
        ),
        (
            "month",
            30.5 * DAY,
            "per month, and 0.0008 USD are left; this call may cost up to 0.001146 USD. The next month begins at 2026-02-01 00:00 UTC.",
        ),
        ("total", None, "in all, and 0.0008 USD are left; this call may cost up to 0.001146 USD."),
    ],
)
async def test_out_of_money(world: World, period: Any, wait: float | None, text: str) -> None:
    """What is spent comes back when the period ends, or never."""
    limits = Limits(budget=Budget(parse_usd("0.0012"), period))
    x = await world.admit(limits)
    x.charge = parse_usd("0.0004")
    world.limit.settle(x)
    (meter,) = (hold.meter for hold in x.money_holds)
    world.store.charge("w1", [(meter, x.charge)])
    await world.office.booked("w1", [(meter, x.charge)])
    error, refused = await world.refuse(limits)
    assert error.message == f"This key may spend 0.0012 USD {text}"
    assert (error.code, error.retry_after) == ("insufficient_quota", wait)
    assert refused.headers.get("x-should-retry") == ("false" if wait is None else None)


async def test_money_that_running_calls_hold_may_come_back(world: World) -> None:
    """Then it is worth while to try again, and no more than that is promised: they may use it up."""
    limits = Limits(budget=Budget(parse_usd("0.0012"), "total"))
    await world.admit(limits)
    error, _ = await world.refuse(limits)
    assert error.retry_after == 1.0
    assert error.message.endswith("Some of it is set aside for other calls; what these do not use comes back. Try again in 1.0 s or later.")


async def test_dearer_than_the_whole_budget(world: World) -> None:
    """No wait helps."""
    error, _ = await world.refuse(Limits(budget=Budget(parse_usd("0.0001"), "day")))
    assert (error.code, error.retry_after) == ("insufficient_quota", None)
    assert error.message.endswith("Shorten the prompt or lower max_tokens.")


async def test_limits_that_cannot_be_checked(world: World) -> None:
    """Never unlimited and never the caller's fault: a 503."""
    world.line.gone = True
    error, _ = await world.refuse(Limits(requests_per_minute=5))
    assert isinstance(error, Unavailable)


async def test_headers_of_an_admitted_call(world: World) -> None:
    """The OpenAI API's, for what is limited."""
    x = await world.admit(Limits(requests_per_minute=10, tokens_per_minute=10_000))
    assert told(x) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "1m2s",
        "x-ratelimit-limit-tokens": "10000",
        "x-ratelimit-remaining-tokens": "9354",
        "x-ratelimit-reset-tokens": "1m2s",
    }


# -- callers and periods -------------------------------------------------------------------------------------------


async def test_a_new_month_is_a_new_meter(world: World) -> None:
    """At midnight UTC; a call that runs across it is trued up where it was held."""
    limits = Limits(budget=Budget(parse_usd("0.0012"), "month"))
    old = await world.admit(limits)
    world.clock.advance(31 * DAY)
    new = await world.admit(limits)
    assert [hold.meter for x in (old, new) for hold in x.money_holds] == ["key:k1:money:month:2026-01", "key:k1:money:month:2026-02"]
    old.charge = Money(5)
    world.limit.settle(old)
    assert world.left()["key:k1:money:month:2026-01"] == 5


async def test_a_clock_set_back_is_followed(world: World) -> None:
    """The period is that of the wall clock, whichever way it moves."""
    limits = Limits(budget=Budget(parse_usd("1"), "day"))
    days = []
    for jump in (0, DAY, -2 * DAY):
        world.clock.jump(jump)
        days.append((await world.admit(limits)).money_holds[0].meter[-10:])
    assert days == ["2026-01-01", "2026-01-02", "2025-12-31"]


async def test_a_key_whose_limits_change(world: World) -> None:
    """The new limits hold at once; a fresh copy of the same principal changes nothing."""
    await world.admit(Limits(requests_per_minute=1))
    await world.admit(Limits(requests_per_minute=2))
    error, _ = await world.refuse(Limits(requests_per_minute=2))
    assert isinstance(error, LimitExceeded)
    x = await world.admit(Limits())
    assert x.holds == NO_HOLDS


async def test_callers_do_not_share(world: World) -> None:
    """Each key has its own meters."""
    limits = Limits(requests_per_minute=1)
    for name in ("k1", "k2", "k3"):
        await world.admit(limits, principal=key(limits, name))


async def test_callers_at_hand_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest leave; what they have out is trued up when their calls end, and nothing of them stays."""
    monkeypatch.setattr("gatehouse.pipeline.stages.limit.MOST_CALLERS", 10)
    limits = Limits(10, 10_000, 5, Budget(parse_usd("1"), "day"))
    first = await world.admit(limits, principal=key(limits, "first"))
    for number in range(50):
        world.limit.settle(await world.admit(limits, principal=key(limits, f"k{number}")))
    world.limit.settle(first)
    for _ in range(3):
        world.clock.advance(1)
        world.book.tick()
    assert len(world.limit._callers) <= 10
    assert len(world.book._pools) <= 4 * 10


@pytest.mark.parametrize(
    ("period", "now", "expected"),
    [
        ("day", NOON, ("2026-01-01", NOON - DAY / 2, NOON + DAY / 2)),
        ("month", NOON, ("2026-01", NOON - DAY / 2, NOON + 30.5 * DAY)),
        ("month", NOON - DAY, ("2025-12", NOON - 31.5 * DAY, NOON - DAY / 2)),
        ("total", NOON, ("all", float("-inf"), float("inf"))),
    ],
)
def test_periods_are_calendar_days_and_months(period: Any, now: float, expected: tuple[str, float, float]) -> None:
    """In UTC, from their first second to that of the next."""
    assert budget_period(period, now) == expected


def test_meters_stand_in_the_order_of_their_dimensions() -> None:
    """Only those that are limited, a limit of nothing included."""
    meters = meters_of("key:a", Limits(0, None, 3, Budget(Money(5), "day")), NOON)
    assert [(meter.id, meter.dimension, meter.cap) for meter in meters] == [
        ("key:a:requests", Dimension.REQUESTS, 0),
        ("key:a:slots", Dimension.SLOTS, 3),
        ("key:a:money:day:2026-01-01", Dimension.MONEY, 5),
    ]


# -- two attempts at the same time ---------------------------------------------------------------------------------


async def test_a_second_attempt_holds_tokens_and_money_once_more(world: World) -> None:
    """Not its request nor its slot: it is one call. What both used is trued up as one."""
    x = await world.admit(Limits(10, 10_000, 5, Budget(parse_usd("1"), "total")))
    once = {hold.meter.dimension: hold.amount for hold in x.holds}
    assert world.limit.hold_again(x)
    twice = {hold.meter.dimension: hold.amount for hold in x.holds}
    assert twice == {
        Dimension.REQUESTS: 1,
        Dimension.SLOTS: 1,
        Dimension.TOKENS: 2 * once[Dimension.TOKENS],
        Dimension.MONEY: 2 * once[Dimension.MONEY],
    }
    x.usage, x.charge = Usage(input=20, output=5), Money(123)
    world.limit.settle(x)
    assert world.left()["key:k1:money:total:all"] == 123


async def test_what_is_not_at_hand_is_not_held(world: World) -> None:
    """A budget for one and a half: no second attempt, and the first hold is as it was. Nobody is asked, nothing waits."""
    most = CHEAP.ceiling(PROMPT, 500)
    x = await world.admit(Limits(budget=Budget(Money(most + most // 2), "total")))
    asked = world.line.asked
    holds = x.holds
    assert not world.limit.hold_again(x)
    assert (x.holds, world.line.asked) == (holds, asked)
    world.limit.settle(x)
    assert world.left().get("key:k1:money:total:all", 0) == 0


async def test_who_has_no_limits_needs_no_second_hold(world: World) -> None:
    """Nothing is measured, so nothing stands in the way."""
    x = await world.admit(Limits())
    assert world.limit.hold_again(x)
    assert x.holds == NO_HOLDS
