"""Whole answers and token counts, both ways."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from gatehouse.core.calls import Call
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Choice
from gatehouse.core.usage import Usage
from gatehouse.dialects.openai import OpenAIDialect, decode_answer
from gatehouse.dialects.openai.usage import read_usage, write_usage
from tests.dialects.openai.strategies import json_values

GOLDEN = Path(__file__).parent / "golden" / "answers"
NAMES = ["default", "tools", "vllm_reasoning"]
DIALECT = OpenAIDialect()
CALL = Call(model="assistant")


def answer_with(**fields: Any) -> bytes:
    message = {"role": "assistant", "content": "hi"}
    return json.dumps(
        {"id": "c", "model": "m", "created": 1, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **fields}
    ).encode()


@pytest.mark.parametrize("name", NAMES)
def test_documented_answers_decode_to_golden_values(name: str) -> None:
    """Answers of the documentation and of servers that imitate it."""
    answer = decode_answer((GOLDEN / f"{name}.json").read_bytes())
    assert json.loads(msgspec.json.encode(answer)) | {"raw": ""} == json.loads((GOLDEN / f"{name}.core.json").read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_passes_as_its_own_bytes(name: str) -> None:
    """Unknown fields, order and spacing included."""
    body = (GOLDEN / f"{name}.json").read_bytes()
    assert DIALECT.encode_answer(decode_answer(body), CALL) == body


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_was_changed_is_written_as_golden_bytes(name: str) -> None:
    """From the value alone, in the API's shape."""
    answer = msgspec.structs.replace(decode_answer((GOLDEN / f"{name}.json").read_bytes()), raw=b"")
    body = DIALECT.encode_answer(answer, CALL)
    assert body == (GOLDEN / f"{name}.written.json").read_bytes()
    assert msgspec.structs.replace(decode_answer(body), raw=b"") == answer


@pytest.mark.parametrize("name", NAMES)
def test_the_official_client_reads_what_is_written(name: str) -> None:
    """Validated by the openai package's own types."""
    read = ChatCompletion.model_validate_json((GOLDEN / f"{name}.written.json").read_bytes(), strict=True)
    assert read.choices[0].message.role == "assistant"


