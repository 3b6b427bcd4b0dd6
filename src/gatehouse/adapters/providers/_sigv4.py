"""AWS Signature Version 4: the headers that prove a request comes from who holds a secret key. Pure; time is handed in.

The signature covers the method, the path, the host, the moment, the session token and the hash of the body, so that nobody
on the way can change what was asked.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Final
from urllib.parse import parse_qsl, quote

import msgspec

from gatehouse.core.secrets import Secret

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


class AwsKey(msgspec.Struct, frozen=True):
    """Who signs. `expires` is in seconds since the epoch; None where nobody said."""

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None = None
    expires: float | None = None


class Scope(msgspec.Struct, frozen=True):
    """Where a signature holds."""

    region: str
    service: str


class Signable(msgspec.Struct, frozen=True):
    """What is signed. `path` is as it is sent, query included; `headers` have lower-case names, and `host` is among them."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


class Signer:
    """Signs in the name of `key`. What a day's signatures share is worked out once a day."""

    __slots__ = ("_day", "_derived", "_key", "_scope")

    def __init__(self, key: AwsKey, scope: Scope) -> None:
        self._key = key
        self._scope = scope
        self._day = ""
        self._derived = b""

    def sign(self, request: Signable, moment: datetime) -> list[tuple[str, str]]:
        """The headers to add to `request`, sent at `moment` (UTC): date, session token if there is one, and authorization."""
        key, scope = self._key, self._scope
        stamp = f"{moment:%Y%m%dT%H%M%SZ}"
        day = stamp[:8]
        if day != self._day:
            self._day, self._derived = day, _derived(key.secret_access_key, day, scope)
        added = [("x-amz-date", stamp)]
        if key.session_token is not None:
            added.append(("x-amz-security-token", key.session_token.reveal()))
        headers = sorted([*request.headers.items(), *added])
        signed = ";".join([name for name, _ in headers])
        place = f"{day}/{scope.region}/{scope.service}/aws4_request"
        digest = hashlib.sha256(canonical_request(request, headers).encode()).hexdigest()
        text = f"{_ALGORITHM}\n{stamp}\n{place}\n{digest}"
        signature = hmac.digest(self._derived, text.encode(), "sha256").hex()
        said = f"{_ALGORITHM} Credential={key.access_key_id}/{place}, SignedHeaders={signed}, Signature={signature}"
        return [*added, ("authorization", said)]


def canonical_request(request: Signable, headers: list[tuple[str, str]]) -> str:
    """The one form of a request that both sides hash; `headers` are those that are signed, sorted by name."""
    path, _, query = request.path.partition("?")
    # What is already escaped in the path is escaped once more: every service but S3 reads it so.
    lines = [request.method, quote(path or "/", safe="/-_.~"), _canonical_query(query)]
    lines += [f"{name}:{' '.join(value.split())}" for name, value in headers]
    lines += ["", ";".join([name for name, _ in headers]), hashlib.sha256(request.body).hexdigest()]
    return "\n".join(lines)


def _canonical_query(query: str) -> str:
    pairs = [(quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parse_qsl(query, keep_blank_values=True)]
    return "&".join([f"{name}={value}" for name, value in sorted(pairs)])


def _derived(secret: Secret, date: str, scope: Scope) -> bytes:
    key = b"AWS4" + secret.reveal().encode()
    for step in (date, scope.region, scope.service, "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return key
