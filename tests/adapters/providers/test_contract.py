"""The contract of a model, on adapters and providers that answer slowly enough to be interrupted."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gatehouse.adapters.providers._aws_keys import FixedKey
from gatehouse.adapters.providers._sigv4 import AwsKey
from gatehouse.adapters.providers.anthropic import anthropic_codec
from gatehouse.adapters.providers.bedrock import AwsAuthoriser, bedrock_codec
from gatehouse.adapters.providers.frame import HttpModel, ModelOptions
from gatehouse.core.plans import Target
from gatehouse.core.secrets import Secret
from gatehouse.testing import anthropic
from gatehouse.testing import bedrock as aws
from gatehouse.testing.model_contract import ModelContract, ModelRig
from gatehouse.testing.upstream import LAST_CHUNK, FakeUpstream, Play, Seen, Wire, chunk, completion, http, stream, streamed
from tests.adapters.providers.trials import openai_model


async def as_asked(seen: Seen, wire: Wire) -> None:
    """Whole or streamed, in one piece or several, as the request says."""
    if seen.path == "/v1/models":
        wire.write(http(b'{"data":[]}'))
    elif seen.json().get("stream"):
        play = streamed()
        assert not isinstance(play, bytes)
        await play(seen, wire)
    else:
        wire.write(completion())


async def in_one_piece(seen: Seen, wire: Wire) -> None:
    """The same, each answer in a single write."""
    if seen.path == "/v1/models":
        wire.write(http(b'{"data":[]}'))
    else:
        wire.write(stream() if seen.json().get("stream") else completion())


class TestOpenAIModel(ModelContract):
    """Also over few connections, so that calls queue."""

    @pytest.fixture(params=[(as_asked, 256), (as_asked, 2), (in_one_piece, 256)], ids=["pieces", "two connections", "one piece"])
    async def rig(self, request: pytest.FixtureRequest) -> AsyncIterator[ModelRig]:
        play: Play
        play, connections = request.param
        async with FakeUpstream(play) as upstream:
            model = openai_model(upstream.url, max_connections=connections)
            pool = model.pool
            yield ModelRig(model, Target("lab/m", "lab", "m"), lambda: pool.open - pool.idle)
            await model.close()


class TestSeveralKeys(ModelContract):
    """Calls that go round among keys are calls like others."""

    @pytest.fixture
    async def rig(self) -> AsyncIterator[ModelRig]:
        async with FakeUpstream(as_asked) as upstream:
            model = openai_model(upstream.url, api_keys=tuple(Secret(f"sk-{number}") for number in range(3)))
            pool = model.pool
            yield ModelRig(model, Target("lab/m", "lab", "m"), lambda: pool.open - pool.idle)
            await model.close()


async def anthropic_as_asked(seen: Seen, wire: Wire) -> None:
    """Messages, whole or in pieces."""
    if seen.path == "/v1/models":
        wire.write(http(b'{"data":[]}'))
    elif seen.json().get("stream"):
        play = streamed(anthropic.story())
        assert not isinstance(play, bytes)
        await play(seen, wire)
    else:
        wire.write(anthropic.message())


class TestAnthropicModel(ModelContract):
    """Anthropic's Messages API."""

    @pytest.fixture(params=[256, 2], ids=["many connections", "two connections"])
    async def rig(self, request: pytest.FixtureRequest) -> AsyncIterator[ModelRig]:
        async with FakeUpstream(anthropic_as_asked) as upstream:
            options = ModelOptions(name="claude", base_url=upstream.url, api_keys=(Secret("sk-ant"),), max_connections=request.param)
            model = HttpModel(options, anthropic_codec())
            pool = model.pool
            yield ModelRig(model, Target("claude/m", "claude", "m"), lambda: pool.open - pool.idle)
            await model.close()


async def bedrock_as_asked(seen: Seen, wire: Wire) -> None:
    """Converse whole, ConverseStream in pieces, as the path says."""
    if not seen.path.endswith("/converse-stream"):
        wire.write(aws.converse())
        return
    wire.write(aws.STREAM_HEAD)
    for message in aws.story():
        wire.write(chunk(message))
        await wire.flush()
        await asyncio.sleep(0)
    wire.write(LAST_CHUNK)


class TestBedrockModel(ModelContract):
    """Signed requests and binary frames."""

    @pytest.fixture(params=[256, 2], ids=["many connections", "two connections"])
    async def rig(self, request: pytest.FixtureRequest) -> AsyncIterator[ModelRig]:
        async with FakeUpstream(bedrock_as_asked) as upstream:
            options = ModelOptions(name="aws", base_url=f"http://127.0.0.1:{upstream.port}", max_connections=request.param)
            key = FixedKey(AwsKey("AKIDEXAMPLE", Secret("secret")))
            model = HttpModel(options, bedrock_codec(), AwsAuthoriser(key, "eu-central-1"))
            pool = model.pool
            yield ModelRig(model, Target("aws/m", "aws", "amazon.nova-lite-v1:0"), lambda: pool.open - pool.idle)
            await model.close()
