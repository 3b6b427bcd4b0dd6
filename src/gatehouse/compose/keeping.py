"""Backup and restore of a data directory: one file that is a consistent copy, and proof that it is what was copied.

The database is copied first (SQLite's online backup: one snapshot, while the server writes on), the journals after it. What
the database has not booked yet is then in the journals; whether a journal went away in between is looked up, and then both are
copied again. The manifest names every file with its checksum and carries a MAC under a key that derives from the root key, so
that a restored directory is one that an installation with this root key wrote.
"""

import asyncio
import contextlib
import gzip
import hashlib
import hmac
import io
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import msgspec

import gatehouse
from gatehouse.adapters.storage._schema import SchemaRefused
from gatehouse.adapters.storage.audit_log import verify
from gatehouse.adapters.storage.facts import ROOT_FINGERPRINT
from gatehouse.adapters.storage.shelf import ASIDE
from gatehouse.adapters.storage.sql import Database
from gatehouse.adapters.vault.root import DEFAULT_FILE, Purpose, RootKey, RootKeyRefused, check_fingerprint, open_root, read_root_file
from gatehouse.adapters.vault.signing import AuditSigner
from gatehouse.compose.doctor import database_path, running
from gatehouse.compose.offline import OfflineError
from gatehouse.compose.start import locked
from gatehouse.compose.steward import KEY_FILE, root_source
from gatehouse.core.audit import VerifyReport
from gatehouse.core.errors import Unavailable
from gatehouse.operator_file import load
from gatehouse.settings import Environment, Settings

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MAC: Final = "manifest.mac"
DATABASE: Final = "database.sqlite"
SERVER_ID: Final = "server.id"
TRIES: Final = 5
LARGEST_MANIFEST: Final = 64 * 1024 * 1024
PIECE: Final = 1024 * 1024
_NAME: Final = re.compile(rf"(journals|journals-{ASIDE})/[A-Za-z0-9][A-Za-z0-9_-]{{0,79}}/[0-9]{{1,9}}\.log")
_SINGLE: Final = frozenset({DATABASE, SERVER_ID, DEFAULT_FILE, KEY_FILE})


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a backup."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup holds. `root` is the fingerprint of the root key that everything in it was made with."""

    format: int
    made_at: float
    version: str
    root: str
    files: dict[str, Entry]


class Kept(msgspec.Struct, frozen=True):
    """A backup that was written. `missing` are journals that the books wait for and that are not there to be copied."""

    file: str
    files: int
    size: int
    root_key: bool
    missing: list[str]


class Restored(msgspec.Struct, frozen=True):
    """A directory that was restored, and what the audit log in it says."""

    data_dir: str
    files: int
    made_at: float
    events: int
    audit_root: str


# -- backup ----------------------------------------------------------------------------------------------------------------


def back_up(data_dir: Path, environment: Environment, config: Path | None, file: Path, *, with_root_key: bool, replace: bool) -> Kept:
    """Write a backup of `data_dir` to `file`, readable by its owner only; complete, or not there at all.

    Raises:
        OfflineError: nothing to copy, another kind of database, another root key, or `file` is there already.
    """
    settings = load(config) if config is not None else Settings()
    path = database_path(settings, data_dir)
    if path is None:
        raise OfflineError(
            "this installation keeps its data in PostgreSQL: stop the servers or drain them, back it up with pg_dump, "
            "and keep root.key, server.id and the journals of each data directory with it"
        )
    if not path.exists():
        raise OfflineError(f"there is no database in {data_dir}; name the data directory with --data-dir, or the file with --config")
    if file.exists() and not replace:
        raise OfflineError(f"{file} is there already; name another, or say --replace")
    root = _root(settings, environment, data_dir)
    try:
        work = Path(tempfile.mkdtemp(prefix=".gatehouse-backup-", dir=file.absolute().parent))
    except OSError as error:
        raise OfflineError(f"{file} cannot be written: {error.strerror}") from None
    try:
        missing = _copy(path, data_dir, work, root)
        _copy_secrets(settings, data_dir, work, with_root_key=with_root_key)
        draft = work / "draft"
        manifest = _pack(work, draft, root)
        size = draft.stat().st_size
        _publish(draft, file, replace=replace)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Kept(str(file), len(manifest.files), size, with_root_key, missing)


