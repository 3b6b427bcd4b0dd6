"""The contract of `core.ports.Direct` as tests: subclass `DirectContract`, give it a `rig`, and pytest runs it on your model.

class TestMyModel(DirectContract):
    @pytest.fixture
    async def rig(self) -> AsyncIterator[DirectRig]:
        model = MyModel(..., turn)
        yield DirectRig(model, target, turn, in_use=lambda: model.open_streams)
        await model.close()
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest

from gatehouse.core.calls import Call, Message
from gatehouse.core.events import Answer, Event
from gatehouse.core.plans import Target
from gatehouse.core.ports import Asked, Direct, Model, Turn
from gatehouse.testing.model_contract import ContractAttempt

_PATIENCE = 10.0
"""Seconds until something that must come about counts as not coming."""


class Hearing:
    """Who asked. `told` is what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Event | None, Exception | None]] = []
        self._first = asyncio.Event()

    def __call__(self, event: Event | None, fault: Exception | None) -> None:
        """See `core.ports.Told`."""
        self.told.append((event, fault))
        self._first.set()

    async def heard(self) -> tuple[Event | None, Exception | None]:
        """What it was told first. Raises TimeoutError when nothing comes."""
        async with asyncio.timeout(_PATIENCE):
            await self._first.wait()
        return self.told[0]


@dataclass(slots=True)
class DirectRig:
    """A model that answers, a target of it, the turns at whose end its requests leave, and how much is at work now."""

    model: Model
    target: Target
    turn: Turn
    in_use: Callable[[], int]
    call: Call = field(default_factory=lambda: Call(model="contract", messages=(Message("user", "Say hello."),), max_tokens=32))

    def ask(self, hearing: Hearing, attempt: ContractAttempt | None = None, **changes: object) -> Asked | None:
        """Put the call, with `changes`, without waiting."""
        assert isinstance(self.model, Direct)
        return self.model.ask(msgspec.structs.replace(self.call, **changes), self.target, attempt or ContractAttempt(), hearing)

    async def warm(self, calls: int = 1) -> None:
        """Have `calls` answered at once, so that nothing has to be waited for before the next of as many."""
        answers = await asyncio.gather(*(self.model.answer(self.call, self.target, ContractAttempt()) for _ in range(calls)))
        for events in answers:
            await events.aclose()

    async def idle(self) -> None:
        """Return when nothing is at work any more. Raises TimeoutError when that does not come about."""
        async with asyncio.timeout(_PATIENCE):
            while self.in_use():  # noqa: ASYNC110 - what is at work announces nothing
                await asyncio.sleep(0.005)


class DirectContract:
    """What every model promises that can be asked by who does not wait."""

    @pytest.fixture
    async def rig(self) -> DirectRig:
        """The model under test; a subclass says which."""
        pytest.fail("a subclass gives the rig")

    async def test_a_question_is_answered_once(self, rig: DirectRig) -> None:
        """It leaves at the end of the turn, and who asked hears the whole answer, one time."""
        await rig.warm()
        hearing, attempt = Hearing(), ContractAttempt()
        assert rig.ask(hearing, attempt) is not None
        before = attempt.sent
        rig.turn.end()
        assert (before, attempt.sent) == (False, True)
        event, fault = await hearing.heard()
        assert fault is None
        assert isinstance(event, Answer)
        assert event.choices[0].finish
        await rig.idle()
        assert len(hearing.told) == 1

    async def test_several_questions_of_one_turn(self, rig: DirectRig) -> None:
        """Each is answered, and each hears its own."""
        await rig.warm(3)
        hearings = [Hearing() for _ in range(3)]
        asked = [rig.ask(hearing) for hearing in hearings]
        for question, hearing in zip(asked, hearings, strict=True):
            if question is not None:
                assert isinstance((await hearing.heard())[0], Answer)
        assert any(asked)
        await rig.idle()
        assert [len(hearing.told) for hearing in hearings] == [int(question is not None) for question in asked]

    async def test_a_stream_is_not_asked_for_in_this_way(self, rig: DirectRig) -> None:
        """Nothing is done, and nobody hears anything: the model has to be awaited."""
        await rig.warm()
        hearing, attempt = Hearing(), ContractAttempt()
        assert rig.ask(hearing, attempt, stream=True) is None
        rig.turn.end()
        await rig.idle()
        assert (hearing.told, attempt.sent) == ([], False)

    async def test_abandoned_before_it_left(self, rig: DirectRig) -> None:
        """Nothing leaves, the attempt never says that it did, nobody hears anything, and the next question is answered."""
        await rig.warm()
        hearing, attempt = Hearing(), ContractAttempt()
        asked = rig.ask(hearing, attempt)
        assert asked is not None
        asked.abandon()
        asked.abandon()
        rig.turn.end()
        await rig.idle()
        assert (hearing.told, attempt.sent) == ([], False)
        await rig.warm()
        following = Hearing()
        assert rig.ask(following) is not None
        assert isinstance((await following.heard())[0], Answer)

    async def test_abandoned_after_it_left(self, rig: DirectRig) -> None:
        """Nobody hears anything, nothing stays at work, and the next question is answered."""
        await rig.warm()
        hearing, attempt = Hearing(), ContractAttempt()
        asked = rig.ask(hearing, attempt)
        assert asked is not None
        rig.turn.end()
        asked.abandon()
        await rig.idle()
        assert (hearing.told, attempt.sent) == ([], True)
        await rig.warm()
        following = Hearing()
        assert rig.ask(following) is not None
        assert isinstance((await following.heard())[0], Answer)

    async def test_abandoned_after_it_was_answered(self, rig: DirectRig) -> None:
        """That does nothing any more."""
        await rig.warm()
        hearing = Hearing()
        asked = rig.ask(hearing)
        assert asked is not None
        await hearing.heard()
        asked.abandon()
        await rig.idle()
        assert len(hearing.told) == 1
        assert rig.ask(Hearing()) is not None
