"""A stream of one event behaves like a generator that yields once."""

import pytest

from gatehouse.core.events import Answer, Choice
from gatehouse.core.single import Single

ANSWER = Answer((Choice(text="Hi"),))


async def test_it_yields_once() -> None:
    """One event, then the end, again and again."""
    stream = Single(ANSWER)
    assert [event async for event in stream] == [ANSWER]
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert await Single(ANSWER).asend(None) is ANSWER


async def test_closed_is_ended() -> None:
    """Closing before the event was taken ends it; closing twice is nothing."""
    stream = Single(ANSWER)
    await stream.aclose()
    await stream.aclose()
    assert [event async for event in stream] == []


async def test_thrown_into_it_raises() -> None:
    """As a generator that catches nothing."""
    stream = Single(ANSWER)
    with pytest.raises(KeyError):
        await stream.athrow(KeyError("x"))
    assert [event async for event in stream] == []
