"""Dispatch's truth table: which failure lets another target be tried, what is written when, and what a call is charged."""

import asyncio
from collections import Counter

import msgspec
import pytest

from gatehouse.core.calls import Call, FilePart, ImagePart, Message, ResponseFormat, TextPart, Tool, ToolCall
from gatehouse.core.errors import Internal, Unavailable, UpstreamFailed
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, Events, ToolDelta
from gatehouse.core.limits import Dimension, Holds, Meter
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Capability, Deadlines, Plan
from gatehouse.core.ports import Attempt
from gatehouse.core.usage import Usage
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.prompts import MEDIA_TOKENS, prompt_tokens
from gatehouse.pipeline.stages.dispatch import MAX_ATTEMPTS
from gatehouse.testing.fakes import FakeModel, settle_loop
from tests.pipeline.dispatching import ASKED, PRICE, ROLE, USAGE, Answering, Bench, Noting, failed, piece, target


async def test_the_first_target_answers() -> None:
    """The journal knows of the attempt before the target does; events pass as they came; first event, usage and charge are set."""
    bench = Bench(a=FakeModel(ROLE, piece("Hi"), USAGE))
    x = bench.exchange((target("a"),))
    x_events = asyncio.get_running_loop().create_task(bench.carry(x))
    await x_events
    assert bench.log == ["opened a/m", "asked a"]
    assert bench.events == [ROLE, piece("Hi"), USAGE]
    assert (x.usage, x.charge, x.flags) == (Usage(input=7, output=2), 27, [])
    assert (x.first_event, x.attempts, x.outcome) == (0.0, 1, Outcome.COMPLETED)
    assert bench.clean()


async def test_the_attempt_names_the_call_and_its_deadlines() -> None:
    """A model learns the request id, the tenant and the target's own deadlines, and that nothing is sent yet."""
    bench = Bench(a=FakeModel(ROLE))
    deadlines = Deadlines(1.0, 2.0, 3.0, 4.0)
    await bench.carry(bench.exchange((target("a", deadlines=deadlines),)))
    attempt = bench.models["a"].attempts[0]
    assert (attempt.request_id, attempt.tenant, attempt.deadlines, attempt.sent) == ("req_1", "default", deadlines, False)


@pytest.mark.parametrize(
    "code",
    [
        "upstream_unreachable",
        "upstream_timeout",
        "upstream_overloaded",
        "upstream_auth",
        "upstream_invalid",
        "upstream_broken",
        "upstream_rejected",
    ],
)
async def test_a_failure_before_the_first_event_is_the_next_targets_call(code: str) -> None:
    """Whatever a target failed of, unless it refused the request itself: the attempt is closed in the journal and another opened."""
    bench = Bench(a=FakeModel(failed(code)), b=FakeModel(ROLE, piece("Hi"), USAGE))
    x = await bench.carry(bench.exchange(Plan("m", (target("a"),), ((target("b"),),))))
    assert bench.log == ["opened a/m", "asked a", f"failed {code}", "opened b/m", "asked b"]
    assert (x.attempts, x.target, x.charge) == (2, target("b"), 27)
    assert bench.tally.counts["gatehouse_attempts_failed_total", ("a/m", code)] == 1
    assert bench.clean()


async def test_a_refused_request_is_tried_nowhere_else() -> None:
    """The caller's fault stays the caller's fault at every target."""
    bench = Bench(a=FakeModel(failed("upstream_rejected", caller_fault=True)), b=FakeModel(ROLE))
    x = bench.exchange((target("a"),))
    x.plan = Plan("m", (target("a"),), ((target("b"),),))
    with pytest.raises(UpstreamFailed) as caught:
        await bench.carry(x)
    assert caught.value.caller_fault
    assert bench.log == ["opened a/m", "asked a"]
    assert (x.opened, x.outcome, x.charge) == (True, Outcome.FAILED, 0)
    assert bench.clean()


async def test_a_request_that_is_too_large_for_one_target_goes_to_the_next() -> None:
    """Its limit is not another's. It is well, so the next is not paid from the budget of retries; when all refuse, the caller is told."""
    large = failed("upstream_rejected", caller_fault=True, too_large=True)
    bench = Bench(a=FakeModel(large), b=FakeModel(ROLE, piece("Hi"), USAGE))
    x = await bench.carry(bench.exchange(Plan("m", (target("a"),), ((target("b"),),))))
    assert (x.attempts, x.target, x.charge) == (2, target("b"), 27)
    assert bench.clean()
    bench = Bench(a=FakeModel(large), b=FakeModel(large))
    with pytest.raises(UpstreamFailed) as caught:
        await bench.carry(bench.exchange(Plan("m", (target("a"),), ((target("b"),),), retries=2)))
    assert (caught.value.too_large, caught.value.retry_after) == (True, None)
    assert [line for line in bench.log if line.startswith("asked")] == ["asked a", "asked b"]


