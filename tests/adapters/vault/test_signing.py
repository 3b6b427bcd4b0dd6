"""Signing: one key pair a root, and a name that no other installation has."""

from gatehouse.adapters.vault.root import Purpose, RootKey
from gatehouse.adapters.vault.signing import AuditSigner, audit_verifier
from gatehouse.core.checkpoints import verifier_key


def signer_of(root: RootKey) -> AuditSigner:
    return AuditSigner(root.derive(Purpose.AUDIT_SIGNING), root.fingerprint())


def test_a_signature_verifies_with_the_public_key_alone() -> None:
    """An auditor gets one word of text and can check with it."""
    signer = signer_of(RootKey(bytes(range(32))))
    auditor = audit_verifier(verifier_key(signer))
    signature = signer.sign(b"message")
    assert auditor.verify(signature, b"message")
    assert not auditor.verify(signature, b"another message")
    assert not auditor.verify(signature[:-1] + bytes([signature[-1] ^ 1]), b"message")
    assert not auditor.verify(b"", b"message")


def test_the_same_root_signs_under_the_same_name_and_another_does_not() -> None:
    """After a restart the log goes on under its key; two installations never share a name."""
    root, other = RootKey(bytes(range(32))), RootKey(bytes(range(1, 33)))
    assert verifier_key(signer_of(root)) == verifier_key(signer_of(RootKey(bytes(range(32)))))
    assert signer_of(root).name != signer_of(other).name
    assert not signer_of(other).verify(signer_of(root).sign(b"m"), b"m")


def test_a_signer_shows_its_name_only() -> None:
    """No key in a repr."""
    signer = signer_of(RootKey(bytes(range(32))))
    assert repr(signer) == f"AuditSigner({signer.name})"
