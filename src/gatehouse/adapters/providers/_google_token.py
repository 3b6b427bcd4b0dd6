"""Who we are to Google Cloud: a service account's key file, and the access tokens that are got with it (RFC 7523).

A token is fetched once for all calls that wait for it, kept, and renewed before it ends; while it is being renewed, calls go
on with the one that still holds. The file is read again for each token, so that a key can be changed without a restart.
Tokens are fetched from Google's own address: a key file that names another one would send a signed proof of ours there.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gatehouse.adapters.providers._codec import Unsigned
from gatehouse.adapters.providers._http import HttpClient, HttpOptions, PoolOptions
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.plans import Deadlines
from gatehouse.core.secrets import Secret

logger = logging.getLogger("gatehouse.providers")

GIVER_HOST: Final = "oauth2.googleapis.com"
SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_LIFE: Final = 3600
"""Seconds for which a proof is good, the most Google takes."""
_SOON: Final = 300.0
"""Seconds before its end that a token is renewed."""
_AGAIN: Final = 10.0
"""Seconds between two attempts to renew a token that still holds."""
_RECALL: Final = 1.0
"""Seconds for which a failure to get a first token is told again without asking."""
_DEADLINES: Final = Deadlines(connect=5.0, first_byte=5.0, idle=5.0, total=10.0)


class ServiceAccount(msgspec.Struct, frozen=True):
    """What is in a key file. `token_uri` has been checked."""

    client_email: str
    private_key: Secret
    token_uri: str
    private_key_id: str = ""
    project_id: str = ""


class _KeyFile(msgspec.Struct):
    type: str = ""
    client_email: str = ""
    private_key: str = ""
    private_key_id: str = ""
    project_id: str = ""
    token_uri: str = ""


class _Token(msgspec.Struct):
    access_token: str
    expires_in: float


class _Refusal(msgspec.Struct):
    error: str = ""


def read_service_account(path: Path, token_url: str | None = None) -> ServiceAccount:
    """The service account of a key file. `token_url`, the operator's own word, goes before what the file says.

    Raises:
        ValueError: the file cannot be read, or is no usable key; the message says what to do and quotes nothing secret.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_KeyFile)
    except OSError as fault:
        raise ValueError(f"the credentials file {path} cannot be read ({fault.strerror})") from None
    except ValueError:
        raise ValueError(f"the credentials file {path} is not a key file of a service account (JSON)") from None
    if found.type != "service_account" or not found.client_email or not found.private_key:
        kind = found.type if found.type.isidentifier() and len(found.type) < 64 else "unknown"
        raise ValueError(f"the credentials file {path} is of type {kind}: a key of a service account is needed")
    if token_url is None:
        parts = urlsplit(found.token_uri)
        if parts.scheme != "https" or parts.netloc != GIVER_HOST:
            raise ValueError(
                f"the credentials file {path} has a token_uri that is not at https://{GIVER_HOST}: set token_url if it is meant"
            )
    account = ServiceAccount(
        found.client_email, Secret(found.private_key), token_url or found.token_uri, found.private_key_id, found.project_id
    )
    _private_key(account)
    return account


