"""The contract of a model, on the OpenAI adapter and a provider that answers slowly enough to be interrupted."""

from collections.abc import AsyncIterator

import pytest

from gatehouse.core.plans import Target
from gatehouse.testing.model_contract import ModelContract, ModelRig
from gatehouse.testing.upstream import FakeUpstream, Play, Seen, Wire, completion, http, stream, streamed
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
