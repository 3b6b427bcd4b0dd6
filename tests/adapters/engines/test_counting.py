"""The embedded engine counts exactly: its host in a process of its own, over the real socket."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from gatehouse.adapters.engines.client import EngineModel
from gatehouse.adapters.engines.gguf import read_header
from gatehouse.core.calls import Call, Message, ResponseFormat
from gatehouse.core.events import Chunk
from gatehouse.core.plans import Target
from gatehouse.core.usage import Usage
from gatehouse.models import builtin_path
from gatehouse.testing.counter_contract import CALLS, CountedModel, TokenCounterContract, prompt_read
from gatehouse.testing.model_contract import ContractAttempt
from tests.served.embedding_model import write_embedding_model

TARGET = Target("llamacpp/tiny", "llamacpp:builtin", "tiny")


class Host:
    """`python -m gatehouse _engine` as the steward starts it."""

    def __init__(self, path: Path) -> None:
        self.model = EngineModel(path, count_seconds=30.0)
        self._path = path
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *words: str) -> None:
        """Return when it listens."""
        self._process = await asyncio.create_subprocess_exec(sys.executable, "-m", "gatehouse", "_engine", str(self._path), *words)
        async with asyncio.timeout(30):
            while await self.model.ping():
                await asyncio.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send it."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    async def end(self) -> None:
        """Kill it, if it still runs."""
        await self.model.close()
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    started = Host(tmp_path / "e.sock")
    await started.start("builtin", "0", "0")
    yield started
    await started.end()


class TestEmbeddedEngine(TokenCounterContract):
    """The contract, for llama.cpp with the built-in model."""

    @pytest.fixture
    async def counted(self, host: Host) -> CountedModel:
        return CountedModel(host.model, TARGET, read_header(builtin_path()).control)


async def test_bare_text_and_forms(host: Host) -> None:
    """Prompts without a template, several of them, lists of token ids, and a call that says what the answer looks like."""
    asked = (
        Call(operation="completion", model="t", inputs=("Once upon",), max_tokens=1),
        Call(operation="completion", model="t", inputs=("Once upon", "a time", ""), max_tokens=1),
        Call(operation="completion", model="t", inputs=((5, 6, 7), (8, 9)), max_tokens=1),
        msgspec.structs.replace(CALLS["a word"], response_format=ResponseFormat("json_object"), max_tokens=1),
        msgspec.structs.replace(CALLS["a word"], response_format=ResponseFormat("json_schema", schema={"type": "object"}), max_tokens=1),
    )
    for call in asked:
        assert await host.model.count_tokens(call) == await prompt_read(CountedModel(host.model, TARGET), call)


async def test_a_stream_begins_with_the_prompts_tokens(host: Host) -> None:
    """Before the first word, of chats and of bare text; and the stream begins once."""
    bare = Call(operation="completion", model="t", inputs=("Once upon",), max_tokens=3, stream=True)
    for call in (msgspec.structs.replace(CALLS["several turns"], max_tokens=3, stream=True), bare):
        count = await host.model.count_tokens(call)
        assert count is not None
        async with aclosing(await host.model.answer(call, TARGET, ContractAttempt())) as events:
            chunks = [event async for event in events if isinstance(event, Chunk)]
        assert (chunks[0].usage, chunks[0].interim, chunks[0].text) == (Usage(input=count), True, "")
        assert all(chunk.usage is None or chunk.interim for chunk in chunks[1:-1])
        assert chunks[-1].usage is not None
        assert (chunks[-1].usage.input, chunks[-1].interim) == (count, False)
        assert sum(choice.begins for chunk in chunks for choice in chunk.choices) == 1


async def test_embeddings(tmp_path: Path) -> None:
    """Every text is read by itself, with what the model puts around it."""
    host = Host(tmp_path / "e.sock")
    await host.start(str(write_embedding_model(tmp_path / "reader.gguf")), "2", "256", "embeds")
    try:
        for inputs in (("one",), ("one", "two and more", "drei ß"), ((5, 6), (7,)), ("a " * 100,)):
            call = Call(operation="embedding", model="t", inputs=inputs)
            assert await host.model.count_tokens(call) == await prompt_read(CountedModel(host.model, TARGET), call)
    finally:
        await host.end()


async def test_a_killed_or_silent_host(host: Host, tmp_path: Path) -> None:
    """Whoever is being counted for hears None at once when the host dies, and soon when it only hangs; nothing is raised."""
    assert await host.model.count_tokens(CALLS["a word"])
    impatient = EngineModel(tmp_path / "e.sock", count_seconds=0.1)
    assert await impatient.ping() == ""
    host.signal(signal.SIGSTOP)
    assert await impatient.count_tokens(CALLS["a word"]) is None
    await impatient.close()
    counts = [asyncio.create_task(host.model.count_tokens(CALLS["a long text"])) for _ in range(8)]
    await asyncio.sleep(0)
    host.signal(signal.SIGKILL)
    assert await asyncio.gather(*counts) == [None] * 8
    assert await host.model.count_tokens(CALLS["a word"]) is None


async def test_what_cannot_be_counted(host: Host) -> None:
    """A text far beyond the context and a schema that cannot be followed: None, and the host counts on."""
    huge = Call(model="t", messages=(Message("user", "x" * 70_000),))
    wrong = msgspec.structs.replace(CALLS["a word"], response_format=ResponseFormat("json_schema", schema={"type": "nonsense"}))
    for call in (huge, wrong):
        assert await host.model.count_tokens(call) is None
    assert await host.model.count_tokens(CALLS["a word"])
