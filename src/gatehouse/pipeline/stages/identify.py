"""Identify turns the key that came with a call into a Principal, from the head alone.

`identify` is the one function that does so: the data plane, the admin port and the console call it, whichever header the
key came in. There is no fall-through: a key that fails ends the call, and nobody ever runs under an empty identity.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

from gatehouse.core.errors import InvalidRequest, Unauthenticated
from gatehouse.core.identity import KeyRecord, Principal
from gatehouse.core.keys import ID_AT, LONGEST_CREDENTIAL, KeyChecker, parse
from gatehouse.core.ports import Clock, KeyDirectory
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.runner import nothing_held

NO_KEY: Final = "No API key was sent. Send it as `Authorization: Bearer <key>` or `x-api-key: <key>`."
BAD_KEY: Final = "The API key is not valid. It may be mistyped, unknown, revoked or expired."
_SEEN: Final = "identify"
TWO_KEYS: Final = "Two different API keys were sent. Send one, in one header."


async def identify(credentials: tuple[bytes, ...], directory: KeyDirectory, checker: KeyChecker, now: float) -> Principal:
    """The caller behind the distinct keys a request offered; `now` is seconds since the epoch.

    Raises:
        Unauthenticated: no key, or one that is no good; in what way it is not is not told.
        InvalidRequest: two different keys.
        Unavailable: whether the key is good cannot be found out at the moment.
    """
    key = _the_one(credentials)
    digest = checker.digest(key)
    if checker.is_bootstrap(digest):
        return checker.bootstrap
    key_id = parse(key)
    record = None if key_id is None else await directory.find(key_id)
    if not checker.accepts(record, digest, now) or record is None:
        raise Unauthenticated(BAD_KEY, code="invalid_api_key")
    return record.principal


def _the_one(credentials: tuple[bytes, ...]) -> bytes:
    if len(credentials) != 1:
        if credentials:
            raise InvalidRequest(TWO_KEYS, code="two_credentials")
        raise Unauthenticated(NO_KEY, code="missing_api_key")
    key = credentials[0]
    if len(key) > LONGEST_CREDENTIAL:
        raise Unauthenticated(BAD_KEY, code="invalid_api_key")
    return key


class _Seen:
    """A key that was found good: it stays so while the directory holds the very same record, up to `until`.

    It is kept with the head that the key came in, which is known by its bytes; so a connection that says the same again is
    spared the digest, and nothing else.
    """

    __slots__ = ("checker", "key_id", "principal", "record", "until")

    def __init__(self, record: KeyRecord, key_id: str, until: float, checker: KeyChecker) -> None:
        self.record = record
        self.principal = record.principal
        self.key_id = key_id
        self.until = until
        self.checker = checker


class Identify:
    """Sets `x.principal`."""

    name = "identify"
    settle = nothing_held

    def __init__(self, directory: KeyDirectory, checker: KeyChecker, clock: Clock) -> None:
        self._directory = directory
        self._at_hand: Callable[[str], KeyRecord | None] = getattr(directory, "at_hand", _nothing)
        self._checker = checker
        self._now = clock.now

    async def admit(self, x: Exchange) -> None:
        """Identify the caller; see `identify`."""
        x.principal = await identify(x.head.credentials, self._directory, self._checker, self._now())

    def clear(self, calls: Sequence[Exchange]) -> Sequence[Exchange]:
        """Those whose connection said the same before are who they were then."""
        at_hand, checker, now = self._at_hand, self._checker, self._now
        others = []
        for x in calls:
            seen: _Seen | None = x.head.seen.get(_SEEN)
            if (
                seen is not None
                and seen.checker is checker
                and (x.started_at or now()) < seen.until
                and at_hand(seen.key_id) is seen.record
            ):
                x.principal = seen.principal
            else:
                others.append(x)
        return others

    def at_once(self, x: Exchange) -> bool:
        """As `admit`, with a key whose record is at hand."""
        now = x.started_at or self._now()
        key = _the_one(x.head.credentials)
        # Whether the whole is well-formed need not be asked where the whole is compared with a digest below.
        key_id = key[ID_AT].decode("latin-1")
        record = self._at_hand(key_id)
        checker = self._checker
        digest = checker.digest(key)
        if record is None or not checker.accepts(record, digest, now):
            if checker.is_bootstrap(digest):
                x.principal = checker.bootstrap
                return True
            return False  # unknown, stale, or not good: whoever can wait finds out
        x.principal = record.principal
        if record.previous_until <= now:
            # A secret that was rotated away is looked at each time.
            expires = record.principal.expires_at
            x.head.seen[_SEEN] = _Seen(record, key_id, math.inf if expires is None else expires, self._checker)
        return True


def _nothing(key_id: str) -> KeyRecord | None:
    """What is at hand in a directory that keeps nothing."""
    return None
