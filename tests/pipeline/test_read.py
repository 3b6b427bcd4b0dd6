"""Read: the body under its caller's bound, decoded by the dialect, and nothing for a call that came decoded."""

import asyncio
from collections.abc import Callable

import pytest

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError, InvalidRequest, TooLarge
from gatehouse.core.events import Answer, Event
from gatehouse.core.identity import Principal, Role
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.runner import Stage
from gatehouse.pipeline.stages.read import Read
from gatehouse.testing.fakes import FakeBody


class Lengths:
    """A dialect in which the model is called after the length of the body."""

    name = "lengths"

    def decode_request(self, body: bytes) -> Call:
        if body.startswith(b"bad"):
            raise InvalidRequest("bad", param="messages")
        return Call(model=str(len(body)))

    def encode_answer(self, answer: Answer, call: Call) -> bytes:
        return b""

    def open_stream(self, call: Call, request_id: str) -> "Lengths":
        return self

    def event(self, event: Event, cost: str | None) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""

    def encode_error(self, error: GatehouseError, request_id: str) -> tuple[int, bytes]:
        return 400, b""

    def error(self, error: GatehouseError) -> bytes:
        return b""


def exchange(body: bytes | None, *roles: Role) -> Exchange:
    x = Exchange("req_1", Head("POST", "/", {}), None if body is None else FakeBody(body), Lengths())
    if roles:
        x.principal = Principal("k", "key", frozenset(roles))
    return x


async def test_the_call_is_what_the_dialect_reads() -> None:
    """Read awaits the body once and sets `call`; it answers nothing itself."""
    x = exchange(b"12345")
    read: Stage = Read(100)
    assert await read.admit(x) is None
    assert x.call == Call(model="5")
    assert isinstance(x.body, FakeBody)
    assert x.body.reads == 1
    read.settle(x)


async def test_a_call_that_came_decoded_is_left_alone() -> None:
    """The library and a batch have no body and no dialect to read it."""
    x = exchange(None)
    x.call = Call(model="mine")
    await Read(100).admit(x)
    assert x.call == Call(model="mine")


async def test_what_the_dialect_refuses_is_refused() -> None:
    """With the dialect's own words."""
    with pytest.raises(InvalidRequest, match="bad"):
        await Read(100).admit(exchange(b"bad body"))


@pytest.mark.parametrize(
    ("roles", "allowed"),
    [
        ((), 10),
        ((Role.VIEWER,), 10),
        ((Role.DEVELOPER,), 20),
        ((Role.ADMIN,), 5),
        ((Role.ADMIN, Role.DEVELOPER), 20),
    ],
)
async def test_the_bound_is_the_callers(roles: tuple[Role, ...], allowed: int) -> None:
    """A role's own limit counts instead of the default, smaller or larger; of several the largest."""
    read = Read(10, by_role={Role.DEVELOPER: 20, Role.ADMIN: 5})
    x = exchange(b"x" * allowed, *roles)
    await read.admit(x)
    assert x.call is not None
    with pytest.raises(TooLarge):
        await read.admit(exchange(b"x" * (allowed + 1), *roles))


@pytest.mark.parametrize(("size", "away"), [(262_144, 0), (262_145, 1)])
async def test_large_bodies_are_decoded_off_the_loop(size: int, away: int) -> None:
    """From a quarter of a megabyte on, decoding would hold up everybody else."""
    offloaded: list[Callable[[], Call]] = []

    async def offload(work: Callable[[], Call]) -> Call:
        offloaded.append(work)
        await asyncio.sleep(0)
        return work()

    x = exchange(b"x" * size)
    await Read(1_000_000, offload).admit(x)
    assert x.call == Call(model=str(size))
    assert len(offloaded) == away


async def test_what_fails_away_from_the_loop_fails_here() -> None:
    """The dialect's refusal comes back unchanged."""

    async def offload(work: Callable[[], Call]) -> Call:
        return work()

    with pytest.raises(InvalidRequest, match="bad"):
        await Read(1_000_000, offload).admit(exchange(b"bad" + b"x" * 300_000))
