"""What a stranger types after the first start: the commands on a fresh server, and the lines the server itself suggests."""

import asyncio
import json
import re
from pathlib import Path

from tests.served.whole import serving


async def test_the_commands_of_a_fresh_server(tmp_path: Path) -> None:
    """Every command that needs a server works without naming one; what the ready message suggests works when pasted."""
    async with serving(tmp_path / "data", None) as server:
        status, out, err = await server.gatehouse("keys", "create", "app", "--team", "blue", "--budget", "5.00/month", "--json")
        assert status == 0, err
        made = json.loads(out)
        status, out, err = await server.gatehouse("keys", "list", "--json")
        assert status == 0, err
        assert made["id"] in {row["id"] for row in json.loads(out)["data"]}
        status, out, err = await server.gatehouse("keys", "list")
        assert status == 0, err
        assert made["id"] in out
        status, _, err = await server.gatehouse("keys", "revoke", made["id"])
        assert status == 0, err

        suggested = server.log.read_text().split("Try:\n", 1)[1]
        curl, usage = re.match(r"  (curl .*\n.*)\n  (.*)\n", suggested).groups()  # type: ignore[union-attr]
        for line in (curl, usage):
            process = await asyncio.create_subprocess_shell(line, stdout=-1, stderr=-1, cwd=tmp_path)
            said, complaint = await process.communicate()
            assert process.returncode == 0, (line, complaint)
            assert b"tiny" in said
