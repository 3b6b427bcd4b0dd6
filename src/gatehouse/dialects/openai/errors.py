"""Errors, both ways: the one table from core's kinds to OpenAI's shape, and what a target's error means to us.

Nothing a target says in an error reaches a caller, save the message of a refusal of the caller's own request, shortened
and without what looks like a credential.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import msgspec

from gatehouse.core.errors import GatehouseError, UpstreamFailed

MAX_RETRY_AFTER: Final = 300.0
"""Seconds: no target can silence us for longer."""
_MAX_MESSAGE: Final = 400
_SECRET: Final = re.compile(r"(?i)\b(?:bearer\s+|(?:sk|pk|rk|gh|xai|gsk|key)[-_])[^\s'\",;)]{4,}")
_MISCONFIGURED: Final = re.compile(r"(?i)model|deploy")
_WORD: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")

_TABLE: Final[dict[str, tuple[int, str, str]]] = {
    # kind: status, type, code (used where core's code is the bare kind)
    "invalid_request": (400, "invalid_request_error", "invalid_request"),
    "context_length_exceeded": (400, "invalid_request_error", "context_length_exceeded"),
    "too_large": (413, "invalid_request_error", "too_large"),
    "unauthenticated": (401, "authentication_error", "invalid_api_key"),
    "forbidden": (403, "permission_error", "permission_denied"),
    "not_found": (404, "invalid_request_error", "not_found"),
    "blocked": (400, "invalid_request_error", "content_policy_violation"),
    "limit_exceeded": (429, "rate_limit_error", "rate_limit_exceeded"),
    "timeout": (408, "timeout_error", "request_timeout"),
    "unavailable": (503, "server_error", "service_unavailable"),
    "upstream_failed": (502, "upstream_error", "upstream_failed"),
    "internal": (500, "server_error", "internal_error"),
}
_UPSTREAM_STATUS: Final = {"upstream_timeout": 504, "upstream_unreachable": 503, "upstream_overloaded": 503}
"""What waiting may heal is 503, what was too slow 504, all else 502."""


def describe(error: GatehouseError, request_id: str) -> tuple[int, dict[str, Any]]:
    """Status and error object for `error`."""
    status, kind, code = _TABLE.get(error.kind, _TABLE["internal"])
    if error.code != error.kind:
        code = error.code
    if isinstance(error, UpstreamFailed):
        status = _UPSTREAM_STATUS.get(error.code, status)
        if error.caller_fault:
            status, kind = 400, "invalid_request_error"
    elif code == "insufficient_quota":
        kind = code
    param = None if error.param is None else _encodable(error.param)
    return status, {"error": {"message": _encodable(error.message), "type": kind, "param": param, "code": code, "request_id": request_id}}


def _encodable(text: str) -> str:
    """Half a surrogate pair, as bytes of a header may become, must not stop an error from being told."""
    return text.encode("utf-8", "backslashreplace").decode()


class _ErrorObject(msgspec.Struct, gc=False):
    message: Any = None
    code: Any = None
    type: Any = None


def decode_error(status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamFailed:
    """What a target's error answer means: whose fault, whether waiting helps, what the caller may be told.

    `headers` have lower-case names. A date in Retry-After is read against the answer's own Date, so no clock is needed.
    A 404 that names the model or deployment, or has no error object at all, is the configuration's fault, not the caller's.
    """
    error = _error_object(body)
    words = [word for word in (error.code, error.type) if isinstance(word, str) and _WORD.fullmatch(word)]
    detail = ", ".join([f"status {status}", *words])
    retry_after = _retry_after(headers)
    if status in (401, 403):
        return UpstreamFailed("The model is not available: its provider refused us.", code="upstream_auth", detail=detail)
    if status in (429, 503, 529):
        return UpstreamFailed("The model is overloaded.", code="upstream_overloaded", retry_after=retry_after, detail=detail)
    if status in (408, 504, 524):
        return UpstreamFailed("The model took too long to answer.", code="upstream_timeout", retry_after=retry_after, detail=detail)
    if status in (400, 413, 422):
        said = _sayable(error.message)
        text = f"The model refused the request: {said}" if said else f"The model refused the request ({_phrase(status)})."
        return UpstreamFailed(text, code="upstream_rejected", detail=detail, caller_fault=True)
    if status == 404 and isinstance(error.message, str) and not _MISCONFIGURED.search(str(error.code)):
        text = "The model refused the request: something it refers to does not exist there."
        return UpstreamFailed(text, code="upstream_rejected", detail=detail, caller_fault=True)
    return UpstreamFailed("The model failed to answer.", code="upstream_rejected", retry_after=retry_after, detail=detail)


def error_in_answer(raw: bytes | msgspec.Raw) -> UpstreamFailed:
    """What an error object inside a 200 answer or stream means; its `code` may be an HTTP status."""
    error = _read_object(raw)
    status = error.code if isinstance(error.code, int) and 400 <= error.code < 600 else 0
    if isinstance(error.code, str) and len(error.code) == 3 and error.code.isdecimal():
        status = int(error.code)
    return decode_error(status or 500, {}, b'{"error":%s}' % bytes(raw))


def not_understood(detail: str) -> UpstreamFailed:
    """The failure of a target whose answer is not what this dialect says; `detail` must not quote the answer."""
    return UpstreamFailed("The model's answer could not be understood.", code="upstream_invalid", detail=detail[:200])


class _ErrorBody(msgspec.Struct, gc=False):
    """The places where servers put their message: OpenAI, Ollama (error is text), vLLM's older form, FastAPI (detail)."""

    error: msgspec.Raw = msgspec.Raw(b"null")
    message: Any = None
    detail: Any = None
    code: Any = None
    type: Any = None


