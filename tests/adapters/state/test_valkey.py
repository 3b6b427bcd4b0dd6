"""Messages through a real Redis server: the port's contract, and every way in which the server can be away, slow or unwilling."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from gatehouse.adapters.state import valkey as adapter
from gatehouse.adapters.state.valkey import ValkeyBroadcast, ValkeyPlace
from gatehouse.adapters.system import SystemClock, SystemRng, TaskSpawner
from gatehouse.core.ports import LARGEST_BROADCAST, Broadcast
from gatehouse.core.secrets import Secret
from gatehouse.testing.broadcast_contract import BroadcastContract, Member, until
from tests.valkeys import Valkey, valkey

PASSWORD = "swordfish-correct-horse"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One for the contract."""
    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


def place(server: Valkey, **more: object) -> ValkeyPlace:
    """How to speak to a server."""
    fields: dict[str, object] = {
        "host": "127.0.0.1",
        "port": server.port,
        "channel": "ours",
        "connect_seconds": 5.0,
        "answer_seconds": 5.0,
        **more,
    }
    return ValkeyPlace(**fields)  # type: ignore[arg-type]


class TestValkeyBroadcast(BroadcastContract):
    """The contract."""

    @pytest_asyncio.fixture(autouse=True)
    async def _served(self, running: Valkey) -> AsyncIterator[None]:
        self._server = running
        self._spawn = TaskSpawner()
        yield
        await self._spawn.close()

    def build(self, installation: str) -> Broadcast:
        where = place(self._server, channel=f"{installation}:targets")
        return ValkeyBroadcast(where, SystemClock(), SystemRng(), self._spawn)


@contextlib.asynccontextmanager
async def member(where: ValkeyPlace, *, up: bool = True) -> AsyncIterator[Member]:
    """One that listens, for the time of a test."""
    spawn = TaskSpawner()
    found = Member(ValkeyBroadcast(where, SystemClock(), SystemRng(), spawn))
    found.broadcast.listen(found.heard.append)
    try:
        if up:
            await until(lambda: not found.broadcast.problem)
        yield found
    finally:
        await found.broadcast.close()
        await spawn.close()


async def beating(one: Member, condition: str, other: Member | None = None) -> None:
    """Send again and again, as a server's heart does, until the problem has these words; "" is until `other` hears."""

    def holds() -> bool:
        one.send(b"beat")
        if other is None:
            return condition in one.broadcast.problem
        return b"beat" in other.heard

    await until(holds)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said at warning and above."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_killed_and_started_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A dead server is a problem with words, once in the log; both ends come back by themselves, and what was sent meanwhile is lost."""
    caplog.set_level(logging.INFO, "gatehouse.state")
    with valkey(tmp_path) as server:
        async with member(place(server)) as one, member(place(server)) as two:
            server.kill()
            await until(lambda: "cannot be reached" in one.broadcast.problem and "cannot be reached" in two.broadcast.problem)
            one.send(b"into the void")
            server.start()
            await until(lambda: not one.broadcast.problem and not two.broadcast.problem)
            one.send(b"again")
            await two.hears(b"again")
    assert len(warned(caplog)) == 2
    assert sum(record.getMessage().endswith("is shared again") for record in caplog.records) == 2


