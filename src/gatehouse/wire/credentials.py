"""What keys a request offers: one reading of its headers for every port that identifies callers."""

from collections.abc import Iterable


def offered(authorizations: Iterable[bytes], api_keys: Iterable[bytes]) -> tuple[bytes, ...]:
    """The distinct keys in the values of `Authorization` and `x-api-key`, in that order; empty values offer nothing.

    An `Authorization` of another scheme counts whole, so that it fails instead of being passed over.
    """
    keys = [bearer(value) for value in authorizations]
    keys += [value.strip(b" \t") for value in api_keys]
    return tuple(dict.fromkeys(key for key in keys if key))


def bearer(value: bytes) -> bytes:
    """The key behind `Bearer `, or the whole value."""
    value = value.strip(b" \t")
    return value[7:].lstrip(b" \t") if value[:7].lower() == b"bearer " else value
