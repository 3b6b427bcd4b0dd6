"""What a target's refusal means to us, whatever its dialect: whose fault it is, whether waiting helps, what the caller may be told.

Each dialect finds the message and the words of an error in its own format; the verdict is made here, so that a status means
the same from every provider. Nothing a target says in an error reaches a caller, save the message of a refusal of the
caller's own request, shortened and without what looks like a credential.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from gatehouse.core.errors import UpstreamFailed

MAX_RETRY_AFTER: Final = 300.0
"""Seconds: no target can silence us for longer."""
_MAX_MESSAGE: Final = 400
_SECRET: Final = re.compile(
    r"(?i)\b(?:bearer\s+|(?:sk|pk|rk|gh|xai|gsk|key|bedrock-api-key)[-_])[^\s'\",;)]{4,}|\b(?-i:AIza|AKIA|ASIA|ABSK)[A-Za-z0-9_+/=-]{12,}"
)
_WORD: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def failure(status: int, headers: Mapping[bytes, bytes], message: object, words: Iterable[object] = ()) -> UpstreamFailed:
    """The failure that an error answer stands for.

    `headers` have lower-case names; a date in Retry-After is read against the answer's own Date, so no clock is needed.
    `message` is what the target says, of whatever type it wrote it as. `words` are its machine-readable codes: those that
    are plain words go to the detail.
    """
    detail = ", ".join([f"status {status}", *[word for word in words if isinstance(word, str) and _WORD.fullmatch(word)]])
    wait = retry_after(headers)
    if status in (401, 403):
        return UpstreamFailed("The model is not available: its provider refused us.", code="upstream_auth", detail=detail)
    if status in (429, 503, 529):
        return UpstreamFailed("The model is overloaded.", code="upstream_overloaded", retry_after=wait, detail=detail)
    if status in (408, 504, 524):
        return UpstreamFailed("The model took too long to answer.", code="upstream_timeout", retry_after=wait, detail=detail)
    if status in (400, 413, 422):
        said = sayable(message)
        text = f"The model refused the request: {said}" if said else f"The model refused the request ({_phrase(status)})."
        return UpstreamFailed(text, code="upstream_rejected", detail=detail, caller_fault=True, too_large=status == 413)
    return UpstreamFailed("The model failed to answer.", code="upstream_rejected", retry_after=wait, detail=detail)


def not_understood(detail: str) -> UpstreamFailed:
    """The failure of a target whose answer is not what its dialect says; `detail` must not quote the answer."""
    return UpstreamFailed("The model's answer could not be understood.", code="upstream_invalid", detail=detail[:200])


def inexpressible(param: str, text: str) -> UpstreamFailed:
    """The failure of a target whose format has no words for a part of the call, raised before a byte is sent.

    The caller is told (a 400) unless another target has the words; nothing is left out silently. `param` is the field of core.
    """
    failed = UpstreamFailed(f"{param}: {text}", code="upstream_rejected", detail=f"not expressible: {param}", sent=False, caller_fault=True)
    failed.param = param
    return failed


def sayable(message: object) -> str:
    """A target's message, fit to be shown: one line, bounded, without control characters or credentials; "" when it is no text."""
    if not isinstance(message, str):
        return ""
    line = " ".join(_SECRET.sub("***", message[: 4 * _MAX_MESSAGE]).split())
    if len(line) > _MAX_MESSAGE:
        line = line[:_MAX_MESSAGE] + "…"
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def retry_after(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds to wait, between 0 and MAX_RETRY_AFTER; None when the target does not say, or says nothing sensible."""
    precise = _seconds(headers.get(b"retry-after-ms", b""))
    if precise is not None:
        return min(precise / 1000, MAX_RETRY_AFTER)
    said = headers.get(b"retry-after", b"")
    seconds = _seconds(said)
    if seconds is None:
        seconds = _until(said, headers.get(b"date", b""))
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER)


def _phrase(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"


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
