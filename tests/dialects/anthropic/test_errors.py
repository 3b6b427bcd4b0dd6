"""Errors both ways: what a target's mean, and the shapes of ours."""

import json
from typing import Any

import pytest

from gatehouse.dialects.anthropic import decode_error

HEADERS = {b"retry-after": b"7"}


def body(kind: str, message: Any = "Number of request tokens has exceeded your limit") -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}).encode()


@pytest.mark.parametrize(
    ("status", "kind", "code", "caller", "retry"),
    [
        (400, "invalid_request_error", "upstream_rejected", True, None),
        (401, "authentication_error", "upstream_auth", False, None),
        (402, "billing_error", "upstream_auth", False, None),
        (403, "permission_error", "upstream_auth", False, None),
        (404, "not_found_error", "upstream_rejected", False, 7.0),
        (413, "request_too_large", "upstream_rejected", True, None),
        (429, "rate_limit_error", "upstream_overloaded", False, 7.0),
        (500, "api_error", "upstream_rejected", False, 7.0),
        (504, "timeout_error", "upstream_timeout", False, 7.0),
        (529, "overloaded_error", "upstream_overloaded", False, 7.0),
    ],
)
def test_documented_errors(status: int, kind: str, code: str, caller: bool, retry: float | None) -> None:
    """Each of https://platform.claude.com/docs/en/api/errors: whose fault, and when to come back."""
    error = decode_error(status, HEADERS, body(kind))
    assert (error.code, error.caller_fault, error.retry_after) == (code, caller, retry)
    assert error.detail == f"status {403 if status == 402 else status}, {kind}"
    assert ("has exceeded" in error.message) == caller


@pytest.mark.parametrize("content", [b"", b"<html>", b"{}", b'{"error":"text"}', b'{"error":null}', b'{"error":{"message":[1],"type":{}}}'])
def test_an_error_in_any_shape_is_understood(content: bytes) -> None:
    """The status tells enough."""
    assert decode_error(529, {}, content).code == "upstream_overloaded"
    assert decode_error(400, {}, content).caller_fault


def test_a_credential_in_a_message_is_not_told() -> None:
    """Some servers quote the key they refuse."""
    assert "sk-ant" not in decode_error(400, {}, body("invalid_request_error", "bad key sk-ant-api03-abcdef")).message
