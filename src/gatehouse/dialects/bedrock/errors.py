"""What Bedrock's errors mean: AWS names the exception in a header (or in the stream), and the status alone does not say all.

Who signs with an expired token may get a 400, which is no fault of the caller's; what a wrong clock or a wrong model id need
is done by an operator, so the detail says what.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gatehouse.core.errors import UpstreamFailed
from gatehouse.dialects._failures import failure

_STATUS: Final = {
    "accessdenied": 403,
    "expiredtoken": 403,
    "incompletesignature": 403,
    "invalidclienttokenid": 403,
    "invalidsignature": 403,
    "missingauthenticationtoken": 403,
    "optinrequired": 403,
    "requestexpired": 403,
    "signaturedoesnotmatch": 403,
    "unrecognizedclient": 403,
    "throttling": 429,
    "modelnotready": 429,
    "servicequotaexceeded": 429,
    "validation": 400,
    "modeltimeout": 408,
    "modelerror": 424,
    "modelstreamerror": 424,
    "internalserver": 500,
    "serviceunavailable": 503,
}
"""What an exception means whatever status it came with; the names in lower case, without "exception"."""
_CLOCK: Final = re.compile(r"(?:Signature|Request) (?:expired|not yet current)", re.IGNORECASE)
_MOMENT: Final = re.compile(r"\b(\d{8}T\d{6}Z)\b")
_MISCONFIGURED: Final = re.compile(
    r"(?i)model identifier|model id\b|on-demand throughput|inference profile|legacy|end of its life|does ?n.t support|access to the model"
)
_ADVICE: Final = {
    "expiredtoken": "the session token has expired: give new credentials, or a source that renews them (profile or instance)",
    "invalidsignature": "the signature does not fit: check the secret access key, and the region of the provider",
    "signaturedoesnotmatch": "the signature does not fit: check the secret access key, and the region of the provider",
    "unrecognizedclient": "AWS does not know the access key, or its session token is missing or wrong",
    "invalidclienttokenid": "AWS does not know the access key",
    "accessdenied": "the identity may not invoke this model: allow bedrock:InvokeModel and bedrock:InvokeModelWithResponseStream, "
    "and request access to the model in this region",
}


class _ErrorBody(msgspec.Struct, gc=False):
    message: Any = None
    Message: Any = None
    type: Any = msgspec.field(name="__type", default=None)


def decode_error(status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamFailed:
    """What an error answer means: whose fault, whether waiting helps, what the caller may be told. Header names are lower case."""
    named = headers.get(b"x-amzn-errortype", b"").decode("latin-1")
    try:
        said = msgspec.json.decode(body, type=_ErrorBody)
    except (ValueError, RecursionError):
        said = _ErrorBody()
    if not named and isinstance(said.type, str):
        named = said.type.rpartition("#")[2]
    return error_named(named.partition(":")[0], said.message if said.message is not None else said.Message, status, headers)


def error_in_stream(headers: Mapping[str, str], payload: bytes) -> UpstreamFailed:
    """What a message of type exception or error means."""
    try:
        said = msgspec.json.decode(payload, type=_ErrorBody) if payload else _ErrorBody()
    except (ValueError, RecursionError):
        said = _ErrorBody()
    named = headers.get(":exception-type") or headers.get(":error-code") or ""
    return error_named(named, said.message if said.message is not None else headers.get(":error-message"), 500, {})


def error_named(name: str, message: object, status: int, headers: Mapping[bytes, bytes]) -> UpstreamFailed:
    """The failure for an exception by its name; an unknown one counts by its `status`."""
    key = name.lower().removesuffix("exception")
    status = _STATUS.get(key, status)
    text = message if isinstance(message, str) else ""
    if status == 400 and _MISCONFIGURED.search(text):
        status = 404
    error = failure(status, headers, text, (name,))
    advice = _clock(text) if status == 403 and _CLOCK.search(text) else _ADVICE.get(key, "")
    if status == 404:
        advice = "the model id is not known here: check targets[].model and the region; some models need an inference profile's id"
    if advice:
        error.detail = f"{error.detail}: {advice}"
    return error


def _clock(text: str) -> str:
    """What to do about a clock that differs from AWS's, which accepts five minutes; `text` names the moments on both."""
    moments = [datetime.strptime(found, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) for found in _MOMENT.findall(text[:1_000]) if _real(found)]
    apart = ""
    if len(moments) >= 3:
        seconds = (moments[0] - moments[2]).total_seconds()
        apart = f" by about {abs(seconds) / 60:.0f} minutes ({'ahead' if seconds > 0 else 'behind'})"
    return f"the clock of this machine differs from AWS's{apart}, which accepts five minutes: set it, best by NTP"


def _real(moment: str) -> bool:
    try:
        datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return False
    return True
