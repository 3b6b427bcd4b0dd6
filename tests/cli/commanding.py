"""The command line as a person or a program runs it: a process of its own, from outside."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]


class Said(msgspec.Struct, frozen=True):
    """What a command left behind."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output, which must be one JSON value and nothing else."""
        return json.loads(self.out)


async def gatehouse(
    *words: str | Path, data_dir: Path | None = None, stdin: bytes = b"", environment: dict[str, str] | None = None
) -> Said:
    """Run a command to its end."""
    process = await start(*words, data_dir=data_dir, environment=environment)
    async with asyncio.timeout(60):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


async def start(*words: str | Path, data_dir: Path | None = None, environment: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    """Begin a command whose streams are pipes."""
    where = () if data_dir is None else ("--data-dir", str(data_dir))
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gatehouse", *map(str, words), *where,
        stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, env={**os.environ, **(environment or {})},
    )  # fmt: skip
