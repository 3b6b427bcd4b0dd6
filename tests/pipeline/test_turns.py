"""Turns: what a response continues stands before it for every stage, what is kept is what the guard let through, and for its owner only."""

from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import msgspec
import pytest

from gatehouse.adapters.guards.secrets import SecretScanner
from gatehouse.core.calls import Call, Message, TextPart, ThinkingPart, ToolCall, Turn
from gatehouse.core.errors import GatehouseError, InvalidRequest, NotFound, TooLarge, Unavailable, UpstreamFailed
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, Events
from gatehouse.core.identity import Principal, Role
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import GuardPolicy, Plan, Target
from gatehouse.core.responses import Ended, Owner, owner_of
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.runner import Runner
from gatehouse.pipeline.stages.guard import Guard
from gatehouse.pipeline.stages.read import Read
from gatehouse.pipeline.turns import CANCELLED, NOT_KEPT, KeepPolicy, Turns, answered
from gatehouse.testing.fakes import NOON, FakeBody, FakeClock
from gatehouse.testing.made_secrets import SecretMaker
from gatehouse.testing.response_store import FakeResponseStore

T = TypeVar("T")

ANN = Principal("ann00001", "Ann", frozenset({Role.DEVELOPER}), tenant="north", team="red")
POLICY = KeepPolicy(store=True, seconds=3600.0, largest=10_000)
CALL = Call(model="m", messages=(Message("user", "hi"),), turn=Turn())
YES = Answer((Choice(text="Yes."),))


class Speaking:
    """A dialect whose request is a ready call and whose answers are the words in them."""

    name = "speaking"

    def __init__(self, call: Call) -> None:
        self._call = call

    def decode_request(self, body: bytes) -> Call:
        return self._call

    def encode_answer(self, answer: Answer, call: Call) -> bytes:
        assert call.turn is not None
        return f"{call.turn.id} {answer.text}".encode()

    def open_stream(self, call: Call, request_id: str) -> Any:
        raise AssertionError

    def encode_error(self, error: GatehouseError, request_id: str) -> tuple[int, bytes]:
        raise AssertionError


class Answering:
    """The last stage: remembers the call it was asked, and answers."""

    name = "dispatch"

    def __init__(self, *events: Event, error: GatehouseError | None = None) -> None:
        self.events = events
        self.error = error
        self.asked: list[Call] = []

    async def admit(self, x: Exchange) -> Events | None:
        assert x.call is not None
        self.asked.append(x.call)
        return self._stream()

    def settle(self, x: Exchange) -> None:
        pass

    async def _stream(self) -> AsyncGenerator[Event, None]:
        for event in self.events:
            yield event
        if self.error is not None:
            raise self.error


class Routing:
    """Gives every call a plan that guards both ways."""

    name = "route"

    async def admit(self, x: Exchange) -> None:
        x.plan = Plan("m", (Target("t", "t", "m"),), guard=GuardPolicy(input="redact", output="redact"))

    def settle(self, x: Exchange) -> None:
        pass


class House:
    """Read with its turns, a guard, and a model behind it."""

    def __init__(self, model: Answering | None = None, policy: KeepPolicy = POLICY) -> None:
        self.clock = FakeClock()
        self.store = FakeResponseStore(self.clock)
        self.turns = Turns(policy, self.clock, self.store)
        self.model = model or Answering(YES)
        read = Read(100_000, turns=self.turns)
        self.runner = Runner((read, Routing(), Guard(SecretScanner(), self.clock), self.model), self.clock)
        self.events: list[Event] = []
        self.number = 0

    async def ask(self, call: Call = CALL, who: Principal = ANN, take: int = 1000, size: int = 2) -> Exchange:
        """Carry a call; what its client got is in `events`."""
        self.number += 1
        x = Exchange(f"req_{self.number}", Head("POST", "/", {}), FakeBody(b"x" * size), Speaking(call))
        x.principal = who
        self.events = []

        async def deliver(x: Exchange, events: Events) -> None:
            async for event in events:
                self.events.append(event)
                if len(self.events) == take:
                    raise InvalidRequest("enough")

        await self.runner.carry(x, deliver)
        return x

    async def messages(self, name: str) -> tuple[Message, ...]:
        """The conversation kept under an id."""
        return (await self.turns.find(ANN, name)).messages


def after(previous: str, *said: Message, **turn: Any) -> Call:
    return msgspec.structs.replace(CALL, messages=said or CALL.messages, turn=Turn(previous=previous, **turn))


