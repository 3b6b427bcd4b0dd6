"""What llama.cpp answers, as events."""

import msgspec

from gatehouse.adapters.engines._chat import ChatReply
from gatehouse.core.events import Choice, ChoiceDelta
from gatehouse.core.usage import Usage


def reply(**fields: object) -> ChatReply:
    return msgspec.json.decode(msgspec.json.encode({"id": "chatcmpl-1", "created": 7, "model": "m.gguf", **fields}), type=ChatReply)


def test_pieces_of_an_answer() -> None:
    """The first piece begins its choice, then text, reasoning of models that think aloud, an end, and the usage by itself."""
    cases: tuple[tuple[dict[str, str | None], str | None, ChoiceDelta], ...] = (
        ({"role": "assistant", "content": None}, None, ChoiceDelta(begins=True)),
        ({"content": "Hi"}, None, ChoiceDelta(text="Hi")),
        ({"reasoning_content": "Hm."}, None, ChoiceDelta(reasoning="Hm.")),
        ({}, "stop", ChoiceDelta(finish="stop")),
        ({}, "length", ChoiceDelta(finish="length")),
    )
    for delta, finish, said in cases:
        chunk = reply(choices=[{"index": 0, "delta": delta, "finish_reason": finish}]).chunk
        assert (chunk.choices, chunk.id, chunk.created, chunk.usage) == ((said,), "chatcmpl-1", 7, None)
    last = reply(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 3}, timings={"cache_n": 0}).chunk
    assert (last.choices, last.usage) == ((), Usage(input=5, output=3))


def test_a_whole_answer() -> None:
    """Text and reasoning apart; exact tokens."""
    said = {"role": "assistant", "content": "Hi", "reasoning_content": "Hm."}
    spent = {"prompt_tokens": 5, "completion_tokens": 3}
    whole = reply(choices=[{"index": 0, "message": said, "finish_reason": "stop"}], usage=spent).answer
    assert whole.choices == (Choice(text="Hi", reasoning="Hm.", finish="stop"),)
    assert whole.usage == Usage(input=5, output=3)


def test_refusals() -> None:
    """A prompt too long is told with its figures, other refusals in our own words: llama.cpp's may quote the prompt."""
    cases = (
        ({"type": "exceed_context_size_error", "code": 400, "n_prompt_tokens": 9, "n_ctx": 8}, "context_length_exceeded", True),
        ({"type": "invalid_request_error", "code": 400, "message": "secret words"}, "invalid_request", True),
        ({"type": "server_error", "code": 500, "message": "secret words"}, "engine_failed", False),
    )
    for error, code, fault in cases:
        said = reply(error=error).error
        assert said is not None
        refused = said.refusal
        assert (refused.code, refused.caller_fault) == (code, fault)
        assert "secret" not in refused.message
