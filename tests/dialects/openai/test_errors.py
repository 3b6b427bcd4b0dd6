"""The one table of errors, both ways."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.core.calls import Call
from gatehouse.core.errors import (
    Blocked,
    ContextTooLong,
    Forbidden,
    GatehouseError,
    Internal,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Timeout,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)
from gatehouse.dialects.openai import OpenAIDialect, decode_error

DIALECT = OpenAIDialect()
BODY = b'{"error":{"message":"secret-host says sk-abcdef1234567890","type":"server_error","param":null,"code":"oops"}}'


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (InvalidRequest("m", param="n"), 400, "invalid_request_error", "invalid_request"),
        (InvalidRequest("m", code="unknown_field"), 400, "invalid_request_error", "unknown_field"),
        (ContextTooLong("m"), 400, "invalid_request_error", "context_length_exceeded"),
        (TooLarge("m"), 413, "invalid_request_error", "too_large"),
        (Unauthenticated("m"), 401, "authentication_error", "invalid_api_key"),
        (Forbidden("m"), 403, "permission_error", "permission_denied"),
        (NotFound("m"), 404, "invalid_request_error", "not_found"),
        (NotFound("m", code="model_not_found"), 404, "invalid_request_error", "model_not_found"),
        (Blocked("m", code="secrets.aws"), 400, "invalid_request_error", "secrets.aws"),
        (LimitExceeded("m", code="rate_limit_exceeded"), 429, "rate_limit_error", "rate_limit_exceeded"),
        (LimitExceeded("m", code="insufficient_quota"), 429, "insufficient_quota", "insufficient_quota"),
        (Timeout("m"), 408, "timeout_error", "request_timeout"),
        (Unavailable("m"), 503, "server_error", "service_unavailable"),
        (UpstreamFailed("m", code="upstream_invalid"), 502, "upstream_error", "upstream_invalid"),
        (UpstreamFailed("m", code="upstream_auth"), 502, "upstream_error", "upstream_auth"),
        (UpstreamFailed("m", code="upstream_broken"), 502, "upstream_error", "upstream_broken"),
        (UpstreamFailed("m", code="upstream_timeout"), 504, "upstream_error", "upstream_timeout"),
        (UpstreamFailed("m", code="upstream_unreachable"), 503, "upstream_error", "upstream_unreachable"),
        (UpstreamFailed("m", code="upstream_overloaded"), 503, "upstream_error", "upstream_overloaded"),
        (UpstreamFailed("m", code="upstream_rejected", caller_fault=True), 400, "invalid_request_error", "upstream_rejected"),
        (
            UpstreamFailed("m", code="upstream_rejected", caller_fault=True, too_large=True),
            413,
            "invalid_request_error",
            "upstream_rejected",
        ),
        (Internal("m"), 500, "server_error", "internal_error"),
        (GatehouseError("m"), 500, "server_error", "internal_error"),
    ],
    ids=lambda value: getattr(value, "code", None) or str(value),
)
def test_each_kind_has_one_status_type_and_code(error: GatehouseError, status: int, kind: str, code: str) -> None:
    """In OpenAI's shape, with the request id; the same object ends a broken stream."""
    error.detail = "only for operators"
    found, body = DIALECT.encode_error(error, "req_1")
    told = {"error": {"message": "m", "type": kind, "param": error.param, "code": code, "request_id": "req_1"}}
    assert (found, json.loads(body)) == (status, told)
    frame = DIALECT.open_stream(Call(model="m"), "req_1").error(error)
    assert frame.startswith(b"data: ")
    assert frame.endswith(b"\n\n")
    assert json.loads(frame[6:]) == told


def test_any_text_can_be_told() -> None:
    """Half a surrogate pair, as the bytes of a header may become, is spelled out."""
    _, body = DIALECT.encode_error(NotFound("no model \udcff", param="a\ud800"), "req_1")
    assert json.loads(body)["error"]["message"] == "no model \\udcff"


def every(kind: type[GatehouseError]) -> set[str]:
    return {kind.kind}.union(*[every(below) for below in kind.__subclasses__()])


