"""Counting: what a target says it used is believed when it can be true, whichever way the answer comes."""

from collections.abc import AsyncGenerator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.calls import Call, Message
from gatehouse.core.events import Answer, Choice, Event
from gatehouse.core.limits import Dimension, Holds, Meter
from gatehouse.core.money import Money
from gatehouse.core.plans import Deadlines, Plan, Target
from gatehouse.core.usage import Price, Usage
from gatehouse.pipeline.attempt import Attempt, Run
from gatehouse.pipeline.counting import MOST_TOKENS, Counting
from gatehouse.pipeline.exchange import NO_USAGE, Exchange, Head, Lost
from gatehouse.testing.fakes import FakeTally

PRICE = Price("p", 3, 7, 1, 5, 11, 2, 13)
METERS = (Meter("r", Dimension.REQUESTS, 9), Meter("t", Dimension.TOKENS, 9), Meter("m", Dimension.MONEY, 9))
amounts = st.one_of(st.integers(-3, 40), st.sampled_from([MOST_TOKENS - 1, MOST_TOKENS, MOST_TOKENS + 1, 3 * MOST_TOKENS]))
usages = st.one_of(st.none(), st.builds(Usage, *[st.one_of(st.just(0), amounts)] * 7))
lost = st.one_of(st.none(), st.builds(Lost, st.builds(Usage, st.integers(0, 9)), st.builds(Money, st.integers(0, 9))))
prices = st.sampled_from([None, PRICE])


def exchange(lost: Lost | None, n: int) -> Exchange:
    x = Exchange("req_1", Head("POST", "/", {}), None, None)  # type: ignore[arg-type]
    x.call = Call(model="m", messages=(Message("user", "12345678"),), n=n)
    x.plan = Plan("m", (Target("p/m", "p", "m"),))
    x.holds = Holds(METERS, (1, 50, 90), (0, 0, 0))
    x.lost = lost
    return x


def running(target: Target, *, begun: bool) -> Run:
    run = Run(1.0, target, target, None, Attempt("req_1", "", Deadlines()))
    run.begun = begun
    return run


async def as_it_came(answer: Answer) -> AsyncGenerator[Event, None]:
    yield answer


@given(usages, lost, prices, st.integers(1, 4), st.text(max_size=9))
async def test_a_whole_answer_counts_as_its_stream_does(
    usage: Usage | None, before: Lost | None, price: Price | None, n: int, said: str
) -> None:
    """In one piece and as the only event of a stream: the same usage, charge and flags, and the same answer goes on."""
    answer = Answer((Choice(text=said),), usage=usage, raw=b"{}")
    target = Target("p/m", "p", "m", price=price)
    found: list[tuple[Any, ...]] = []
    for streamed in (False, True):
        tally = FakeTally()
        counting, x, run = Counting(tally), exchange(before, n), running(target, begun=True)
        if streamed:
            events = counting.stream(x, run, as_it_came(answer))
            await events.asend(None)
            passed = [event async for event in events]
        else:
            passed = [counting.whole(x, run, answer)]
        counting.account(x, run)
        found.append((passed, x.usage, x.charge, x.flags, run.usage, run.counted, tally.counts))
    assert found[0] == found[1]


@given(usages, lost, prices)
def test_what_a_target_says_is_what_is_paid(usage: Usage | None, before: Lost | None, price: Price | None) -> None:
    """A usage that can be true is taken as it is; what was used in vain is paid beside it; any other is flagged and not told."""
    x, run = exchange(before, 1), running(Target("p/m", "p", "m", price=price), begun=True)
    answer = Answer((Choice(text="four"),), usage=usage, raw=b"{}")
    passed = Counting(FakeTally()).whole(x, run, answer)
    spent, wasted = (NO_USAGE, 0) if before is None else (before.usage, before.charge)
    buckets = [0] if usage is None else [getattr(usage, name) for name in Usage.__struct_fields__]
    into, out = (0, 0) if usage is None else (usage.input_total, usage.output_total)
    if usage is None or not any(buckets):
        assert "estimated_usage" in x.flags
        assert passed is answer
    elif min(buckets) < 0 or into > MOST_TOKENS or out > MOST_TOKENS:
        assert x.flags[:2] == ["absurd_usage", "estimated_usage"]
        assert (passed.usage, getattr(passed, "raw", None)) == (None, b"")
    else:
        assert passed is answer
        assert "estimated_usage" not in x.flags
        assert x.usage.total == usage.total + spent.total
        assert x.charge == (0 if price is None else price.charge(usage)) + wasted
