"""Idempotency keys on a real socket: carried once, answered as often as it is asked, and never for anybody else."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from gatehouse.control.replays import Replays
from gatehouse.core.errors import Unauthenticated, Unavailable, UpstreamFailed
from gatehouse.core.events import Event
from gatehouse.core.identity import Principal, Role
from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Clock
from gatehouse.core.replays import Claim, ReplayDesk, Replayed
from gatehouse.pipeline.exchange import Exchange
from gatehouse.testing.fakes import FakeClock
from gatehouse.wire.http.data_plane import Manners
from tests.wire.http_gate import Gate, Script, answer, broken, call, echo, gate, post, text

KEYS = {b"a": Principal("ka", "a", frozenset({Role.DEVELOPER})), b"b": Principal("kb", "b", frozenset({Role.DEVELOPER}))}


class Quick(FakeClock):
    """Waits are over in the next turn of the loop: what is waited for here happens on sockets."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0.001)


class Rules:
    """What a worker's compose hands in, over a desk in this process."""

    def __init__(self, largest: int = 10_000) -> None:
        self.desk: ReplayDesk = self
        self.clock: Clock = Quick()
        self.largest = largest
        self.replays = Replays(self.clock, 600, 1_000_000)
        self.down = False
        self.asked = 0

    async def claim(self, key: bytes, digest: bytes) -> Claim:
        self.asked += 1
        if self.down:
            raise Unavailable("down", code="steward_unavailable")
        return self.replays.claim("w", key, digest)

    def finish(self, key: bytes, answer: Replayed | None) -> None:
        self.replays.finish("w", key, answer)

    async def identify(self, credentials: tuple[bytes, ...]) -> Principal:
        if not credentials or credentials[0] not in KEYS:
            raise Unauthenticated("no", code="invalid_api_key")
        return KEYS[credentials[0]]

    def limit_of(self, principal: Principal) -> int:
        return 1_000


def serving(script: Script = echo, rules: Rules | None = None) -> Any:
    return gate(script, manners=Manners(once=rules or Rules()))


def ask(say: str = "hello", name: str = "once", key: str = "a", *, stream: bool = False) -> bytes:
    return post(call(say, stream=stream), f"Idempotency-Key: {name}", f"Authorization: Bearer {key}")


async def test_asked_twice_carried_once() -> None:
    """The second answer is the first one, word for word, with the first one's id, and says that it is a replay."""
    server: Gate
    async with serving() as server:
        client = await server.connect()
        await client.send(ask())
        first = await client.response()
        other = await server.connect()
        await other.send(ask())
        second = await other.response()
        assert (first.status, second.status, first.body, second.body) == (200, 200, b'{"text":"hello"}', b'{"text":"hello"}')
        assert first.headers.get("x-gatehouse-replayed") is None
        assert second.headers["x-gatehouse-replayed"] == "true"
        assert second.headers["x-gatehouse-request-id"] == first.headers["x-gatehouse-request-id"]
        assert len(server.stage.begun) == 1


