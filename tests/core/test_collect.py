"""Folding a stream into one answer."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.core.calls import ToolCall
from gatehouse.core.collect import Collector
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, ToolDelta
from gatehouse.core.usage import Usage


def collect(*events: Event) -> Answer:
    collector = Collector()
    for event in events:
        collector.add(event)
    return collector.answer()


def test_a_whole_answer_is_passed_untouched() -> None:
    """The very object, bytes and all."""
    answer = Answer((Choice(0, "hi"),), raw=b"{}", dialect="openai")
    assert collect(answer) is answer


@given(st.lists(st.text(max_size=5), max_size=6), st.lists(st.text(max_size=5), max_size=6))
@settings(deadline=None)
def test_texts_join_in_order(pieces: list[str], thoughts: list[str]) -> None:
    """Text, reasoning and refusal, each on its own."""
    events = [Chunk((ChoiceDelta(text=piece),)) for piece in pieces] + [Chunk((ChoiceDelta(reasoning=thought),)) for thought in thoughts]
    (choice,) = collect(Chunk((ChoiceDelta(begins=True),)), *events).choices
    assert choice.text == "".join(pieces)
    assert choice.reasoning == ("".join(thoughts) or None)


def test_choices_and_tools_are_told_apart_by_index() -> None:
    """However their pieces interleave."""
    answer = collect(
        Chunk(
            (ChoiceDelta(1, tools=(ToolDelta(1, "b", "g", "{"), ToolDelta(0, "a", "f"))), ChoiceDelta(0, "x")),
            "id",
            "m",
            5,
            fingerprint="fp",
        ),
        Chunk((ChoiceDelta(1, tools=(ToolDelta(0, arguments="{}"), ToolDelta(1, arguments="}"))),)),
        Chunk((ChoiceDelta(0, "y", finish="length"), ChoiceDelta(1, finish="tool_calls"))),
        Chunk(usage=Usage(input=1)),
        Chunk(usage=Usage(input=1, output=2)),
    )
    assert answer == Answer(
        (
            Choice(0, "xy", finish="length"),
            Choice(1, None, tools=(ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}")), finish="tool_calls"),
        ),
        "id",
        "m",
        5,
        Usage(input=1, output=2),
        "fp",
    )


def test_a_refusal_has_no_text() -> None:
    """As in an answer that was never streamed."""
    (choice,) = collect(Chunk((ChoiceDelta(refusal="No"),)), Chunk((ChoiceDelta(refusal="."),))).choices
    assert (choice.text, choice.refusal) == (None, "No.")


def test_log_probabilities_follow_each_other() -> None:
    """Lists of the same name are joined; null says nothing."""
    (choice,) = collect(
        Chunk((ChoiceDelta(text="a", logprobs={"content": [1], "refusal": None}),)),
        Chunk((ChoiceDelta(text="b", logprobs={"content": [2], "refusal": None}),)),
        Chunk((ChoiceDelta(logprobs={"content": None, "refusal": [3]}),)),
    ).choices
    assert choice.logprobs == {"content": [1, 2], "refusal": [3]}


def test_an_empty_stream_is_an_empty_answer() -> None:
    """No choices, no usage; whoever reads decides what that means."""
    assert collect() == Answer(())


def test_a_signature_stands_for_the_reasoning_before_it() -> None:
    """It stays while it covers all of it; more reasoning after it leaves a text that nobody signed."""
    thought, proof = Chunk((ChoiceDelta(reasoning="a"),)), Chunk((ChoiceDelta(signature="s"),))
    hidden = Chunk((ChoiceDelta(redacted="x"),))
    choice = collect(thought, thought, proof, hidden, hidden).choices[0]
    assert (choice.reasoning, choice.signature, choice.redacted) == ("aa", "s", ("x", "x"))
    assert collect(thought, proof, thought, proof).choices[0].signature is None
