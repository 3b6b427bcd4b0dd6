"""A secret that cannot be printed by accident: no log line, traceback, settings dump or debugger shows any part of it.

Masking that keeps a prefix leaks; so nothing of the value is shown, not even its length.
"""

import hmac
from typing import Any, Final, NoReturn, SupportsIndex

MASK: Final = "Secret(***)"


class Secret:
    """A string that only `reveal` gives out. It cannot be pickled, copied into a message or ordered; equality takes constant time."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that needs it: a header, a handshake, a key derivation."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a secret is not pickled")


def decode_custom(kind: type, value: Any) -> Any:
    """msgspec's hook for reading trees of settings: the types in them that are ours."""
    if kind is Secret:
        if not isinstance(value, str):
            raise TypeError("Expected `str`")
        return Secret(value)
    raise TypeError(f"cannot read a {kind.__name__}")


def encode_custom(value: Any) -> Any:
    """The inverse of `decode_custom`: reveals secrets, so what it makes goes to a worker's inner socket and nowhere else."""
    if isinstance(value, Secret):
        return value.reveal()
    raise TypeError(f"cannot write a {type(value).__name__}")