def _error_object(body: bytes) -> _ErrorObject:
    try:
        whole = msgspec.json.decode(body, type=_ErrorBody)
    except (ValueError, RecursionError):
        return _ErrorObject()
    inner = _read_object(whole.error)
    if inner.message is None:
        said = whole.message if isinstance(whole.message, str) else whole.detail
        return _ErrorObject(said, inner.code or whole.code, inner.type or whole.type)
    return inner


def _read_object(raw: bytes | msgspec.Raw) -> _ErrorObject:
    try:
        found = msgspec.json.decode(raw, type=_ErrorObject | str | None)
    except (ValueError, RecursionError):
        return _ErrorObject()
    if isinstance(found, str):
        return _ErrorObject(found)
    return found or _ErrorObject()


def _sayable(message: object) -> str:
    """A target's message, fit to be shown: one line, bounded, without control characters or credentials."""
    if not isinstance(message, str):
        return ""
    line = " ".join(_SECRET.sub("***", message[: 4 * _MAX_MESSAGE]).split())
    if len(line) > _MAX_MESSAGE:
        line = line[:_MAX_MESSAGE] + "…"
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def _phrase(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"


def _retry_after(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds to wait, between 0 and MAX_RETRY_AFTER; None when the target does not say, or says nothing sensible."""
    precise = _seconds(headers.get(b"retry-after-ms", b""))
    if precise is not None:
        return min(precise / 1000, MAX_RETRY_AFTER)
    said = headers.get(b"retry-after", b"")
    seconds = _seconds(said)
    if seconds is None:
        seconds = _until(said, headers.get(b"date", b""))
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER)


def _seconds(value: bytes) -> float | None:
    text = value.strip()
    if not text or len(text) > 32 or not text.replace(b".", b"", 1).isdigit():
        return None
    return float(text)


def _until(date: bytes, now: bytes) -> float | None:
    try:
        return max(0.0, (_moment(date) - _moment(now)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _moment(value: bytes) -> datetime:
    moment = parsedate_to_datetime(value.decode("ascii"))
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
