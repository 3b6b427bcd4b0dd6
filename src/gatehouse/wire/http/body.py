"""A request's body: nothing of it is asked for until a stage reads it, so nobody unauthenticated makes us take in or parse much."""

import asyncio
from typing import ClassVar, Final, Protocol

from gatehouse.core.errors import GatehouseError, InvalidRequest, TooLarge
from gatehouse.wire.http.chunks import Dechunker
from gatehouse.wire.http.head import CHUNKED, Refused, RequestHead

_SMALL: Final = 256
"""Pieces that may wait before they are joined."""


class Body(Protocol):
    """What a connection and those who answer its requests ask of a body."""

    @property
    def complete(self) -> bool:
        """Whether all of it is here."""

    @property
    def failed(self) -> bool:
        """Whether it can never be complete."""

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for more of it."""

    @property
    def started(self) -> bool:
        """Whether any of it has come."""

    @property
    def remaining(self) -> int | None:
        """Bytes still to come; None when only the sender knows."""

    def at_hand(self, limit: int) -> bytes | None:
        """See `gatehouse.core.ports.Body`."""

    async def read(self, limit: int) -> bytes:
        """See `gatehouse.core.ports.Body`."""

    def feed(self, data: bytes) -> bytes:
        """Take what has come; what stands after the end of the body comes back."""

    def abandon(self) -> None:
        """Nobody wants it any more."""

    def fail(self, error: GatehouseError) -> None:
        """It will never be complete."""


class Sender(Protocol):
    """What a body asks of the connection it comes over."""

    def want(self) -> None:
        """Somebody waits for the body: say so to the sender, read on, and start its idle time."""

    def hold(self) -> None:
        """More has come than may lie about unread: stop reading."""


class RequestBody:
    """Collects the content of one message. The connection feeds it; the Read stage reads it, once.

    Compressed bodies are refused: inflating is work an attacker buys for a thousandth of its price, and no client of these
    protocols needs it.
    """

    __slots__ = (
        "_abandoned",
        "_dechunker",
        "_encoding",
        "_fault",
        "_joined",
        "_limit",
        "_pieces",
        "_read_ahead",
        "_remaining",
        "_sender",
        "_size",
        "_waiter",
        "complete",
    )

    def __init__(self, sender: Sender, head: RequestHead, read_ahead: int) -> None:
        self._sender = sender
        self._encoding = head.headers.get(b"content-encoding")
        self._read_ahead = read_ahead
        self._limit = -1
        """What the reader allows; -1 before there is one."""
        self._pieces: list[bytes] = []
        self._joined = 0
        """How many of the pieces are large already."""
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._abandoned = False
        self._fault: GatehouseError | None = None
        self._dechunker = Dechunker() if head.length == CHUNKED else None
        self._remaining = max(head.length, 0)
        """Bytes still to come of a body with a Content-Length."""
        self.complete = head.length == 0

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for more of it."""
        return self._waiter is not None

    @property
    def failed(self) -> bool:
        """Whether it can never be complete."""
        return self._fault is not None

    @property
    def started(self) -> bool:
        """Whether any of it has come."""
        return self._size > 0

    @property
    def remaining(self) -> int | None:
        """Bytes still to come; None when only the sender knows."""
        return self._remaining if self._dechunker is None else None

    def at_hand(self, limit: int) -> bytes | None:
        """All of it when it is here; see `gatehouse.core.ports.Body`."""
        if not self.complete or self._encoding is not None or self._size > limit or self._fault is not None:
            return None
        self._limit = limit
        pieces = self._pieces
        self._pieces = []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def read(self, limit: int) -> bytes:
        """All of it, once; see `gatehouse.core.ports.Body`.

        Raises:
            TooLarge: as soon as more than `limit` bytes are announced or have come.
            Timeout: the sender was too slow.
            InvalidRequest: compressed, or broken framing.
        """
        _check_encoding(self._encoding)
        if self._size + self._remaining > limit:
            self.fail(_too_large(limit))
        if self._fault is not None:
            raise self._fault
        self._limit = limit
        if not self.complete:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                self._sender.want()
                await self._waiter
            finally:
                self._waiter = None
        pieces = self._pieces
        self._pieces = []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def feed(self, data: bytes) -> bytes:
        """Take what has come; what stands after the end of the body comes back.

        Raises:
            Refused: the framing is broken; a reader has been told.
        """
        if self._dechunker is None:
            remaining = self._remaining
            if len(data) > remaining:
                data, rest = data[:remaining], data[remaining:]
            else:
                rest = b""
            self._remaining = remaining - len(data)
            self.complete = len(data) == remaining
            self._keep(data)
        else:
            try:
                pieces, rest = self._dechunker.feed(data)
            except Refused as refused:
                self.fail(refused.error)
                raise
            self.complete = self._dechunker.complete
            for piece in pieces:
                self._keep(piece)
        waiter = self._waiter
        if waiter is None:
            if self._size > self._read_ahead and not self.complete and not self._abandoned:
                self._sender.hold()
        elif self._size > self._limit:
            self.fail(_too_large(self._limit))
        elif self.complete and not waiter.done():
            waiter.set_result(None)
        return rest

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._abandoned or self._fault is not None:
            return
        pieces = self._pieces
        pieces.append(data)
        if len(pieces) - self._joined > _SMALL:
            # A body in tiny segments must not cost a whole object for every few bytes.
            pieces[self._joined :] = [b"".join(pieces[self._joined :])]
            self._joined += 1

    def abandon(self) -> None:
        """Nobody wants it any more: what is here and what still comes is thrown away."""
        self._abandoned = True
        self._pieces.clear()
        self._joined = 0

    def fail(self, error: GatehouseError) -> None:
        """It will never be complete: whoever reads it is told, now or later."""
        self._fault = self._fault or error
        self._pieces.clear()
        self._joined = 0
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


class WholeBody:
    """As `RequestBody`, of a body that came whole with its head: nothing is waited for, nothing can go wrong with its framing."""

    __slots__ = ("_content", "_encoding")

    complete: ClassVar[bool] = True
    failed: ClassVar[bool] = False
    waiting: ClassVar[bool] = False
    started: ClassVar[bool] = True
    remaining: ClassVar[int] = 0

    def __init__(self, content: bytes, encoding: bytes | None) -> None:
        self._content = content
        self._encoding = encoding

    def at_hand(self, limit: int) -> bytes | None:
        """See `gatehouse.core.ports.Body`."""
        content = self._content
        return None if self._encoding is not None or len(content) > limit else content

    async def read(self, limit: int) -> bytes:
        """See `RequestBody.read`."""
        _check_encoding(self._encoding)
        if len(self._content) > limit:
            raise _too_large(limit)
        return self._content

    def feed(self, data: bytes) -> bytes:
        """It is complete: all of `data` comes after it."""
        return data

    def abandon(self) -> None:
        """Nobody wants it any more."""
        self._content = b""

    def fail(self, error: GatehouseError) -> None:
        """It is here: whoever reads it reads it."""


def _check_encoding(encoding: bytes | None) -> None:
    if encoding is not None and encoding.lower() != b"identity":
        raise InvalidRequest(
            "Compressed request bodies are not accepted; send it without Content-Encoding.",
            code="unsupported_encoding",
            param="content-encoding",
        )


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than the {limit} bytes that are accepted.", param="body")
