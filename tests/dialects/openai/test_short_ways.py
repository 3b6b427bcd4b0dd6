"""The short ways of reading what nearly every request and answer is come to what the careful ways come to: value or refusal."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.errors import GatehouseError
from gatehouse.dialects.openai import requests
from gatehouse.dialects.openai.answers import _decode_with_care, decode_answer

odd: st.SearchStrategy[Any] = st.sampled_from([None, 0, 1, 5, -1, 1.5, 1e300, "", "x", True, False, [], {}, [1], {"a": 1}, 2**64, "\ud800"])


def object_of(always: dict[str, st.SearchStrategy[Any]], sometimes: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """JSON objects with some of these fields."""
    return st.fixed_dictionaries(always, optional=sometimes)


def mostly(*usual: Any) -> st.SearchStrategy[Any]:
    """One of `usual`, or now and then something else."""
    return st.one_of(st.sampled_from(usual), st.sampled_from(usual), odd)


tool_calls = mostly(None, [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}])
replies = object_of(
    {"content": mostly("hi", None)}, {"role": mostly("assistant"), "tool_calls": tool_calls, "refusal": odd, "reasoning": odd, "zz": odd}
)
choices = object_of(
    {"message": replies, "finish_reason": mostly("stop", "length", "weird", None)}, {"index": mostly(0, 1), "logprobs": odd, "zz": odd}
)
details = mostly(
    {}, {"cached_tokens": 2}, {"reasoning_tokens": 3}, {"cached_tokens": 99}, {"cached_tokens": "2"}, {"audio_tokens": 1, "zz": 2}
)
usages = st.one_of(
    object_of(
        {"prompt_tokens": mostly(5, 6), "completion_tokens": mostly(7, 8)},
        {"total_tokens": mostly(12), "prompt_tokens_details": details, "completion_tokens_details": details, "zz": odd},
    ),
    odd,
)
answers = object_of(
    {"choices": st.one_of(st.lists(choices, min_size=1, max_size=2), odd), "usage": usages},
    {"id": mostly("a"), "model": mostly("m"), "created": mostly(7, 7.5), "system_fingerprint": mostly("f"), "error": odd, "zz": odd},
)
messages = object_of(
    {
        "role": mostly("user", "system", "assistant", "tool"),
        "content": mostly("hi", "to: you::", "\u2003:\x00"[:2], [{"type": "text", "text": "a:"}]),
    },
    {"name": odd, "tool_calls": tool_calls, "tool_call_id": odd, "refusal": odd, "zz": odd},
)
others = [
    "temperature",
    "n",
    "stop",
    "stream_options",
    "tools",
    "tool_choice",
    "logprobs",
    "top_logprobs",
    "metadata",
    "user",
    "functions",
    "zz",
]
asked = object_of(
    {"model": mostly("m", "m\x01"), "messages": st.lists(messages, min_size=1, max_size=2)},
    {
        "max_tokens": mostly(5),
        "max_completion_tokens": mostly(5, 6),
        "stream": mostly(True, False),
        **{name: mostly(None) for name in others},
    },
)


def outcome(read: Callable[[bytes], Any], body: bytes) -> Any:
    """What comes of reading `body`: a value, or what its sender is told."""
    try:
        return read(body)
    except GatehouseError as error:
        return type(error), error.code, error.message, getattr(error, "param", None)


def written(value: Any, again: str | None) -> bytes:
    """`value` as JSON; with `again`, a member that may have come before."""
    text = json.dumps(value)
    if again is not None:
        text = f"{text[:-1]}, {again}}}"
    return text.encode("utf-8", "surrogatepass")


@given(
    answers,
    st.one_of(st.none(), st.none(), st.sampled_from(['"usage": null', '"usage": {"prompt_tokens": 9}', '"choices": []', '"id": 3'])),
)
def test_an_answer_reads_alike(answer: Any, again: str | None) -> None:
    """Whatever a target writes, reading it with its usage in one go comes to what reading it with care comes to."""
    body = written(answer, again)
    assert outcome(decode_answer, body) == outcome(_decode_with_care, body)


@given(
    asked,
    st.one_of(
        st.none(), st.none(), st.sampled_from(['"stream": true', '"model": "n:"', '"max_tokens": null', '"temperature": null', '"n": 2'])
    ),
)
def test_a_request_reads_alike(request: Any, again: str | None) -> None:
    """Whatever a caller writes, a request taken for one without options is the call that looking at each option makes of it."""
    body = written(request, again)
    short = outcome(requests.decode_request, body)
    none, requests._NO_OPTIONS = requests._NO_OPTIONS, ()  # type: ignore[misc]
    try:
        assert short == outcome(requests.decode_request, body)
    finally:
        requests._NO_OPTIONS = none  # type: ignore[misc]
