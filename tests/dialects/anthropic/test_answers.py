"""Whole answers and token counts, both ways.

The golden answers are those of https://platform.claude.com/docs/en/api/messages, /docs/en/agents-and-tools/tool-use/overview and
/docs/en/build-with-claude/extended-thinking, with the usage of /docs/en/build-with-claude/prompt-caching.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.usage import Usage
from gatehouse.dialects.anthropic import decode_answer
from gatehouse.dialects.anthropic.usage import read_usage, write_usage

GOLDEN = Path(__file__).parent / "golden" / "answers"
NAMES = ["default", "tools", "thinking"]


def answer_with(**fields: Any) -> bytes:
    return json.dumps(
        {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "hi"}], **fields}
    ).encode()


@pytest.mark.parametrize("name", NAMES)
def test_documented_answers_decode_to_golden_values(name: str) -> None:
    """The value, with the bytes that came beside it."""
    body = (GOLDEN / f"{name}.json").read_bytes()
    answer = decode_answer(body)
    assert answer.raw == body
    assert json.loads(msgspec.json.encode(answer)) | {"raw": ""} == json.loads((GOLDEN / f"{name}.core.json").read_bytes())


def test_the_input_of_a_tool_is_kept_as_the_model_wrote_it() -> None:
    """Spacing, order and numbers included."""
    body = answer_with(content=[]).replace(b"[]", b'[{"type":"tool_use","id":"t","name":"f","input":{"b" : 1.0, "a":1e3}}]')
    assert decode_answer(body).choices[0].tools[0].arguments == '{"b" : 1.0, "a":1e3}'


def test_two_signatures_are_none() -> None:
    """Once their reasoning is one text neither proves it."""
    thoughts = [{"type": "thinking", "thinking": text, "signature": text} for text in ("a", "b")]
    choice = decode_answer(answer_with(content=thoughts)).choices[0]
    assert (choice.reasoning, choice.signature) == ("ab", None)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}],
        [{"type": "text", "text": "hi", "citations": [{"cited_text": "x"}]}],
        [{"type": "text", "text": "hi", "vendor": 1}],
    ],
)
def test_content_that_is_not_read_makes_the_answer_opaque(content: Any) -> None:
    """A guard that must have read everything does not let its bytes pass."""
    assert decode_answer(answer_with(content=content)).opaque
    assert not decode_answer(answer_with(container=None, vendor={"x": 1})).opaque


def test_absurd_usage_is_left_out_of_value_and_bytes() -> None:
    """It reaches neither ledger nor client."""
    answer = decode_answer(answer_with(usage={"input_tokens": -1, "output_tokens": 2}))
    assert (answer.usage, answer.raw) == (None, b"")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"content":"x"}', b"{", b'{"id":1}', b'{"content":[{"type":3}]}'])
def test_what_is_no_answer_is_a_typed_failure(body: bytes) -> None:
    """Never a fault of ours."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_answer(body)
    assert caught.value.code == "upstream_invalid"


def test_an_error_with_status_200_is_an_error() -> None:
    """Its type stands for the status."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_answer(b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')
    assert caught.value.code == "upstream_overloaded"


counts = st.integers(0, 10**6)


@given(st.builds(Usage, counts, counts, counts, counts, counts).filter(lambda usage: usage.total > 0))
def test_buckets_survive_being_written_and_read(usage: Usage) -> None:
    """And their sum is the sum of what the API counts."""
    written = write_usage(usage)
    assert read_usage(msgspec.json.encode(written)) == usage
    plain = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    assert sum(written[name] for name in plain) == usage.total


@given(st.binary(max_size=200))
def test_nothing_but_a_typed_failure_comes_out(body: bytes) -> None:
    """Whatever a target sends."""
    for candidate in (body, answer_with().replace(b"hi", body)):
        with contextlib.suppress(UpstreamFailed):
            decode_answer(candidate)
