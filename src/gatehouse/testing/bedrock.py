"""What Amazon Bedrock does, for `FakeUpstream` to play: answers of Converse, streams in AWS's framing, and a door that checks signatures.

The check is written anew from AWS's description, over what arrived, so that it cannot share a mistake with who signs.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec

from gatehouse.dialects.bedrock.frames import write_message
from gatehouse.testing.upstream import LAST_CHUNK, Play, Seen, Wire, chunk, http

STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\ntransfer-encoding: chunked\r\n\r\n"
_TOLERANCE: Final = 300.0
_MOMENT: Final = "%Y%m%dT%H%M%SZ"


def event(name: str, payload: dict[str, Any]) -> bytes:
    """One event of a stream."""
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return write_message(headers, json.dumps(payload).encode())


def exception(name: str, message: str) -> bytes:
    """A failure inside a stream."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return write_message(headers, json.dumps({"message": message}).encode())


def counts(into: int = 3, out: int = 5) -> dict[str, int]:
    """The usage object of an answer."""
    return {"inputTokens": into, "outputTokens": out, "totalTokens": into + out}


def converse(text: str = "Hello there.") -> bytes:
    """A complete answer."""
    message = {"role": "assistant", "content": [{"text": text}]}
    body = {"output": {"message": message}, "stopReason": "end_turn", "usage": counts(), "metrics": {"latencyMs": 7}}
    return http(json.dumps(body).encode())


def story(texts: Iterable[str] = ("Hel", "lo", " there.")) -> list[bytes]:
    """The messages of a proper stream."""
    return [
        event("messageStart", {"role": "assistant"}),
        *(event("contentBlockDelta", {"delta": {"text": text}, "contentBlockIndex": 0}) for text in texts),
        event("contentBlockStop", {"contentBlockIndex": 0}),
        event("messageStop", {"stopReason": "end_turn"}),
        event("metadata", {"usage": counts(), "metrics": {"latencyMs": 7}}),
    ]


def converse_stream(messages: Iterable[bytes] | None = None) -> bytes:
    """A complete streamed answer, to be written at once."""
    return STREAM_HEAD + b"".join(chunk(piece) for piece in (story() if messages is None else messages)) + LAST_CHUNK


def refusal(status: int, name: str, message: str) -> bytes:
    """An error as AWS writes it."""
    return http(json.dumps({"message": message}).encode(), status=status, headers=[("x-amzn-ErrorType", f"{name}:http://internal/")])


class Account(msgspec.Struct, frozen=True):
    """Who may call: a key, perhaps with a session token that is good until `expires` (seconds since the epoch), in one region."""

    access_key_id: str
    secret_access_key: str
    region: str
    session_token: str | None = None
    expires: float | None = None


def signed_by(account: Account, play: Play, now: Callable[[], float]) -> Play:
    """`play` for requests that `account` has signed within five minutes of `now`; the refusal AWS gives to all others."""

    async def checked(seen: Seen, wire: Wire) -> None:
        refused = check_signature(account, seen, now())
        if refused is not None:
            wire.write(refused)
        elif isinstance(play, bytes):
            wire.write(play)
        else:
            await play(seen, wire)

    return checked


def check_signature(account: Account, seen: Seen, now: float) -> bytes | None:
    """The refusal of a request that `account` did not sign; None for one that it did."""
    algorithm, _, rest = seen.headers.get("authorization", "").partition(" ")
    said = dict(pair.strip().partition("=")[::2] for pair in rest.split(","))
    if algorithm != "AWS4-HMAC-SHA256" or not {"Credential", "SignedHeaders", "Signature"} <= set(said):
        return refusal(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
    identifier, *place = said["Credential"].split("/")
    stamp = seen.headers.get("x-amz-date", "")
    if identifier != account.access_key_id or seen.headers.get("x-amz-security-token") != account.session_token:
        return refusal(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
    if place != [stamp[:8], account.region, "bedrock", "aws4_request"]:
        return refusal(403, "InvalidSignatureException", "Credential should be scoped to a valid region.")
    late = _too_late(stamp, now)
    if late:
        return refusal(403, "InvalidSignatureException", late)
    names = said["SignedHeaders"].split(";")
    must = {"host", *(name for name in seen.headers if name.startswith("x-amz-"))}
    if names != sorted(names) or not must <= set(names) or said["Signature"] != _expected(account, seen, names, place, stamp):
        return refusal(403, "InvalidSignatureException", "The request signature we calculated does not match the signature you provided.")
    if account.expires is not None and now > account.expires:
        return refusal(403, "ExpiredTokenException", "The security token included in the request is expired")
    return None


def _too_late(stamp: str, now: float) -> str:
    signed, here = datetime.strptime(stamp, _MOMENT).replace(tzinfo=UTC), datetime.fromtimestamp(now, UTC)
    apart = here.timestamp() - signed.timestamp()
    if abs(apart) <= _TOLERANCE:
        return ""
    edge = datetime.fromtimestamp(now - _TOLERANCE if apart > 0 else now + _TOLERANCE, UTC)
    if apart > 0:
        return f"Signature expired: {stamp} is now earlier than {edge:{_MOMENT}} ({here:{_MOMENT}} - 5 min.)"
    return f"Signature not yet current: {stamp} is still later than {edge:{_MOMENT}} ({here:{_MOMENT}} + 5 min.)"


def _expected(account: Account, seen: Seen, names: list[str], place: list[str], stamp: str) -> str:
    canonical = f"{seen.method}\n{'/'.join(quote(step, safe='') for step in seen.path.split('/'))}\n\n"
    for name in names:
        canonical += f"{name}:{' '.join(seen.headers[name].split())}\n"
    canonical += f"\n{';'.join(names)}\n{hashlib.sha256(seen.body).hexdigest()}"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, "/".join(place), hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4" + account.secret_access_key.encode()
    for step in (*place, text):
        key = hmac.new(key, step.encode(), hashlib.sha256).digest()
    return key.hex()
