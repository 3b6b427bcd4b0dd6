"""What an error of Gemini's means (`google.rpc.Status`): a key that is refused with a 400, waits that stand in the body.

`{"error": {"code": 429, "message": ..., "status": "RESOURCE_EXHAUSTED", "details": [{"@type": ...RetryInfo, "retryDelay": "34s"}]}}`;
some streams wrap it in an array.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gatehouse.core.errors import UpstreamFailed
from gatehouse.dialects._failures import MAX_RETRY_AFTER, failure

_DELAY: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
_KEY_REASONS: Final = frozenset({"API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED", "ACCOUNT_STATE_INVALID"})
_HTTP: Final = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class _Status(msgspec.Struct, gc=False):
    code: Any = None
    message: Any = None
    status: Any = None
    details: Any = None


class _Body(msgspec.Struct, gc=False):
    error: _Status | str | None = None


def decode_error(status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamFailed:
    """What an error answer means: whose fault, whether waiting helps, what the caller may be told.

    A refused key is a 400 here and yet ours, as is a precondition (a region, billing) that is ours to meet.
    """
    error = _read(body)
    details = [detail for detail in error.details if isinstance(detail, dict)] if isinstance(error.details, list) else []
    reasons = [detail["reason"] for detail in details if isinstance(detail.get("reason"), str)]
    if status == 400 and not _KEY_REASONS.isdisjoint(reasons):
        status = 401
    failed = failure(status, headers, error.message, (error.status, *reasons))
    if error.status == "FAILED_PRECONDITION" and failed.caller_fault:
        failed = UpstreamFailed("The model is not available: its provider refused us.", code="upstream_auth", detail=failed.detail)
    delays = [_seconds(detail.get("retryDelay")) for detail in details]
    wait = next((delay for delay in delays if delay is not None), None)
    if wait is not None and failed.code == "upstream_overloaded" and failed.retry_after is None:
        failed.retry_after = min(wait, MAX_RETRY_AFTER)
    return failed


def error_in_answer(raw: bytes | msgspec.Raw) -> UpstreamFailed:
    """What an error object inside a 200 answer or stream means."""
    body = b'{"error":%s}' % bytes(raw)
    error = _read(body)
    status = error.code if isinstance(error.code, int) and 400 <= error.code < 600 else 500
    if status == 500 and isinstance(error.status, str):
        status = _HTTP.get(error.status, 500)
    return decode_error(status, {}, body)


def _read(body: bytes) -> _Status:
    try:
        found = msgspec.json.decode(body, type=_Body | list[_Body])
    except (ValueError, RecursionError):
        return _Status()
    if isinstance(found, list):
        found = found[0] if found else _Body()
    if isinstance(found.error, str):
        return _Status(message=found.error)
    return found.error or _Status()


def _seconds(delay: object) -> float | None:
    match = _DELAY.fullmatch(delay) if isinstance(delay, str) else None
    return float(match[1]) if match is not None else None
