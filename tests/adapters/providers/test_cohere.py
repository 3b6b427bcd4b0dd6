"""Cohere on a real socket: chats, streams, vectors, and a token that is refused."""

import json

import msgspec
import pytest

from gatehouse.adapters.providers.cohere import cohere_codec
from gatehouse.adapters.providers.frame import HttpModel, ModelOptions
from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Event
from gatehouse.core.plans import Target
from gatehouse.core.secrets import Secret
from gatehouse.core.usage import Usage
from gatehouse.testing.upstream import FakeUpstream, Seen, Wire, http, stream
from tests.adapters.providers.trials import Trial

KEY = "co-not-a-real-key"
TARGET = Target("c/command-a-03-2025", "c", "command-a-03-2025")
CALL = Call(model="assistant", messages=(Message("user", "hi"),), max_tokens=10)
REPLY = {
    "id": "i",
    "finish_reason": "COMPLETE",
    "message": {"role": "assistant", "content": [{"type": "text", "text": "Hello there."}]},
    "usage": {"billed_units": {"input_tokens": 3, "output_tokens": 5}, "tokens": {"input_tokens": 70, "output_tokens": 5}},
}
FRAMES = [
    f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    for event in (
        {"type": "message-start", "id": "i"},
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Hello "}}}},
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "there."}}}},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": REPLY["usage"]}},
    )
]


async def cohere(seen: Seen, wire: Wire) -> None:
    """Answers each address in its format."""
    if seen.path == "/v2/chat":
        wire.write(stream(FRAMES) if seen.json()["stream"] else http(json.dumps(REPLY).encode()))
    elif seen.path == "/v2/embed":
        wire.write(http(b'{"id":"e","embeddings":{"float":[[1.0],[2.0]]},"meta":{"billed_units":{"input_tokens":2}}}'))
    else:
        wire.write(http(b'{"models":[]}'))


def model_of(upstream: FakeUpstream) -> HttpModel:
    return HttpModel(ModelOptions(name="c", base_url=f"http://127.0.0.1:{upstream.port}", api_keys=[Secret(KEY)]), cohere_codec())


async def answer_of(model: HttpModel, call: Call) -> list[Event]:
    return [event async for event in await model.answer(call, TARGET, Trial())]


async def test_cohere_whole_streamed_and_embedded(upstream: FakeUpstream) -> None:
    """A bearer token, the model in the body, and what is billed as usage."""
    upstream.will(cohere)
    model = model_of(upstream)
    for call in (CALL, msgspec.structs.replace(CALL, stream=True)):
        events = await answer_of(model, call)
        assert "".join(choice.text or "" for event in events for choice in event.choices) == "Hello there."
        assert events[-1].usage == Usage(input=3, output=5)
        assert upstream.seen[-1].json()["model"] == "command-a-03-2025"
    (vectors,) = await answer_of(model, Call(operation="embedding", model="v", inputs=("a", "b")))
    assert isinstance(vectors, Answer)
    assert (len(vectors.vectors), vectors.usage) == (2, Usage(input=2))
    assert {seen.headers["authorization"] for seen in upstream.seen} == {f"Bearer {KEY}"}
    assert await model.ping() == ""
    assert upstream.seen[-1].path == "/v1/models"
    await model.close()


async def test_a_refused_token(upstream: FakeUpstream) -> None:
    """Ours to mend; Cohere has a status of its own for it."""
    upstream.will(http(b'{"message":"invalid api token co-not-a-real-key"}', status=498))
    model = model_of(upstream)
    with pytest.raises(UpstreamFailed) as caught:
        await answer_of(model, CALL)
    assert (caught.value.code, caught.value.caller_fault) == ("upstream_auth", False)
    assert KEY not in str(caught.value) + caught.value.detail
    await model.close()
