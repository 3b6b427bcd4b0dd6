"""API keys: their format, how a presented key is checked, and the port to where they are kept.

    gh_live_<id: 8 base62>_<secret: 30 base62><CRC32 of all before it: 6 base62>

The prefix and the checksum let scanners find leaked keys offline and let us refuse a mistyped one before any look-up; the
secret has 178 bits, so one HMAC-SHA256 under a pepper is enough and no slow hash stands on the request path. Only that
HMAC is ever stored.
"""

import re
import zlib
from collections.abc import Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import Final, Protocol

import msgspec

from gatehouse.core.audit import AuditEvent
from gatehouse.core.identity import KeyRecord, Principal, Role
from gatehouse.core.ports import Rng

PREFIX: Final = "gh_live_"
ID_LENGTH: Final = 8
SECRET_LENGTH: Final = 30
CHECK_LENGTH: Final = 6
KEY_LENGTH: Final = len(PREFIX) + ID_LENGTH + 1 + SECRET_LENGTH + CHECK_LENGTH
SHORTEST_BOOTSTRAP: Final = 24
LONGEST_CREDENTIAL: Final = 512
"""Bytes; what is longer is no key and is not hashed."""
BOOTSTRAP_ID: Final = "bootstrap"

_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS: Final = tuple((first + second).encode() for first in _BASE62 for second in _BASE62)
"""Two base62 digits at a time: each presented key is checked, so it is done in three look-ups."""
_BLOCK: Final = 64
"""Bytes that SHA-256 takes at a time."""
_START: Final = PREFIX.encode()
_ID_END: Final = len(PREFIX) + ID_LENGTH
ID_AT: Final = slice(len(PREFIX), _ID_END)
"""Where the id stands in a key."""
_CHECK_AT: Final = KEY_LENGTH - CHECK_LENGTH
_IN_TEXT: Final = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{ID_LENGTH}}})_[0-9A-Za-z]{{8,}}")


def mint(rng: Rng) -> tuple[str, str]:
    """A new key: its id (public) and the whole key (shown once)."""
    key_id = _base62(int.from_bytes(rng.token(16), "big"), ID_LENGTH)
    return key_id, mint_secret(key_id, rng)


def mint_secret(key_id: str, rng: Rng) -> str:
    """A whole new key for an existing id."""
    # 256 bits reduced to 178: the bias is below 2^-77.
    start = f"{PREFIX}{key_id}_{_base62(int.from_bytes(rng.token(32), 'big'), SECRET_LENGTH)}"
    return start + _base62(zlib.crc32(start.encode()), CHECK_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def parse(key: bytes) -> str | None:
    """The id of a well-formed key whose checksum is right; None for everything else. Does no look-up."""
    if len(key) != KEY_LENGTH or not key.startswith(_START) or key[_ID_END] != 0x5F:
        return None
    key_id = key[len(_START) : _ID_END]
    if not key_id.isalnum() or not key[_ID_END + 1 :].isalnum():  # on bytes: ASCII only
        return None
    high, low = divmod(zlib.crc32(key[:_CHECK_AT]), 62**4)
    middle, low = divmod(low, 62**2)
    if key[_CHECK_AT:] != _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]:
        return None
    return key_id.decode("ascii")


def hint(key: str) -> str:
    """What may be shown of a key after its creation: prefix, id and the last four characters."""
    return f"{key[:_ID_END]}_…{key[-4:]}"


def mask_keys(text: str) -> str:
    """`text` with the secret of every key in it replaced: for messages that quote what somebody sent."""
    return _IN_TEXT.sub(rf"{PREFIX}\1_***", text)


def bootstrap_principal() -> Principal:
    """Who the bootstrap key stands for: an administrator that may also call models."""
    return Principal(BOOTSTRAP_ID, BOOTSTRAP_ID, frozenset({Role.ADMIN, Role.DEVELOPER}))