async def test_a_request_that_a_target_has_no_words_for_goes_to_the_next() -> None:
    """Nothing was sent and nobody has looked at it: another format may say it. When none can, the caller is told what it is about."""
    speechless = failed("upstream_rejected", caller_fault=True, sent=False)
    bench = Bench(a=FakeModel(speechless), b=FakeModel(ROLE, piece("Hi"), USAGE))
    x = bench.exchange(Plan("m", (target("a"),), ((target("b"),),)))
    await bench.carry(x)
    assert [line for line in bench.log if line.startswith("asked")] == ["asked a", "asked b"]
    assert bench.clean()
    bench = Bench(a=FakeModel(speechless))
    with pytest.raises(UpstreamFailed) as caught:
        await bench.carry(bench.exchange(Plan("m", (target("a"),), retries=2)))
    assert (caught.value.caller_fault, caught.value.retry_after) == (True, None)
    assert bench.log == ["opened a/m", "asked a"]


async def test_the_last_failure_is_told_and_left_open_for_record() -> None:
    """When nobody answers the last error stands; its attempt has no Closed yet, for Record writes the final one."""
    bench = Bench(a=FakeModel(failed("upstream_invalid")), b=FakeModel(failed("upstream_timeout")))
    x = bench.exchange(Plan("m", (target("a"),), ((target("b"),),)))
    with pytest.raises(UpstreamFailed) as caught:
        await bench.carry(x)
    assert caught.value.code == "upstream_timeout"
    assert bench.log[-2:] == ["opened b/m", "asked b"]
    assert (x.opened, x.attempts, x.charge, x.usage.total) == (True, 2, 0, 0)
    assert bench.clean()


@pytest.mark.parametrize(("said", "told"), [(None, 1.0), (7.0, 7.0)])
@pytest.mark.parametrize("code", ["upstream_unreachable", "upstream_overloaded"])
async def test_scenario_21_all_unreachable_says_when_to_retry(code: str, said: float | None, told: float) -> None:
    """When every target is out, the caller is told to come back: when the target said, else soon."""
    bench = Bench(a=FakeModel(failed(code, retry_after=said)))
    with pytest.raises(UpstreamFailed) as caught:
        await bench.carry(bench.exchange((target("a"),)))
    assert caught.value.retry_after == told


async def test_attempts_are_bounded() -> None:
    """However many targets there are, one call asks only a few."""
    names = [f"t{number}" for number in range(9)]
    bench = Bench(**{name: FakeModel(failed("upstream_unreachable")) for name in names})
    x = bench.exchange(tuple(target(name) for name in names))
    with pytest.raises(UpstreamFailed):
        await bench.carry(x)
    assert x.attempts == MAX_ATTEMPTS
    assert len({line for line in bench.log if line.startswith("asked")}) == MAX_ATTEMPTS


async def test_a_target_is_asked_once_even_when_it_stands_in_two_groups() -> None:
    """A fallback that has just failed as a primary target is not tried again."""
    bench = Bench(a=FakeModel(failed("upstream_timeout")), b=FakeModel(ROLE))
    await bench.carry(bench.exchange(Plan("m", (target("a"),), ((target("a"), target("b")),))))
    assert [line for line in bench.log if line.startswith("asked")] == ["asked a", "asked b"]


async def test_targets_are_drawn_by_weight() -> None:
    """Over many calls each target of a group gets its share; one without weight only follows a failure."""
    bench = Bench(a=FakeModel(ROLE), b=FakeModel(ROLE), c=FakeModel(ROLE))
    plan = Plan("m", (target("a", weight=3), target("b", weight=1), target("c", weight=0)))
    for _ in range(400):
        await bench.carry(bench.exchange(plan))
    share = Counter(line for line in bench.log if line.startswith("asked"))
    assert 270 < share["asked a"] < 330
    assert share["asked a"] + share["asked b"] == 400


