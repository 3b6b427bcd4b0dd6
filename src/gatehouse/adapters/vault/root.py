"""The root key: 32 bytes from which every other key of an installation derives, so that there is one thing to guard and share.

Each purpose has its own HKDF label: a value that is good for one (a digest, a session, a ciphertext) means nothing to any
other. The root is read once, held by the steward, and never leaves the process; workers get what they need of it.
"""

import enum
import hmac
import os
import re
import stat
from pathlib import Path
from typing import Final, NoReturn

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

ROOT_SIZE: Final = 32
DEFAULT_FILE: Final = "root.key"
HOW_TO_MAKE: Final = "umask 077 && openssl rand -hex 32 > root.key"
_HEX: Final = re.compile(r"[0-9A-Fa-f]{64}")


class Purpose(enum.StrEnum):
    """What a derived key is for; its value is the HKDF label and never changes."""

    API_KEY_PEPPER = "api-key-pepper"
    AUDIT_SIGNING = "audit-signing"
    AUDIT_SEAL = "audit-seal"
    AUDIT_COMMITMENT = "audit-commitment"
    RESPONSES = "stored-responses"
    FIELD = "field"
    SESSION = "session"
    WEBHOOK = "webhook"
    BACKUP = "backup"
    FINGERPRINT = "fingerprint"
    END_USER = "end-user"
    END_USER_FORWARD = "end-user-forward"


class RootKeyRefused(Exception):
    """The root key cannot be used; the message tells the operator why and what to do, and never what was in it."""


class RootKey:
    """The root. Cannot be printed, copied into a message or pickled; what derives from it can be used."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != ROOT_SIZE:
            raise RootKeyRefused(f"a root key has {ROOT_SIZE} bytes, not {len(key)}")
        if len(set(key)) < 8:
            raise RootKeyRefused(f"this root key looks like a sample, not like chance; make one with: {HOW_TO_MAKE}")
        self._key = key

    def __repr__(self) -> str:
        return "RootKey(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a root key stays in its process")

    def derive(self, purpose: Purpose, size: int = 32) -> bytes:
        """`size` bytes for one purpose, the same for the same root (HKDF-SHA256)."""
        return HKDF(SHA256(), size, salt=None, info=b"gatehouse/1/" + purpose.encode()).derive(self._key)

    def fingerprint(self) -> str:
        """32 hexadecimal digits that name this root and tell nothing about it."""
        return self.derive(Purpose.FINGERPRINT, 16).hex()


def open_root(source: str, data_dir: Path, value: str | None = None, *, create: bool = True) -> RootKey:
    """The root key that a setting names.

    Args:
        source: "file:PATH", "env:NAME", or "" for `root.key` in the data directory.
        data_dir: the data directory; must exist when a key is to be made in it.
        value: what the environment holds under NAME, for "env:NAME".
        create: make the default file when it is missing. False where data exists already: then its key is lost, not new.

    Raises:
        RootKeyRefused: missing, readable by others, or not 64 hexadecimal digits.
    """
    kind, _, rest = source.partition(":")
    if not source:
        path = data_dir / DEFAULT_FILE
        if create and not path.exists():
            create_root_file(path)
        return read_root_file(path)
    if kind == "file" and rest:
        return read_root_file(Path(rest))
    if kind == "env" and rest:
        if not value:
            raise RootKeyRefused(f"secrets.root names the environment variable {rest}, which is not set")
        return _parse(value, f"the environment variable {rest}")
    raise RootKeyRefused('secrets.root must be "file:PATH" or "env:NAME"')


def create_root_file(path: Path) -> None:
    """Write a new root key that only its owner can read. Leaves a file that is there, or appears meanwhile, as it is.

    The key is complete before it has its name, so a crash never leaves half a key behind.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(os.urandom(ROOT_SIZE).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_root_file(path: Path) -> RootKey:
    """The key in `path`: 64 hexadecimal digits in a file that nobody but its owner can read. Raises RootKeyRefused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise RootKeyRefused(
            f"there is no root key at {path}. If this installation has data, bring its root key here; if it is new, make one: {HOW_TO_MAKE}"
        ) from None
    except OSError as error:
        raise RootKeyRefused(f"the root key at {path} cannot be opened: {error.strerror}") from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise RootKeyRefused(f"the root key at {path} is not a regular file")
        if about.st_mode & 0o077:
            raise RootKeyRefused(f"the root key at {path} can be read by others; do: chmod 600 {path}")
        if about.st_uid not in {os.geteuid(), 0}:
            raise RootKeyRefused(f"the root key at {path} belongs to another user; do: chown {os.geteuid()} {path}")
        content = os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    return _parse(content.decode("ascii", "replace"), f"the root key at {path}")


def _parse(text: str, where: str) -> RootKey:
    stripped = text.strip()
    if not _HEX.fullmatch(stripped):
        raise RootKeyRefused(f"{where} is not {2 * ROOT_SIZE} hexadecimal digits; make one: {HOW_TO_MAKE}")
    return RootKey(bytes.fromhex(stripped))


def check_fingerprint(stored: str | None, root: RootKey) -> None:
    """Make sure that `root` is the one the database was made with; `stored` None means that it has none yet.

    Raises:
        RootKeyRefused: it is another one: keys, sessions and encrypted fields of this database would all be unreadable.
    """
    own = root.fingerprint()
    if stored is not None and not hmac.compare_digest(stored, own):
        raise RootKeyRefused(
            f"this server's root key ({own[:8]}…) is not the one that the database was made with ({stored[:8]}…). "
            f"All servers of an installation share one root key: copy {DEFAULT_FILE} from the data directory of a server that runs "
            'and set secrets: {root: "file:PATH"}, or give every server the same value and set secrets: {root: "env:NAME"}.'
        )