def test_an_answer_of_another_dialect_is_written_in_ours() -> None:
    """Its bytes are never passed, and the model is what the caller asked for when nobody named one."""
    body = json.loads(DIALECT.encode_answer(Answer((Choice(0, "hi"),), raw=b"{}", dialect="anthropic"), CALL))
    assert body["model"] == "assistant"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "hi", "refusal": None}
    assert "usage" not in body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>secret-host</html>",
        b"null",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[{"index":0}]}',
        b'{"choices":[{"message":"secret-host"}]}',
        b"\xff\xfe",
        b"[" * 99_999,
    ],
    ids=lambda body: str(body)[:30],
)
def test_what_is_no_answer_fails_without_quoting_it(body: bytes) -> None:
    """HTML, emptiness, other JSON: 502 to the caller, and nothing of the body."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_answer(body)
    assert caught.value.code == "upstream_invalid"
    assert "secret" not in caught.value.message + caught.value.detail


def test_an_error_dressed_as_an_answer_is_an_error() -> None:
    """Some gateways answer 200 with an error object."""
    with pytest.raises(UpstreamFailed) as caught:
        decode_answer(b'{"error":{"message":"secret-host is down","code":503}}')
    assert caught.value.code == "upstream_overloaded"
    assert "secret" not in caught.value.message


@given(json_values)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_gives_an_answer_or_a_failure(value: Any) -> None:
    """Nothing else is raised, whatever a target sends."""
    for body in (msgspec.json.encode(value), answer_with(choices=value), answer_with(usage=value), answer_with(error=value)):
        try:
            answer = decode_answer(body)
        except UpstreamFailed:
            continue
        assert DIALECT.encode_answer(answer, CALL)


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": -5, "completion_tokens": 1}, {"prompt_tokens": 10**12}, {"prompt_tokens": 0, "completion_tokens": 0}, "x"]
)
def test_absurd_usage_is_cut_out_of_an_answer(usage: Any) -> None:
    """So that whoever accounts counts for itself, and the client sees no false count."""
    answer = decode_answer(answer_with(usage=usage, vendor=1))
    assert answer.usage is None
    sent = json.loads(DIALECT.encode_answer(answer, CALL))
    assert "usage" not in sent
    assert sent["vendor"] == 1


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}, Usage(input=9, output=12)),
        ({"prompt_tokens": 9, "completion_tokens": 12}, Usage(input=9, output=12)),
        ({"prompt_tokens": 9, "completion_tokens": None, "total_tokens": 9}, Usage(input=9)),
        (
            {"prompt_tokens": 2006, "completion_tokens": 300, "total_tokens": 2306, "prompt_tokens_details": {"cached_tokens": 1920}},
            Usage(input=86, cached_input=1920, output=300),
        ),
        (
            {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30}},
            Usage(10, 60, 30, 5),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2},
            Usage(input=2, cached_input=8, output=5),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 40}},
            Usage(input=10, output=10, reasoning=40),
        ),
        (
            {
                "prompt_tokens": 30,
                "completion_tokens": 50,
                "prompt_tokens_details": {"audio_tokens": 20},
                "completion_tokens_details": {"audio_tokens": 45},
            },
            Usage(input=10, output=5, audio_input=20, audio_output=45),
        ),
        # audio that was cached is booked once
        (
            {"prompt_tokens": 30, "completion_tokens": 1, "prompt_tokens_details": {"audio_tokens": 20, "cached_tokens": 25}},
            Usage(cached_input=10, output=1, audio_input=20),
        ),
        # reasoning beside the completion (xAI), and only inside the total (Gemini)
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 45, "completion_tokens_details": {"reasoning_tokens": 30}},
            Usage(input=10, output=5, reasoning=30),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 45}, Usage(input=10, output=5, reasoning=30)),
    ],
    ids=lambda value: str(value)[:60],
)
def test_overlapping_counts_become_disjoint_buckets(said: dict[str, Any], usage: Usage) -> None:
    """Each token in exactly one bucket, and the buckets sum to the provider's total."""
    found = read_usage(json.dumps(said).encode())
    assert found == usage
    assert usage.total == said.get("total_tokens", said["prompt_tokens"] + (said["completion_tokens"] or 0))


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 10**12},
        {"prompt_tokens": 10**400, "completion_tokens": 1},
        {"prompt_tokens": "9", "completion_tokens": 1},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 20},
        {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 10}},
        {"prompt_tokens": 9, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 2}},
        {"prompt_tokens": 9, "completion_tokens": 1, "completion_tokens_details": {"audio_tokens": 2}},
    ],
    ids=str,
)
def test_absurd_counts_are_no_counts(said: dict[str, Any]) -> None:
    """Negative, far too large, or contradicting themselves."""
    assert read_usage(json.dumps(said).encode()) is None


counts = st.integers(-2, 60)


@given(counts, counts, st.none() | counts, counts, counts, counts, counts, counts)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_buckets_are_never_negative_and_always_sum_up(
    prompt: int, completion: int, total: int | None, cached: int, written: int, audio_in: int, reasoning: int, audio_out: int
) -> None:
    """Whatever a target claims: no bucket below zero, nothing lost, nothing twice."""
    said = {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written, "audio_tokens": audio_in},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": audio_out},
    }  # fmt: skip
    usage = read_usage(json.dumps(said).encode())
    if usage is not None:
        assert min(msgspec.structs.astuple(usage)) >= 0
        assert usage.input_total == prompt
        assert usage.total == (total or prompt + completion)


@given(st.builds(Usage, *[st.integers(0, 10**6)] * 7).filter(lambda usage: usage.total > 0))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_counts_survive_being_written_and_read(usage: Usage) -> None:
    """Core to OpenAI's overlap and back."""
    assert read_usage(json.dumps(write_usage(usage)).encode()) == usage
