"""The rungs below the last target: what answers, what it costs, what the record says, and when an error is better."""

import msgspec
import pytest

from gatehouse.core.calls import Call, ResponseFormat, ToolChoice
from gatehouse.core.errors import GatehouseError, Unavailable, UpstreamFailed
from gatehouse.core.events import Answer, Choice
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Ladder, Plan
from gatehouse.core.ports import Model
from gatehouse.core.usage import Usage
from gatehouse.testing.fakes import FakeModel
from tests.pipeline.dispatching import ASKED, ROLE, USAGE, Bench, failed, piece, target

EARLIER = Answer((Choice(text="as I said before"),), id="old", raw=b"{}", dialect="openai")


def plan(**fields: object) -> Plan:
    ladder = Ladder(stale=3600.0, text="Please come back later.")
    return Plan("m", (target("a"),), ((target("b", rung="model"),), (target("c", rung="embedded"),)), **{"ladder": ladder, **fields})  # type: ignore[arg-type]


def bench_of(**well: bool) -> Bench:
    models: dict[str, Model] = {
        name: FakeModel(ROLE, piece(name), USAGE) if well.get(name) else FakeModel(failed("upstream_unreachable")) for name in "abc"
    }
    return Bench(**models)


@pytest.mark.parametrize(
    ("well", "stale", "rung"),
    [
        ("abc", True, "target"),
        ("bc", True, "model"),
        ("c", True, "embedded"),
        ("", True, "stale"),
        ("", False, "text"),
    ],
)
async def test_each_rung_says_that_it_answered(well: str, stale: bool, rung: str) -> None:
    """The highest that can answers; a header names it, and where it is not the first the record and a counter do too."""
    bench = bench_of(**dict.fromkeys(well, True))
    bench.stale = EARLIER if stale else None
    x = await bench.carry(bench.exchange(plan()))
    assert x.outcome is Outcome.COMPLETED
    assert x.headers["x-gatehouse-rung"] == rung
    assert x.flags == ([] if rung == "target" else [f"rung:{rung}"])
    assert bench.tally.counts["gatehouse_degraded_total", ("m", rung)] == (rung != "target")
    assert bench.clean()


async def test_words_and_stale_answers_cost_nothing() -> None:
    """No target, no usage, no charge; the failed attempts are closed in the journal before."""
    bench = bench_of()
    x = await bench.carry(bench.exchange(plan()))
    assert (x.target, x.charge, x.usage.total, x.opened) == (None, 0, 0, False)
    assert [event.text for event in bench.events] == ["Please come back later."]
    assert [event.usage for event in bench.events] == [Usage()]
    assert [line for line in bench.log if line.startswith("failed")] == ["failed upstream_unreachable"] * 3
    assert x.cache == "bypass"


async def test_words_are_not_kept() -> None:
    """A call whose answer the cache wanted is no longer a miss: the words must not answer the next one when the targets are back."""
    bench = bench_of()
    x = bench.exchange(plan())
    x.cache = "miss"
    await bench.carry(x)
    assert (x.headers["x-gatehouse-rung"], x.cache) == ("text", "bypass")


async def test_a_stale_answer_passes_as_it_was() -> None:
    """The very event that was kept; the record says stale."""
    bench = bench_of()
    bench.stale = EARLIER
    x = await bench.carry(bench.exchange(plan()))
    assert bench.events == [EARLIER]
    assert x.cache == "stale"


async def test_as_many_choices_as_were_asked_for() -> None:
    """n answers are n times the words."""
    bench = bench_of()
    await bench.carry(bench.exchange(plan(), msgspec.structs.replace(ASKED, n=3)))
    answer = bench.events[0]
    assert isinstance(answer, Answer)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(index, "Please come back later.") for index in range(3)]


@pytest.mark.parametrize(
    "fields",
    [
        {"operation": "embedding", "inputs": ("a",), "messages": ()},
        {"response_format": ResponseFormat("json_object")},
        {"response_format": ResponseFormat("json_schema", "s", schema={})},
        {"tool_choice": ToolChoice("required")},
    ],
)
async def test_where_words_are_no_answer_the_error_stays(fields: dict[str, object]) -> None:
    """Vectors, JSON and tool calls cannot be made up: the caller gets the error."""
    bench = bench_of()
    call: Call = msgspec.structs.replace(ASKED, **fields)
    with pytest.raises(UpstreamFailed):
        await bench.carry(bench.exchange(plan(), call))


async def test_a_request_at_fault_is_told() -> None:
    """Nobody is answered with words for what the target refused as the caller's fault."""
    bench = Bench(a=FakeModel(failed("upstream_rejected", caller_fault=True)))
    with pytest.raises(UpstreamFailed):
        await bench.carry(bench.exchange(Plan("m", (target("a"),), ladder=Ladder(text="later"))))


async def test_words_also_when_nobody_may_be_asked() -> None:
    """Every target is left alone: the ladder answers without an attempt."""
    bench = bench_of()
    only = Plan("m", (target("a"),), ladder=Ladder(text="later"))
    error = failed("upstream_auth")
    bench.health.failed(target("a"), error, probe=False)
    x = await bench.carry(bench.exchange(only))
    assert (x.attempts, x.headers["x-gatehouse-rung"]) == (0, "text")
    assert bench.log == []


async def test_without_a_ladder_there_is_an_error() -> None:
    """And without fallbacks no header says anything."""
    bench = bench_of()
    x = bench.exchange((target("a"),))
    with pytest.raises(GatehouseError) as caught:
        await bench.carry(x)
    assert not isinstance(caught.value, Unavailable)
    assert x.headers == {}
