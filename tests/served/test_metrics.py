"""Every metric moves when what it counts happens; and what a worker counted, it counted into a journal that is there."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gatehouse.testing.upstream import FakeUpstream, completion
from tests.served.whole import Server, read_reply, serving

CONFIG = """
drain_seconds: 5
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with FakeUpstream() as upstream:
        upstream.will(completion())
        async with serving(tmp_path / "data", CONFIG.format(url=upstream.url)) as running:
            yield running


async def until_metric(server: Server, name: str, wanted: float) -> None:
    async with asyncio.timeout(10):
        while f"{name} {float(wanted)}" not in (await server.ask("GET", "/metrics", admin=True, key=None)).body.decode().splitlines():
            await asyncio.sleep(0.02)


async def test_findings_and_bad_requests_are_counted(server: Server) -> None:
    """A guard's finding counts under its rule, and what was no request under the code it was refused with."""
    reply = await server.chat("my token is " + "ghp_" + "a1B2c3D4e5F6" * 3)
    assert reply.json()["error"]["code"] == "github-token"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert (await read_reply(reader)).status == 400
    writer.close()
    await until_metric(server, 'gatehouse_guard_findings_total{rule="github-token"}', 1)
    await until_metric(server, 'gatehouse_bad_requests_total{code="malformed_request"}', 1)


async def test_a_journal_that_is_taken_away(server: Server) -> None:
    """A worker whose journal is gone from the disk makes way for one with a new journal: no call is answered unrecorded for long."""
    (worker,) = server.workers()
    assert (await server.chat()).status == 200
    before = sum(row["requests"] for row in await server.usage())
    shutil.rmtree(server.data_dir / "journals")
    async with asyncio.timeout(30):
        while (now := server.workers()) == [worker] or not now:
            await asyncio.sleep(0.02)
    async with asyncio.timeout(30):
        while (await server.chat()).status != 200:
            await asyncio.sleep(0.02)
    assert sum(row["requests"] for row in await server.usage()) > before
    assert "is gone from the disk" in server.log.read_text()