class KeyChecker:
    """Tells whether a presented key is the one a record was made for, in time that does not depend on the answer.

    Holds the pepper and the digest of the bootstrap key, never a key. That key stands for `bootstrap_principal`, or for
    whom its maker says.
    """

    __slots__ = ("_bootstrap", "_inner", "_nobody", "_outer", "bootstrap")

    def __init__(self, pepper: bytes, bootstrap_digest: bytes | None = None, bootstrap: Principal | None = None) -> None:
        if not 32 <= len(pepper) <= _BLOCK:
            raise ValueError(f"a pepper has 32 to {_BLOCK} bytes")
        # HMAC with its two padded keys hashed once and for all (RFC 2104, section 4): a third of the cost of each call anew.
        padded = pepper.ljust(_BLOCK, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in padded))
        # What no key has: it is made otherwise than digests are.
        self._nobody = sha256(b"nobody" + pepper).digest()
        self._bootstrap = bootstrap_digest or self._nobody
        self.bootstrap = bootstrap or bootstrap_principal()

    def __repr__(self) -> str:
        return "KeyChecker(***)"

    def digest(self, key: bytes) -> bytes:
        """What is stored of `key`: HMAC-SHA256 of the whole of it."""
        inner = self._inner.copy()
        inner.update(key)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def bootstrap_digest(self, key: str) -> bytes:
        """The digest of an operator's bootstrap key. Raises ValueError when it is too short, too long or padded with spaces."""
        raw = key.encode()
        if len(key) < SHORTEST_BOOTSTRAP:
            raise ValueError(f"the bootstrap key needs at least {SHORTEST_BOOTSTRAP} characters")
        if len(raw) > LONGEST_CREDENTIAL or key != key.strip() or not key.isprintable():
            raise ValueError(f"the bootstrap key must be printable, without outer spaces, in at most {LONGEST_CREDENTIAL} bytes")
        return self.digest(raw)

    def is_bootstrap(self, digest: bytes) -> bool:
        """Whether `digest` is that of the bootstrap key; False when there is none."""
        return compare_digest(digest, self._bootstrap) and self._bootstrap is not self._nobody

    def accepts(self, record: KeyRecord | None, digest: bytes, now: float) -> bool:
        """Whether `digest` belongs to `record` and the record is good at `now` (seconds since the epoch).

        Both comparisons are always made, against a digest of no key where there is nothing to compare with.
        """
        if record is None:
            current = previous = self._nobody
            good = False
        else:
            current = record.digest
            good = not record.revoked and (record.principal.expires_at is None or now < record.principal.expires_at)
            previous = record.previous if record.previous and now < record.previous_until else self._nobody
        matches = compare_digest(digest, current)
        matches |= compare_digest(digest, previous)
        return matches and good


class StoredKey(msgspec.Struct, frozen=True):
    """A key as it is kept: the record that workers see, and what operators want to know. Times are seconds since the epoch."""

    record: KeyRecord
    hint: str
    created_at: float
    created_by: str
    """The key id of who made it."""
    revoked_at: float | None = None

    @property
    def id(self) -> str:
        """The public id."""
        return self.record.principal.key_id


Position = tuple[float, str]
"""Where a page of keys ended: creation time and id of its last key."""


class KeyStore(Protocol):
    """Where keys are kept."""

    async def find(self, key_id: str) -> StoredKey | None:
        """The key of that id in any tenant, revoked ones included: for identification, never for operators."""

    async def get(self, tenant: str, key_id: str) -> StoredKey | None:
        """The key of that id, if it belongs to `tenant`."""

    async def page(self, tenant: str, after: Position | None, limit: int) -> tuple[StoredKey, ...]:
        """At most `limit` keys of `tenant`, newest first, that come after `after`."""

    async def commit(self, key: StoredKey, events: Sequence[AuditEvent]) -> bool:
        """Write the key and the events in one transaction.

        A record of version 1 is inserted; version n replaces version n - 1. False, and nothing written, when the store
        does not hold what is to be replaced, or already holds what is to be inserted.
        """
