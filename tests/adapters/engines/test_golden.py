"""The golden prompt: a model whose weights are damaged is refused when it is loaded, not when somebody asks it."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatehouse.adapters.engines._golden import damage
from gatehouse.adapters.engines.client import EngineModel
from gatehouse.models import builtin_path


def reply(*tokens: dict[str, Any], said: int = 2, **fields: Any) -> list[bytes]:
    choices = [{"logprobs": {"content": tokens}}]
    return [msgspec.json.encode({"choices": choices, "usage": {"completion_tokens": said}, **fields})]


def token(*odds: float | None) -> dict[str, Any]:
    return {"logprob": odds[0], "top_logprobs": [{"logprob": each} for each in odds]}


@pytest.mark.parametrize(
    ("replies", "problem"),
    [
        (reply(token(-0.1, -3.0, -4.0), token(-0.2, -2.0, -2.0)), ""),
        (reply(token(-0.7, -0.7, -4.0)), ""),
        (reply(), ""),
        (reply(token(None, None, None)), "not a number"),
        (reply(token(-0.1, -3.0, -4.0), token(None, -1.0, -2.0)), "not a number"),
        (reply(token(-8.03, -8.03, -8.03)), "every word is as likely"),
        (reply(said=0), "says nothing"),
        ([], "says nothing"),
        ([b"what?"], "cannot be read"),
        (reply(error={"type": "server_error", "code": 500, "message": "a path"}), "The embedded model failed."),
    ],
)
def test_what_an_answer_shows_of_the_weights(replies: list[bytes], problem: str) -> None:
    """Chances that differ are a model's; none that is a number, or all alike, are no model's. llama.cpp's own words are not repeated."""
    found = damage(replies)
    assert problem in found
    assert bool(found) == bool(problem)


@pytest.mark.parametrize(("byte", "problem"), [(b"\xff", "not a number"), (b"\0", "every word is as likely")])
async def test_scenario_59_weights_that_load_and_are_worth_nothing(tmp_path: Path, byte: bytes, problem: str) -> None:
    """The header is right and llama.cpp loads the file: the host says what is wrong and answers nobody."""
    content = builtin_path().read_bytes()
    kept = len(content) // 3
    (tmp_path / "m.gguf").write_bytes(content[:kept] + byte * (len(content) - kept))
    words = (sys.executable, "-m", "gatehouse", "_engine", str(tmp_path / "e.sock"), str(tmp_path / "m.gguf"), "0", "0")
    process = await asyncio.create_subprocess_exec(*words)
    model = EngineModel(tmp_path / "e.sock")
    try:
        async with asyncio.timeout(30):
            while "does not run" in (said := await model.ping()):
                await asyncio.sleep(0.02)
        assert "golden prompt" in said
        assert problem in said
    finally:
        await model.close()
        process.kill()
        await process.wait()