async def test_all_of_a_group_come_before_its_fallbacks() -> None:
    """Equals first, in whatever order chance says; then the next group."""
    models = {name: FakeModel(failed("upstream_unreachable")) for name in "abc"}
    bench = Bench(**models, d=FakeModel(ROLE))
    await bench.carry(bench.exchange(Plan("m", tuple(target(name) for name in "abc"), ((target("d"),),))))
    asked = [line for line in bench.log if line.startswith("asked")]
    assert sorted(asked[:3]) == ["asked a", "asked b", "asked c"]
    assert asked[3] == "asked d"


async def test_a_provider_that_is_gone_is_passed_over() -> None:
    """A plan from before a reload may name a provider that is no more; when nothing is left the call can be retried."""
    bench = Bench(b=FakeModel(ROLE))
    await bench.carry(bench.exchange(Plan("m", (target("gone"),), ((target("b"),),))))
    assert bench.log == ["opened b/m", "asked b"]
    with pytest.raises(Unavailable) as caught:
        await bench.carry(bench.exchange((target("gone"),)))
    assert caught.value.retry_after == 1.0
    assert bench.clean()


async def test_strict_audit_waits_for_the_disk() -> None:
    """With strict audit the opened record is on disk before the target hears anything."""
    bench = Bench(a=FakeModel(ROLE))
    await bench.carry(bench.exchange(Plan("m", (target("a"),), strict_audit=True)))
    assert bench.log == ["opened a/m", "durable", "asked a"]


async def test_no_journal_no_call() -> None:
    """What cannot be written down is not sent."""
    bench = Bench(a=FakeModel(ROLE))
    bench.books.broken = True
    with pytest.raises(Unavailable):
        await bench.carry(bench.exchange((target("a"),)))
    assert bench.log == []
    assert bench.clean()


async def test_a_target_that_cannot_stream_is_asked_for_a_whole_answer() -> None:
    """A streamed call may go to a target without streaming: its one answer is replayed as a stream further up."""
    model = FakeModel(Answer(choices=(Choice(text="Hi"),), usage=Usage(input=1, output=1)))
    bench = Bench(a=model)
    await bench.carry(bench.exchange((target("a", capabilities=frozenset(Capability) - {Capability.STREAM}),)))
    assert model.calls[0][0].stream is False


@pytest.mark.parametrize(("own", "asked", "sent"), [(None, 100, 100), (50, 100, 50), (200, 100, 100), (50, None, None)])
async def test_a_target_is_asked_for_no_more_than_it_writes(own: int | None, asked: int | None, sent: int | None) -> None:
    """The bound was held for the largest target of the plan; a smaller one gets its own."""
    model = FakeModel(Answer(choices=(Choice(text="Hi"),), usage=Usage(input=1, output=1)))
    bench = Bench(a=model)
    await bench.carry(bench.exchange((target("a", max_output_tokens=own),), msgspec.structs.replace(ASKED, max_tokens=asked)))
    assert model.calls[0][0].max_tokens == sent


async def test_scenario_23_broken_after_the_first_event_is_not_retried() -> None:
    """Once something was said the error travels in the stream; the tokens so far are billed and flagged as counted here."""
    bench = Bench(a=FakeModel(ROLE, piece("1234"), piece("56789"), failed("upstream_broken")), b=FakeModel(ROLE))
    x = bench.exchange(Plan("m", (target("a"),), ((target("b"),),)))
    with pytest.raises(UpstreamFailed) as caught:
        await bench.carry(x)
    assert caught.value.code == "upstream_broken"
    assert bench.log == ["opened a/m", "asked a"]
    assert bench.events == [ROLE, piece("1234"), piece("56789")]
    assert (x.usage, x.charge, x.flags) == (Usage(input=6, output=3), 36, ["estimated_usage"])
    assert (x.opened, x.outcome) == (True, Outcome.FAILED)
    assert bench.clean()


class Case(msgspec.Struct, frozen=True):
    """Events of a complete stream, and what they are booked as."""

    name: str
    script: tuple[Event, ...]
    usage: Usage
    flags: list[str]
    call: Call = ASKED


