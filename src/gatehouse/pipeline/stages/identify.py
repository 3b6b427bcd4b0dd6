"""Identify turns the key that came with a call into a Principal, from the head alone.

`identify` is the one function that does so: the data plane, the admin port and the console call it, whichever header the
key came in. There is no fall-through: a key that fails ends the call, and nobody ever runs under an empty identity.
"""

from typing import Final

from gatehouse.core.errors import InvalidRequest, Unauthenticated
from gatehouse.core.identity import Principal
from gatehouse.core.keys import LONGEST_CREDENTIAL, KeyChecker, parse
from gatehouse.core.ports import Clock, KeyDirectory
from gatehouse.pipeline.exchange import Exchange

NO_KEY: Final = "No API key was sent. Send it as `Authorization: Bearer <key>` or `x-api-key: <key>`."
BAD_KEY: Final = "The API key is not valid. It may be mistyped, unknown, revoked or expired."
TWO_KEYS: Final = "Two different API keys were sent. Send one, in one header."


async def identify(credentials: tuple[bytes, ...], directory: KeyDirectory, checker: KeyChecker, now: float) -> Principal:
    """The caller behind the distinct keys a request offered; `now` is seconds since the epoch.

    Raises:
        Unauthenticated: no key, or one that is no good; in what way it is not is not told.
        InvalidRequest: two different keys.
        Unavailable: whether the key is good cannot be found out at the moment.
    """
    if len(credentials) != 1:
        if credentials:
            raise InvalidRequest(TWO_KEYS, code="two_credentials")
        raise Unauthenticated(NO_KEY, code="missing_api_key")
    key = credentials[0]
    if len(key) > LONGEST_CREDENTIAL:
        raise Unauthenticated(BAD_KEY, code="invalid_api_key")
    digest = checker.digest(key)
    if checker.is_bootstrap(digest):
        return checker.bootstrap
    key_id = parse(key)
    record = None if key_id is None else await directory.find(key_id)
    if not checker.accepts(record, digest, now) or record is None:
        raise Unauthenticated(BAD_KEY, code="invalid_api_key")
    return record.principal


class Identify:
    """Sets `x.principal`."""

    name = "identify"

    def __init__(self, directory: KeyDirectory, checker: KeyChecker, clock: Clock) -> None:
        self._directory = directory
        self._checker = checker
        self._clock = clock

    async def admit(self, x: Exchange) -> None:
        """Identify the caller; see `identify`."""
        x.principal = await identify(x.head.credentials, self._directory, self._checker, self._clock.now())

    def settle(self, x: Exchange) -> None:
        """Nothing is held."""
