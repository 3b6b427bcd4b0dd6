"""What Bedrock's errors mean: the exception's name decides before the status, and the detail says what to do."""

import json

import pytest

from gatehouse.dialects.bedrock import decode_error
from gatehouse.testing.made_secrets import SecretMaker


def error_of(name: str, message: str, status: int) -> tuple[dict[bytes, bytes], bytes]:
    return {b"x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/".encode()}, json.dumps({"message": message}).encode()


@pytest.mark.parametrize(
    ("status", "name", "code", "fault"),
    [
        (400, "ValidationException", "upstream_rejected", True),
        (403, "AccessDeniedException", "upstream_auth", False),
        (403, "UnrecognizedClientException", "upstream_auth", False),
        (403, "InvalidSignatureException", "upstream_auth", False),
        (400, "InvalidSignatureException", "upstream_auth", False),
        (403, "ExpiredTokenException", "upstream_auth", False),
        (400, "ExpiredTokenException", "upstream_auth", False),
        (400, "ServiceQuotaExceededException", "upstream_overloaded", False),
        (429, "ThrottlingException", "upstream_overloaded", False),
        (429, "ModelNotReadyException", "upstream_overloaded", False),
        (408, "ModelTimeoutException", "upstream_timeout", False),
        (424, "ModelErrorException", "upstream_rejected", False),
        (404, "ResourceNotFoundException", "upstream_rejected", False),
        (500, "InternalServerException", "upstream_rejected", False),
        (503, "ServiceUnavailableException", "upstream_overloaded", False),
        (418, "TeapotException", "upstream_rejected", False),
    ],
)
def test_whose_fault_it_is(status: int, name: str, code: str, fault: bool) -> None:
    """Only a refusal of the request itself is the caller's; its message is then what AWS said."""
    error = decode_error(status, *error_of(name, "temperature must be at most 1", status))
    assert (error.code, error.caller_fault) == (code, fault)
    assert ("temperature" in error.message) is fault
    assert name in error.detail


@pytest.mark.parametrize(
    "message",
    [
        "The provided model identifier is invalid.",
        "Invocation of model ID anthropic.claude-sonnet-4-5 with on-demand throughput isn't supported. Retry your request with the ID or "
        "ARN of an inference profile that contains this model.",
    ],
)
def test_a_wrong_model_id_is_the_operators_fault(message: str) -> None:
    """AWS calls it a validation error; the caller chose no model id."""
    error = decode_error(400, *error_of("ValidationException", message, 400))
    assert not error.caller_fault
    assert "targets[].model" in error.detail
    assert "claude" not in error.message


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "Signature expired: 20250130T203827Z is now earlier than 20250130T204131Z (20250130T204631Z - 5 min.)",
            "differs from AWS's by about 8 minutes (behind)",
        ),
        (
            "Signature not yet current: 20250130T215631Z is still later than 20250130T205131Z (20250130T204631Z + 5 min.)",
            "differs from AWS's by about 70 minutes (ahead)",
        ),
        ("Signature expired", "differs from AWS's, which accepts five minutes"),
        ("Signature expired: 99999999T999999Z", "differs from AWS's, which accepts five minutes"),
    ],
)
def test_a_wrong_clock_is_told_with_what_to_do(message: str, said: str) -> None:
    """How far apart the clocks are, and that ours is to be set; callers hear nothing of it."""
    error = decode_error(403, *error_of("InvalidSignatureException", message, 403))
    assert said in error.detail
    assert "NTP" in error.detail
    assert "clock" not in error.message


def test_an_expired_token_and_a_wrong_key_are_told_apart() -> None:
    """Each with what to do."""
    expired = decode_error(400, *error_of("ExpiredTokenException", "The security token included in the request is expired", 400))
    assert "session token has expired" in expired.detail
    wrong = decode_error(403, *error_of("InvalidSignatureException", "The request signature we calculated does not match", 403))
    assert "secret access key" in wrong.detail
    assert "clock" not in wrong.detail


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"message":5}', b'"x"', b'{"Message":"said otherwise"}', b"[" * 50_000])
def test_bodies_of_any_kind(body: bytes) -> None:
    """Proxies in between answer in their own way."""
    error = decode_error(400, {}, body)
    assert error.caller_fault
    assert error.message.startswith("The model refused the request")


def test_the_exception_may_stand_in_the_body() -> None:
    """Older services name it there."""
    assert decode_error(400, {}, b'{"__type":"com.amazon.coral.service#ThrottlingException","message":"x"}').code == "upstream_overloaded"


def test_keys_in_messages_are_not_repeated() -> None:
    """Whatever AWS quotes."""
    for _, key in SecretMaker().all()["aws-access-key"]:
        error = decode_error(400, *error_of("ValidationException", f"no {key} here", 400))
        assert key not in error.message
