"""Answers that are kept for a moment so that the same request, sent again, is answered again and not carried again.

A client that lost its connection cannot know whether its call was made. With an `Idempotency-Key` it may simply ask again.
"""

from typing import Literal, Protocol

import msgspec


class Replayed(msgspec.Struct, frozen=True, array_like=True):
    """A whole answer of status 200 as it left: its header lines, its body, and whether that was a stream."""

    fields: bytes
    body: bytes
    streamed: bool = False


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """What becomes of a request that names an idempotency key.

    yours: nobody has asked so before; carry the call, then `finish` it. running: an equal request is being carried, ask again in a
    moment. done: `answer` is its answer. reused: another request had that key.
    """

    state: Literal["yours", "running", "done", "reused"]
    answer: Replayed | None = None


class ReplayDesk(Protocol):
    """The one place of a server that knows which requests were seen."""

    async def claim(self, key: bytes, digest: bytes) -> Claim:
        """`key` names the request, `digest` is of its body. Raises Unavailable when the desk cannot be asked."""

    def finish(self, key: bytes, answer: Replayed | None) -> None:
        """What was claimed has ended; None when there is nothing to repeat, so that the next one is carried. Never raises."""
