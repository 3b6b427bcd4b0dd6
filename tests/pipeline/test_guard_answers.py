"""Guard on the way out: what leaves of an answer is what would leave of the whole, however it is cut into events."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.core.calls import ToolCall
from gatehouse.core.errors import Blocked, GatehouseError, Unavailable, UpstreamFailed
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, Events, ToolDelta
from gatehouse.core.outcome import Outcome
from gatehouse.core.usage import Usage
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.runner import Runner
from gatehouse.pipeline.stages.guard import FAULT_FLAG, Guard
from gatehouse.testing.fakes import FakeClock
from tests.pipeline.guarding import ACTIONS, AWS, FAULTS, NPM, PEM, Faulty, Upstream, exchange, guard, passed, said, saying, whole


@pytest.mark.parametrize("action", ACTIONS)
async def test_clean_events_pass_as_the_objects_they_are(action: str) -> None:
    """Clean events leave one for one, untouched down to their raw bytes, in order, under every policy."""
    events: list[Event] = [
        Chunk((ChoiceDelta(begins=True),), raw=b"role"),
        *(said(text) for text in ["The", " gate", " is", " s", "o", " A", ".", " Été", " 已", "\n", "-", "-", "x"]),
        Chunk((ChoiceDelta(reasoning="because"), ChoiceDelta(1, "other"))),
        Chunk((ChoiceDelta(tools=(ToolDelta(0, "id", "name"),)),)),
        Chunk((ChoiceDelta(tools=(ToolDelta(0, arguments='{"a": "s'),)),)),
        Chunk((ChoiceDelta(tools=(ToolDelta(0, arguments='ome"}'),)),)),
        Chunk((ChoiceDelta(finish="stop"),)),
        Chunk(usage=Usage(input=1)),
    ]
    out = await passed(exchange(output=action), events)
    assert all(was is now for was, now in zip(events, out, strict=True))


async def test_policy_off_does_not_even_wrap() -> None:
    """A policy that does not look at answers costs nothing: the stream itself goes on."""
    stream = Upstream([]).stream()
    assert guard().watch(exchange(output="off"), stream) is stream
    await stream.aclose()


async def test_plain_events_are_not_delayed() -> None:
    """An event of ordinary text leaves before the next one is taken."""
    upstream = Upstream(said(f" word{number}") for number in range(5))
    watched = guard().watch(exchange(output="redact"), upstream.stream())
    for number in range(1, 6):
        await watched.__anext__()
        assert upstream.taken == number
    await watched.aclose()


async def test_a_beginning_waits_one_event() -> None:
    """What could begin a secret waits until the next event shows that it does not."""
    upstream = Upstream([said(" s"), said("ome"), said(" thing")])
    watched = guard().watch(exchange(output="redact"), upstream.stream())
    assert await watched.__anext__() is upstream.events[0]
    assert upstream.taken == 2
    await watched.aclose()
    assert upstream.closed


def pieces_of(text: str, size: int) -> list[Event]:
    return [said(text[at : at + size]) for at in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_redaction_of_a_stream(size: int) -> None:
    """Scenario 55: the secret is gone from the stream, its rule's name stands in its place, changed events lose their raw bytes
    and the others keep theirs."""
    x = exchange(output="redact")
    out = await passed(x, pieces_of(f"Here it is: {NPM}. Keep it safe.", size))
    assert whole(out).choices[0].text == "Here it is: [redacted:npm-token]. Keep it safe."
    assert x.flags == ["guard:npm-token"]
    assert all(event.raw for event in out[:2]) or size > 3
    assert any(not event.raw for event in out)
    assert NPM[4:10] not in repr(out)


@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_block_of_a_stream(size: int) -> None:
    """A blocked answer ends with the rule's name, the target closed, and nothing of the secret out; the outcome is guard."""
    upstream = Upstream([*pieces_of(f"Here it is: {NPM}. ", size), *pieces_of("much more " * 100, 5)])
    out: list[Event] = []
    outcome, error = await carried(guard(), upstream, out)
    assert isinstance(error, Blocked)
    assert error.code == "npm-token"
    assert outcome is Outcome.GUARD
    assert upstream.closed
    assert upstream.taken < len(upstream.events) - 50
    assert "Here it is: ".startswith(whole(out).choices[0].text or "" if out else "")
    assert NPM[4:8] not in error.message


