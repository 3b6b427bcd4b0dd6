"""Signed checkpoints: one short text that pins a whole log, in the formats that transparency logs and witnesses already speak.

A checkpoint (C2SP tlog-checkpoint) is origin, size and base64 root, one a line; a signed note (C2SP signed-note) is that text,
an empty line, and signature lines `— <key name> <base64(key hash || Ed25519 signature)>`. Lines of keys that we do not know,
such as witnesses' cosignatures, are left alone.
"""

import base64
import binascii
import hashlib
from typing import Final, Protocol

import msgspec

from gatehouse.core.merkle import HASH_SIZE

ED25519: Final = b"\x01"
"""The signature type byte of the signed-note format."""
LONGEST_NOTE: Final = 64 * 1024
_MARK: Final = "\u2014 "


class Checkpoint(msgspec.Struct, frozen=True):
    """`size` events lead to `root`; `origin` names the log."""

    origin: str
    size: int
    root: bytes


class NoteVerifier(Protocol):
    """A public key and its name."""

    name: str
    public_key: bytes
    """32 bytes (Ed25519)."""

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether the signature over `message` is this key's."""


class NoteSigner(NoteVerifier, Protocol):
    """A key pair and its name."""

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature."""


def key_hash(name: str, public_key: bytes) -> bytes:
    """The four bytes by which a signature line names its key."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:4]


def verifier_key(verifier: NoteVerifier) -> str:
    """The public key as one word for auditors and witnesses: `<name>+<key hash>+<base64 key>`."""
    encoded = base64.b64encode(ED25519 + verifier.public_key).decode()
    return f"{verifier.name}+{key_hash(verifier.name, verifier.public_key).hex()}+{encoded}"


def parse_verifier_key(text: str) -> tuple[str, bytes]:
    """Name and public key from what `verifier_key` wrote. Raises ValueError."""
    parts = text.strip().split("+", 2)
    if len(parts) != 3:
        raise ValueError("a verifier key reads <name>+<hash>+<base64 key>")
    name, hexadecimal, encoded = parts
    try:
        raw = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError("the key of a verifier key is not base64") from None
    if len(raw) != 33 or raw[:1] != ED25519:
        raise ValueError("a verifier key holds an Ed25519 public key")
    if key_hash(name, raw[1:]).hex() != hexadecimal:
        raise ValueError("the hash of a verifier key does not match its name and key")
    return name, raw[1:]


def sign_checkpoint(checkpoint: Checkpoint, signer: NoteSigner) -> str:
    """The signed note."""
    body = f"{checkpoint.origin}\n{checkpoint.size}\n{base64.b64encode(checkpoint.root).decode()}\n"
    line = base64.b64encode(key_hash(signer.name, signer.public_key) + signer.sign(body.encode())).decode()
    return f"{body}\n{_MARK}{signer.name} {line}\n"


def open_checkpoint(note: str, verifier: NoteVerifier) -> Checkpoint:
    """The checkpoint of a note that `verifier`'s key signed.

    Raises:
        ValueError: not a note, not a checkpoint, of another log, or without a good signature of that key.
    """
    if len(note) > LONGEST_NOTE:
        raise ValueError("too long for a checkpoint")
    text, empty, signatures = note.rpartition("\n\n")
    if not empty or not signatures.endswith("\n"):
        raise ValueError("not a signed note: text, an empty line and signature lines are expected")
    body = text + "\n"
    if not any(_is_signed(line, body, verifier) for line in signatures[:-1].split("\n")):
        raise ValueError(f"not signed by {verifier.name}")
    checkpoint = _parse_body(body)
    if checkpoint.origin != verifier.name:
        raise ValueError("the checkpoint is of another log")
    return checkpoint


def _is_signed(line: str, body: str, verifier: NoteVerifier) -> bool:
    if not line.startswith(_MARK):
        raise ValueError("not a signed note: a signature line is expected after the empty line")
    name, _, encoded = line[len(_MARK) :].partition(" ")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not a signed note: a signature is not base64") from None
    if name != verifier.name or raw[:4] != key_hash(verifier.name, verifier.public_key):
        return False
    if not verifier.verify(raw[4:], body.encode(errors="surrogatepass")):
        raise ValueError(f"the signature of {verifier.name} is wrong: the checkpoint was altered or is not its own")
    return True


def _parse_body(body: str) -> Checkpoint:
    lines = body.split("\n")
    if len(lines) < 4:
        raise ValueError("not a checkpoint: origin, size and root are expected")
    origin, size, encoded = lines[:3]
    if not size.isascii() or not size.isdigit() or (size[0] == "0" and size != "0") or len(size) > 19:
        raise ValueError("not a checkpoint: the size is not a number")
    try:
        root = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not a checkpoint: the root is not base64") from None
    if not origin or len(root) != HASH_SIZE:
        raise ValueError("not a checkpoint: a name and a root of 32 bytes are expected")
    return Checkpoint(origin, int(size), root)