NOT_BELIEVED = ["absurd_usage", "estimated_usage"]
ABSURD = [Usage(input=-1, output=5), Usage(input=10**12), Usage(input=1, output=10**12), Usage(output=-(10**12))]
CASES = [
    Case("usage at the end", (piece("Hello"), USAGE), Usage(input=7, output=2), []),
    Case("no usage", (piece("Hello"), piece("!")), Usage(input=6, output=2), ["estimated_usage"]),
    Case("nothing said at all", (ROLE,), Usage(input=6), ["estimated_usage"]),
    Case("a token is at most one piece", tuple(piece("a") for _ in range(9)), Usage(input=6, output=9), ["estimated_usage"]),
    Case("zeros instead of a count", (piece("Hello"), Chunk(usage=Usage())), Usage(input=6, output=2), ["estimated_usage"]),
    Case(
        "running totals: the last one holds",
        (
            msgspec.structs.replace(piece("Hel"), usage=Usage(input=7, output=1)),
            msgspec.structs.replace(piece("lo"), usage=Usage(input=7, output=2)),
        ),
        Usage(input=7, output=2),
        [],
    ),
    Case(
        "usage first, content after it is counted on top",
        (Chunk(usage=Usage(input=7, cached_input=3)), piece("12345678")),
        Usage(input=7, cached_input=3, output=2),
        ["estimated_usage"],
    ),
    Case(
        "tool arguments, reasoning and refusals are output",
        (
            Chunk(choices=(ChoiceDelta(tools=(ToolDelta(0, "c1", "look", '{"a"'),)),)),
            Chunk(choices=(ChoiceDelta(reasoning="12345678"), ChoiceDelta(1, refusal="1234"))),
        ),
        Usage(input=6, output=5),
        ["estimated_usage"],
    ),
    Case(
        "never more than was asked for",
        tuple(piece("four") for _ in range(50)),
        Usage(input=6, output=20),
        ["estimated_usage"],
        msgspec.structs.replace(ASKED, max_tokens=10, n=2),
    ),
    Case(
        "no bound asked for",
        (piece("1234"),),
        Usage(input=6, output=1),
        ["estimated_usage"],
        msgspec.structs.replace(ASKED, max_tokens=None),
    ),
    Case("whole with usage", (Answer((Choice(text="Hi"),), usage=Usage(input=7, output=2)),), Usage(input=7, output=2), []),
    Case("whole without usage", (Answer((Choice(text="12345678"), Choice(1, text="1"))),), Usage(input=6, output=3), ["estimated_usage"]),
    Case(
        "whole, only a tool call",
        (Answer((Choice(tools=(ToolCall("c1", "look", "{..}"),)),)),),
        Usage(input=6, output=2),
        ["estimated_usage"],
    ),
    Case("whole and empty", (Answer((Choice(),)),), Usage(input=6), ["estimated_usage"]),
    *(
        Case(
            f"scenario 29, streamed {usage}",
            (piece("Hello"), Chunk(usage=usage)),
            Usage(input=6, output=2),
            ["absurd_usage", "estimated_usage"],
        )
        for usage in ABSURD
    ),
    *(
        Case(
            f"scenario 29, whole {usage}",
            (Answer((Choice(text="Hello"),), usage=usage),),
            Usage(input=6, output=2),
            ["absurd_usage", "estimated_usage"],
        )
        for usage in ABSURD
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_what_a_complete_answer_is_booked_as(case: Case) -> None:
    """The target's own word where it can be believed, else what was counted here, flagged; the charge follows from the price."""
    bench = Bench(a=FakeModel(*case.script))
    x = await bench.carry(bench.exchange((target("a"),), case.call))
    assert (x.usage, x.flags) == (case.usage, case.flags)
    assert x.charge == PRICE.charge(case.usage)
    assert bench.clean()


async def test_scenario_29_usage_that_is_not_believed_is_not_passed_on() -> None:
    """The caller is not shown a count the ledger does not have, nor the bytes it came in."""
    bench = Bench(a=FakeModel(piece("Hello"), Chunk(usage=Usage(input=-5), raw=b"data: {}\n\n", dialect="openai")))
    await bench.carry(bench.exchange((target("a"),)))
    assert bench.events[-1] == Chunk(dialect="openai")


async def test_the_cost_is_known_when_the_usage_event_passes() -> None:
    """Whoever writes the usage event, or the one answer, out can say what it costs."""
    for script in ((piece("Hi"), USAGE), (Answer((Choice(text="Hi"),), usage=Usage(input=7, output=2)),)):
        bench = Bench(a=FakeModel(*script))
        costs: list[int] = []

        async def deliver(x: Exchange, events: Events, costs: list[int] = costs) -> None:
            costs.extend([x.charge async for event in events if event.usage is not None])

        await bench.runner.carry(bench.exchange((target("a"),)), deliver)
        assert costs == [27]


async def test_an_unknown_price_costs_nothing() -> None:
    """Whether a call without a price may run is decided by Route; here it runs."""
    bench = Bench(a=FakeModel(piece("Hi"), USAGE))
    x = await bench.carry(bench.exchange((target("a", price=None),)))
    assert (x.charge, x.usage) == (0, Usage(input=7, output=2))


async def test_a_counted_prompt_is_not_estimated() -> None:
    """Where the prompt was counted exactly before, its count is taken when the target does not tell."""
    bench = Bench(a=FakeModel(piece("Hi")))
    x = bench.exchange((target("a"),))
    x.counted = 41
    await bench.carry(x)
    assert x.usage == Usage(input=41, output=1)


@pytest.mark.parametrize(
    ("dimension", "held", "flags"),
    [
        (Dimension.TOKENS, 9, []),
        (Dimension.TOKENS, 8, ["over_hold"]),
        (Dimension.MONEY, 27, []),
        (Dimension.MONEY, 26, ["over_hold"]),
        (Dimension.REQUESTS, 0, []),
        (Dimension.SLOTS, 0, []),
    ],
)
async def test_usage_above_what_was_held_is_booked_and_flagged(dimension: Dimension, held: int, flags: list[str]) -> None:
    """A target that used more than it may is believed, and the call is marked."""
    bench = Bench(a=FakeModel(piece("Hi"), USAGE))
    x = await bench.carry(bench.exchange((target("a"),), holds=Holds((Meter("key:k1", dimension, 10**9),), (held,), (0,))))
    assert (x.charge, x.flags) == (27, flags)
    assert bench.tally.counts["gatehouse_over_hold_total", ("a/m",)] == len(flags)


async def leave(x: Exchange, outcome: Outcome = Outcome.CLIENT) -> None:
    await settle_loop()
    x.end(outcome)


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_scenario_19_a_client_that_leaves_pays_for_the_tokens_so_far(after: int) -> None:
    """Cut at any point of a stream: the target's stream is closed, the slot free, and the tokens so far are billed, once."""
    model = FakeModel(*(piece("1234") for _ in range(10)), USAGE)
    bench = Bench(a=model)
    x = bench.exchange((target("a"),))

    async def deliver(x: Exchange, events: Events) -> None:
        for _ in range(after):
            await anext(events)
        x.end(Outcome.CLIENT)
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await bench.runner.carry(x, deliver)
    assert (x.usage, x.flags, x.outcome) == (Usage(input=6, output=after), ["estimated_usage"], Outcome.CLIENT)
    assert x.charge == 6 + 10 * after
    assert model.open == 0
    assert bench.clean()


async def test_a_client_that_leaves_after_the_usage_pays_what_the_target_said() -> None:
    """When the count has come nothing needs to be estimated."""
    bench = Bench(a=FakeModel(piece("1234"), USAGE, ROLE))
    x = bench.exchange((target("a"),))

    async def deliver(x: Exchange, events: Events) -> None:
        await anext(events)
        await anext(events)
        x.end(Outcome.CLIENT)
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await bench.runner.carry(x, deliver)
    assert (x.usage, x.flags) == (Usage(input=7, output=2), [])


@pytest.mark.parametrize(
    ("sent", "outcome", "usage"),
    [
        (True, Outcome.CLIENT, Usage(input=6)),
        (True, Outcome.REVOKED, Usage(input=6)),
        (True, Outcome.SHUTDOWN, Usage()),
        (False, Outcome.CLIENT, Usage()),
    ],
)
async def test_scenario_18_leaving_before_the_answer(sent: bool, outcome: Outcome, usage: Usage) -> None:
    """A client that leaves while its call still waits for a connection pays nothing; once the prompt is with the target it is paid
    for, so that leaving early is no way round a budget. When we stop, nobody pays."""

    async def hang(attempt: Attempt) -> Events:
        attempt.sent = sent
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    bench = Bench(a=Answering(hang))
    x = bench.exchange((target("a"),))
    leaving = asyncio.get_running_loop().create_task(leave(x, outcome))
    with pytest.raises(asyncio.CancelledError):
        await bench.carry(x)
    await leaving
    assert (x.usage, x.charge) == (usage, usage.input)
    assert (x.opened, x.outcome) == (True, outcome)
    assert bench.clean()


async def test_the_total_deadline_ends_the_call() -> None:
    """A target that neither answers nor fails is given up when the call's time is over; the caller is told, nobody is billed."""

    async def hang(attempt: Attempt) -> Events:
        attempt.sent = True
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    bench = Bench(a=Answering(hang), b=FakeModel(ROLE))
    x = bench.exchange(Plan("m", (target("a", deadlines=Deadlines(total=30.0)),), ((target("b"),),)))
    carried = asyncio.get_running_loop().create_task(bench.carry(x))
    await settle_loop()
    bench.clock.advance(29.9)
    await settle_loop()
    assert not carried.done()
    bench.clock.advance(0.2)
    with pytest.raises(UpstreamFailed) as caught:
        await carried
    assert (caught.value.code, x.outcome, x.charge) == ("upstream_timeout", Outcome.DEADLINE, 0)
    assert bench.clean()


async def test_the_total_deadline_ends_a_stream_that_trickles() -> None:
    """Each piece may come in time and the whole still take too long; what came is billed."""
    bench = Bench(a=FakeModel(*(piece("1234") for _ in range(100))))
    x = bench.exchange((target("a", deadlines=Deadlines(total=10.0)),))

    async def deliver(x: Exchange, events: Events) -> None:
        async for _ in events:
            bench.clock.advance(3.0)
            await asyncio.sleep(0)

    with pytest.raises(UpstreamFailed):
        await bench.runner.carry(x, deliver)
    assert (x.outcome, x.usage) == (Outcome.DEADLINE, Usage(input=6, output=4))
    assert bench.clean()


async def test_deadlines_need_one_timer_for_each_length() -> None:
    """A thousand calls of equal length arm one timer; each is still ended at its own time, and those that ended are left alone."""
    bench = Bench(a=FakeModel(ROLE))
    for _ in range(1000):
        await bench.carry(bench.exchange((target("a", deadlines=Deadlines(total=30.0)),)))
    assert bench.clock.pending == 1

    async def hang(attempt: Attempt) -> Events:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    bench.models["b"] = Noting(Answering(hang), "b", bench.log)
    calls = []
    for _ in range(3):
        x = bench.exchange((target("b", deadlines=Deadlines(total=30.0)),))
        calls.append((x, asyncio.get_running_loop().create_task(bench.carry(x))))
        await settle_loop()
        bench.clock.advance(10.0)
    ended = []
    for _ in range(4):
        await settle_loop()
        ended.append([x.outcome for x, _ in calls].count(Outcome.DEADLINE))
        bench.clock.advance(10.0)
    assert ended == [1, 2, 3, 3]
    await asyncio.gather(*(task for _, task in calls), return_exceptions=True)
    bench.clock.advance(60.0)
    assert bench.clock.pending == 0
    assert bench.clean()


async def test_a_deadline_on_a_connecting_retry_still_holds() -> None:
    """Falling back does not restart the clock of the call."""

    async def slow(attempt: Attempt) -> Events:
        await bench.clock.sleep(6.0)
        raise failed("upstream_timeout")

    bench = Bench(a=Answering(slow), b=Answering(slow))
    deadlines = Deadlines(total=10.0)
    x = bench.exchange(Plan("m", (target("a", deadlines=deadlines),), ((target("b", deadlines=deadlines),),)))
    carried = asyncio.get_running_loop().create_task(bench.carry(x))
    await bench.clock.run_for(9.0)
    assert x.attempts == 2
    await bench.clock.run_for(1.5)
    with pytest.raises(UpstreamFailed):
        await carried
    assert x.outcome is Outcome.DEADLINE
    assert bench.clean()


async def test_a_models_own_fault_is_ours() -> None:
    """An exception that is no UpstreamFailed is a bug, not a reason to try elsewhere."""

    async def bug(attempt: Attempt) -> Events:
        raise KeyError("bug")

    bench = Bench(a=Answering(bug), b=FakeModel(ROLE))
    with pytest.raises(Internal):
        await bench.carry(bench.exchange(Plan("m", (target("a"),), ((target("b"),),))))
    assert bench.clean()


def test_prompt_tokens() -> None:
    """A quarter of the characters, four a message, a fixed figure for what is no text; tools and schemas count too."""
    asked = Call(
        model="m",
        messages=(
            Message("system", "1234"),
            Message("user", (TextPart("12345678"), ImagePart("data:..."), FilePart(file_id="f"))),
            Message("assistant", None, tool_calls=(ToolCall("c", "look", "{....}"),)),
        ),
    )
    bare = prompt_tokens(asked)
    assert bare == (4 + 8 + 10 + 3) // 4 + 3 * 4 + 2 * MEDIA_TOKENS
    tool = Tool("look", parameters={"type": "object"})
    form = ResponseFormat("json_schema", name="n", schema={"type": "object"})
    assert prompt_tokens(msgspec.structs.replace(asked, tools=(tool,))) > bare
    assert prompt_tokens(msgspec.structs.replace(asked, response_format=form)) > bare
