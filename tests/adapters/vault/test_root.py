"""The root key: made once, readable by its owner only, and never shown."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gatehouse.adapters.vault.root import (
    Purpose,
    RootKey,
    RootKeyRefused,
    check_fingerprint,
    create_root_file,
    open_root,
    read_root_file,
)

KEY = bytes(range(32))


def write(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def test_derivation_is_hkdf_sha256() -> None:
    """RFC 5869 with the label as info, recomputed here from HMAC alone."""
    import hashlib
    import hmac

    extracted = hmac.digest(bytes(32), KEY, hashlib.sha256)
    first = hmac.digest(extracted, b"gatehouse/1/api-key-pepper\x01", hashlib.sha256)
    assert RootKey(KEY).derive(Purpose.API_KEY_PEPPER) == first


def test_the_default_file_is_made_once_with_mode_0600(tmp_path: Path) -> None:
    """The first start makes it, later ones read it; nothing else is left in the directory."""
    first = open_root("", tmp_path)
    path = tmp_path / "root.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_root("", tmp_path).fingerprint() == first.fingerprint()
    assert os.listdir(tmp_path) == ["root.key"]
    assert open_root("", tmp_path / ".." / tmp_path.name).fingerprint() == first.fingerprint()


def test_several_first_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    """Whoever comes second takes the key that is there."""
    with ThreadPoolExecutor(8) as pool:
        roots = list(pool.map(lambda _: open_root("", tmp_path).fingerprint(), range(16)))
    assert len(set(roots)) == 1
    assert os.listdir(tmp_path) == ["root.key"]


def test_a_key_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    """Making a file where one is leaves it as it is."""
    path = write(tmp_path / "root.key", KEY.hex())
    create_root_file(path)
    assert path.read_text() == KEY.hex()


def test_no_key_is_made_where_data_exists(tmp_path: Path) -> None:
    """With `create=False` a missing key is lost, not new: the operator is told and nothing is written."""
    with pytest.raises(RootKeyRefused, match="bring its root key here"):
        open_root("", tmp_path, create=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o610])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Group or world bits of any kind, with the command that puts it right."""
    path = write(tmp_path / "root.key", KEY.hex(), mode)
    with pytest.raises(RootKeyRefused, match="chmod 600"):
        read_root_file(path)


@pytest.mark.parametrize(
    "content", ["", "\n", "abc", KEY.hex()[:-1], KEY.hex() + "0", KEY.hex()[:-1] + "g", KEY, b"\xff" * 64, KEY.hex() + "\n" + KEY.hex()]
)
def test_a_key_of_another_form_is_refused_without_being_shown(tmp_path: Path, content: str | bytes) -> None:
    """Empty, too short, too long, not hexadecimal, binary, two keys."""
    path = write(tmp_path / "root.key", content)
    with pytest.raises(RootKeyRefused, match="64 hexadecimal digits") as refused:
        read_root_file(path)
    assert len(content) < 10 or str(content)[2:20] not in str(refused.value)


@pytest.mark.parametrize("key", ["0" * 64, "ab" * 32, "0123" * 16])
def test_a_sample_is_no_key(key: str) -> None:
    """What was typed instead of drawn is refused."""
    with pytest.raises(RootKeyRefused, match="sample"):
        open_root("env:NAME", Path(), key)


def test_a_directory_or_pipe_is_refused(tmp_path: Path) -> None:
    """Only regular files are read; a pipe must not make the start wait for ever."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(RootKeyRefused, match="not a regular file"):
            read_root_file(path)


def test_a_named_file_is_read_and_never_made(tmp_path: Path) -> None:
    """`file:PATH` that does not exist is a mistake, most likely a volume that is not mounted."""
    path = write(tmp_path / "elsewhere", KEY.hex() + "\n", 0o400)
    assert open_root(f"file:{path}", tmp_path).fingerprint() == RootKey(KEY).fingerprint()
    with pytest.raises(RootKeyRefused, match="there is no root key"):
        open_root(f"file:{tmp_path}/missing", tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere"]


def test_an_environment_variable_carries_the_key(tmp_path: Path) -> None:
    """`env:NAME` with the value settings read; unset is an error, not a new key."""
    assert open_root("env:ROOT", tmp_path, KEY.hex().upper()).fingerprint() == RootKey(KEY).fingerprint()
    for value in (None, ""):
        with pytest.raises(RootKeyRefused, match="ROOT, which is not set"):
            open_root("env:ROOT", tmp_path, value)


@pytest.mark.parametrize("source", ["file:", "env:", "vault", "http://example.com", KEY.hex()])
def test_another_source_is_refused(source: str, tmp_path: Path) -> None:
    """The message names the two forms, and does not repeat what may have been the key itself."""
    with pytest.raises(RootKeyRefused, match='"file:PATH" or "env:NAME"') as refused:
        open_root(source, tmp_path)
    assert KEY.hex() not in str(refused.value)


def test_each_purpose_has_its_own_key() -> None:
    """No two labels give the same bytes, another root gives others, the same root the same: for any size."""
    root, other = RootKey(KEY), RootKey(KEY[::-1])
    keys = {root.derive(purpose) for purpose in Purpose} | {other.derive(purpose) for purpose in Purpose}
    assert len(keys) == 2 * len(Purpose)
    assert KEY not in keys
    assert root.derive(Purpose.FIELD, 64) == RootKey(KEY).derive(Purpose.FIELD, 64)


def test_another_root_key_is_refused_and_says_how_to_share() -> None:
    """A server with a key that the database was not made with does not start."""
    root, other = RootKey(KEY), RootKey(KEY[::-1])
    check_fingerprint(None, root)
    check_fingerprint(root.fingerprint(), root)
    with pytest.raises(RootKeyRefused, match=r"copy root\.key from the data directory"):
        check_fingerprint(other.fingerprint(), root)


def test_the_root_key_is_never_shown() -> None:
    """No repr, no pickle, no attribute dictionary."""
    root = RootKey(KEY)
    assert repr(root) == str(root) == f"{root}" == "RootKey(***)"
    with pytest.raises(TypeError):
        pickle.dumps(root)
    assert not hasattr(root, "__dict__")
    with pytest.raises(RootKeyRefused):
        RootKey(b"short")
