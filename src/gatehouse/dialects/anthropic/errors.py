"""Errors, both ways: the one table from core's kinds to Anthropic's shape, and what a target's error means to us.

Types and statuses are those of https://platform.claude.com/docs/en/api/errors. Inside a stream only the type is told, so
there the type stands for the status it comes with elsewhere.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gatehouse.core.errors import GatehouseError, UpstreamFailed
from gatehouse.dialects._failures import failure

_TABLE: Final[dict[str, tuple[int, str]]] = {
    # kind: status, type
    "invalid_request": (400, "invalid_request_error"),
    "context_length_exceeded": (400, "invalid_request_error"),
    "too_large": (413, "request_too_large"),
    "unauthenticated": (401, "authentication_error"),
    "forbidden": (403, "permission_error"),
    "not_found": (404, "not_found_error"),
    "blocked": (400, "invalid_request_error"),
    "limit_exceeded": (429, "rate_limit_error"),
    "timeout": (408, "timeout_error"),
    "unavailable": (503, "api_error"),
    "upstream_failed": (502, "api_error"),
    "internal": (500, "api_error"),
}
_UPSTREAM: Final = {
    "upstream_timeout": (504, "timeout_error"),
    "upstream_unreachable": (503, "api_error"),
    "upstream_overloaded": (529, "overloaded_error"),
}
"""What was too slow, what waiting may heal; all else is 502."""
_STATUS: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 403,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status an error's type stands for. Billing is between the target and us, like a key it does not take."""


def describe(error: GatehouseError, request_id: str) -> tuple[int, dict[str, Any]]:
    """Status and body for `error`."""
    status, kind = _TABLE.get(error.kind, _TABLE["internal"])
    if isinstance(error, UpstreamFailed):
        status, kind = _UPSTREAM.get(error.code, (status, kind))
        if error.caller_fault:
            status, kind = _TABLE["too_large" if error.too_large else "invalid_request"]
    elif error.kind == "unavailable" and error.retry_after is not None:
        # What waiting heals; a configuration that cannot serve is no overload.
        status, kind = _UPSTREAM["upstream_overloaded"]
    # Half a surrogate pair, as bytes of a header may become, must not stop an error from being told.
    message = error.message.encode("utf-8", "backslashreplace").decode()
    return status, {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


class _ErrorObject(msgspec.Struct, gc=False):
    message: Any = None
    type: Any = None


class _ErrorBody(msgspec.Struct, gc=False):
    error: _ErrorObject | None = None


def decode_error(status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamFailed:
    """What a target's error answer means: whose fault, whether waiting helps, what the caller may be told.

    `headers` have lower-case names. A 404 is the configuration's fault (a model or an address that is not there), a 402 that of
    whoever pays the target: neither is the caller's.
    """
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error or _ErrorObject()
    except (ValueError, RecursionError):
        error = _ErrorObject()
    return _failed(status, headers, error)


def error_in_answer(raw: bytes | msgspec.Raw) -> UpstreamFailed:
    """What an error object inside a 200 answer or stream means."""
    try:
        error = msgspec.json.decode(raw, type=_ErrorObject)
    except (ValueError, RecursionError):
        error = _ErrorObject()
    status = _STATUS.get(error.type, 500) if isinstance(error.type, str) else 500
    return _failed(status, {}, error)


def _failed(status: int, headers: Mapping[bytes, bytes], error: _ErrorObject) -> UpstreamFailed:
    return failure(403 if status == 402 else status, headers, error.message, (error.type,))