async def test_it_need_not_be_there_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Listening waits for nobody; the server is found when it comes, and was missed with one line however often it was tried."""
    server = Valkey(tmp_path)
    async with member(place(server), up=False) as one:
        assert one.broadcast.problem
        await until(lambda: "cannot be reached" in one.broadcast.problem)
        spoken = len(warned(caplog))
        try:
            server.start()
            await until(lambda: not one.broadcast.problem)
        finally:
            server.kill()
        assert spoken == 1


async def test_a_frozen_server(tmp_path: Path) -> None:
    """A server that keeps its connections and answers nobody is noticed by the deadline, and found again when it goes on."""
    with valkey(tmp_path) as server:
        async with member(place(server, answer_seconds=0.5)) as one, member(place(server)) as two:
            server.freeze()
            await beating(one, "does not")
            assert one.broadcast.problem.endswith("nothing is shared with other servers")
            server.thaw()
            await until(lambda: not one.broadcast.problem)
            await beating(one, "", two)


async def test_a_dead_subscription(tmp_path: Path) -> None:
    """A subscription that the server has dropped is connected anew, though publishing goes well."""
    with valkey(tmp_path) as server:
        async with member(place(server, answer_seconds=0.5)) as one, member(place(server, answer_seconds=0.5)) as two:
            assert server.say("CLIENT", "KILL", "TYPE", "pubsub") == ":2\r\n"
            await beating(one, "", two)


async def test_all_is_flushed(tmp_path: Path) -> None:
    """Nothing is kept there, so nothing is lost when everything is deleted."""
    with valkey(tmp_path) as server:
        async with member(place(server)) as one, member(place(server)) as two:
            one.send(b"before")
            await two.hears(b"before")
            assert "+0" not in server.say("DBSIZE")
            assert server.say("DBSIZE") == ":0\r\n"
            server.say("FLUSHALL")
            one.send(b"after")
            await two.hears(b"before", b"after")


async def test_user_and_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A user that may publish and subscribe on the channel, and nothing else, is enough. With another password, or without the channel,
    there is a problem that says so, and no word of it, of the log or of a repr has the password."""
    caplog.set_level(logging.DEBUG)
    with valkey(tmp_path) as server:
        server.say("ACL", "SETUSER", "gate", "on", f">{PASSWORD}", "resetchannels", "&ours", "-@all", "+publish", "+subscribe")
        server.say("ACL", "SETUSER", "default", "off")
        good = place(server, username="gate", password=Secret(PASSWORD))
        async with member(good) as one, member(good) as two:
            one.send(b"hello")
            await two.hears(b"hello")
        bad = [
            place(server, username="gate", password=Secret(PASSWORD + "x")),
            place(server, username="gate", password=Secret(PASSWORD), channel="theirs"),
            place(server),
        ]
        for where in bad:
            async with member(where, up=False) as one:
                await until(lambda one=one: "refuses our user, password" in one.broadcast.problem)  # type: ignore[misc]
                assert PASSWORD not in repr(where) + one.broadcast.problem
    assert PASSWORD not in caplog.text


async def test_over_tls(tmp_path: Path) -> None:
    """With an authority that is trusted servers hear each other through TLS, with a certificate of ours when one is asked for; with
    another authority, or where no TLS is spoken, there is a problem that says so."""
    authority = trustme.CA()
    inside = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(inside)
    inside.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(inside)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    authority.issue_cert("client@example.com").configure_cert(trusting)
    with valkey(tmp_path) as server:
        async with terminating(server.port, inside) as port:
            there = place(server, port=port, tls=trusting)
            async with member(there) as one, member(there) as two:
                one.send(b"hello")
                await two.hears(b"hello")
            async with member(place(server, port=port, tls=ssl.create_default_context()), up=False) as one:
                await until(lambda: "a certificate that is not trusted" in one.broadcast.problem)
        async with member(place(server, tls=trusting, connect_seconds=0.5), up=False) as one:
            await until(lambda: "nothing is shared" in one.broadcast.problem)


async def test_what_others_publish_is_bounded(tmp_path: Path) -> None:
    """A message that is too large, and one that has no sender, go to nobody; those around them arrive."""
    with valkey(tmp_path) as server:
        async with member(place(server)) as one, member(place(server)) as two:
            server.say("PUBLISH", "ours", "short")
            server.say("PUBLISH", "ours", "x" * (LARGEST_BROADCAST + 9))
            one.send(b"after")
            await two.hears(b"after")


async def test_a_flood_is_read_a_second_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than is read in a second waits for the next one, and arrives then."""
    monkeypatch.setattr(adapter, "MOST_A_SECOND", 20)
    with valkey(tmp_path) as server:
        async with member(place(server)) as one, member(place(server)) as two:
            messages = [b"%d" % number for number in range(50)]
            one.send(*messages)
            await two.hears(*messages)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*1000000000\r\n", b"$99999999999999999999\r\n", b":x\r\n"])
async def test_something_else_listens_there(answer: bytes) -> None:
    """Whatever answers instead of a server, nothing breaks: there is a problem, and it is tried again."""

    tries = 0

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        await reader.read(100)
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(other, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        async with member(ValkeyPlace("127.0.0.1", port, "ours", connect_seconds=0.3), up=False) as one:
            await until(lambda: tries > 2)
            assert "nothing is shared" in one.broadcast.problem


@contextlib.asynccontextmanager
async def terminating(port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Speak TLS on another port and pass on what is in it."""
    ends: set[asyncio.StreamWriter] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        ends.update((writer, inner_writer))
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    listener = await asyncio.start_server(taken, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for writer in ends:
            writer.transport.abort()
        await asyncio.sleep(0)
