"""Formats that give no time and no id: whoever's format needs them gets both."""

import time

from gatehouse.adapters.providers.frame import _dated
from gatehouse.core.events import Answer, Chunk


def test_an_answer_without_a_time_gets_one() -> None:
    """The time it came, and the request's id where it has none."""
    before = int(time.time())
    event = _dated(Answer((), dialect="bedrock"), "req_1")
    assert before <= event.created <= int(time.time())
    assert event.id == "req_1"


def test_a_stream_has_one_time_and_keeps_its_ids() -> None:
    """Every piece says the same time."""
    assert _dated(Chunk(id="msg_1", dialect="anthropic"), "req_1", 7) == Chunk(id="msg_1", created=7, dialect="anthropic")


def test_what_has_a_time_or_is_in_openais_words_stays_as_it_came() -> None:
    """Nothing is made anew for nothing."""
    for event in (Answer((), created=5, dialect="cohere"), Answer((), dialect="openai"), Chunk(dialect="openai-completions")):
        assert _dated(event, "req_1", 9) is event