async def carried(stage: Guard, upstream: Upstream, out: list[Event]) -> tuple[Outcome | None, GatehouseError | None]:
    """Run a call through Runner, Guard and a target, as it is served."""

    class Answering:
        name = "dispatch"

        async def admit(self, x: Exchange) -> Events | None:
            return upstream.stream()

        def settle(self, x: Exchange) -> None:
            assert upstream.closed

    async def deliver(x: Exchange, events: Events) -> None:
        async for event in events:
            out.append(event)  # noqa: PERF401 - what came before an error counts

    x = exchange(saying("hi"), output="block")
    try:
        await Runner((stage, Answering()), FakeClock()).carry(x, deliver)
    except GatehouseError as error:
        return x.outcome, error
    return x.outcome, None


async def test_flagging_never_touches_an_answer() -> None:
    """Pain 35: under flag every event passes at once as it came; the rule is recorded."""
    upstream = Upstream(pieces_of(f"it is {NPM} ok", 5))
    x = exchange(output="flag")
    watched = guard().watch(x, upstream.stream())
    out = []
    async for event in watched:
        out.append(event)
        assert upstream.taken == len(out)
    await watched.aclose()
    assert out == upstream.events
    assert x.flags == ["guard:npm-token"]


async def test_every_text_of_an_answer_is_watched() -> None:
    """Reasoning, refusals, tool names and arguments, and each choice are texts of their own; cut over events or not."""
    builders: tuple[Callable[[str], ChoiceDelta], ...] = (
        lambda text: ChoiceDelta(reasoning=text),
        lambda text: ChoiceDelta(refusal=text),
        lambda text: ChoiceDelta(3, text),
        lambda text: ChoiceDelta(tools=(ToolDelta(2, arguments=text),)),
    )
    for build in builders:
        x = exchange(output="redact")
        events = [Chunk((build(piece),), raw=b"raw") for piece in (f'{{"a": "{NPM[:11]}', f'{NPM[11:]}"', "}")]
        out = await passed(x, events)
        assert len(out) == 3
        shown = repr(out)
        assert "[redacted:npm-token]" in shown
        assert NPM[4:10] not in shown
    x = exchange(output="redact")
    out = await passed(x, [Chunk((ChoiceDelta(tools=(ToolDelta(0, "id", NPM), ToolDelta(1, "id2", "fine"))),))])
    assert out == [Chunk((ChoiceDelta(tools=(ToolDelta(0, "id", "[redacted:npm-token]"), ToolDelta(1, "id2", "fine"))),))]


async def test_choices_are_kept_apart() -> None:
    """Halves of a secret in different choices are no secret; whole ones in the same event are found in each."""
    x = exchange(output="redact")
    halves: list[Event] = [Chunk((ChoiceDelta(0, f" {NPM[:20]}"), ChoiceDelta(1, f"{NPM[20:]} ")))]
    assert await passed(x, halves) == halves
    both: list[Event] = [Chunk((ChoiceDelta(0, f" {NPM} "), ChoiceDelta(1, "clean", logprobs=[1]), ChoiceDelta(2, f" {AWS} ")), raw=b"r")]
    (out,) = await passed(x, both)
    assert isinstance(out, Chunk)
    assert [choice.text for choice in out.choices] == [" [redacted:npm-token] ", "clean", " [redacted:aws-access-key] "]
    assert out.choices[1].logprobs == [1]


async def test_what_else_an_event_carries_survives() -> None:
    """A rewritten event keeps finish, usage, id and the first-piece mark and loses its logprobs; one with nothing left goes."""
    events: list[Event] = [
        Chunk((ChoiceDelta(text=NPM[:10], begins=True, logprobs={"content": [NPM]}),), id="7", raw=b"1"),
        Chunk((ChoiceDelta(text=NPM[10:20]),), id="7", raw=b"2"),
        Chunk((ChoiceDelta(text=NPM[20:], finish="stop"),), id="7", usage=Usage(output=9), raw=b"3"),
    ]
    out = await passed(exchange(output="redact"), events)
    assert out == [
        Chunk((ChoiceDelta(text="[redacted:npm-token]", begins=True),), id="7"),
        Chunk((ChoiceDelta(finish="stop"),), id="7", usage=Usage(output=9)),
    ]


