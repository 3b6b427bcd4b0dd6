"""What the connections of one server have in common, and what stands behind them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from gatehouse.core.errors import GatehouseError
from gatehouse.core.outcome import Outcome
from gatehouse.core.ports import Turn
from gatehouse.wire.http.body import Body
from gatehouse.wire.http.head import HeadReader, RequestHead
from gatehouse.wire.http.limits import HttpLimits

if TYPE_CHECKING:
    from gatehouse.wire.http.protocol import Connection


class Running(Protocol):
    """What answers a request: a call's exchange, or an errand."""

    def end(self, outcome: Outcome) -> None:
        """Stop it from outside."""


class Application(Protocol):
    """What stands behind the connections."""

    def serve(self, connection: "Connection", head: RequestHead, body: Body) -> None:
        """Answer the request through the connection, now or later. Never raises."""

    def refusal(self, error: GatehouseError) -> tuple[bytes, bytes]:
        """Header lines and body that tell the sender of a malformed request what was wrong."""


class Shared:
    """What the connections of one server have in common. `now` and `date` are set by the server's one timer."""

    __slots__ = ("application", "connections", "date", "draining", "freed", "heads", "limits", "now", "refused", "turn")

    def __init__(self, application: Application, limits: HttpLimits, now: float, date: bytes, turn: Turn | None = None) -> None:
        self.application = application
        self.turn = turn
        """The turns of the loop whose whole answers leave together; None: each leaves by itself."""
        self.limits = limits
        self.heads = HeadReader(limits)
        self.now = now
        """Monotonic seconds at the last tick."""
        self.date = date
        self.draining = False
        self.connections: set[Connection] = set()
        self.freed: Callable[[], object] = lambda: None
        """Called when a connection has gone."""
        self.refused: Callable[[str], object] = lambda code: None
        """Called with the code of what was no request."""

    def due(self, seconds: float) -> float:
        """The deadline `seconds` from now: never early, at most two ticks late."""
        return self.now + self.limits.tick_seconds + seconds

    def closed(self, connection: "Connection") -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        self.freed()
