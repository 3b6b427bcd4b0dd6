"""Whose fault an error of Gemini's is. Shapes as in https://ai.google.dev/gemini-api/docs/troubleshooting and
https://cloud.google.com/apis/design/errors."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.errors import UpstreamFailed
from gatehouse.dialects.gemini import decode_error

BAD_KEY = {
    "code": 400,
    "message": "API key not valid. Please pass a valid API key.",
    "status": "INVALID_ARGUMENT",
    "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}],
}


def error(status: int, word: str) -> UpstreamFailed:
    said = {"code": status, "message": "secret-host says no", "status": word}
    return decode_error(status, {}, json.dumps({"error": said}).encode())


@pytest.mark.parametrize(
    ("status", "word", "code", "callers"),
    [
        (400, "INVALID_ARGUMENT", "upstream_rejected", True),
        (400, "FAILED_PRECONDITION", "upstream_auth", False),
        (401, "UNAUTHENTICATED", "upstream_auth", False),
        (403, "PERMISSION_DENIED", "upstream_auth", False),
        (404, "NOT_FOUND", "upstream_rejected", False),
        (429, "RESOURCE_EXHAUSTED", "upstream_overloaded", False),
        (499, "CANCELLED", "upstream_rejected", False),
        (500, "INTERNAL", "upstream_rejected", False),
        (503, "UNAVAILABLE", "upstream_overloaded", False),
        (504, "DEADLINE_EXCEEDED", "upstream_timeout", False),
    ],
)
def test_whose_fault_it_is(status: int, word: str, code: str, callers: bool) -> None:
    """What the provider says reaches the caller only when it is about the caller's own request."""
    failed = error(status, word)
    assert (failed.code, failed.caller_fault) == (code, callers)
    assert ("secret-host" in failed.message) == callers
    assert word in failed.detail


def test_a_refused_key_is_ours_though_it_is_a_400() -> None:
    """The caller cannot mend it and is not told of it."""
    failed = decode_error(400, {}, json.dumps({"error": BAD_KEY}).encode())
    assert (failed.code, failed.caller_fault) == ("upstream_auth", False)
    assert "key" not in failed.message


@pytest.mark.parametrize(
    ("delay", "wait"), [("34s", 34.0), ("34.074824224s", 34.074824224), ("99999s", 300.0), ("soon", None), (5, None), ("-1s", None)]
)
def test_a_wait_that_stands_in_the_body(delay: Any, wait: float | None) -> None:
    """`RetryInfo`, bounded; a header goes before it."""
    details = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure"},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
    ]
    body = json.dumps({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}}).encode()
    assert decode_error(429, {}, body).retry_after == wait
    assert decode_error(429, {b"retry-after": b"2"}, body).retry_after == 2.0


def test_an_error_in_an_array_is_read() -> None:
    """As streams write it that are not asked for events."""
    assert decode_error(400, {}, json.dumps([{"error": BAD_KEY}]).encode()).code == "upstream_auth"


@given(
    st.sampled_from([400, 403, 429, 500]),
    st.binary(max_size=80) | st.sampled_from([b"[]", b"{}", b"[[]]", b'{"error":3}', b'{"error":{"details":[3]}}']),
)
def test_no_body_is_a_fault_of_ours(status: int, body: bytes) -> None:
    """HTML, nothing, something else: the status decides."""
    assert isinstance(decode_error(status, {}, body), UpstreamFailed)
