"""Read takes in the body under its caller's bound and has the dialect decode it, so nobody unauthenticated makes us parse."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from gatehouse.core.calls import Call
from gatehouse.core.events import Events
from gatehouse.core.identity import Principal, Role
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.runner import nothing_held
from gatehouse.pipeline.turns import Turns

Offload = Callable[[Callable[[], Call]], Awaitable[Call]]
"""Runs a function away from the event loop and hands back what it returned or raised."""

_LARGE: Final = 262_144
"""Bytes from which decoding would hold up every other call of this process."""


class Read:
    """Sets `x.call`; a call that came decoded (library, batch) passes untouched.

    `limit` is in bytes; a role in `by_role` has its own, and of several roles the largest counts. Without `offload`, bodies
    of every size are decoded on the loop. `turns` are asked about calls of the Responses API.
    """

    name = "read"
    settle = nothing_held

    watch: Callable[[Exchange, Events], Events]
    """Only there when responses are kept: every other stream is spared the question."""

    def __init__(
        self, limit: int, offload: Offload | None = None, by_role: Mapping[Role, int] | None = None, turns: Turns | None = None
    ) -> None:
        self._limit = limit
        self._offload = offload
        self._by_role = dict(by_role or {})
        self._turns = turns
        self._sizes: dict[Exchange, int] = {}
        """Bytes of the bodies that `at_once` decoded and `admit`, which follows at once, has to go on with."""
        if turns is not None and turns.keeping:
            self.watch = turns.watch

    async def admit(self, x: Exchange) -> None:
        """Read and decode.

        Raises:
            InvalidRequest: what the dialect found.
            TooLarge: the body is over this caller's limit.
            Timeout: it took too long to arrive.
            NotFound, Unavailable: see `Turns.begin`.
        """
        size = self._sizes.pop(x, 0)
        if x.call is None:
            assert x.body is not None
            body = await x.body.read(self._limit if not self._by_role else self.limit_of(x.principal))
            if len(body) <= _LARGE or self._offload is None:
                x.call = x.dialect.decode_request(body)
            else:
                decode = x.dialect.decode_request
                x.call = await self._offload(lambda: decode(body))
            size = len(body)
        if x.call.turn is not None and self._turns is not None:
            await self._turns.begin(x, size)

    def at_once(self, x: Exchange) -> bool:
        """As `admit`, with a short body that is all here."""
        if x.call is not None:
            return True
        assert x.body is not None
        limit = self._limit if not self._by_role else self.limit_of(x.principal)
        body = x.body.at_hand(limit if limit < _LARGE else _LARGE)
        if body is None:
            return False
        call = x.call = x.dialect.decode_request(body)
        if call.turn is None or self._turns is None:
            x.size = len(body)
            return True
        self._sizes[x] = len(body)
        return False

    def limit_of(self, principal: Principal | None) -> int:
        """Bytes of body that a caller may send."""
        roles = principal.roles if principal is not None else frozenset[Role]()
        return max((self._by_role[role] for role in roles if role in self._by_role), default=self._limit)
