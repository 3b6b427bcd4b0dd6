"""Calls, events and bodies for property tests."""

from typing import Any

from hypothesis import strategies as st

from gatehouse.core.calls import (
    AudioPart,
    Call,
    FilePart,
    ImagePart,
    Message,
    RefusalPart,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from gatehouse.dialects._forbidden import FORBIDDEN

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
members = text.filter(lambda name: name not in FORBIDDEN)
"""Names in opaque objects; the strategy knows our constants, so it would find the forbidden ones."""
some_text = text.filter(bool)
names = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
speakers = st.none() | st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True)
identifiers = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=20)
urls = st.sampled_from(["data:image/png;base64,AAAA", "https://example.com/a.png", "HTTP://example.com/b.png"])

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(members, inner, max_size=3),
    max_leaves=8,
)

schemas = st.fixed_dictionaries(
    {"type": st.just("object")},
    optional={
        "properties": st.dictionaries(text, st.fixed_dictionaries({"type": st.sampled_from(["string", "integer"])}), max_size=3),
        "required": st.lists(text, max_size=2),
        "additionalProperties": st.booleans(),
        "default": json_values,
    },
)


def parts(*shapes: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Message content: text, or parts of the given shapes."""
    return text | st.lists(st.one_of(*shapes), min_size=1, max_size=3).map(tuple)


text_parts = st.builds(TextPart, text)
user_parts = (
    text_parts,
    st.builds(ImagePart, urls, st.none() | st.sampled_from(["auto", "low", "high", "original"])),
    st.builds(AudioPart, text, st.sampled_from(["wav", "mp3"])),
    st.builds(FilePart, some_text, st.none() | identifiers, st.none() | text),
)
tool_calls = st.builds(ToolCall, identifiers, identifiers, text, st.sampled_from(["function", "custom"]))
assistant = st.one_of(
    st.builds(
        Message,
        st.just("assistant"),
        parts(text_parts, st.builds(RefusalPart, text)),
        speakers,
        st.lists(tool_calls, max_size=2).map(tuple),
    ),
    st.builds(Message, st.just("assistant"), st.none(), speakers, st.lists(tool_calls, min_size=1, max_size=2).map(tuple)),
    st.builds(Message, st.just("assistant"), st.none(), refusal=some_text),
)
messages = st.one_of(
    st.builds(Message, st.sampled_from(["system", "developer"]), parts(text_parts), speakers),
    st.builds(Message, st.just("user"), parts(*user_parts), speakers),
    assistant,
    st.builds(Message, st.just("tool"), parts(text_parts), st.none() | identifiers, st.just(()), identifiers),
)
formats = st.one_of(
    st.sampled_from([ResponseFormat("text"), ResponseFormat("json_object")]),
    st.builds(ResponseFormat, st.just("json_schema"), names, st.none() | text, st.none() | schemas, st.none() | st.booleans()),
)
extras = st.dictionaries(
    st.sampled_from(["service_tier", "verbosity", "store", "x_own"]), json_values.filter(lambda v: v is not None), max_size=2
)
penalties = st.none() | st.floats(-2, 2)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """A call as this dialect decodes it."""
    tools = draw(
        st.lists(
            st.builds(Tool, names, st.none() | text, st.none() | schemas, st.none() | st.booleans()), max_size=3, unique_by=lambda t: t.name
        )
    )
    choices: list[ToolChoice | None] = [None]
    if tools:
        choices += [ToolChoice("none"), ToolChoice("auto"), ToolChoice("required"), ToolChoice("required", tools[0].name)]
    stream = draw(st.booleans())
    logprobs = draw(st.none() | st.booleans())
    return Call(
        model=draw(identifiers),
        messages=tuple(draw(st.lists(messages, min_size=1, max_size=4))),
        tools=tuple(tools),
        tool_choice=draw(st.sampled_from(choices)),
        parallel_tool_calls=draw(st.none() | st.booleans()),
        response_format=draw(st.none() | formats),
        n=draw(st.integers(1, 128)),
        max_tokens=draw(st.none() | st.integers(1, 10_000_000)),
        stop=tuple(draw(st.lists(some_text, max_size=16))),
        temperature=draw(st.none() | st.floats(0, 2)),
        top_p=draw(st.none() | st.floats(0, 1)),
        frequency_penalty=draw(penalties),
        presence_penalty=draw(penalties),
        seed=draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
        logprobs=logprobs,
        top_logprobs=draw(st.integers(0, 20)) if logprobs else None,
        logit_bias=draw(st.none() | st.dictionaries(st.integers(0, 10**6).map(str), st.floats(-100, 100), min_size=1, max_size=3)),
        reasoning_effort=draw(st.none() | st.sampled_from(["none", "low", "xhigh"])),
        user=draw(st.none() | text),
        metadata=draw(st.dictionaries(some_text.filter(lambda name: "_" not in name), text, max_size=3)),
        stream=stream,
        include_usage=stream,  # a target is always asked for it
        extra=draw(extras),
    )
