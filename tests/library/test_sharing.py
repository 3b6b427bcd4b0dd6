"""Two programs with the library, each with its own data directory: what one finds out of a target, the other knows through Valkey."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from gatehouse import Gatehouse
from gatehouse.errors import Unavailable, UpstreamFailed
from gatehouse.testing.upstream import FakeUpstream, completion, failure
from tests.valkeys import valkey

CONFIG = """
state: {{url: "{state}"}}
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "2"}}, breaker: {{open: 60, longest: 60}}}}]
"""


async def test_one_learns_from_the_other(tmp_path: Path) -> None:
    """One program has its calls fail until it leaves the target alone; the other then leaves it alone too, without having asked."""
    config = tmp_path / "gatehouse.yaml"
    with valkey(tmp_path) as server:
        async with FakeUpstream(failure(500)) as upstream, contextlib.AsyncExitStack() as stack:
            config.write_text(CONFIG.format(state=server.url, url=upstream.url))
            one, two = [await stack.enter_async_context(Gatehouse.open(config, data_dir=tmp_path / name)) for name in ("one", "two")]
            async with asyncio.timeout(15):
                while two._parts.steward.neighbours is None or not two._parts.steward.neighbours.servers:
                    await asyncio.sleep(0.05)
            for _ in range(8):
                with pytest.raises((UpstreamFailed, Unavailable)):
                    await one.complete("hi", model="assistant")
            asked = upstream.requests
            upstream.will(completion("well"))
            async with asyncio.timeout(15):
                while "lab/fake" not in two._path.health.ailing:
                    await asyncio.sleep(0.05)
            with pytest.raises(Unavailable, match="left alone"):
                await two.complete("hi", model="assistant")
            assert upstream.requests == asked


async def test_a_quarantine_is_in_the_audit_log(tmp_path: Path) -> None:
    """A target that refuses our credentials is an audit event once, whatever else is shared or not."""
    config = tmp_path / "gatehouse.yaml"
    async with FakeUpstream(failure(401)) as upstream:
        config.write_text(CONFIG.format(state="memory://", url=upstream.url))
        async with Gatehouse.open(config, data_dir=tmp_path / "data") as gatehouse:
            for _ in range(3):
                with pytest.raises(UpstreamFailed):
                    await gatehouse.complete("hi", model="assistant")
            async with asyncio.timeout(15):
                while not (found := await _quarantines(gatehouse)):
                    await asyncio.sleep(0.05)
            assert found == 1


async def _quarantines(gatehouse: Gatehouse) -> int:
    rows = await gatehouse._parts.log.page("default", None, 100)
    return sum(row.action == "target.quarantined" for row in rows)