async def test_a_response_is_kept_under_the_id_it_was_given() -> None:
    """Made from the request's; the object its caller got, and the conversation with the answer last."""
    house = House()
    x = await house.ask()
    assert x.call is not None
    assert x.call.turn == Turn(id="resp_1", created=int(NOON), store=True)
    said = await house.turns.find(ANN, "resp_1")
    assert said.response == b"resp_1 Yes."
    assert said.messages == (Message("user", "hi"), Message("assistant", "Yes."))
    assert said.inputs == (Message("user", "hi"),)
    kept = house.store.kept["resp_1"]
    assert (kept.owner, kept.created_at, kept.expires_at) == (Owner("north", "key:ann00001"), NOON, NOON + 3600.0)


async def test_what_is_continued_stands_before_it_for_every_stage() -> None:
    """Three turns: the model is asked the whole conversation, and each response knows which part was its own turn."""
    house = House()
    await house.ask()
    await house.ask(after("resp_1", Message("user", "why")))
    await house.ask(after("resp_2", Message("user", "how"), Message("user", "so")))
    assert [message.content for message in house.model.asked[-1].messages] == ["hi", "Yes.", "why", "Yes.", "how", "so"]
    assert (await house.turns.find(ANN, "resp_3")).inputs == (Message("user", "how"), Message("user", "so"))
    # A branch: the first response is as it was, and can be continued another way.
    await house.ask(after("resp_1", Message("user", "else")))
    assert [message.content for message in house.model.asked[-1].messages] == ["hi", "Yes.", "else"]


async def test_instructions_hold_for_their_own_turn() -> None:
    """They stand first, before what is continued, and who continues the response is not under them."""
    house = House()
    ruled = msgspec.structs.replace(
        CALL, messages=(Message("developer", "be brief"), Message("user", "hi")), turn=Turn(instructions=True, begins=1)
    )
    await house.ask(ruled)
    assert await house.messages("resp_1") == (Message("user", "hi"), Message("assistant", "Yes."))
    again = msgspec.structs.replace(
        CALL, messages=(Message("developer", "be long"), Message("user", "and")), turn=Turn(previous="resp_1", instructions=True, begins=1)
    )
    await house.ask(again)
    assert [message.content for message in house.model.asked[-1].messages] == ["be long", "hi", "Yes.", "and"]
    assert (await house.turns.find(ANN, "resp_2")).inputs == (Message("user", "and"),)


async def test_what_is_kept_is_what_the_guard_let_through() -> None:
    """A secret in the question or the answer is not in what is kept, and not in what the next turn asks."""
    question, answer = SecretMaker(1).all()["npm-token"][0][1], SecretMaker(2).all()["npm-token"][0][1]
    house = House(Answering(Chunk((ChoiceDelta(text=f"take {answer} "),)), Chunk((ChoiceDelta(text="now", finish="stop"),))))
    await house.ask(msgspec.structs.replace(CALL, messages=(Message("user", f"use {question} here"),)))
    kept = house.store.kept["resp_1"].content.decode("utf-8", "replace")
    assert "here" in kept
    assert "take" in kept
    assert question not in kept
    assert answer not in kept


async def test_the_guard_reads_what_is_continued() -> None:
    """What a looser policy let in before is looked at again when it is asked again."""
    house = House()
    secret = SecretMaker(1).all()["npm-token"][0][1]
    content = msgspec.msgpack.encode(((Message("user", secret), Message("assistant", "ok")), 0, b""))
    await house.ask()
    house.store.kept["resp_1"] = msgspec.structs.replace(house.store.kept["resp_1"], content=content)
    await house.ask(after("resp_1"))
    assert secret not in str(house.model.asked[-1].messages)


