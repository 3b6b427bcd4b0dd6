"""The inner socket: whole messages in order over any split, and an end when something cannot be trusted."""

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.frames import MAX_FRAME
from gatehouse.core.limits import Dimension, Draw, Granted, Meter, Unused
from gatehouse.processes.protocol import (
    Acquire,
    Acquired,
    Collect,
    Configure,
    FindKey,
    ForgetKey,
    GiveBack,
    KeyFound,
    Link,
    Message,
    Metrics,
    ReportOver,
    Serving,
    WorkerKeys,
)

METER = Meter("key:a:requests", Dimension.REQUESTS, 60)
MESSAGES: list[Message] = [
    Configure("v1", b"settings", (), WorkerKeys(b"p" * 32, b"c" * 32)),
    Serving(),
    Acquire(1, (Draw(METER, 1, 5),)),
    Acquired(1, Granted((5,), remaining=(55,), stamp=7)),
    GiveBack((Unused("key:a:requests", 3, 7),)),
    ReportOver("key:a:money:total:", 12),
    FindKey(2, "abcdefgh"),
    KeyFound(2, None),
    ForgetKey(""),
    Metrics(b"\x00" * 100_000),
    Collect(3),
]


class Collecting(asyncio.Transport):
    """Bytes that were written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def link() -> tuple[Link, Collecting, list[Message]]:
    got: list[Message] = []
    transport = Collecting()
    end = Link(got.append, lambda: None)
    end.connection_made(transport)
    return end, transport, got


def written(*messages: Message) -> bytes:
    sender, transport, _ = link()
    for message in messages:
        assert sender.send(message)
    return transport.written


@given(st.lists(st.sampled_from(MESSAGES), max_size=5), st.lists(st.integers(1, 5000), max_size=20))
def test_any_split_gives_the_same_messages(messages: list[Message], cuts: list[int]) -> None:
    """However the bytes are cut, the messages come whole and in order."""
    data = written(*messages)
    end, _, got = link()
    start = 0
    for cut in cuts:
        end.data_received(data[start : start + cut])
        start += cut
    end.data_received(data[start:])
    assert got == messages


@pytest.mark.parametrize("data", [(MAX_FRAME + 1).to_bytes(4, "big"), b"\x00\x00\x00\x02\xc1\xc1", b"\x00\x00\x00\x01\x05"])
def test_what_cannot_be_read_ends_the_link(data: bytes) -> None:
    """A frame too large or of no message closes the link: what follows cannot be trusted."""
    end, transport, got = link()
    end.data_received(data)
    assert transport.closed
    assert got == []


def test_sending_to_nobody() -> None:
    """False when the peer is gone; never an exception."""
    end, transport, _ = link()
    transport.close()
    assert not end.send(Serving())
    end.connection_lost(None)
    assert not end.send(Serving())
    assert not end.open


def test_secrets_do_not_show() -> None:
    """A configuration in a log line or a traceback shows its version and nothing else."""
    text = repr(Configure("v1", b"api_key: hidden", (), WorkerKeys(b"pepper" * 6, b"c" * 32)))
    assert "hidden" not in text
    assert "pepper" not in text


async def test_over_a_real_pair() -> None:
    """Two ends of a socket pair exchange messages; when one hangs up the other is told."""
    ours, theirs = socket.socketpair()
    got: asyncio.Queue[Message] = asyncio.Queue()
    lost = asyncio.Event()
    loop = asyncio.get_running_loop()
    near, far = Link(got.put_nowait, lost.set), Link(got.put_nowait, lambda: None)
    for sock, end in ((ours, near), (theirs, far)):
        sock.setblocking(False)
        await loop.create_connection(lambda end=end: end, sock=sock)  # type: ignore[misc]
    for message in MESSAGES:
        far.send(message)
        assert await asyncio.wait_for(got.get(), 5) == message
    far.close()
    await asyncio.wait_for(lost.wait(), 5)
    assert not near.open
