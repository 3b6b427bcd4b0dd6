"""Bounds of a prompt's tokens hold for whatever a tokenizer may do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.calls import (
    AudioPart,
    Call,
    FilePart,
    ImagePart,
    Message,
    Part,
    RefusalPart,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCall,
)
from gatehouse.pipeline.token_bounds import PER_CALL, PER_FILE_ID, PER_IMAGE, PER_MESSAGE, PER_TOOL, TOOLS, at_least, at_most


def said(*parts: Part | str) -> Call:
    """A call with one message."""
    content = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else tuple(part for part in parts if not isinstance(part, str))
    return Call(model="m", messages=(Message("user", content),))


@pytest.mark.parametrize(
    ("call", "extra"),
    [
        (said("hello"), 5),
        (said("grüße"), 7),
        (said("日本"), 6),
        (said("\ud800"), 3),
        (said(""), 0),
        (said(TextPart("hello"), TextPart("grüße")), 12),
        (said(RefusalPart("no")), 2),
        (said(ImagePart("data:image/png;base64," + "A" * 100_000)), PER_IMAGE),
        (said(AudioPart("A" * 1600, "wav")), PER_MESSAGE + 100),
        (said(FilePart(data="A" * 500)), PER_MESSAGE + 500),
        (said(FilePart(file_id="file-1")), PER_FILE_ID),
        (Call(model="m", messages=(Message("assistant", None, tool_calls=(ToolCall("id", "name", "{}"),)),)), PER_MESSAGE + 8),
        (Call(model="m", messages=(Message("tool", "42", name="ä", tool_call_id="id"),)), 6),
        (Call(model="m", messages=(Message("user", "x"),), tools=(Tool("f"),)), 1 + TOOLS + PER_TOOL + len('[{"name":"f"}]')),
        (
            Call(model="m", messages=(Message("user", "x"),), response_format=ResponseFormat("json_object")),
            1 + len('{"kind":"json_object"}'),
        ),
        (Call(model="m", messages=(Message("user", "x"),), extra={"a": "b"}), 1 + len('{"a":"b"}')),
    ],
)
def test_at_most_counts_everything_a_model_reads(call: Call, extra: int) -> None:
    """Text by its bytes, media by an allowance, tools, formats and unlisted fields by their JSON."""
    assert at_most(call) == PER_CALL + PER_MESSAGE + extra


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("", 0),
        ("one", 0),
        ("a b c d", 2),
        (" " * 1000, 7),
        ("x" * 1280, 10),
        ("a\n" + " " * 8 + "b\n" + " " * 8 + "c", 0),
    ],
)
def test_at_least_never_overrates(text: str, least: int) -> None:
    """Words divided by one space count, runs of spaces do not, and long text counts by the longest tokens there are."""
    assert at_least(said(text)) == least


@given(st.text(alphabet=st.sampled_from(" ab\nä日"), max_size=300))
def test_the_bounds_enclose_a_count_by_words(text: str) -> None:
    """A tokenizer that makes one token of each word and of each run of blanks lies between them."""
    words = len(text.split())
    assert at_least(said(text)) <= max(words, 0) + 1
    assert at_most(said(text)) >= words
