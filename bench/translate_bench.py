"""How fast are streams translated on one core: bytes of a target's stream in, frames for a client of another API out.

    python bench/translate_bench.py [--events 20000] [--rounds 5]

No sockets, no stages: a decoder and a writer, fed with one frame at a time, as a target that writes one token at a time
sends them. `passes` is the same with a client of the target's own API. The best round counts: nothing else on the machine
makes a loop faster.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from gatehouse.core.calls import Call
from gatehouse.core.ports import Dialect
from gatehouse.dialects import anthropic, openai

CALL = Call(model="assistant", stream=True, include_usage=True)
WORDS = (" the", " gate", "way", " says", ":", " \u00e9t\u00e9", "\n")


def openai_stream(events: int) -> list[bytes]:
    """The frames of a target that speaks OpenAI's API, one for each event."""

    def frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_767_268_800, "model": "m", "choices": [choice]}
        return b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode()

    texts = [frame({"content": WORDS[number % len(WORDS)]}) for number in range(events)]
    return [frame({"role": "assistant", "content": ""}), *texts, frame({}, "stop"), b"data: [DONE]\n\n"]


def anthropic_stream(events: int) -> list[bytes]:
    """The same from a target that speaks Anthropic's."""

    def frame(kind: str, **fields: Any) -> bytes:
        body = {"type": kind, **fields}
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps(body, separators=(",", ":")).encode())

    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": {"input_tokens": 9}}
    texts = [
        frame("content_block_delta", index=0, delta={"type": "text_delta", "text": WORDS[number % len(WORDS)]}) for number in range(events)
    ]
    return [
        frame("message_start", message=message),
        frame("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *texts,
        frame("content_block_stop", index=0),
        frame("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": events}),
        frame("message_stop"),
    ]


def translate(frames: list[bytes], decoder: Any, dialect: Dialect) -> int:
    """Bytes written for a whole stream."""
    writer = dialect.open_stream(CALL, "req_1")
    written = 0
    for frame in frames:
        for event in decoder.feed(frame):
            written += len(writer.event(event, None))
    decoder.close()
    return written + len(writer.end())


PAIRS: dict[str, tuple[Callable[[int], list[bytes]], Callable[[], Any], Dialect]] = {
    "openai to anthropic": (openai_stream, openai.StreamDecoder, anthropic.AnthropicDialect()),
    "anthropic to openai": (anthropic_stream, anthropic.StreamDecoder, openai.OpenAIDialect()),
    "openai passes": (openai_stream, openai.StreamDecoder, openai.OpenAIDialect()),
    "anthropic passes": (anthropic_stream, anthropic.StreamDecoder, anthropic.AnthropicDialect()),
}


def main() -> None:
    """Print events a second for each pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    for name, (make, decoder, dialect) in PAIRS.items():
        frames = make(asked.events)
        best = float("inf")
        for _ in range(asked.rounds):
            began = time.process_time()
            translate(frames, decoder(), dialect)
            best = min(best, time.process_time() - began)
        print(f"{name:22} {asked.events / best:>10,.0f} events/s   {best / asked.events * 1e6:.2f} us each")


if __name__ == "__main__":
    main()
