"""What every Broadcast promises. A test module subclasses `BroadcastContract` as `Test...` and says how to build its members."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest_asyncio

from gatehouse.core.ports import LARGEST_BROADCAST, Broadcast

SECONDS = 20.0
"""How long a test waits for what has to come."""


class Member:
    """One server's end, with what it has heard."""

    def __init__(self, broadcast: Broadcast) -> None:
        self.broadcast = broadcast
        self.heard: list[bytes] = []

    def send(self, *messages: bytes) -> None:
        """Tell the others."""
        for message in messages:
            self.broadcast.send(message)

    async def hears(self, *messages: bytes) -> None:
        """Return when these have been heard, and nothing else."""
        await until(lambda: self.heard[: len(messages)] == list(messages))
        assert self.heard == list(messages)


async def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds; TimeoutError when it does not in good time."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.01)


class BroadcastContract:
    """Tests of the port."""

    _built: list[Broadcast]

    def build(self, installation: str) -> Broadcast:
        """One more end of an installation, not listening yet. Overridden by each implementation's test."""
        raise TypeError(f"{type(self).__name__} must say how to build its members")

    @pytest_asyncio.fixture(autouse=True)
    async def _closed(self) -> AsyncIterator[None]:
        self._built = []
        yield
        for broadcast in self._built:
            await broadcast.close()

    async def member(self, installation: str = "ours") -> Member:
        """One that listens and can tell and hear."""
        member = Member(self.build(installation))
        self._built.append(member.broadcast)
        member.broadcast.listen(member.heard.append)
        await until(lambda: not member.broadcast.problem)
        return member

    async def test_all_others_hear_and_the_sender_does_not(self) -> None:
        """What one sends comes to each of the others once, byte for byte and in order, and never back to itself."""
        one, two, three = await self.member(), await self.member(), await self.member()
        messages = [b"first", bytes(range(256)), b"\r\n$-1\r\n", b"last"]
        one.send(*messages)
        await two.hears(*messages)
        await three.hears(*messages)
        two.send(b"answer")
        await one.hears(b"answer")
        await three.hears(*messages, b"answer")

    async def test_a_burst_keeps_its_order(self) -> None:
        """A hundred messages at once arrive as they were sent."""
        one, two = await self.member(), await self.member()
        messages = [b"%d" % number for number in range(100)]
        one.send(*messages)
        await two.hears(*messages)

    async def test_nothing_is_kept(self) -> None:
        """Who comes later hears what is sent from then on."""
        one, two = await self.member(), await self.member()
        one.send(b"early")
        await two.hears(b"early")
        three = await self.member()
        one.send(b"late")
        await three.hears(b"late")

    async def test_another_installation_hears_nothing(self) -> None:
        """Two installations in one place are strangers."""
        one, two, stranger = await self.member(), await self.member(), await self.member("theirs")
        other = await self.member("theirs")
        one.send(b"ours")
        stranger.send(b"theirs")
        await two.hears(b"ours")
        await other.hears(b"theirs")
        assert one.heard == stranger.heard == []

    async def test_what_is_too_large_or_empty_goes_to_nobody(self) -> None:
        """The largest message arrives, a larger one and an empty one do not, and the one after them does."""
        one, two = await self.member(), await self.member()
        largest = b"x" * LARGEST_BROADCAST
        one.send(largest, largest + b"x", b"", b"after")
        await two.hears(largest, b"after")

    async def test_the_end(self) -> None:
        """Who has closed hears nothing more, tells nobody, and may close again; to send is never an error."""
        one, two, three = await self.member(), await self.member(), await self.member()
        await two.broadcast.close()
        await two.broadcast.close()
        two.send(b"from beyond")
        one.send(b"to the living")
        await three.hears(b"to the living")
        assert two.heard == []

    async def test_before_the_beginning(self) -> None:
        """Sending before listening, and closing what never listened, are no errors."""
        broadcast = self.build("ours")
        broadcast.send(b"too early")
        await broadcast.close()
