"""Calls as this dialect can say them, and events as targets of any dialect send them."""

from typing import Any

import msgspec
from hypothesis import strategies as st

from gatehouse.core.calls import (
    CacheMark,
    Call,
    FilePart,
    ImagePart,
    Message,
    Part,
    ResponseFormat,
    TextPart,
    Thinking,
    ThinkingPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from gatehouse.core.events import Choice
from tests.dialects.openai.strategies import identifiers, json_values, some_text, text

marks: st.SearchStrategy[CacheMark | None] = st.sampled_from([None, None, "5m", "1h"])
names = st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)
base64 = st.sampled_from(["", "QUJD", "/w=="])
texts = st.builds(TextPart, some_text, marks)
images = st.builds(
    ImagePart,
    st.sampled_from(["https://example.com/a.png", "data:image/png;base64,QUJD", "data:image/webp;base64,"]),
    st.none(),
    marks,
)
files = st.builds(
    lambda data, title, mark: FilePart(data, None, title, mark),
    st.sampled_from(["data:application/pdf;base64,JVBE", "data:text/plain;base64,aGkgw6Q=", "https://example.com/a.pdf"]),
    st.none() | some_text, marks,
) | st.builds(lambda name: FilePart(file_id=name), identifiers)  # fmt: skip
proof = some_text.filter(lambda said: ":" not in said)  # with a colon it is another dialect's, and not sent
thoughts = st.builds(ThinkingPart, text, proof) | st.builds(lambda data: ThinkingPart(redacted=data), some_text)
objects = st.dictionaries(some_text, json_values, max_size=3).map(lambda value: msgspec.json.encode(value).decode())


def content(parts: st.SearchStrategy[Part]) -> st.SearchStrategy[str | tuple[Part, ...]]:
    """Text, or parts that are not just one unmarked text (which would come back as text)."""
    several = st.lists(parts, min_size=1, max_size=3).map(tuple)
    return some_text | several.filter(lambda parts: parts != (TextPart(getattr(parts[0], "text", "")),))


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """A call whose encoding decodes to itself: results before what the user says, ids for every call."""
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append(Message("system", draw(content(texts))))
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(content(texts | images | files))))
        tools = tuple(draw(st.lists(st.builds(ToolCall, identifiers, identifiers, objects), max_size=2)))
        said = draw(content(texts | thoughts)) if not tools or draw(st.booleans()) else None
        messages.append(Message("assistant", said, None, tools, cache=draw(marks) if tools else None))
        for called in tools:
            answer = draw(content(texts | images))
            messages.append(Message("tool", answer, None, (), called.id, None, draw(st.booleans()), draw(marks)))
    tools_known = tuple(
        Tool(name, draw(st.none() | text), {"type": "object"}, draw(st.sampled_from([None, True])), draw(marks))
        for name in draw(st.lists(names, max_size=3, unique=True))
    )
    choice, parallel = None, None
    if tools_known:
        choice = draw(st.sampled_from([None, ToolChoice("auto"), ToolChoice("required"), ToolChoice("none"), ToolChoice("required", tools_known[0].name)]))  # fmt: skip # noqa: E501
        parallel = draw(st.sampled_from([None, False])) if choice is not None and choice.mode != "none" else None
    stream = draw(st.booleans())
    return Call(
        model="m",
        messages=tuple(messages),
        tools=tools_known,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        response_format=draw(st.sampled_from([None, ResponseFormat("json_schema", "answer", None, {"type": "object"}, True)])),
        max_tokens=draw(st.integers(1, 10_000)),
        stop=tuple(draw(st.lists(some_text, max_size=2))),
        temperature=draw(st.none() | st.floats(0, 1)),
        top_p=draw(st.none() | st.floats(0, 1)),
        top_k=draw(st.none() | st.integers(0, 100)),
        reasoning_effort=draw(st.sampled_from([None, "low", "max"])),
        thinking=draw(st.sampled_from([None, Thinking("disabled"), Thinking("adaptive", None, "omitted"), Thinking("enabled", 2048)])),
        user=draw(st.none() | some_text),
        stream=stream,
        include_usage=stream,
        extra=draw(st.sampled_from([{}, {"service_tier": "auto"}])),
    )


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    """One whole choice that a message can say."""
    tools = tuple(draw(st.lists(st.builds(ToolCall, identifiers, identifiers, objects), max_size=3)))
    said: Any = draw(st.none() | some_text)
    reasoning = draw(st.none() | some_text)
    finishes = ["tool_calls", "length"] if tools else ["stop", "length", "content_filter"]
    finish = draw(st.sampled_from(finishes))
    sequence = draw(st.none() | some_text) if finish == "stop" else None
    signature = draw(st.none() | some_text) if reasoning is not None else None
    redacted = tuple(draw(st.lists(some_text, max_size=2)))
    return Choice(0, said, reasoning, None, tools, finish, None, signature, redacted, sequence)  # type: ignore[arg-type]
