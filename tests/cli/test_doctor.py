"""`gatehouse doctor`: each illness is found, with its remedy, and nothing is changed by looking."""

import shutil
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gatehouse.adapters.vault.root import create_root_file
from gatehouse.compose.doctor import Finding, examine
from gatehouse.settings import Environment
from tests.cli.commanding import gatehouse
from tests.served.whole import serving


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory as a server leaves it."""
    import asyncio

    data = tmp_path_factory.mktemp("doctor") / "data"

    async def serve_once() -> None:
        async with serving(data, None):
            said = await gatehouse("doctor", "--json", data_dir=data)
            assert said.status == 0, said
            parts = {finding["part"]: finding for finding in said.json()["findings"]}
            assert parts["server"]["words"].startswith("serves http://127.0.0.1:")
            assert parts["model file"]["words"].startswith("tiny.gguf: llama")

    asyncio.run(serve_once())
    return data


def found(data: Path, config: Path | None = None, *, probe: bool = False, **environment: Any) -> dict[str, Finding]:
    """What is not well, by part."""
    findings = examine(data, Environment(data_dir=data, **environment), config, probe=probe)
    assert all(finding.remedy for finding in findings if finding.state != "ok")
    return {finding.part: finding for finding in findings if finding.state == "bad" or finding.part == "journals"}


@pytest.fixture
def data(healthy: Path, tmp_path: Path) -> Path:
    """A copy to be made ill."""
    return Path(shutil.copytree(healthy, tmp_path / "data"))


def test_nothing_is_changed_by_looking(data: Path, tmp_path: Path) -> None:
    """Neither in a directory that is there, nor by making one that is not."""
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file() and path.suffix not in {".db-shm", ".db-wal"}}
    assert not {name for name, finding in found(data).items() if finding.state == "bad"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_keys_that_others_can_read(data: Path) -> None:
    """Files of keys are for their owner only."""
    (data / "root.key").chmod(0o644)
    (data / "admin.key").chmod(0o640)
    assert {"root key", "root.key", "admin.key"} <= set(found(data))


def test_another_or_no_root_key(data: Path) -> None:
    """The root key is compared with the one that the database was made with."""
    (data / "root.key").unlink()
    assert "there is no root key" in found(data)["root key"].words
    create_root_file(data / "root.key")
    assert "is not the one that the database was made with" in found(data)["root key"].words


def test_a_damaged_database(data: Path) -> None:
    """Bytes that are no database, and pages that do not fit together."""
    whole = (data / "gatehouse.db").read_bytes()
    (data / "gatehouse.db").write_bytes(b"not a database" * 1000)
    assert "cannot be read" in found(data)["database"].words
    (data / "gatehouse.db").write_bytes(whole[:8192] + b"\xff" * 20_000 + whole[28_192:])
    assert found(data)["database"].state == "bad"


def test_a_database_of_a_newer_version(data: Path) -> None:
    """Told before a start would refuse it."""
    with sqlite3.connect(data / "gatehouse.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    assert "9999" in found(data)["database"].words


def test_journals(data: Path) -> None:
    """Left by a process that died, and set aside for damage."""
    (data / "journals" / "w0-1-abc").mkdir(parents=True)
    (data / "journals" / "w0-1-abc" / "1.log").write_bytes(b"GHJRNL\x00\x01")
    assert "waiting to be booked" in found(data)["journals"].words
    (data / "journals-damaged" / "w0-2-def").mkdir(parents=True)
    states = {finding.state for finding in examine(data, Environment(data_dir=data), None, probe=False) if finding.part == "journals"}
    assert states == {"bad", "warn"}


def test_files_ports_and_providers_of_a_configuration(data: Path, tmp_path: Path) -> None:
    """A model file that is none, a port that is taken, a provider that is not there, and settings that are wrong."""
    (tmp_path / "bad.gguf").write_text("hello")
    config = tmp_path / "gatehouse.yaml"
    with socket.socket() as taken, socket.socket() as closed:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        closed.bind(("127.0.0.1", 0))
        config.write_text(
            f"listen: {{port: {taken.getsockname()[1]}, admin_port: 0}}\n"
            f"providers: [{{name: lab, kind: openai-compatible, base_url: 'http://127.0.0.1:{closed.getsockname()[1]}/v1'}}]\n"
            f"models: [{{name: m, targets: [{{engine: llamacpp, path: '{tmp_path}/bad.gguf'}}]}}]\n"
        )
        findings = examine(data, Environment(data_dir=data), config, probe=True)
    states = {finding.part: finding.state for finding in findings}
    assert (states["model file"], states["port"], states["admin port"], states["provider lab"]) == ("bad", "warn", "ok", "bad")
    config.write_text("nonsense: 1\n")
    assert "line 1" in found(data, config)["configuration"].words


async def test_for_people(healthy: Path, tmp_path: Path) -> None:
    """A table with remedies, and exit status 1 when something is bad."""
    data = Path(shutil.copytree(healthy, tmp_path / "data"))
    (data / "root.key").chmod(0o644)
    said = await gatehouse("doctor", data_dir=data)
    assert (said.status, said.err) == (1, "")
    assert "chmod 600" in said.out
    said = await gatehouse("doctor", "--config", tmp_path / "none.yaml", "--json", data_dir=data)
    assert (said.status, said.json()["ok"]) == (1, False)
