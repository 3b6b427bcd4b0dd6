"""The contract of `core.ports.Model` as tests: subclass `ModelContract`, give it a `rig`, and pytest runs it on your model.

class TestMyModel(ModelContract):
    @pytest.fixture
    async def rig(self) -> AsyncIterator[ModelRig]:
        model = MyModel(...)
        yield ModelRig(model, target, in_use=lambda: model.open_streams)
        await model.close()
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec
import pytest

from gatehouse.core.calls import Call, Message
from gatehouse.core.collect import Collector
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Chunk, Event, Events
from gatehouse.core.plans import Deadlines, Target
from gatehouse.core.ports import Model

_PATIENCE = 10.0
"""Seconds until something that must come about counts as not coming."""


@dataclass(slots=True)
class ContractAttempt:
    """What Dispatch would say."""

    request_id: str = "req_contract"
    tenant: str = "default"
    deadlines: Deadlines = field(default_factory=lambda: Deadlines(connect=5.0, first_byte=30.0, idle=30.0, total=60.0))
    sent: bool = False
    traceparent: str = ""
    vacancies: int = 0

    def vacated(self) -> None:
        """Counted."""
        self.vacancies += 1


@dataclass(slots=True)
class ModelRig:
    """A model that answers, a target of it, and how many of its connections, slots or streams are at work now."""

    model: Model
    target: Target
    in_use: Callable[[], int]
    call: Call = field(default_factory=lambda: Call(model="contract", messages=(Message("user", "Say hello."),), max_tokens=32))

    async def idle(self) -> None:
        """Return when nothing is at work any more. Raises TimeoutError when that does not come about."""
        async with asyncio.timeout(_PATIENCE):
            while self.in_use():  # noqa: ASYNC110 - what is at work announces nothing
                await asyncio.sleep(0.005)


async def _all(events: Events) -> list[Event]:
    async with aclosing(events):
        return [event async for event in events]


class ModelContract:
    """What every model promises."""

    @pytest.fixture
    async def rig(self) -> ModelRig:
        """The model under test; a subclass says which."""
        pytest.fail("a subclass gives the rig")

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_an_answer_is_complete(self, rig: ModelRig, streamed: bool) -> None:
        """Every choice begins, says something and says why it ended; a count, if given, is within what was asked for."""
        call = msgspec.structs.replace(rig.call, stream=streamed)
        attempt = ContractAttempt()
        events = await _all(await rig.model.answer(call, rig.target, attempt))
        assert attempt.sent
        assert events
        if not streamed:
            assert [type(event) for event in events] == [Answer]
        collector = Collector()
        for event in events:
            collector.add(event)
        answer = collector.answer()
        assert len(answer.choices) == call.n
        assert all(choice.text or choice.reasoning or choice.tools for choice in answer.choices)
        assert all(choice.finish for choice in answer.choices)
        if answer.usage is not None:
            assert min(msgspec.structs.astuple(answer.usage)) >= 0
            assert 0 < answer.usage.output_total <= call.n * (call.max_tokens or 10**9)
        await rig.idle()

    async def test_a_choice_begins_once(self, rig: ModelRig) -> None:
        """Dialects say the role with the first piece of a choice, and only there."""
        begun: list[int] = []
        for event in await _all(await rig.model.answer(msgspec.structs.replace(rig.call, stream=True), rig.target, ContractAttempt())):
            if isinstance(event, Chunk):
                begun += [delta.index for delta in event.choices if delta.begins]
        assert begun == sorted(set(begun))

    async def test_raw_bytes_name_their_dialect(self, rig: ModelRig) -> None:
        """Bytes that may pass as they came say whose they are."""
        for streamed in (False, True):
            call = msgspec.structs.replace(rig.call, stream=streamed)
            for event in await _all(await rig.model.answer(call, rig.target, ContractAttempt())):
                assert not event.raw or event.dialect

    async def test_a_stream_ends_and_stays_ended(self, rig: ModelRig) -> None:
        """After its end a stream says so again, and closing it does nothing."""
        events = await rig.model.answer(msgspec.structs.replace(rig.call, stream=True), rig.target, ContractAttempt())
        async for _ in events:
            pass
        with pytest.raises(StopAsyncIteration):
            await anext(events)
        await events.aclose()
        await events.aclose()

    @pytest.mark.parametrize("read", [0, 1, 2])
    async def test_closing_early_frees_everything(self, rig: ModelRig, read: int) -> None:
        """A stream that is closed before its end, even one nobody began to read, leaves nothing at work; the next call is answered."""
        call = msgspec.structs.replace(rig.call, stream=True)
        events = await rig.model.answer(call, rig.target, ContractAttempt())
        for _ in range(read):
            await anext(events)
        await events.aclose()
        await rig.idle()
        assert await _all(await rig.model.answer(call, rig.target, ContractAttempt()))

    @pytest.mark.parametrize("turns", [0, 1, 2, 5, 20])
    @pytest.mark.parametrize("streamed", [False, True])
    async def test_cancelling_frees_everything(self, rig: ModelRig, turns: int, streamed: bool) -> None:
        """Whoever is cancelled, before, while or after the answer begins, leaves nothing at work."""
        call = msgspec.structs.replace(rig.call, stream=streamed)

        async def ask() -> None:
            await _all(await rig.model.answer(call, rig.target, ContractAttempt()))

        task = asyncio.get_running_loop().create_task(ask())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await rig.idle()
        assert await _all(await rig.model.answer(call, rig.target, ContractAttempt()))

    async def test_calls_at_once(self, rig: ModelRig) -> None:
        """Several calls together are each answered whole."""

        async def ask(number: int) -> Answer:
            collector = Collector()
            call = msgspec.structs.replace(rig.call, stream=number % 2 == 0)
            for event in await _all(await rig.model.answer(call, rig.target, ContractAttempt())):
                collector.add(event)
            return collector.answer()

        answers = await asyncio.gather(*(ask(number) for number in range(6)))
        assert all(answer.choices[0].finish for answer in answers)
        await rig.idle()

    async def test_a_well_model_says_so(self, rig: ModelRig) -> None:
        """Ping says nothing when all is well."""
        assert await rig.model.ping() == ""

    async def test_closing_the_model(self, rig: ModelRig) -> None:
        """A closed model holds nothing, refuses calls as unreachable, tells ping, and may be closed again."""
        await _all(await rig.model.answer(rig.call, rig.target, ContractAttempt()))
        await rig.model.close()
        await rig.model.close()
        await rig.idle()
        with pytest.raises(UpstreamFailed) as caught:
            await rig.model.answer(rig.call, rig.target, ContractAttempt())
        assert caught.value.sent is False
        assert await rig.model.ping() != ""
