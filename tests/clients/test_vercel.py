"""The Vercel AI SDK, by both its providers. It needs Node and packages from npm: `make clients` brings them and runs this."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from tests.clients.behaving import gatehouse

HERE = Path(__file__).parent / "vercel"


@pytest.mark.skipif(not (HERE / "node_modules").is_dir() or shutil.which("node") is None, reason="`make clients` installs what it needs")
async def test_the_vercel_ai_sdk(tmp_path: Path) -> None:
    """Text, tools, structured output, embeddings, completions, responses and errors, whole and streamed: every check is well."""
    async with gatehouse(tmp_path) as server:
        process = await asyncio.create_subprocess_exec(
            "node", "check.mjs", cwd=HERE, env={**os.environ, "GATEHOUSE_URL": server.url, "GATEHOUSE_KEY": server.key},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(process.communicate(), 120)
    said = out.decode()
    assert process.returncode == 0, said
    assert said.count("well") == 15, said
