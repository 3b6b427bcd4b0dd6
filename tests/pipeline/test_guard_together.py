"""Guard over the calls of one turn: whoever passes among others passes alone, whatever stands beside it."""

from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.calls import Call, Message, TextPart, ToolCall
from gatehouse.core.events import Answer, Choice
from gatehouse.core.single import Single
from gatehouse.pipeline.exchange import Exchange
from tests.pipeline.guarding import ACTIONS, MAKER, exchange, guard

SECRETS = sorted({text for made in MAKER.all().values() for pair in made for text in pair})
GUARD = guard()


def _part_of(secret: str, at: int, first: bool) -> str:
    return secret[: at % (len(secret) + 1)] if first else secret[at % (len(secret) + 1) :]


pieces = st.one_of(
    st.sampled_from(SECRETS),
    st.builds(_part_of, st.sampled_from(SECRETS), st.integers(0, 400), st.booleans()),
    st.sampled_from(["", " ", "\n", "\r\n", "_", "-", "password = ", "api_key: ", "4111 1111 ", "-----", "Bearer ", "AKIA", "x" * 17_000]),
    st.sampled_from(["\x00", "\x1f", "\t", "é", "\u200b", "\u0301", "ａ", "\U000e0041", "\ufe00"]),
    st.text(max_size=8),
)
texts = st.lists(pieces, min_size=1, max_size=4).map("".join)
short = st.one_of(st.just("m"), texts)
messages = st.one_of(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts),
    st.builds(Message, st.just("user"), st.tuples(texts.map(TextPart), texts.map(TextPart))),
    st.builds(Message, st.just("user"), texts, name=texts),
    st.builds(lambda said, written: Message("assistant", said, tool_calls=(ToolCall("1", "f", written),)), texts, texts),
)
calls = st.builds(
    Call,
    model=st.just("m"),
    messages=st.lists(messages, min_size=1, max_size=3).map(tuple),
    user=st.one_of(st.none(), texts),
    stop=st.one_of(st.just(()), st.tuples(texts)),
)
asked = st.builds(
    lambda call, action, bound: exchange(call, input=action, max_text_bytes=bound),
    calls,
    st.sampled_from(ACTIONS),
    st.sampled_from([50, 100_000]),
)
choices = st.builds(
    Choice,
    text=st.one_of(st.none(), texts),
    reasoning=st.one_of(st.none(), st.none(), texts),
    refusal=st.one_of(st.none(), st.none(), texts),
    tools=st.one_of(st.just(()), st.builds(lambda written: (ToolCall("1", "f", written),), texts)),
    logprobs=st.one_of(st.none(), texts.map(lambda token: {"content": [{"token": token}]})),
)
answers = st.builds(
    Answer,
    st.lists(choices, max_size=2).map(tuple),
    short,
    short,
    fingerprint=st.one_of(st.none(), texts),
    raw=st.just(b"{}"),
    dialect=st.just("openai"),
    opaque=st.booleans(),
)
answered = st.tuples(st.builds(lambda action: exchange(output=action), st.sampled_from(ACTIONS)), answers)


@given(st.lists(asked, min_size=2, max_size=5))
def test_a_call_that_passes_among_others_passes_alone(calls: list[Exchange]) -> None:
    """What is cleared together is a part of what each would be let pass for by itself, and nothing is noted or changed by the look."""
    before = [x.call for x in calls]
    left = GUARD.clear(calls)
    assert [x.call for x in calls] == before
    assert not any(x.flags for x in calls)
    assert set(left) <= set(calls)
    assert all(GUARD.at_once(x) for x in calls if x not in left)


@given(st.lists(answered, min_size=2, max_size=5))
def test_an_answer_that_passes_among_others_passes_alone(answers: list[tuple[Exchange, Answer]]) -> None:
    """The same of whole answers: what is cleared together leaves unchanged by itself, too."""
    left = {x for x, _ in GUARD.clear_answers(answers)}
    for x, answer in answers:
        if x not in left:
            single = Single(answer)
            assert GUARD.watch(x, single) is single


@given(st.sampled_from(SECRETS), st.lists(st.one_of(texts, st.just("hello")), max_size=3), st.integers(0, 3))
def test_a_secret_is_found_whoever_stands_beside_it(secret: str, others: list[str], at: int) -> None:
    """A call and an answer that are not let pass alone are not let pass among others."""
    there = [*others[:at], f"my key: {secret}", *others[at:]]
    calls = [exchange(Call(model="m", messages=(Message("user", text),)), input="block") for text in there]
    left = GUARD.clear(calls)
    assert all(x in left or GUARD.at_once(x) for x in calls)
    whole = [(exchange(output="block"), Answer((Choice(text=text),), "1", "m", raw=b"{}")) for text in there]
    left_answers = {x for x, _ in GUARD.clear_answers(whole)}
    for x, answer in whole:
        single = Single(answer)
        assert x in left_answers or GUARD.watch(x, single) is single
