"""The admin port's server. A module of its own, because the library has no such port and should not pay for its imports."""

import contextlib
from collections.abc import Iterator

import uvicorn

from gatehouse import __version__
from gatehouse.core.ports import Rng
from gatehouse.wire.admin.app import Identify, Refused, build_app
from gatehouse.wire.admin.endpoints import Services, endpoints


class AdminPort(uvicorn.Server):
    """uvicorn without its own idea of signals: the steward has one already."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to the steward."""
        yield


def admin_port(services: Services, identify: Identify, refused: Refused, rng: Rng) -> AdminPort:
    """The server of `services`; `serve` answers on listening sockets until `should_exit` is set."""
    app = build_app(endpoints(services), identify, refused, rng, __version__)
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, access_log=False, server_header=False, date_header=False, timeout_graceful_shutdown=2
    )
    return AdminPort(config)
