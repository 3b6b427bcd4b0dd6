"""What the tests of providers share: both event loops, certificates that live for a session, a provider."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from gatehouse.testing.upstream import FakeUpstream


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The product runs on uvloop, the library on whatever its host has."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Authority:
    """A private certificate authority: its bundle, and server contexts with certificates for given names."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.bundle = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.bundle)

    def server(self, *names: str, **how: Any) -> ssl.SSLContext:
        """A server that shows a certificate for `names`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names, **how).configure_cert(context)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that tests of TLS may trust."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    """A provider that answers "Hello there." until told otherwise."""
    async with FakeUpstream() as fake:
        yield fake
