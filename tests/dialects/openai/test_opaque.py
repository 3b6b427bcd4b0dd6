"""What a target writes beside what we read is known to be there, so that no guard takes unread bytes for read ones."""

import json
from typing import Any

import pytest

from gatehouse.core.events import Answer, Chunk
from gatehouse.dialects.openai import StreamDecoder, decode_answer

PLAIN: dict[str, Any] = {"role": "assistant", "content": "hi"}
TOOL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def answer(message: dict[str, Any], **choice: Any) -> Answer:
    body = {"id": "a", "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}], "service_tier": "x", "timings": {}}
    return decode_answer(json.dumps(body).encode())


def chunks(*deltas: dict[str, Any]) -> list[Chunk]:
    decoder = StreamDecoder()
    frames = [json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}], "extra": 1}) for delta in deltas]
    events = decoder.feed("".join(f"data: {frame}\n\n" for frame in frames).encode())
    return [event for event in events if isinstance(event, Chunk)]


@pytest.mark.parametrize(
    ("message", "opaque"),
    [
        (PLAIN, False),
        ({**PLAIN, "refusal": None, "annotations": [], "audio": None, "function_call": None, "reasoning_content": "hm"}, False),
        ({"role": "assistant", "content": None, "tool_calls": [TOOL]}, False),
        ({**PLAIN, "provider_notes": "read me"}, True),
        ({**PLAIN, "audio": {"transcript": "spoken words"}}, True),
        ({**PLAIN, "function_call": {"name": "f", "arguments": "{}"}}, True),
        ({**PLAIN, "annotations": [{"text": "x"}]}, True),
        ({"role": "assistant", "content": None, "tool_calls": [{**TOOL, "notes": "x"}]}, True),
    ],
)
def test_members_of_a_message(message: dict[str, Any], opaque: bool) -> None:
    """Known members are read, also when they are null or empty; anything else makes the answer opaque, streamed or not."""
    assert answer(message).opaque == opaque
    assert chunks(message)[0].opaque == opaque


def test_members_of_a_choice() -> None:
    """Text beside the message counts too; members of the answer itself are figures of the server."""
    assert not answer(PLAIN, stop_reason=None, logprobs=None).opaque
    assert answer(PLAIN, comment="text").opaque


def test_an_opaque_stream_stays_opaque() -> None:
    """A target that once wrote what we do not read is not believed to have stopped."""
    assert [chunk.opaque for chunk in chunks(PLAIN, {"content": "a", "x": "y"}, {"content": "b"})] == [False, True, True]
