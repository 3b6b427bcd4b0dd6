"""What providers count, as they write it, and what is booked: disjoint buckets that sum to the provider's own total.

`usage.json` has a case for each provider and kind of token it tells apart, with its source. Cohere's total is what it bills.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatehouse.core.collect import Collector
from gatehouse.core.usage import Usage
from gatehouse.dialects.openai.profiles import HOSTED, SERVERS
from tests.pairs import stories
from tests.pairs.clients import CLIENTS
from tests.pairs.stories import FORMATS, Story
from tests.pairs.test_pairs import read_events, written_stream, written_whole

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "usage.json").read_bytes())
NAMES = [f"{case['provider']}, {case['case']}" for case in CASES]
STORY = Story(texts=("Hello ", "there."))


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_buckets_sum_to_the_providers_total(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole or streamed, each token is in exactly one bucket, and in the one it is paid as."""
    monkeypatch.setitem(stories.USAGE, case["format"], case["usage"])
    form = FORMATS[case["format"]]
    collector = Collector()
    for event in read_events(form, form.stream(STORY), []):
        collector.add(event)
    for answer in (form.decode(form.whole(STORY)), collector.answer()):
        assert answer.usage == Usage(**case["buckets"])
        assert answer.usage.total == case["total"] == sum(msgspec.structs.astuple(answer.usage))


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_caller_is_told_the_same_total(case: dict[str, Any], client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of the caller's API, whatever the provider's are."""
    monkeypatch.setitem(stories.USAGE, case["format"], case["usage"])
    form = FORMATS[case["format"]]
    assert client.stream(written_stream(client, read_events(form, form.stream(STORY), []))).tokens == case["total"]
    assert client.whole(written_whole(client, form.decode(form.whole(STORY)))).tokens == case["total"]


def test_every_provider_has_a_case() -> None:
    """Each kind, and each server with a profile; with a source that can be looked up."""
    assert {case["provider"] for case in CASES} == {*SERVERS, *HOSTED, "anthropic", "gemini", "cohere", "bedrock"}
    assert all(case["source"].startswith("https://") and case["figures"] for case in CASES)


def test_the_stories_count_alike() -> None:
    """Unless told otherwise, every format's story is of 50 tokens."""
    assert {form.decode(form.whole(STORY)).usage.total for form in FORMATS.values()} == {50}
