"""Ed25519 for the audit log's checkpoints: the steward signs, anybody with the public key verifies.

The name of a log is made from the root key's fingerprint: two installations never sign under the same name.
"""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gatehouse.core.checkpoints import parse_verifier_key

_NAME: Final = "gatehouse/audit/"


class AuditVerifier:
    """Implements `NoteVerifier`."""

    __slots__ = ("_key", "name", "public_key")

    def __init__(self, name: str, public_key: bytes) -> None:
        self.name = name
        self.public_key = public_key
        self._key = Ed25519PublicKey.from_public_bytes(public_key)

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether the signature over `message` is this key's."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class AuditSigner(AuditVerifier):
    """Implements `NoteSigner` with the key that derives from the root (`Purpose.AUDIT_SIGNING`), under a name made of its fingerprint."""

    __slots__ = ("_private",)

    def __init__(self, seed: bytes, fingerprint: str) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        super().__init__(_NAME + fingerprint[:16], self._private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"AuditSigner({self.name})"

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature."""
        return self._private.sign(message)


def audit_verifier(verifier_key: str) -> AuditVerifier:
    """The verifier of a public key as `verifier_key` writes it, for those who have no root key. Raises ValueError."""
    return AuditVerifier(*parse_verifier_key(verifier_key))