@pytest.mark.parametrize("action", ["block", "redact", "flag"])
async def test_a_whole_answer(action: str) -> None:
    """An answer in one piece is read once, every text of it; changed choices lose their logprobs, a changed answer its raw bytes."""
    tools = (ToolCall("1", "f", f'{{"k": "{AWS}"}}'),)
    answer = Answer(
        (Choice(0, f"see {NPM}", logprobs=[1]), Choice(1, "fine", logprobs=[2]), Choice(2, None, tools=tools, finish="tool_calls")),
        id="1",
        usage=Usage(input=3),
        raw=b"{}",
        dialect="openai",
    )
    x = exchange(output=action)
    if action == "block":
        with pytest.raises(Blocked) as caught:
            await passed(x, [answer])
        assert caught.value.code == "npm-token"
        return
    (out,) = await passed(x, [answer])
    assert x.flags == ["guard:npm-token", "guard:aws-access-key"]
    if action == "flag":
        assert out is answer
        return
    assert out == msgspec.structs.replace(
        answer,
        choices=(
            Choice(0, "see [redacted:npm-token]"),
            Choice(1, "fine", logprobs=[2]),
            Choice(2, None, tools=(ToolCall("1", "f", '{"k": "[redacted:aws-access-key]"}'),), finish="tool_calls"),
        ),
        raw=b"",
    )


async def test_a_clean_answer_is_the_very_object() -> None:
    """A whole answer in which nothing is found passes as it came."""
    answer = Answer((Choice(text="été " * 10_000),), raw=b"{}")
    (out,) = await passed(exchange(output="redact"), [answer])
    assert out is answer


async def test_a_broken_target_shows_nothing_undecided() -> None:
    """When the target breaks off, what was waiting does not leave: it could have been the beginning of a secret."""
    upstream = Upstream([said("ok"), said(f" {NPM[:20]}")], UpstreamFailed("gone", code="upstream_broken"))
    watched = guard().watch(exchange(output="redact"), upstream.stream())
    assert await watched.__anext__() is upstream.events[0]
    with pytest.raises(UpstreamFailed):
        await watched.__anext__()
    await watched.aclose()


async def test_a_stream_nobody_reads_is_closed() -> None:
    """Closing the watched stream closes the target's, begun or not."""
    for begin in (False, True):
        stream = Upstream([said("a"), said("b")]).stream()
        watched = guard().watch(exchange(output="redact"), stream)
        if begin:
            await watched.__anext__()
        await watched.aclose()
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()