def _root(settings: Settings, environment: Environment, data_dir: Path) -> RootKey:
    try:
        source, value = root_source(settings, environment)
        return open_root(source, data_dir, value, create=False)
    except RootKeyRefused as error:
        raise OfflineError(str(error)) from None


def _copy(database: Path, data_dir: Path, work: Path, root: RootKey) -> list[str]:
    """Database, then journals, until they fit together; journals that are missing all the same."""
    if (data_dir / SERVER_ID).exists():
        shutil.copyfile(data_dir / SERVER_ID, work / SERVER_ID)
    missing: list[str] = []
    for attempt in range(TRIES):
        if attempt:
            time.sleep(0.3)
        _copy_database(database, work / DATABASE)
        for folder in ("journals", f"journals-{ASIDE}"):
            shutil.rmtree(work / folder, ignore_errors=True)
            _copy_journals(data_dir / folder, work / folder)
        stored, missing = _look(work)
        try:
            check_fingerprint(stored, root)
        except RootKeyRefused as error:
            raise OfflineError(str(error)) from None
        if not missing:
            break
    return missing


def _copy_database(source: Path, copy: Path) -> None:
    copy.unlink(missing_ok=True)
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as there,
            contextlib.closing(sqlite3.connect(copy)) as here,
        ):
            there.backup(here)
            damage = [row[0] for row in here.execute("PRAGMA quick_check(1)") if row[0] != "ok"]
    except sqlite3.Error as error:
        raise OfflineError(f"the database cannot be copied: {error}") from None
    if damage:
        raise OfflineError(f"the database is damaged ({damage[0]}); see: gatehouse doctor")


def _copy_journals(source: Path, copy: Path) -> None:
    """Every journal as far as it goes now. A torn last record is what a crash would leave as well, and is read as that."""
    for folder in sorted(source.iterdir()) if source.is_dir() else []:
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        place = copy / folder.name
        place.mkdir(mode=0o700, parents=True)
        for file in sorted(folder.glob("*.log"), key=lambda path: path.stem.zfill(12)):
            with contextlib.suppress(FileNotFoundError):  # booked and removed meanwhile: whether that matters is looked up
                shutil.copyfile(file, place / file.name)


def _look(work: Path) -> tuple[str | None, list[str]]:
    """The copied database's root fingerprint, and the journals it waits for that were not copied with it."""
    server = (work / SERVER_ID).read_text().strip() if (work / SERVER_ID).exists() else ""
    with contextlib.closing(sqlite3.connect(work / DATABASE)) as here:
        stored = here.execute("SELECT value FROM facts WHERE name = ?", (ROOT_FINGERPRINT,)).fetchone()
        waiting = here.execute("SELECT incarnation, file FROM journals WHERE server = ? AND NOT settled", (server,)).fetchall()
    missing = []
    for incarnation, number in waiting:
        numbers = {int(path.stem) for path in (work / "journals" / incarnation).glob("*.log")}
        if number not in numbers and number != max(numbers, default=-1) + 1:
            missing.append(str(incarnation))
    return (None if stored is None else str(stored[0])), missing


def _copy_secrets(settings: Settings, data_dir: Path, work: Path, *, with_root_key: bool) -> None:
    if not with_root_key:
        return
    if settings.secrets.root or not (data_dir / DEFAULT_FILE).exists():
        raise OfflineError("--with-root-key: the root key of this installation is not in its data directory; keep it where it is kept")
    for name in (DEFAULT_FILE, KEY_FILE):
        if (data_dir / name).exists():
            shutil.copyfile(data_dir / name, work / name)