@pytest.mark.parametrize(
    ("who", "scope", "found"),
    [
        (ANN, "key", True),
        (Principal("bob00001", "Bob", frozenset({Role.DEVELOPER}), tenant="north", team="red"), "key", False),
        (Principal("bob00001", "Bob", frozenset({Role.DEVELOPER}), tenant="north", team="red"), "team", True),
        (Principal("bob00001", "Bob", frozenset({Role.DEVELOPER}), tenant="north", team="blue"), "team", False),
        (Principal("bob00001", "Bob", frozenset({Role.DEVELOPER}), tenant="north"), "team", False),
        (Principal("ann00001", "Ann", frozenset({Role.DEVELOPER}), tenant="south", team="red"), "key", False),
        (Principal("ann00001", "Ann", frozenset({Role.DEVELOPER}), tenant="south", team="red"), "team", False),
        (Principal("adm00001", "Root", frozenset({Role.ADMIN, Role.DEVELOPER}), tenant="north"), "key", False),
    ],
)
async def test_whose_a_response_is(who: Principal, scope: Any, found: bool) -> None:
    """A truth table: for everybody else it can neither be read, deleted, continued nor cancelled, and the answer is that of an id that
    never was."""
    house = House(policy=msgspec.structs.replace(POLICY, scope=scope))
    await house.ask()
    if found:
        assert (await house.turns.find(who, "resp_1")).messages
        await house.ask(after("resp_1"), who)
        await house.turns.remove(who, "resp_1")
        return
    words = set()
    for attempt in (
        house.turns.find(who, "resp_1"),
        house.turns.remove(who, "resp_1"),
        house.turns.cancel(who, "resp_1"),
        house.ask(after("resp_1"), who),
        house.turns.find(who, "resp_0"),
    ):
        with pytest.raises(NotFound) as caught:
            await attempt
        words.add(caught.value.message.replace("resp_0", "resp_1"))
    assert len(words) == 1
    assert len(house.model.asked) == 1


def test_a_key_named_like_a_team_is_not_that_team() -> None:
    """The two kinds of owner cannot be mistaken for each other."""
    key = Principal("red", "Red", frozenset({Role.DEVELOPER}))
    assert owner_of(key, "team") != owner_of(msgspec.structs.replace(key, team="red"), "team")


async def test_expired_is_gone() -> None:
    """It can be continued until then and not afterwards."""
    house = House()
    await house.ask()
    house.clock.advance(3599.0)
    await house.ask(after("resp_1"))
    house.clock.advance(1.0)
    with pytest.raises(NotFound):
        await house.ask(after("resp_1"))


@pytest.mark.parametrize(("turn", "param"), [(Turn(previous="resp_1"), "previous_response_id"), (Turn(store=True), "store")])
async def test_where_nothing_is_kept_the_setting_is_named(turn: Turn, param: str) -> None:
    """Nobody is left to wonder: the refusal says which setting of the operator's decides."""
    house = House(policy=KeepPolicy())
    with pytest.raises(InvalidRequest, match=r"responses\.store") as caught:
        await house.ask(msgspec.structs.replace(CALL, turn=turn))
    assert (caught.value.param, caught.value.code) == (param, "responses_not_kept")
    for attempt in (house.turns.find(ANN, "resp_1"), house.turns.remove(ANN, "resp_1")):
        with pytest.raises(NotFound, match=r"responses\.store"):
            await attempt


async def test_where_nothing_is_kept_calls_are_answered() -> None:
    """With an id, and the truth about `store`; the stream is not even looked at."""
    house = House(policy=KeepPolicy())
    x = await house.ask()
    assert x.call is not None
    assert x.call.turn == Turn(id="resp_1", created=int(NOON), store=False)
    assert not house.store.kept
    assert getattr(Read(1000, turns=house.turns), "watch", None) is None


async def test_who_does_not_want_it_kept_is_not_kept() -> None:
    """`store: false` holds where everything else is kept; and a call that is none of these is left alone."""
    house = House()
    await house.ask(msgspec.structs.replace(CALL, turn=Turn(store=False)))
    x = await house.ask(msgspec.structs.replace(CALL, turn=None))
    assert not house.store.kept
    assert x.call is not None
    assert x.call.turn is None


async def test_only_what_ended_by_itself_is_kept() -> None:
    """An answer that broke off, was refused or not taken leaves nothing behind that could be continued."""
    house = House(Answering(Chunk((ChoiceDelta(text="Y"),)), error=UpstreamFailed("broken", code="upstream_broken")))
    with pytest.raises(UpstreamFailed):
        await house.ask()
    house.model.error = None
    with pytest.raises(InvalidRequest, match="enough"):
        await house.ask(take=1)
    assert not house.store.kept


async def test_an_answer_that_cannot_be_kept_is_an_answer() -> None:
    """It was paid for: the client gets all of it and is told that it is not kept; the call's record is flagged."""
    house = House(Answering(Chunk((ChoiceDelta(text="Yes.", finish="stop"),))))
    house.store.broken = True
    x = await house.ask()
    assert [event.kept for event in house.events if isinstance(event, Chunk)] == [True, False]
    assert x.call is not None
    assert x.call.turn is not None
    assert (x.call.turn.store, x.flags, x.outcome) == (False, [NOT_KEPT], Outcome.COMPLETED)


