"""The contract of `core.ports.TokenCounter` as tests: subclass `TokenCounterContract`, give it a `counted`, and pytest runs it.

class TestMyCounter(TokenCounterContract):
    @pytest.fixture
    async def counted(self) -> AsyncIterator[CountedModel]:
        model = MyModel(...)
        yield CountedModel(model, target, control=("<|im_end|>",))
        await model.close()
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import pytest

from gatehouse.core.calls import Call, Message, TextPart
from gatehouse.core.collect import Collector
from gatehouse.core.plans import Target
from gatehouse.core.ports import Model, TokenCounter
from gatehouse.testing.model_contract import ContractAttempt

_PATIENCE = 60.0
"""Seconds until something that must come about counts as not coming."""
_BUSY = 8


class CountingModel(Model, TokenCounter, Protocol):
    """What answers, and counts what it is asked."""


@dataclass(slots=True)
class CountedModel:
    """A model, a target of it, and how its tokenizer writes some of its control tokens."""

    model: CountingModel
    target: Target
    control: tuple[str, ...] = ()


def chat(*turns: tuple[str, str], **fields: Any) -> Call:
    """A call of these (role, text)."""
    return Call(model="contract", messages=tuple(Message(role, text) for role, text in turns), **fields)  # type: ignore[arg-type]


CALLS: dict[str, Call] = {
    "a word": chat(("user", "Hello")),
    "no words": chat(("user", "")),
    "a system prompt": chat(("system", "You answer in one sentence."), ("user", "Who are you?")),
    "several turns": chat(("user", "One?"), ("assistant", "Two."), ("user", "Three?"), ("assistant", "Four."), ("user", "Five?")),
    "beyond ASCII": chat(("user", "Grüße aus Köln: 你好，世界 🙂🏳️‍🌈 — \u0301 \u200b")),
    "spaces and lines": chat(("user", "  a\n\n\n\tb   c  \r\n ")),
    "parts": Call(model="contract", messages=(Message("user", (TextPart("one "), TextPart("two"))),)),
    "a long text": chat(("user", "The page is blank after I sign in. " * 40)),
}


class TokenCounterContract:
    """What whoever counts promises."""

    @pytest.fixture
    async def counted(self) -> CountedModel:
        """The model under test; a subclass says which."""
        pytest.fail("a subclass gives the counted model")

    @pytest.mark.parametrize("name", CALLS)
    async def test_the_count_is_the_usage(self, counted: CountedModel, name: str) -> None:
        """What is counted before is what the answer says was read, whole or streamed."""
        call = msgspec.structs.replace(CALLS[name], max_tokens=1, temperature=0.0)
        count = await counted.model.count_tokens(call)
        assert count is not None
        assert count > 0
        for streamed in (False, True):
            assert await prompt_read(counted, msgspec.structs.replace(call, stream=streamed)) == count

    async def test_control_tokens_are_text(self, counted: CountedModel) -> None:
        """What a caller writes like a control token is counted as the model reads it: as text."""
        for token in counted.control:
            call = chat(("user", f"a {token} b{token}{token}"), max_tokens=1)
            assert await counted.model.count_tokens(call) == await prompt_read(counted, call)

    async def test_only_the_prompt_counts(self, counted: CountedModel) -> None:
        """How it is to be answered, how long and how often, changes nothing; a longer text does."""
        call = CALLS["several turns"]
        count = await counted.model.count_tokens(call)
        assert count is not None
        for fields in ({"max_tokens": 7}, {"stream": True}, {"temperature": 0.1, "seed": 3}, {"n": 2}, {"stop": ("x",)}):
            assert await counted.model.count_tokens(msgspec.structs.replace(call, **fields)) == count
        longer = msgspec.structs.replace(call, messages=(*call.messages, Message("assistant", "Six."), Message("user", "Seven?")))
        more = await counted.model.count_tokens(longer)
        assert more is not None
        assert more > count

    async def test_counts_at_once(self, counted: CountedModel) -> None:
        """Each gets its own."""
        alone = [await counted.model.count_tokens(call) for call in CALLS.values()]
        together = await asyncio.gather(*(counted.model.count_tokens(call) for _ in range(4) for call in CALLS.values()))
        assert together == alone * 4

    async def test_counting_beside_answers(self, counted: CountedModel) -> None:
        """A model with every slot taken and more calls in line still counts, and the streams go on to their ends."""
        call = chat(("user", "Tell me about the weather."), max_tokens=200, stream=True)
        count = await counted.model.count_tokens(call)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(prompt_read(counted, call)) for _ in range(_BUSY)]
            assert [await counted.model.count_tokens(call) for _ in range(10)] == [count] * 10
        assert [task.result() for task in tasks] == [count] * _BUSY

    @pytest.mark.parametrize("turns", [0, 1, 2, 5])
    async def test_a_count_that_nobody_waits_for(self, counted: CountedModel, turns: int) -> None:
        """Cancelled at any time it leaves nothing behind: the next count is right."""
        count = await counted.model.count_tokens(CALLS["a word"])
        task = asyncio.get_running_loop().create_task(counted.model.count_tokens(CALLS["a long text"]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await counted.model.count_tokens(CALLS["a word"]) == count


async def prompt_read(counted: CountedModel, call: Call) -> int:
    """The tokens of the prompt as the answer tells them."""
    collector = Collector()
    async with asyncio.timeout(_PATIENCE), aclosing(await counted.model.answer(call, counted.target, ContractAttempt())) as events:
        async for event in events:
            collector.add(event)
    usage = collector.answer().usage
    assert usage is not None
    return usage.input_total
