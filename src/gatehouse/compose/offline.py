"""What commands do without a server: check a file, find this machine's key, prove the audit log of a data directory."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from gatehouse.adapters.storage._audit_tables import AUDIT_EVENTS
from gatehouse.adapters.storage.audit_log import AuditAppender, SealBroken, verify
from gatehouse.adapters.storage.sql import Database
from gatehouse.adapters.vault.root import Purpose, RootKey, RootKeyRefused, open_root
from gatehouse.adapters.vault.signing import AuditSigner
from gatehouse.compose.plans import build_plans
from gatehouse.core.audit import AuditEvent, VerifyReport
from gatehouse.core.errors import Unavailable
from gatehouse.core.money import format_usd
from gatehouse.operator_file import SettingsError, load
from gatehouse.settings import Environment, Settings

T = TypeVar("T")


class OfflineError(SettingsError):
    """A command cannot go on; the text is for the person who typed it."""


def check_settings(settings: Settings) -> dict[str, Any]:
    """What a server would make of the settings: models with their targets, prices and fallbacks."""
    from gatehouse.compose.steward import lookup

    models = []
    for plan, model in zip(build_plans(settings, lookup), settings.models, strict=True):
        prices = [
            f"${format_usd(target.price.input)} / ${format_usd(target.price.output)} ({target.price.snapshot})"
            if target.price
            else "unknown"
            for target in plan.targets
        ]
        models.append(
            {"name": plan.model, "targets": [target.id for target in plan.targets], "prices": prices, "fallbacks": list(model.fallbacks)}
        )
    return {"models": models, "providers": [provider.name for provider in settings.providers], "workers": settings.workers}


def check_providers(settings: Settings, environment: Environment) -> None:
    """Make every provider's model as a server would: files it needs are read, addresses taken apart; nothing is sent.

    Raises:
        OfflineError: naming the provider and what is wrong with it.
    """
    from gatehouse.compose.providers import build_model

    for provider in settings.providers:
        try:
            build_model(provider, environment)
        except (ValueError, OSError) as error:
            raise OfflineError(f"provider {provider.name!r} of kind {provider.kind} cannot work: {error}") from None


def check_state(settings: Settings) -> None:
    """See to it that what `state` needs is there: the package, and files for TLS; nothing is connected. Raises StartError."""
    from gatehouse.adapters.system import SystemClock, SystemRng, TaskSpawner
    from gatehouse.compose.state import open_broadcast

    open_broadcast(settings.state, SystemClock(), SystemRng(), TaskSpawner())


def newest_checkpoint(data_dir: Path, environment: Environment, config: Path | None) -> str:
    """Sign the log of a data directory as it stands; the server may run or not."""

    async def work(database: Database, root: RootKey) -> str:
        appender = AuditAppender(root.derive(Purpose.AUDIT_SEAL))
        signer = _signer(root)
        return await database.run(lambda connection: appender.checkpoint(connection, signer, time.time()))

    try:
        return _with_database(data_dir, environment, config, work)
    except SealBroken as error:
        raise OfflineError(str(error)) from None


def reseal(data_dir: Path, environment: Environment, config: Path | None, reason: str) -> None:
    """Take what is there as the log from here on; who decided and why becomes its next event."""

    async def work(database: Database, root: RootKey) -> None:
        appender = AuditAppender(root.derive(Purpose.AUDIT_SEAL))
        event = AuditEvent(time.time(), "admin", "audit.reseal", "local-operator", "default", "audit", "ok", {"reason": reason})
        await database.run(lambda connection: appender.reseal(connection, event))

    try:
        _with_database(data_dir, environment, config, work)
    except SealBroken as error:
        raise OfflineError(str(error)) from None


def verify_audit(data_dir: Path, environment: Environment, config: Path | None, checkpoint: Path | None, *, show: bool) -> VerifyReport:
    """Verify the log of a data directory, and that it extends the note in `checkpoint`; `show` draws progress."""
    try:
        extends = checkpoint.read_text() if checkpoint is not None else None
    except (OSError, UnicodeDecodeError):
        raise OfflineError(f"the checkpoint {checkpoint} cannot be read") from None

    async def work(database: Database, root: RootKey) -> VerifyReport:
        total = await database.read(lambda connection: connection.execute(select(func.count()).select_from(AUDIT_EVENTS)).scalar())
        columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not show, transient=True) as progress:
            task = progress.add_task("verifying", total=total)

            def told(count: int) -> None:
                progress.update(task, completed=count)

            signer, seal = _signer(root), root.derive(Purpose.AUDIT_SEAL)
            return await database.read(lambda connection: verify(connection, signer, extends, seal_key=seal, progress=told))

    try:
        return _with_database(data_dir, environment, config, work)
    except ValueError as error:
        raise OfflineError(f"{checkpoint}: {error}") from None


def _signer(root: RootKey) -> AuditSigner:
    return AuditSigner(root.derive(Purpose.AUDIT_SIGNING), root.fingerprint())


def _with_database(data_dir: Path, environment: Environment, config: Path | None, work: Callable[[Database, RootKey], Awaitable[T]]) -> T:
    """Run `work` on the database and root key that the data directory, or the operator's file, names."""
    from gatehouse.compose.steward import root_source

    settings = load(config) if config is not None else Settings()
    url = settings.storage.url.reveal()
    if url.startswith("sqlite:///") and not (data_dir / url.removeprefix("sqlite:///")).exists():
        raise OfflineError(f"there is no database in {data_dir}; name the data directory with --data-dir, or the file with --config")
    try:
        source, value = root_source(settings, environment)
        root = open_root(source, data_dir, value, create=False)
    except RootKeyRefused as error:
        raise OfflineError(str(error)) from None

    async def run() -> T:
        database = await Database.open(url, data_dir)
        try:
            return await work(database, root)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except Unavailable as error:
        raise OfflineError(f"the database cannot be read: {error.detail or error.message}") from None
    except SQLAlchemyError as error:
        raise OfflineError(f"the database cannot be read: {type(error).__name__}") from None