async def test_what_cannot_be_looked_up_is_no_absence() -> None:
    """While nobody can tell, a continuation is refused as unavailable before anything is spent."""
    house = House()
    await house.ask()
    house.store.broken = True
    with pytest.raises(Unavailable):
        await house.ask(after("resp_1"))
    assert len(house.model.asked) == 1


async def test_a_conversation_that_is_too_large_to_be_kept() -> None:
    """It is answered and not kept; refused where the caller insists on keeping it."""
    house = House()
    x = await house.ask(size=10_001)
    assert x.call is not None
    assert x.call.turn is not None
    assert x.call.turn.store is False
    insisting = msgspec.structs.replace(CALL, turn=Turn(store=True))
    with pytest.raises(TooLarge, match="10000 bytes"):
        await house.ask(insisting, size=10_001)
    await house.ask(insisting, size=10_000)
    assert set(house.store.kept) == {"resp_3"}
    # What it continues counts too.
    await house.ask(after("resp_3"), size=9_900)
    await house.ask(after("resp_3"), size=9_990)
    assert set(house.store.kept) == {"resp_3", "resp_4"}


async def test_a_large_conversation_is_read_off_the_loop() -> None:
    """From a quarter of a megabyte on it would hold up everybody else; and what is kept is always written there."""
    house = House(policy=msgspec.structs.replace(POLICY, largest=10_000_000))
    away: list[str] = []

    class Elsewhere:
        """Runs work at once, and remembers that it was handed over."""

        async def __call__(self, work: Callable[[], T]) -> T:
            away.append("work")
            return work()

    turns = Turns(msgspec.structs.replace(POLICY, largest=10_000_000), house.clock, house.store, offload=Elsewhere())
    for text, reads in (("x", 0), ("x" * 300_000, 1)):
        x = await house.ask(msgspec.structs.replace(CALL, messages=(Message("user", text),)))
        assert x.call is not None
        assert x.call.turn is not None
        assert (await turns.find(ANN, x.call.turn.id)).messages[0].content == text
        assert len(away) == reads


async def test_cancelling_ends_the_call_as_its_caller_would() -> None:
    """Only its owner's, only while it runs, and whoever still reads it is told."""
    house = House()
    x = Exchange("req_9", Head("POST", "/", {}), None, Speaking(CALL))
    x.principal, x.call = ANN, msgspec.structs.replace(CALL, turn=Turn(id="resp_9", created=7))
    stopped: list[str] = []
    x.stop = lambda: stopped.append("stopped")
    running = [Exchange("req_8", Head("POST", "/", {}), None, Speaking(CALL)), x]
    owner = owner_of(ANN, "key")
    assert house.turns.end(running, Owner("south", owner.scope), "resp_9") is None
    assert house.turns.end(running, owner, "resp_8") is None
    assert not stopped
    assert house.turns.end(running, owner, "resp_9") == Ended("m", 7)
    assert (x.outcome, stopped) == (Outcome.CLIENT, ["stopped"])
    assert x.error is not None
    assert x.error.code == CANCELLED
    assert house.turns.end(running, owner, "resp_9") is None


async def test_cancelling_what_has_ended_says_so() -> None:
    """A response that is complete is not undone."""
    house = House()
    await house.ask()
    with pytest.raises(InvalidRequest, match="has ended") as caught:
        await house.turns.cancel(ANN, "resp_1")
    assert caught.value.code == "response_ended"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(text="x"), Message("assistant", "x")),
        (Choice(text=None), Message("assistant", "")),
        (Choice(text=None, tools=(ToolCall("1", "f", "{}"),)), Message("assistant", None, tool_calls=(ToolCall("1", "f", "{}"),))),
        (Choice(refusal="no"), Message("assistant", None, refusal="no")),
        (Choice(text="x", reasoning="hm", signature="s"), Message("assistant", (ThinkingPart("hm", "s"), TextPart("x")))),
        (
            Choice(text="x", redacted=("a", "b")),
            Message("assistant", (ThinkingPart(redacted="a"), ThinkingPart(redacted="b"), TextPart("x"))),
        ),
    ],
)
def test_an_answer_becomes_history(choice: Choice, message: Message) -> None:
    """What the target must see again to go on: its reasoning with the proof of it, its words, its calls."""
    assert answered(choice) == message
