"""Signed checkpoints: the formats of transparency logs, byte for byte, and everything that is not one."""

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.adapters.vault.signing import AuditSigner, AuditVerifier
from gatehouse.core.checkpoints import (
    Checkpoint,
    key_hash,
    open_checkpoint,
    parse_verifier_key,
    sign_checkpoint,
    verifier_key,
)

SIGNER = AuditSigner(bytes(range(32)), "0123456789abcdef0123456789abcdef")
CHECKPOINT = Checkpoint(SIGNER.name, 42, b"r" * 32)
NOTE = sign_checkpoint(CHECKPOINT, SIGNER)


def test_a_note_has_the_published_form() -> None:
    """C2SP: origin, size and base64 root, an empty line, and an em dash with name and base64(hash || signature)."""
    origin, size, root, empty, signature, end = NOTE.split("\n")
    assert (origin, size, empty, end) == ("gatehouse/audit/0123456789abcdef", "42", "", "")
    assert base64.b64decode(root) == b"r" * 32
    dash, name, encoded = signature.split(" ")
    assert (dash, name) == ("\u2014", SIGNER.name)
    raw = base64.b64decode(encoded)
    assert raw[:4] == key_hash(SIGNER.name, SIGNER.public_key)
    assert len(raw) == 68
    assert SIGNER.verify(raw[4:], f"{origin}\n{size}\n{root}\n".encode())


def test_the_key_hash_is_that_of_the_specification() -> None:
    """The example key of golang.org/x/mod/sumdb/note has this hash."""
    name, key = parse_verifier_key("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    assert name == "PeterNeumann"
    assert key_hash(name, key).hex() == "c74f20a3"


def test_a_note_made_by_others_opens() -> None:
    """The example note of golang.org/x/mod/sumdb/note carries a good signature in our eyes too; it is just no checkpoint."""
    verifier = AuditVerifier(*parse_verifier_key("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"))
    note = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n\n"
        "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    with pytest.raises(ValueError, match="not a checkpoint"):
        open_checkpoint(note, verifier)
    with pytest.raises(ValueError, match="signature of PeterNeumann is wrong"):
        open_checkpoint(note.replace("problem is", "answer is"), verifier)


def test_a_checkpoint_comes_back() -> None:
    """What was signed is what is read, also by somebody who has only the public key, and beside a witness's line."""
    verifier = AuditVerifier(*parse_verifier_key(verifier_key(SIGNER)))
    assert open_checkpoint(NOTE, verifier) == CHECKPOINT
    assert open_checkpoint(NOTE + "\u2014 witness.example AAAAAAAA\n", verifier) == CHECKPOINT


@pytest.mark.parametrize(
    ("note", "why"),
    [
        ("", "not a signed note"),
        ("hello", "not a signed note"),
        (NOTE[:-1], "not a signed note"),
        (NOTE.replace("\u2014", "-"), "a signature line is expected"),
        (NOTE.replace("\n42\n", "\n43\n"), "was altered"),
        (NOTE.replace("gatehouse/audit", "gatehouse/other", 1), "was altered"),
        (NOTE.split("\n\n")[0] + "\n\n\u2014 someone.else AAAA\n", "not signed by"),
        (NOTE.split("\n\n")[0] + "\n\n", "signature lines are expected"),
        (NOTE.split("\n\n")[0] + "\n\n\u2014 x !!!\n", "not base64"),
        ("x" * 70_000, "too long"),
    ],
)
def test_what_is_not_a_good_note_is_refused(note: str, why: str) -> None:
    """Nothing that was altered, truncated, unsigned or signed by others is taken for a checkpoint."""
    with pytest.raises(ValueError, match=why):
        open_checkpoint(note, SIGNER)


def signed(body: str) -> str:
    line = base64.b64encode(key_hash(SIGNER.name, SIGNER.public_key) + SIGNER.sign(body.encode())).decode()
    return f"{body}\n\u2014 {SIGNER.name} {line}\n"


@pytest.mark.parametrize("size", ["-1", "042", "1e3", "٤٢", "", " 42", "9" * 20])
def test_a_size_is_a_plain_number(size: str) -> None:
    """Even under a good signature a checkpoint's size has one spelling."""
    with pytest.raises(ValueError, match="the size is not a number"):
        open_checkpoint(signed(f"{SIGNER.name}\n{size}\n{base64.b64encode(bytes(32)).decode()}\n"), SIGNER)


def test_a_checkpoint_of_another_log_is_refused() -> None:
    """One key may sign other texts; only those that name this log count."""
    root = base64.b64encode(bytes(32)).decode()
    with pytest.raises(ValueError, match="another log"):
        open_checkpoint(signed(f"other.example/log\n1\n{root}\n"), SIGNER)
    with pytest.raises(ValueError, match="root"):
        open_checkpoint(signed(f"{SIGNER.name}\n1\nAAAA\n"), SIGNER)
    with pytest.raises(ValueError, match="root"):
        open_checkpoint(signed(f"{SIGNER.name}\n1\n!\n"), SIGNER)


@given(st.text())
def test_reading_survives_anything(text: str) -> None:
    """Arbitrary text raises ValueError and nothing else."""
    for note in (text, text + NOTE, NOTE + text):
        with contextlib.suppress(ValueError):
            assert open_checkpoint(note, SIGNER) == CHECKPOINT


@pytest.mark.parametrize(
    "text", ["", "a+b", "a+b+c", "name+00000000+AQID", f"{SIGNER.name}+00000000+{verifier_key(SIGNER).split('+', 2)[2]}"]
)
def test_a_damaged_public_key_is_refused(text: str) -> None:
    """A verifier key carries a hash of itself, so that a slip of the pen is noticed."""
    with pytest.raises(ValueError, match="verifier key"):
        parse_verifier_key(text)