def test_no_kind_is_forgotten() -> None:
    """A kind added to the tree without a row would be told as an internal error."""
    from gatehouse.dialects.openai.errors import _TABLE

    assert every(GatehouseError) == set(_TABLE)


@pytest.mark.parametrize(
    ("status", "code", "caller"),
    [
        (400, "upstream_rejected", True),
        (413, "upstream_rejected", True),
        (422, "upstream_rejected", True),
        (404, "upstream_rejected", False),
        (401, "upstream_auth", False),
        (403, "upstream_auth", False),
        (408, "upstream_timeout", False),
        (429, "upstream_overloaded", False),
        (500, "upstream_rejected", False),
        (502, "upstream_rejected", False),
        (503, "upstream_overloaded", False),
        (504, "upstream_timeout", False),
        (529, "upstream_overloaded", False),
        (302, "upstream_rejected", False),
        (402, "upstream_rejected", False),
    ],
)
def test_a_targets_status_says_whose_fault_it_is(status: int, code: str, caller: bool) -> None:
    """And what it said stays with it, save a refusal of the caller's own request, without what looks like a key."""
    failure = decode_error(status, {}, BODY)
    assert (failure.code, failure.caller_fault) == (code, caller)
    assert f"status {status}" in failure.detail
    assert "sk-abc" not in failure.message + failure.detail
    assert ("secret-host" in failure.message) is (status in {400, 413, 422})
    assert "secret-host" not in failure.detail


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"The model x does not exist","code":"model_not_found"}}',
        b"<html>",
        b"",
        b'{"error":{"message":"m","code":"DeploymentNotFound"}}',
        b'{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","param":null,"code":404}',
        b'{"error":{"message":"model \'x\' not found, try pulling it first","type":"api_error","param":null,"code":null}}',
        b'{"error":{"message":"/models/x.gguf: No such file or directory","code":404,"type":"not_found_error"}}',
        b'{"detail":"Not Found"}',
        b'{"error":"x"}',
    ],
)
def test_what_is_missing_is_the_configurations_fault(body: bytes) -> None:
    """Another target may have it; the caller chose neither name nor path. OpenAI, a proxy, Azure, vLLM, Ollama, llama-server, FastAPI."""
    failure = decode_error(404, {}, body)
    assert (failure.caller_fault, failure.final) == (False, False)
    assert failure.message == "The model failed to answer."


@pytest.mark.parametrize(
    "error",
    [
        {"message": "No such File object: file-abc123"},
        {"message": "not here", "param": "messages[0].content[0].file.file_id"},
        {"message": "not here", "code": "file_not_found"},
    ],
)
def test_a_missing_file_is_the_callers_fault(error: dict[str, str]) -> None:
    """He named it, and no other target will have it."""
    failure = decode_error(404, {}, json.dumps({"error": error}).encode())
    assert (failure.caller_fault, failure.final) == (True, True)
    assert "abc123" not in failure.message


@pytest.mark.parametrize(
    ("fields", "callers"),
    [
        ({"code": "model_decommissioned"}, False),
        ({"code": "invalid_model"}, False),
        ({"code": "model_not_found"}, False),
        ({"param": "model"}, False),
        ({"code": "context_length_exceeded", "param": "messages"}, True),
        ({"code": "invalid_value", "param": "temperature"}, True),
        ({"code": "model_output_too_long"}, True),
        ({"code": 400}, True),
    ],
)
def test_a_refusal_of_the_model_is_no_refusal_of_the_call(fields: dict[str, Any], callers: bool) -> None:
    """Some servers say 400 where the model is not theirs any more: the caller cannot help it."""
    assert decode_error(400, {}, json.dumps({"error": {"message": "m", **fields}}).encode()).caller_fault == callers


