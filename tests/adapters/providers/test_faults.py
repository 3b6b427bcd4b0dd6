"""The fault proxy's toxics, each shown by what it does to a call of the OpenAI adapter."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gatehouse.adapters.providers.frame import HttpModel
from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.plans import Target
from gatehouse.testing.faults import Bandwidth, FaultProxy, Latency, LimitData, Reset, Slicer, Stall
from gatehouse.testing.upstream import FakeUpstream, stream, streamed
from tests.adapters.providers.trials import Trial, eventually, openai_model

TARGET = Target("lab/m", "lab", "m")
CALL = Call(model="a", messages=(Message("user", "hi"),), max_tokens=1, stream=True)


@pytest.fixture
async def proxy(upstream: FakeUpstream) -> AsyncIterator[FaultProxy]:
    """A proxy before the fake provider, which streams "Hello there."."""
    upstream.will(stream())
    async with FaultProxy(upstream.host, upstream.port) as made:
        yield made


@pytest.fixture
async def model(proxy: FaultProxy) -> AsyncIterator[HttpModel]:
    """The adapter, configured for the proxy."""
    made = openai_model(f"http://{proxy.host}:{proxy.port}/v1")
    yield made
    await made.close()


async def ask(model: HttpModel, trial: Trial | None = None) -> str:
    text = ""
    async for event in await model.answer(CALL, TARGET, trial or Trial()):
        text += "".join(choice.text or "" for choice in event.choices)
    return text


async def failure(model: HttpModel, trial: Trial | None = None) -> str:
    with pytest.raises(UpstreamFailed) as caught:
        await ask(model, trial)
    return caught.value.code


async def test_without_toxics_it_is_not_there(proxy: FaultProxy, model: HttpModel) -> None:
    """Everything passes, on one kept connection; when the client closes, both sides do."""
    assert [await ask(model) for _ in range(3)] == ["Hello there."] * 3
    assert (proxy.accepted, proxy.connections) == (1, 1)
    await model.close()
    await eventually(lambda: proxy.connections == 0)


async def test_latency_is_a_slow_first_byte(proxy: FaultProxy, model: HttpModel) -> None:
    """Late enough it is a timeout, else only late; taking it away helps at once."""
    proxy.add(Latency(0.3))
    assert await failure(model, Trial(first_byte=0.05)) == "upstream_timeout"
    assert await ask(model) == "Hello there."
    proxy.clear()
    assert await ask(model, Trial(first_byte=0.25)) == "Hello there."


async def test_latency_may_jitter(proxy: FaultProxy) -> None:
    """More or less, never less than nothing."""
    waits = [proxy.around(Latency(0.1, 0.2)) for _ in range(100)]
    assert min(waits) == 0.0
    assert 0.2 < max(waits) <= 0.3


async def test_down_and_up(proxy: FaultProxy, model: HttpModel) -> None:
    """Down: kept connections break and new ones are refused. Up again on the same port: all is well."""
    assert await ask(model) == "Hello there."
    await proxy.down()
    assert await failure(model) == "upstream_unreachable"
    await proxy.up()
    assert await ask(model) == "Hello there."


@pytest.mark.parametrize("size", [1, 7])
async def test_a_slicer_changes_nothing(proxy: FaultProxy, model: HttpModel, size: int) -> None:
    """Any pieces, both ways, give the same answer."""
    proxy.add(Slicer(size))
    proxy.add(Slicer(size, 0.0), "up")
    assert [await ask(model) for _ in range(2)] == ["Hello there."] * 2


async def test_bandwidth(proxy: FaultProxy, model: HttpModel) -> None:
    """A thin line is slow, and no error."""
    proxy.add(Bandwidth(20_000))
    assert await ask(model) == "Hello there."


@pytest.mark.parametrize("bound", [0, 5, 120, 300, 600])
@pytest.mark.parametrize("toxic", [LimitData, Reset])
async def test_a_connection_that_dies_after_some_bytes(
    proxy: FaultProxy, model: HttpModel, toxic: type[LimitData | Reset], bound: int
) -> None:
    """Wherever it is cut, politely or not, the call fails: nothing before the answer is unreachable, later it is broken."""
    proxy.add(toxic(bound))
    assert await failure(model) == ("upstream_broken" if bound else "upstream_unreachable")
    proxy.clear()
    assert await ask(model) == "Hello there."


@pytest.mark.parametrize("bound", [0, 120, 600])
async def test_a_stall(proxy: FaultProxy, model: HttpModel, bound: int) -> None:
    """Silence, wherever it begins, is ended by a deadline."""
    proxy.add(Stall(bound))
    assert await failure(model, Trial(first_byte=0.1, idle=0.1)) == "upstream_timeout"
    await eventually(lambda: proxy.connections == 0)


async def test_the_server_behind_is_gone(upstream: FakeUpstream, proxy: FaultProxy, model: HttpModel) -> None:
    """A proxy without a server resets."""
    await upstream.stop()
    assert await failure(model) == "upstream_unreachable"


async def test_stalled_upwards(upstream: FakeUpstream, proxy: FaultProxy, model: HttpModel) -> None:
    """A request that never arrives whole is a timeout; the server never saw it."""
    proxy.add(Stall(40), "up")
    assert await failure(model, Trial(first_byte=0.1)) == "upstream_timeout"
    assert upstream.requests == 0


async def test_down_with_calls_in_flight(upstream: FakeUpstream, proxy: FaultProxy, model: HttpModel) -> None:
    """Every stream breaks; none looks finished."""
    upstream.will(streamed(gap=0.2))
    calls = [asyncio.get_running_loop().create_task(failure(model)) for _ in range(5)]
    await upstream.until(lambda up: up.requests == 5)
    await asyncio.sleep(0.05)
    await proxy.down()
    assert set(await asyncio.gather(*calls)) == {"upstream_broken"}
