"""Contents encrypted at rest with AES-256-GCM, each record under a key of its own.

A record's key is an HMAC under the installation's over what the record is about (its id, whose it is, until when), and the same
words are the associated data: a ciphertext that was moved to another row, owner or date does not open. One key sees one
record, so random nonces never run out.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION: Final = b"\x01"
_NONCE: Final = 12


class Sealer:
    """Implements `Sealing` with a key that derives from the root (`Purpose.RESPONSES`)."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise ValueError("the key has at least 32 bytes")
        self._key = key

    def __repr__(self) -> str:
        return "Sealer(***)"

    def seal(self, content: bytes, about: Sequence[str]) -> bytes:
        """See `Sealing`."""
        words = _words(about)
        nonce = os.urandom(_NONCE)
        return _VERSION + nonce + self._cipher(words).encrypt(nonce, content, words)

    def unseal(self, sealed: bytes, about: Sequence[str]) -> bytes:
        """See `Sealing`."""
        if sealed[:1] != _VERSION:
            raise ValueError("sealed in a way this version does not know")
        words = _words(about)
        start = len(_VERSION) + _NONCE
        try:
            return self._cipher(words).decrypt(sealed[len(_VERSION) : start], sealed[start:], words)
        except (InvalidTag, ValueError):
            raise ValueError("this is not what was sealed") from None

    def _cipher(self, words: bytes) -> AESGCM:
        return AESGCM(hmac.new(self._key, words, hashlib.sha256).digest())


def _words(about: Sequence[str]) -> bytes:
    """One encoded array: no two different lists have the same bytes."""
    return msgspec.json.encode(list(about))