def _private_key(account: ServiceAccount) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(account.private_key.reveal().encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("the private_key in the credentials file cannot be read") from None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("the private_key in the credentials file is not an RSA key")
    return key


def assertion(account: ServiceAccount, now: float) -> str:
    """The signed proof that we are `account`, good for an hour from `now` on (RS256)."""
    header = {"alg": "RS256", "typ": "JWT"}
    if account.private_key_id:
        header["kid"] = account.private_key_id
    issued = int(now)
    claims = {"iss": account.client_email, "scope": SCOPE, "aud": account.token_uri, "iat": issued, "exp": issued + _LIFE}
    signed = f"{_encoded(msgspec.json.encode(header))}.{_encoded(msgspec.json.encode(claims))}"
    return f"{signed}.{_encoded(_private_key(account).sign(signed.encode(), PKCS1v15(), SHA256()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class _Question:
    """The attempt of a question for a token, which belongs to no call."""

    __slots__ = ("deadlines", "request_id", "sent", "tenant", "traceparent")

    def __init__(self) -> None:
        self.request_id = "token"
        self.tenant = ""
        self.deadlines = _DEADLINES
        self.sent = False
        self.traceparent = ""

    def vacated(self) -> None:
        """Nobody waits for it."""


class GoogleAuthoriser:
    """Gives each request the token of a service account. Implements `_codec.Authoriser`."""

    def __init__(
        self,
        options: HttpOptions,
        read: Callable[[], ServiceAccount],
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`options` lead to the place that gives tokens; `read` gives the account as its file now has it, or raises ValueError."""
        self._label = options.label
        self._http = HttpClient(msgspec.structs.replace(options, pool=PoolOptions(1, 16, 5.0), max_answer=65_536))
        self._prefix = self._http.prefix("POST", "", accept="application/json", content_type="application/x-www-form-urlencoded")
        self._read = read
        self._wall = wall
        self._now = monotonic
        self._lock = asyncio.Lock()
        self._kept: Sequence[tuple[str, str]] = ()
        self._fetched_at = self._renew_at = self._ends_at = 0.0
        self._failed: tuple[str, str] = ("", "")
        self._failed_until = 0.0

    def __repr__(self) -> str:
        return f"GoogleAuthoriser({self._label})"

    async def headers(self, request: Unsigned, deadlines: Deadlines) -> Sequence[tuple[str, str]]:
        """See `Authoriser`."""
        now = self._now()
        if self._kept and (now < self._renew_at or (self._lock.locked() and now < self._ends_at)):
            return self._kept
        async with self._lock:
            return await self._renewed()

    def refused(self) -> bool:
        """Fetch a new token before the next use, unless that was done just now."""
        if self._now() < self._fetched_at + _AGAIN:
            return False
        self._renew_at = self._ends_at = 0.0
        return True

    async def close(self) -> None:
        """Close the connection to the place that gives tokens."""
        await self._http.close()

    async def _renewed(self) -> Sequence[tuple[str, str]]:
        now = self._now()
        if self._kept and now < self._renew_at:
            return self._kept
        if now < self._failed_until:
            raise self._failure()
        try:
            token = await self._fetch()
        except UpstreamFailed as error:
            if self._kept and now < self._ends_at:
                logger.warning("%s: the token could not be renewed and is used until its end: %s", self._label, error.detail)
                self._renew_at = now + _AGAIN
                return self._kept
            self._kept, self._failed, self._failed_until = (), (error.code, error.detail), now + _RECALL
            raise self._failure() from None
        self._kept = (("authorization", f"Bearer {token.access_token}"),)
        self._fetched_at, self._ends_at = now, now + token.expires_in
        self._renew_at = max(self._ends_at - _SOON, now + _AGAIN)
        return self._kept

    def _failure(self) -> UpstreamFailed:
        code, detail = self._failed
        return UpstreamFailed("The model is not available: we could not sign in to its provider.", code=code, detail=detail, sent=False)

    async def _fetch(self) -> _Token:
        try:
            account = self._read()
        except ValueError as fault:
            raise self._refused(str(fault)) from None
        body = urlencode({"grant_type": _GRANT, "assertion": assertion(account, self._wall())}).encode()
        reply = await self._http.send(self._prefix, body, _Question(), streams=False, first_byte=_DEADLINES.first_byte)
        answer = reply.take()
        if reply.status == 200:
            try:
                token = msgspec.json.decode(answer, type=_Token)
            except (ValueError, RecursionError):
                raise self._refused("the token that was given cannot be read") from None
            if not token.access_token.isascii() or not token.access_token.isprintable() or " " in token.access_token:
                raise self._refused("the token that was given cannot be read")
            return token
        if reply.status >= 500 or reply.status == 429:
            detail = f"{self._label}: the place that gives tokens answers {reply.status}"
            raise UpstreamFailed("", code="upstream_unreachable", detail=detail, sent=False)
        raise self._refused(f"no token was given ({reply.status} {_word(answer)}): is the key still valid, and this machine's clock right?")

    def _refused(self, detail: str) -> UpstreamFailed:
        return UpstreamFailed("", code="upstream_auth", detail=f"{self._label}: {detail}", sent=False)


def _word(answer: bytes) -> str:
    """The word of an OAuth error, never its prose."""
    try:
        word = msgspec.json.decode(answer, type=_Refusal).error
    except (ValueError, RecursionError):
        return "no reason"
    return word if word.isidentifier() and len(word) < 64 else "no reason"
