"""What every start on a data directory has in common, be it a server's or the library's: the settings, the lock, the refusal."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gatehouse.operator_file import SettingsError, load
from gatehouse.settings import ModelSettings, Settings, TargetSettings


class StartError(SettingsError):
    """Gatehouse cannot start; the text says why and what to do."""


def read_settings(config: Path | None) -> Settings:
    """The operator's file; without one, everything as it is by default. Raises SettingsError."""
    return load(config) if config is not None else Settings()


def with_a_model(settings: Settings) -> Settings:
    """`settings`; with the built-in model when they name none."""
    if settings.models:
        return settings
    tiny = ModelSettings(name="tiny", targets=[TargetSettings(engine="llamacpp", path="builtin")])
    return msgspec.structs.replace(settings, models=[tiny])


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory: one steward each, and a lock says so. Raises StartError when somebody else does."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data_dir / "run").mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(data_dir / "run" / "steward.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"the data directory {data_dir} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"another Gatehouse runs on {data_dir}; stop it, or give this one another data directory (--data-dir)"
            ) from None
        yield
    finally:
        os.close(descriptor)