def _pack(work: Path, draft: Path, root: RootKey) -> Manifest:
    """Put what lies in `work` into `draft`, manifest first."""
    names = sorted(path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file())
    files = {name: _entry(work / name) for name in names if name in _SINGLE or _NAME.fullmatch(name)}
    manifest = Manifest(FORMAT, time.time(), gatehouse.__version__, root.fingerprint(), files)
    said = msgspec.json.format(msgspec.json.encode(manifest))
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as raw:
        with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
            for name, content in ((MANIFEST, said), (MAC, _mac(said, root).encode())):
                archive.addfile(_member(name, len(content), manifest.made_at), io.BytesIO(content))
            for name, entry in files.items():
                with (work / name).open("rb") as source:
                    archive.addfile(_member(name, entry.size, manifest.made_at), source)
        raw.flush()
        os.fsync(raw.fileno())
    return manifest


def _member(name: str, size: int, at: float) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(at)
    return info


def _entry(path: Path) -> Entry:
    with path.open("rb") as file:
        return Entry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _mac(said: bytes, root: RootKey) -> str:
    return hmac.new(root.derive(Purpose.BACKUP), said, hashlib.sha256).hexdigest()


def _publish(draft: Path, file: Path, *, replace: bool) -> None:
    """Give the finished backup its name; without `replace` never over something that appeared meanwhile."""
    if replace:
        draft.replace(file)
    else:
        try:
            os.link(draft, file)
        except FileExistsError:
            raise OfflineError(f"{file} is there already; name another, or say --replace") from None
    _sync(file.absolute().parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- restore ---------------------------------------------------------------------------------------------------------------


def bring_back(data_dir: Path, environment: Environment, config: Path | None, file: Path, root_key: Path | None) -> Restored:
    """Make `data_dir` from the backup in `file`: everything is checked before the directory has its name.

    `root_key` names the root key of a backup that holds none; without it the one that `config` or the environment names is taken.

    Raises:
        OfflineError: the directory is in use or not empty, the backup is damaged or was altered, or its audit log does not verify.
    """
    settings = load(config) if config is not None else Settings()
    path = database_path(settings, data_dir)
    if path is None or path.parent != data_dir:
        raise OfflineError("the file given with --config keeps its database elsewhere than in the data directory; restore without it")
    if not data_dir.exists() and not file.is_file():
        raise OfflineError(f"there is no file {file}")
    if running(data_dir):
        raise OfflineError(f"a server runs on {data_dir}; stop it, and restore into an empty directory")
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise OfflineError(f"{data_dir} is not empty; restore into a new directory, or move this one away first")
    with _staged(data_dir) as stage:
        manifest, mac, said = _unpack(file, stage)
        root = _root_of(stage, settings, environment, root_key)
        if not hmac.compare_digest(manifest.root, root.fingerprint()):
            raise OfflineError(f"this root key ({root.fingerprint()[:8]}…) is not the one of the backup ({manifest.root[:8]}…)")
        if not hmac.compare_digest(mac, _mac(said, root)):
            raise OfflineError(f"{file} was altered after it was written: its manifest is not the one that this root key signed")
        (stage / DATABASE).rename(stage / path.name)
        report = _verified(stage, path.name, root)
    return Restored(str(data_dir), len(manifest.files), manifest.made_at, report.size, report.root)


@contextlib.contextmanager
def _staged(data_dir: Path) -> Iterator[Path]:
    """A directory beside `data_dir` that becomes it, or one inside when it is there already (a mounted volume cannot be renamed)."""
    try:
        if not data_dir.exists():
            data_dir.parent.mkdir(parents=True, exist_ok=True)
            stage = Path(tempfile.mkdtemp(prefix=f".{data_dir.name}.restore-", dir=data_dir.parent))
        else:
            stage = Path(tempfile.mkdtemp(prefix=".restore-", dir=data_dir))
    except OSError as error:
        raise OfflineError(f"{data_dir} cannot be made: {error.strerror}") from None
    try:
        yield stage
        if stage.parent != data_dir:
            stage.rename(data_dir)
        else:
            data_dir.chmod(0o700)
            with locked(data_dir):
                # The database last: without it a server would see an empty directory, not half of one.
                for path in sorted(stage.iterdir(), key=lambda path: path.suffix == ".db"):
                    path.rename(data_dir / path.name)
        _sync(data_dir.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _unpack(file: Path, stage: Path) -> tuple[Manifest, str, bytes]:
    """Write the backup's files to `stage`, each checked against the manifest; the manifest, its MAC and its bytes."""
    try:
        with tarfile.open(file, mode="r:gz") as archive:
            said = _read(archive, MANIFEST)
            mac = _read(archive, MAC).decode("ascii", "replace")
            manifest = msgspec.json.decode(said, type=Manifest)
            if manifest.format != FORMAT:
                raise OfflineError(f"{file} has format {manifest.format}, this version reads {FORMAT}: it was made by another version")
            left = dict(manifest.files)
            while (info := archive.next()) is not None:
                entry = left.pop(info.name, None)
                if entry is None or not info.isreg() or info.size != entry.size:
                    raise OfflineError(f"{file} holds {info.name[:100]!r}, which its manifest does not name so")
                if info.name not in _SINGLE and not _NAME.fullmatch(info.name):
                    raise OfflineError(f"{file} holds {info.name[:100]!r}, which has no place in a data directory")
                content = archive.extractfile(info)
                assert content is not None
                if not _write(content, stage, info.name, entry):
                    raise OfflineError(f"{file} is damaged: {info.name} is not what was written")
    except FileNotFoundError:
        raise OfflineError(f"there is no file {file}") from None
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, msgspec.DecodeError):
        raise OfflineError(f"{file} is not a backup of Gatehouse, or it is damaged") from None
    if left or DATABASE not in manifest.files:
        raise OfflineError(f"{file} is not complete: {min(left, default=DATABASE)} is missing")
    return manifest, mac, said


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    info = archive.next()
    if info is None or info.name != name or not info.isreg() or info.size > LARGEST_MANIFEST:
        raise tarfile.ReadError
    content = archive.extractfile(info)
    assert content is not None
    return content.read()


def _write(content: IO[bytes], stage: Path, name: str, entry: Entry) -> bool:
    """Write one file below `stage`; whether it is what the manifest says."""
    path = stage / name
    for folder in reversed(path.relative_to(stage).parents):
        (stage / folder).mkdir(mode=0o700, exist_ok=True)
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as place:
        while piece := content.read(PIECE):
            digest.update(piece)
            place.write(piece)
        place.flush()
        os.fsync(place.fileno())
    return digest.hexdigest() == entry.sha256


def _root_of(stage: Path, settings: Settings, environment: Environment, root_key: Path | None) -> RootKey:
    """The root key for what lies in `stage`; one that was named as a file is put there."""
    try:
        if root_key is not None:
            root = read_root_file(root_key)
            shutil.copyfile(root_key, stage / DEFAULT_FILE)
            (stage / DEFAULT_FILE).chmod(0o600)
            return root
        if (stage / DEFAULT_FILE).exists():
            return read_root_file(stage / DEFAULT_FILE)
        source, value = root_source(settings, environment)
        if not source:
            raise OfflineError("this backup holds no root key; name the installation's with --root-key FILE, or set GATEHOUSE_ROOT_KEY")
        return open_root(source, stage, value, create=False)
    except RootKeyRefused as error:
        raise OfflineError(str(error)) from None


def _verified(stage: Path, name: str, root: RootKey) -> VerifyReport:
    """The audit log's report. Raises OfflineError unless every leaf, root and checkpoint in it is whole."""
    signer, seal = AuditSigner(root.derive(Purpose.AUDIT_SIGNING), root.fingerprint()), root.derive(Purpose.AUDIT_SEAL)

    async def work() -> VerifyReport:
        database = await Database.open(f"sqlite:///{name}", stage)
        try:
            return await database.read(lambda connection: verify(connection, signer, None, seal_key=seal))
        finally:
            await database.close()

    try:
        report = asyncio.run(work())
    except (SchemaRefused, Unavailable) as error:
        raise OfflineError(f"the database of the backup cannot be used: {getattr(error, 'detail', None) or error}") from None
    if not report.ok:
        raise OfflineError(f"the audit log in the backup is not whole from event {report.first_bad} on; nothing was restored")
    return report
