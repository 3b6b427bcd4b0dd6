"""Errors, both ways: the one table from core's kinds to OpenAI's shape, and what a target's error means to us.

Nothing a target says in an error reaches a caller, save the message of a refusal of the caller's own request, shortened
and without what looks like a credential.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gatehouse.core.errors import GatehouseError, UpstreamFailed
from gatehouse.dialects._failures import failure

_MISCONFIGURED: Final = re.compile(r"(?i)(?:unknown|invalid)_model|model_(?:not_|decommissioned|terms)|deploymentnotfound")
"""Codes for a model that is not there or not ours to use."""
_NAMED_BY_CALLER: Final = re.compile(r"(?i)\bno such file object\b|\bfile[-_ ]?id\b|\bfile_not_found\b|\bfile-[a-z0-9]{8}")
"""What a caller can refer to that is kept at a target, in the words of its code, its field or its message."""

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
            status, kind = 413 if error.too_large else 400, "invalid_request_error"
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
    param: Any = None


def decode_error(status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamFailed:
    """What a target's error answer means: whose fault, whether waiting helps, what the caller may be told.

    `headers` have lower-case names. What is not there is the configuration's fault (the model, the address), since the caller chose
    neither, unless the error says that it is a file the caller named; so is a 400 about the model. A 413 about the tokens of a
    minute is a limit of ours.
    """
    error = _error_object(body)
    words = (error.code, error.type)
    if status == 413 and error.code == "rate_limit_exceeded":
        status = 429
    failed = failure(status, headers, error.message, words)
    if status == 404 and any(isinstance(said, str) and _NAMED_BY_CALLER.search(said) for said in (error.code, error.param, error.message)):
        text = "The model refused the request: something it refers to does not exist there."
        return UpstreamFailed(text, code="upstream_rejected", detail=failed.detail, caller_fault=True)
    if status == 400 and (error.param == "model" or (isinstance(error.code, str) and _MISCONFIGURED.search(error.code))):
        return UpstreamFailed("The model failed to answer.", code="upstream_rejected", detail=failed.detail)
    return failed


def error_in_answer(raw: bytes | msgspec.Raw) -> UpstreamFailed:
    """What an error object inside a 200 answer or stream means; its `code` may be an HTTP status."""
    error = _read_object(raw)
    status = error.code if isinstance(error.code, int) and 400 <= error.code < 600 else 0
    if isinstance(error.code, str) and len(error.code) == 3 and error.code.isdecimal():
        status = int(error.code)
    return decode_error(status or 500, {}, b'{"error":%s}' % bytes(raw))


class _ErrorBody(msgspec.Struct, gc=False):
    """The places where servers put their message: OpenAI, Ollama (error is text), vLLM's older form, FastAPI (detail)."""

    error: msgspec.Raw = msgspec.Raw(b"null")
    message: Any = None
    detail: Any = None
    code: Any = None
    type: Any = None
    param: Any = None


def _error_object(body: bytes) -> _ErrorObject:
    try:
        whole = msgspec.json.decode(body, type=_ErrorBody)
    except (ValueError, RecursionError):
        return _ErrorObject()
    inner = _read_object(whole.error)
    if inner.message is None:
        said = whole.message if isinstance(whole.message, str) else whole.detail
        return _ErrorObject(said, inner.code or whole.code, inner.type or whole.type, inner.param or whole.param)
    return inner


def _read_object(raw: bytes | msgspec.Raw) -> _ErrorObject:
    try:
        found = msgspec.json.decode(raw, type=_ErrorObject | str | None)
    except (ValueError, RecursionError):
        return _ErrorObject()
    if isinstance(found, str):
        return _ErrorObject(found)
    return found or _ErrorObject()