def test_what_is_too_large_for_one_target_is_told_as_that() -> None:
    """It is the caller's to make it smaller, though another target may take it as it is; a bound of tokens a minute is none of a size."""
    failure = decode_error(413, {}, b"<html>413 Request Entity Too Large</html>")
    assert (failure.caller_fault, failure.too_large, failure.final) == (True, True, False)
    assert DIALECT.encode_error(failure, "req_1")[0] == 413
    limited = decode_error(413, {}, b'{"error":{"message":"tokens per minute","type":"tokens","code":"rate_limit_exceeded"}}')
    assert (limited.code, limited.caller_fault) == ("upstream_overloaded", False)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"temperature is too hot"}}',
        b'{"error":"temperature is too hot"}',
        b'{"object":"error","message":"temperature is too hot","code":400}',
        b'{"detail":"temperature is too hot"}',
    ],
)
def test_a_refusals_words_are_found_where_servers_put_them(body: bytes) -> None:
    """OpenAI, Ollama, older vLLM, FastAPI."""
    assert decode_error(400, {}, body).message == "The model refused the request: temperature is too hot"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>secret-host</html>", b'{"detail":[{"loc":["secret-host"]}]}', b'{"error":{"message":{"a":1}}}', b"[" * 100_000, b"\xff"],
)
def test_a_refusal_without_words_says_its_status(body: bytes) -> None:
    """Nothing else of the body is quoted."""
    assert decode_error(400, {}, body).message == "The model refused the request (400 Bad Request)."


@given(st.text())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_refusals_words_are_bounded_and_printable(said: str) -> None:
    """One line, less than a kilobyte, whatever the target wrote."""
    failure = decode_error(400, {}, json.dumps({"error": {"message": said}}).encode())
    assert failure.message.isprintable()
    assert len(failure.message) < 500


@pytest.mark.parametrize("secret", ["sk-proj-abcdef123456", "Bearer abcdef.ghi", "gh_live_ab12cd34_secret", "key-0123456789"])
def test_a_refusals_words_hold_no_credential(secret: str) -> None:
    """Some servers quote the key they were given."""
    failure = decode_error(400, {}, json.dumps({"error": {"message": f"Incorrect API key provided: {secret}. See docs"}}).encode())
    assert secret not in failure.message
    assert "***" in failure.message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after": b"20"}, 20.0),
        ({b"retry-after": b"0"}, 0.0),
        ({b"retry-after": b"1.5"}, 1.5),
        ({b"retry-after": b"1000000000"}, 300.0),
        ({b"retry-after": b"9" * 400}, None),
        ({b"retry-after": b"-5"}, None),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"1e9"}, None),
        ({b"retry-after": b"nan"}, None),
        ({b"retry-after": "٣".encode()}, None),
        ({b"retry-after-ms": b"250", b"retry-after": b"1"}, 0.25),
        ({b"retry-after": b"Wed, 21 Oct 2026 07:28:30 GMT", b"date": b"Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({b"retry-after": b"Wed, 21 Oct 2026 07:28:00 GMT", b"date": b"Wed, 21 Oct 2026 07:28:30 GMT"}, 0.0),
        ({b"retry-after": b"Wed, 21 Oct 2099 07:28:00 GMT", b"date": b"Wed, 21 Oct 2026 07:28:30 GMT"}, 300.0),
        ({b"retry-after": b"Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({b"retry-after": b"Wed, 99 Oct 2026 07:28:30 GMT", b"date": b"x"}, None),
    ],
    ids=str,
)
def test_retry_after_in_every_form(headers: dict[bytes, bytes], seconds: float | None) -> None:
    """Seconds, milliseconds, a date against the answer's own date, garbage, and far too much."""
    assert decode_error(429, headers, b"").retry_after == seconds


@given(
    st.integers(300, 599),
    st.dictionaries(st.sampled_from([b"retry-after", b"retry-after-ms", b"date"]), st.binary(max_size=40)),
    st.binary(max_size=80),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_error_answer_is_one_failure(status: int, headers: dict[bytes, bytes], body: bytes) -> None:
    """Nothing else is raised, whatever comes."""
    failure = decode_error(status, headers, body)
    assert failure.retry_after is None or 0 <= failure.retry_after <= 300
