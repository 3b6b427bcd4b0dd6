"""The bounds of the data plane's HTTP server: every one exists because somebody without it was taken down."""

import msgspec


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes, times in seconds. A time is met to within two ticks of the shared timer, never early."""

    head_bytes: int = 65_536
    """Request line and headers together; more is a 431."""
    head_fields: int = 100
    target_bytes: int = 8_192
    """Path and query together; more is a 414."""
    head_seconds: float = 10.0
    """From a connection's start to its first byte, and from the first byte of each head to its last; then 408 (or just the end)."""
    body_idle_seconds: float = 30.0
    """Between two pieces of a body that is being read; then 408."""
    body_seconds: float = 600.0
    """All of a body, so that a byte every few seconds does not hold a connection for ever; then 408."""
    keep_alive_seconds: float = 75.0
    """Between two requests of a connection; then it is closed without a word."""
    read_ahead: int = 65_536
    """How much is taken in that nobody has asked for yet: an unread body, or requests sent before their turn."""
    discard_bytes: int = 262_144
    """A body nobody wants is thrown away to save the connection up to this size; beyond it the connection is closed."""
    write_high: int = 262_144
    """Bytes of an answer that wait for a slow client before its producer is paused."""
    slow_client_seconds: float = 30.0
    """How long a paused client may take without reading `slow_client_bytes`; then it is cut off."""
    slow_client_bytes: int = 16_384
    linger_seconds: float = 2.0
    """How long a refused sender is listened to after our last word, so that the word is not lost in a reset."""
    max_connections: int = 10_000
    """Beyond it new connections wait in the listening queue."""
    tick_seconds: float = 0.5
    """How often the one shared timer looks at every deadline."""
