"""Texts of a call: nothing that is sent stays unread, and what is changed is changed where it stands."""

from typing import Any

import msgspec
import pytest

from gatehouse.core.calls import (
    AudioPart,
    Call,
    FilePart,
    ImagePart,
    Message,
    RefusalPart,
    ResponseFormat,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from gatehouse.pipeline.texts import located, plain, rewritten, seams, unscannable

FULL = Call(
    model="m",
    messages=(
        Message("system", "words-1"),
        Message(
            "user",
            (
                TextPart("words-2"),
                ImagePart("https://words-3"),
                ImagePart("data:image/png;base64,AAAA"),
                AudioPart("AAAA", "wav"),
                FilePart(data="data:,AAAA", file_id="words-4", filename="words-5"),
                RefusalPart("words-6"),
                ThinkingPart("words-30", "words-31"),
                ThinkingPart(redacted="words-32"),
            ),
            name="words-7",
        ),
        Message("assistant", tool_calls=(ToolCall("words-8", "words-9", '{"words-10": 1}'),), refusal="words-11"),
        Message("tool", "words-12", tool_call_id="words-13"),
    ),
    tools=(Tool("words-14", "words-15", {"type": "object", "words-16": {"default": "words-17"}}, strict=True), Tool("words-18")),
    tool_choice=ToolChoice("required", "words-19"),
    response_format=ResponseFormat("json_schema", "words-20", "words-21", {"title": "words-22"}, strict=False),
    inputs=("words-33", (1, 2, 3)),
    suffix="words-34",
    stop=("words-23", "words-24"),
    user="words-25",
    metadata={"words-26": "words-27"},
    reasoning_effort="low",
    extra={"words-28": [1, "words-29"]},
)
NOT_READ = {"m", "chat", "low", "json_schema", "required"}
"""Names from closed sets: the model as configured, modes, kinds."""
UNREADABLE = {"data:image/png;base64,AAAA", "AAAA", "wav", "data:,AAAA"}
"""What is told by its kind instead."""


def strings(value: Any) -> set[str]:
    """Every string in a structure, keys of free-form objects included, the fields' own names and tags not."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return set().union(*map(strings, value), *map(strings, value.values()))
    if isinstance(value, msgspec.Struct):
        fields = set(value.__struct_fields__) - (
            {"role"} if isinstance(value, Message) else {"kind"} if isinstance(value, ToolCall) else set()
        )
        return set().union(*(strings(getattr(value, field)) for field in fields))
    return set().union(*map(strings, value)) if isinstance(value, (tuple, list)) else set()


def test_the_full_call_is_full() -> None:
    """The call these tests use says something in every field that can hold text; a new field must be added to it."""
    types = (Call, Message, ToolCall, Tool, ToolChoice, ResponseFormat, TextPart, RefusalPart, ImagePart, AudioPart, FilePart, ThinkingPart)
    seen: dict[type, set[str]] = {kind: set() for kind in types}

    def visit(value: Any) -> None:
        if isinstance(value, msgspec.Struct):
            for field in value.__struct_fields__:
                if strings(getattr(value, field)):
                    seen[type(value)].add(field)
                visit(getattr(value, field))
        elif isinstance(value, tuple):
            for each in value:
                visit(each)

    visit(FULL)
    for kind in types:
        holding = {field.name for field in msgspec.structs.fields(kind) if "str" in repr(field.type) or "Any" in repr(field.type)}
        holding -= {"operation", "detail", "logit_bias", "cache", "encoding_format", "thinking"} if kind is not ThinkingPart else set()
        assert holding <= seen[kind] | {"messages", "tools", "tool_calls", "tool_choice", "response_format"}, kind


def test_every_text_of_a_call_is_read() -> None:
    """Whatever a caller can write anywhere in a call is among the texts, or its kind is named."""
    read = "\n".join(text for _, text in located(FULL))
    for text in strings(FULL) - NOT_READ - UNREADABLE - {"object", "type", "default", "title"}:
        assert text in read, text
    assert list(unscannable(FULL)) == [
        ("image", "messages[1].content[1]"),
        ("image", "messages[1].content[2]"),
        ("audio", "messages[1].content[3]"),
        ("file", "messages[1].content[4]"),
        ("tokens", "input[1]"),
        ("extra", "words-28"),
    ]


@pytest.mark.parametrize(
    "call",
    [
        FULL,
        Call(model="m"),
        Call(model="m", messages=(Message("user", "hi"),)),
        Call(model="m", messages=(Message("user", (TextPart("in "), TextPart("two"))),)),
        Call(model="m", messages=(Message("assistant", "hi", tool_calls=(ToolCall("1", "f", '{"a": "\\u0061"}'),)),)),
        Call(model="m", extra={"a": 1}),
    ],
)
def test_the_quick_reading_is_the_careful_one(call: Call) -> None:
    """What each call pays for reads the very texts, in the same order, that are named when something was found."""
    quick, kinds, pieced = plain(call)
    assert quick == [text for _, text in located(call)]
    assert kinds == {kind for kind, _ in unscannable(call)}
    assert pieced or not seams(call)


def test_what_only_advises_is_read_and_no_kind_of_its_own() -> None:
    """A policy that lets no unknown field pass means fields that nobody knows; a name in a known one is read like a user's."""
    call = Call(model="m", extra={"store": False, "prompt_cache_key": "secret-name"})
    texts, kinds, _ = plain(call)
    assert kinds == frozenset()
    assert "secret-name" in texts[0]
    assert plain(Call(model="m", extra={"store": True}))[1] == {"extra"}


def test_places_are_names() -> None:
    """No two texts share a place."""
    places = [place for place, _ in located(FULL)]
    assert len(set(places)) == len(places)


def test_each_text_is_changed_where_it_stands() -> None:
    """Changing one place changes exactly that text, JSON values included, and changing nothing gives an equal call."""
    assert rewritten(FULL, {}) == FULL
    for place, text in located(FULL):
        changed = rewritten(FULL, {place: text.replace("words", "other")})
        assert [new for _, new in located(changed)] == [
            old.replace("words", "other") if at == place else old for at, old in located(FULL)
        ], place


def test_json_must_stay_json() -> None:
    """A change that breaks a JSON value is an error, not a call with a text where an object belongs."""
    with pytest.raises(msgspec.DecodeError):
        rewritten(FULL, {"metadata": '{"a": '})