MIXED = st.lists(
    st.sampled_from(
        [
            NPM,
            AWS,
            PEM,
            f" {NPM} ",
            NPM[:12],
            PEM[:60],
            "\u200b".join(NPM),
            "The ",
            "gate",
            " s",
            ".",
            "\n",
            "été",
            "—",
            "npm",
            "🔑",
            " A",
            "-",
        ]
    ),
    max_size=8,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(MIXED, MIXED, st.data())
def test_any_chunking_gives_what_the_whole_gives(text: str, arguments: str, data: st.DataObject) -> None:
    """Scenario 55: however an answer is cut into events, what leaves is what would leave of the whole answer in one piece, and at no
    moment has a character of a secret left."""
    events: list[Event] = []
    rest = {"text": text, "arguments": arguments}
    while any(rest.values()):
        field = data.draw(st.sampled_from([name for name, left in rest.items() if left]))
        size = data.draw(st.integers(1, max(1, min(30, len(rest[field])))))
        piece, rest[field] = rest[field][:size], rest[field][size:]
        delta = ChoiceDelta(text=piece) if field == "text" else ChoiceDelta(tools=(ToolDelta(0, arguments=piece),))
        events.append(Chunk((delta,), raw=b"raw"))
    stage = guard()
    asked = Answer((Choice(text=text, tools=(ToolCall("", "", arguments),)),))

    async def both() -> tuple[list[Event], list[Event], Exchange, Exchange]:
        one, other = exchange(output="redact"), exchange(output="redact")
        return await passed(one, events, stage), await passed(other, [asked], stage), one, other

    streamed, (at_once,), one, other = asyncio.run(both())
    assert isinstance(at_once, Answer)
    collected = whole(streamed).choices[0] if streamed else Choice(text="")
    assert (collected.text or "") == (at_once.choices[0].text or "")
    assert "".join(tool.arguments for tool in collected.tools) == at_once.choices[0].tools[0].arguments
    assert set(one.flags) == set(other.flags)
    for event in streamed:
        assert event.raw == b"raw" if event in events else event.raw == b""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("action", ["block", "redact", "flag"])
@pytest.mark.parametrize("after", [0, 3])
async def test_a_broken_guard_on_the_way_out(fault: dict[str, Any], action: str, after: int) -> None:
    """Scenario 54: a rule pack that breaks in the middle of an answer ends it as unavailable with the target closed; where the policy
    only flags, the rest passes unread and flagged."""
    x = exchange(output=action)
    stage = guard(Faulty(**fault, after=after))
    events = [said("one "), said("two "), said("three "), said("four ")]
    if action == "flag":
        assert await passed(x, events, stage) == events
        assert x.flags == [FAULT_FLAG]
    else:
        with pytest.raises(Unavailable):
            await passed(x, events, stage)


async def test_a_signature_does_not_outlive_the_reasoning_it_proves() -> None:
    """Reasoning that was changed is no longer what the target signed; signed and encrypted reasoning passes otherwise."""
    proof, hidden = Chunk((ChoiceDelta(signature="proof"),), raw=b"p"), Chunk((ChoiceDelta(redacted="hidden"),), raw=b"h")
    clean: list[Event] = [Chunk((ChoiceDelta(reasoning="plain thought"),), raw=b"t"), proof, hidden, said("done.")]
    assert await passed(exchange(output="redact"), clean) == clean
    dirty: list[Event] = [Chunk((ChoiceDelta(reasoning=f"use {AWS} now"),), raw=b"t"), said("so."), proof, hidden, said("done.")]
    out = await passed(exchange(output="redact"), dirty)
    choices = [choice for event in out if isinstance(event, Chunk) for choice in event.choices]
    assert not any(choice.signature for choice in choices)
    assert [choice.redacted for choice in choices if choice.redacted] == ["hidden"]
    assert all(AWS not in choice.reasoning for choice in choices)


async def test_a_whole_answer_whose_reasoning_was_changed_is_unsigned() -> None:
    """The same, in one piece."""
    answer = Answer((Choice(text="x", reasoning=f"use {AWS} now", signature="proof"),))
    (out,) = await passed(exchange(output="redact"), [answer])
    assert isinstance(out, Answer)
    assert AWS not in str(out.choices[0].reasoning)
    assert out.choices[0].signature is None


# -- the margins ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("field", ["id", "model", "fingerprint"])
@pytest.mark.parametrize("said", [NPM, "x" * 257, "a\x1b[2Jb"])
async def test_ids_and_names_are_read_too(said: str, field: str, whole: bool) -> None:
    """A secret in the id, the model's name or the build's: redacted, blocked or flagged. What is too long or not printable does not leave
    either; our own id and the model that was asked for stand in its place."""
    names: dict[str, Any] = {"id": "c-1", "model": "m-1", "fingerprint": "fp", field: said}

    def events() -> list[Event]:
        if whole:
            return [Answer((Choice(0, "hello"),), raw=b"raw", **names)]
        return [Chunk((ChoiceDelta(text=piece),), raw=b"raw", **names) for piece in ("hel", "lo")]

    x = exchange(output="redact")
    for event in await passed(x, events()):
        assert (event.id, event.model, event.fingerprint, event.raw) == ("req_1", "", None, b"")
    assert x.flags == (["guard:npm-token"] if said == NPM else [])
    x = exchange(output="flag")
    assert await passed(x, events()) == events()
    if said == NPM:
        with pytest.raises(Blocked):
            await passed(exchange(output="block"), events())


async def test_names_that_change_in_the_middle_are_read_again() -> None:
    """A secret that only a later event names; the ones before and after leave as they came."""
    events: list[Event] = [Chunk((ChoiceDelta(text="a "),), id=name, raw=b"raw") for name in ("1", "1", NPM, "1")]
    out = await passed(exchange(output="redact"), events)
    assert [event.id for event in out] == ["1", "1", "req_1", "1"]
    assert [out[index] is events[index] for index in range(4)] == [True, True, False, True]


@pytest.mark.parametrize("form", ["chat", "completion"])
async def test_tokens_of_log_probabilities_are_read(form: str) -> None:
    """A secret that only the tokens spell, cut over events or not: they go, and what else is there stays."""

    def spelled(*pieces: str) -> Any:
        return {"tokens": list(pieces)} if form == "completion" else {"content": [{"token": piece, "logprob": -1} for piece in pieces]}

    x = exchange(output="redact")
    clean = spelled("fine", " words ")
    events: list[Event] = [
        Chunk((ChoiceDelta(text="one ", logprobs=clean),), raw=b"raw"),
        Chunk((ChoiceDelta(text="two ", logprobs=spelled(NPM[:9], NPM[9:14])),), raw=b"raw"),
        Chunk((ChoiceDelta(text="three ", logprobs=spelled(NPM[14:], " ")),), raw=b"raw"),
    ]
    out = await passed(x, events)
    assert out[0] is events[0]
    assert out[1:] == [Chunk((ChoiceDelta(text="two "),)), Chunk((ChoiceDelta(text="three "),))]
    assert x.flags == ["guard:npm-token"]
    answer = Answer((Choice(0, "text", logprobs=spelled(NPM)), Choice(1, "more", logprobs=clean)), raw=b"raw")
    (whole,) = await passed(exchange(output="redact"), [answer])
    assert whole == Answer((Choice(0, "text"), Choice(1, "more", logprobs=clean)))


async def test_ids_of_tool_calls_are_read() -> None:
    """The target chooses them, and they come back with the next call."""
    chunk = Chunk((ChoiceDelta(tools=(ToolDelta(0, NPM, "f", "{}"),)),), raw=b"raw")
    (out,) = await passed(exchange(output="redact"), [chunk])
    assert out == Chunk((ChoiceDelta(tools=(ToolDelta(0, "[redacted:npm-token]", "f", "{}"),)),))
    answer = Answer((Choice(0, None, tools=(ToolCall(NPM, "f", "{}"),)),), raw=b"raw")
    (whole,) = await passed(exchange(output="redact"), [answer])
    assert whole == Answer((Choice(0, None, tools=(ToolCall("[redacted:npm-token]", "f", "{}"),)),))


@pytest.mark.parametrize("action", ACTIONS)
async def test_what_a_target_says_of_a_refused_request_is_read(action: str) -> None:
    """Its words reach the caller (a 400), so the output's policy holds for them; a failure of its own quotes nothing."""
    x = exchange(output=action)
    x.error = UpstreamFailed(f"The model refused the request: bad {NPM}", code="upstream_rejected", caller_fault=True)
    guard().settle(x)
    assert (NPM in x.error.message) == (NPM in str(x.error)) == (action in {"flag", "off"})
    assert x.flags == ([] if action == "off" else ["guard:npm-token"])
    x.error = clean = UpstreamFailed("The model refused the request: too long", code="upstream_rejected", caller_fault=True)
    guard().settle(x)
    assert (x.error, clean.message) == (clean, "The model refused the request: too long")


async def test_a_broken_guard_quotes_nothing() -> None:
    """What could not be read is not told."""
    x = exchange(output="redact")
    x.error = UpstreamFailed("The model refused the request: who knows", code="upstream_rejected", caller_fault=True)
    guard(Faulty(RuntimeError("secret words"))).settle(x)
    assert "who knows" not in x.error.message
    assert x.flags == [FAULT_FLAG]
