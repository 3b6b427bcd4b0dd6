"""The whole server on PostgreSQL, by configuration alone."""

import json
import secrets
from pathlib import Path

import pytest

from gatehouse.testing.upstream import FakeUpstream, completion, usage_of
from tests.served.whole import Server, serving

CONFIG = """
storage: {{url: "{database}"}}
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
"""


async def test_the_same_on_postgresql(tmp_path: Path, empty_postgres: str) -> None:
    """Keys, budget, ledger, audit and a restart: nothing but the URL differs, and no SQLite file appears."""
    async with FakeUpstream(completion(usage=usage_of(3, 5))) as upstream:
        config = CONFIG.format(url=upstream.url, database=empty_postgres)
        async with serving(tmp_path / "data", config) as server:
            key = await server.make_key(budget={"usd": "0.01", "period": "month"})
            assert {(await server.chat(key=key, max_tokens=20)).status for _ in range(20)} == {200}
            administrator = server.key
        async with serving(tmp_path / "data", config) as server:
            assert server.key == administrator
            assert (await server.chat(key=key, max_tokens=20)).status == 200
            (row,) = [row for row in await server.usage() if row["key"] == key[8:16]]
            assert (row["requests"], row["cost_usd"]) == (21, "0.000168")
            meters = await server.admin("GET", "/admin/v1/meters")
            assert all(meter["balanced"] and meter["in_doubt"] == 0 for meter in meters["data"])
            await server.stop()
            status, out, err = await server.gatehouse("audit", "verify", "--json", "--config", str(server.config))
            assert (status, json.loads(out)["ok"]) == (0, True), err
    assert not list((tmp_path / "data").glob("*.db"))


async def test_a_second_server_on_the_database_does_not_start(tmp_path: Path, empty_postgres: str) -> None:
    """Another data directory, the same database and root key: refused with what to do, and the first one serves on. When the first was
    killed the second starts."""
    async with FakeUpstream(completion(usage=usage_of(3, 5))) as upstream:
        config = CONFIG.format(url=upstream.url, database=empty_postgres)
        shared = {"GATEHOUSE_ROOT_KEY": secrets.token_hex(32)}
        async with serving(tmp_path / "one", config + 'secrets: {root: "env:GATEHOUSE_ROOT_KEY"}\n', environment=shared) as first:
            second = Server(tmp_path / "two", config + 'secrets: {root: "env:GATEHOUSE_ROOT_KEY"}\n', environment=shared)
            with pytest.raises(AssertionError, match="another Gatehouse server runs on this database"):
                await second.start()
            assert (await first.chat(max_tokens=20)).status == 200
            assert first.process is not None
            first.process.kill()
            await first.process.wait()
            await second.start()
            assert await second.stop() == 0