async def test_a_stream_is_replayed_whole() -> None:
    """Every frame and the proper end."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        for piece in ("a", "b", "c"):
            yield text(piece)
            await asyncio.sleep(0)

    server: Gate
    async with serving(script) as server:
        client = await server.connect()
        bodies = []
        for _ in range(2):
            await client.send(ask(stream=True))
            bodies.append((await client.response()).body)
        assert bodies == [b"data: a\n\ndata: b\n\ndata: c\n\ndata: [DONE]\n\n"] * 2
        assert len(server.stage.begun) == 1


async def test_another_body_under_the_same_name() -> None:
    """Is refused as what it is: 422, and nothing runs."""
    server: Gate
    async with serving() as server:
        client = await server.connect()
        await client.send(ask("hello"))
        await client.response()
        await client.send(ask("something else"))
        response = await client.response()
        assert (response.status, response.error()) == (422, "idempotency_key_reused")
        assert len(server.stage.begun) == 1


async def test_names_are_each_callers_own() -> None:
    """Another API key with the same name and body makes a call of its own; a bad one is told nothing."""
    server: Gate
    async with serving() as server:
        client = await server.connect()
        for key in ("a", "b"):
            await client.send(ask(key=key))
            assert (await client.response()).headers.get("x-gatehouse-replayed") is None
        assert len(server.stage.begun) == 2
        await client.send(ask(key="nobody"))
        assert (await client.response()).status == 401
        assert len(server.stage.begun) == 2


async def test_without_a_name_nothing_is_kept() -> None:
    """The desk is not even asked."""
    rules = Rules()
    server: Gate
    async with serving(rules=rules) as server:
        client = await server.connect()
        for _ in range(2):
            await client.send(post(call("x"), "Authorization: Bearer a"))
            assert (await client.response()).status == 200
        assert (len(server.stage.begun), rules.asked) == (2, 0)


async def test_what_comes_while_it_runs_waits_for_it() -> None:
    """Five at once: one call, five answers."""
    go = asyncio.Event()

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        await go.wait()
        yield answer("slow")

    rules = Rules()
    server: Gate
    async with serving(script, rules) as server:
        clients = [await server.connect() for _ in range(5)]
        for client in clients:
            await client.send(ask())
        while rules.asked < 8:
            await asyncio.sleep(0.001)
        go.set()
        bodies = [(await client.response()).body for client in clients]
        assert bodies == [b'{"text":"slow"}'] * 5
        assert len(server.stage.begun) == 1


async def test_a_call_runs_on_when_its_client_leaves() -> None:
    """Which is why it asks again: the retry waits for the running call and gets its whole answer, streamed or not."""
    for stream in (False, True):
        go = asyncio.Event()

        async def script(x: Exchange, go: asyncio.Event = go, stream: bool = stream) -> AsyncGenerator[Event, None]:
            if stream:
                yield text("first ")
            await go.wait()
            yield text("last") if stream else answer("last")

        server: Gate
        async with serving(script) as server:
            client = await server.connect()
            await client.send(ask(stream=stream))
            await asyncio.wait_for(server.stage.any_begun.wait(), 5)
            if stream:
                await client.read_head()
            client.abort()
            again = await server.connect()
            while server.server.open_connections > 1:
                await asyncio.sleep(0.001)
            await again.send(ask(stream=stream))
            go.set()
            response = await again.response()
            assert response.body == (b"data: first \n\ndata: last\n\ndata: [DONE]\n\n" if stream else b'{"text":"last"}')
            assert (len(server.stage.begun), server.stage.ended) == (1, [Outcome.COMPLETED])


async def test_who_only_waits_may_leave() -> None:
    """The one that runs is not touched, and nothing is left waiting."""
    go = asyncio.Event()

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        await go.wait()
        yield answer("well")

    rules = Rules()
    server: Gate
    async with serving(script, rules) as server:
        first, second = await server.connect(), await server.connect()
        await first.send(ask())
        await asyncio.wait_for(server.stage.any_begun.wait(), 5)
        await second.send(ask())
        while rules.asked < 3:
            await asyncio.sleep(0.001)
        second.abort()
        while server.server.running > 1:
            await asyncio.sleep(0.001)
        go.set()
        assert (await first.response()).body == b'{"text":"well"}'


async def test_failures_are_not_kept() -> None:
    """A refusal, a broken stream, an answer too large to keep: asking again runs again."""
    scripts: list[Script] = [
        lambda x: broken(UpstreamFailed("no", code="upstream_timeout")),
        lambda x: broken(UpstreamFailed("no", code="upstream_broken"), text("a")),
        lambda x: many(),
    ]

    async def many() -> AsyncGenerator[Event, None]:
        for _ in range(30):
            yield text("x" * 1000)

    for script, stream in zip(scripts, (False, True, True), strict=True):
        server: Gate
        async with serving(script) as server:
            for _ in range(2):
                client = await server.connect()
                await client.send(ask(stream=stream))
                response = await client.response()
                assert response.headers.get("x-gatehouse-replayed") is None
            assert len(server.stage.begun) == 2


async def test_a_desk_that_cannot_be_asked() -> None:
    """A promise that nobody can keep is not made: 503, and nothing runs."""
    rules = Rules()
    rules.down = True
    server: Gate
    async with serving(rules=rules) as server:
        client = await server.connect()
        await client.send(ask())
        response = await client.response()
        assert (response.status, response.error()) == (503, "steward_unavailable")
        assert server.stage.begun == []


async def test_names_that_are_none() -> None:
    """Empty, too long, or not printable: a 400 that says what a name is."""
    server: Gate
    async with serving() as server:
        for name in ("", "x" * 256, "\xe4"):
            client = await server.connect()
            await client.send(ask(name=name))
            response = await client.response()
            assert (response.status, response.error()) == (400, "invalid_idempotency_key")


async def test_two_names_are_none() -> None:
    """Which of them the call would have is anybody's guess: a 400 that says so, and nothing is carried."""
    server: Gate
    async with serving() as server:
        for second in ("other", "once"):
            client = await server.connect()
            await client.send(post(call("hello"), "Idempotency-Key: once", f"Idempotency-Key: {second}", "Authorization: Bearer a"))
            response = await client.response()
            assert response.status == 400
            assert b"idempotency-key header is given more than once" in response.body
        assert server.stage.begun == []


async def test_the_bound_of_the_body_holds() -> None:
    """It is read under its caller's limit before anything else."""
    server: Gate
    async with serving() as server:
        client = await server.connect()
        await client.send(ask("x" * 2_000))
        response = await client.response()
        assert (response.status, response.error()) == (413, "too_large")
        assert await client.closed()


async def test_a_revoked_key_ends_its_call() -> None:
    """It runs on for a client that left, but not for a key that is gone; what was cut is not kept."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        await asyncio.Event().wait()
        yield answer("never")

    server: Gate
    async with serving(script) as server:
        client = await server.connect()
        await client.send(ask())
        await asyncio.wait_for(server.stage.any_begun.wait(), 5)
        server.stage.begun[0].end(Outcome.REVOKED)
        assert (await client.response()).status == 401
        assert server.stage.ended == [Outcome.REVOKED]


async def test_shutting_down_ends_what_runs_and_what_waits() -> None:
    """Both are told to ask again."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        await asyncio.Event().wait()
        yield answer("never")

    rules = Rules()
    server: Gate
    async with serving(script, rules) as server:
        first, second = await server.connect(), await server.connect()
        await first.send(ask())
        await asyncio.wait_for(server.stage.any_begun.wait(), 5)
        await second.send(ask())
        while rules.asked < 3:
            await asyncio.sleep(0.001)
        closing = asyncio.ensure_future(server.server.drain(1))
        while not server.plane.draining:
            await asyncio.sleep(0)
        await server.pass_time(2)
        for client in (first, second):
            response = await client.response()
            assert (response.status, response.error()) == (503, "shutting_down")
        assert not await closing


async def test_a_client_that_leaves_before_anything_ran() -> None:
    """Its request came and the connection went in one turn of the loop: nobody claims the key, and nothing is left running."""
    server: Gate
    rules = Rules()
    async with serving(rules=rules) as server:
        left = server.leave_at_once()
        client = await server.connect()
        await client.send(ask())
        await asyncio.wait_for(left.wait(), 5)
        await asyncio.sleep(0.01)
        assert not server.plane.running
        assert rules.asked == 0
