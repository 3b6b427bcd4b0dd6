"""Backup and restore: the drill on a real server, and everything that must not be restored."""

import asyncio
import gzip
import io
import json
import shutil
import sqlite3
import stat
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gatehouse.compose.keeping import bring_back
from gatehouse.compose.offline import OfflineError
from gatehouse.settings import Environment
from gatehouse.testing.upstream import FakeUpstream, completion, usage_of
from tests.cli.commanding import gatehouse
from tests.served.whole import Server, serving

CONFIG = """
workers: 2
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
"""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(completion(usage=usage_of(3, 5))) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, upstream: FakeUpstream) -> AsyncIterator[Server]:
    async with serving(tmp_path_factory.mktemp("keeping") / "data", CONFIG.format(url=upstream.url)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of a server with a few calls."""
    for _ in range(4):
        assert (await server.chat()).status == 200
    file = tmp_path_factory.mktemp("kept") / "b.tar.gz"
    said = await gatehouse("backup", file, data_dir=server.data_dir)
    assert said.status == 0, said
    return file


async def test_the_drill(tmp_path: Path, upstream: FakeUpstream) -> None:
    """Copied under load, everything lost, brought back, served again: the audit log is whole and usage is that of the backup or later."""
    file, data = tmp_path / "b.tar.gz", tmp_path / "data"
    async with serving(data, CONFIG.format(url=upstream.url)) as server:
        key = await server.make_key(name="app", budget={"usd": "1.00", "period": "total"})
        for _ in range(10):
            assert (await server.chat(key=key)).status == 200
        before = await server.usage()
        said = await gatehouse("backup", file, "--with-root-key", "--json", data_dir=data)
        assert said.status == 0, said
        assert "It holds the root key" in said.err
        assert said.json()["missing"] == []
        # What comes while it copies is in the backup or not, but what was answered before is.
        ticking = [asyncio.create_task(server.chat(key=key)) for _ in range(20)]
        loaded = await gatehouse("backup", tmp_path / "under-load.tar.gz", "--with-root-key", data_dir=data)
        assert loaded.status == 0
        await asyncio.gather(*ticking)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shutil.rmtree(data)
    said = await gatehouse("restore", file, "--json", data_dir=data)
    assert (said.status, said.err) == (0, "")
    assert said.json()["events"] > 10
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in data.rglob("*")} <= {0o600, 0o700}
    async with serving(data, CONFIG.format(url=upstream.url)) as server:
        assert await server.usage() == before
        assert (await server.chat(key=key)).status == 200
        assert (await gatehouse("audit", "verify", data_dir=data)).status == 0
    empty = tmp_path / "mounted"
    empty.mkdir()
    assert (await gatehouse("restore", tmp_path / "under-load.tar.gz", data_dir=empty)).status == 0
    assert not [path for path in empty.iterdir() if path.name.startswith(".")]
    async with serving(empty, CONFIG.format(url=upstream.url)) as server:
        assert sum(row["requests"] for row in await server.usage()) >= 10
        assert (await gatehouse("audit", "verify", data_dir=empty)).status == 0


async def test_a_backup_holds_no_secret(server: Server, kept: Path) -> None:
    """Without --with-root-key neither the root key nor the administrator's key is in it."""
    with tarfile.open(kept) as archive:
        names = archive.getnames()
    content = gzip.decompress(kept.read_bytes())
    assert {"manifest.json", "manifest.mac", "database.sqlite", "server.id"} <= set(names)
    assert not {"root.key", "admin.key"} & set(names)
    assert (server.data_dir / "root.key").read_bytes().strip() not in content
    assert server.key.encode() not in content


async def test_what_cannot_be_backed_up(server: Server, kept: Path, tmp_path: Path) -> None:
    """No data, a file that is there, PostgreSQL: a sentence, and nothing is left behind."""
    config = tmp_path / "pg.yaml"
    config.write_text('storage: {url: "postgresql://db.example/gatehouse"}\n')
    for words, said in (
        (("backup", tmp_path / "x", "--data-dir", tmp_path / "none"), "there is no database"),
        (("backup", kept, "--data-dir", server.data_dir), "is there already"),
        (("backup", tmp_path / "no" / "dir" / "x", "--data-dir", server.data_dir), "cannot be written"),
        (("backup", tmp_path / "x", "--config", config, "--data-dir", server.data_dir), "pg_dump"),
    ):
        done = await gatehouse(*words)
        assert (done.status, done.out) == (1, "")
        assert said in done.err
    assert list(tmp_path.iterdir()) == [config]
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


async def test_where_nothing_is_restored(server: Server, kept: Path, tmp_path: Path) -> None:
    """A running server, a directory with something in it, no root key, another one: refused, and nothing is left behind."""
    other = tmp_path / "other.key"
    other.write_text("0123456789abcdef" * 4)
    other.chmod(0o600)
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter").write_text("mine")
    mine = server.data_dir / "root.key"
    for directory, key, said in (
        (server.data_dir, mine, "a server runs on"),
        (full, mine, "is not empty"),
        (tmp_path / "new", None, "holds no root key"),
        (tmp_path / "new", other, "is not the one of the backup"),
    ):
        with pytest.raises(OfflineError, match=said):
            await asyncio.to_thread(bring_back, directory, Environment(directory), None, kept, key)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "other.key"]


@pytest.mark.parametrize("harm", ["not a backup", "cut", "database", "manifest", "stranger", "climber", "missing"])
async def test_a_backup_that_was_harmed(harm: str, server: Server, kept: Path, tmp_path: Path) -> None:
    """Damaged, cut, altered together with its manifest, with strangers in it or files that climb out: nothing is restored."""
    with tarfile.open(kept) as archive:
        files = {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
    if harm == "database":
        files["database.sqlite"] = files["database.sqlite"][:-1] + bytes([files["database.sqlite"][-1] ^ 1])
    elif harm == "manifest":
        manifest = json.loads(files["manifest.json"])
        manifest["made_at"] += 1
        files["manifest.json"] = json.dumps(manifest).encode()
    elif harm == "stranger":
        files["config.yaml"] = b"x"
    elif harm == "climber":
        manifest = json.loads(files["manifest.json"])
        manifest["files"]["../escaped"] = {"size": 1, "sha256": "0"}
        files = {**files, "manifest.json": json.dumps(manifest).encode(), "../escaped": b"x"}
    elif harm == "missing":
        del files["server.id"]
    file = tmp_path / "harmed.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    if harm == "cut":
        file.write_bytes(kept.read_bytes()[:-200])
    elif harm == "not a backup":
        file.write_bytes(b"hello")
    with pytest.raises(OfflineError):
        await asyncio.to_thread(bring_back, tmp_path / "new", Environment(tmp_path), None, file, server.data_dir / "root.key")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


async def test_an_altered_audit_log_is_not_restored(server: Server, tmp_path: Path) -> None:
    """A database whose events were changed before it was copied: checksums and MAC are good, the log is not."""
    data = tmp_path / "data"
    shutil.copytree(server.data_dir, data, ignore=shutil.ignore_patterns("run"))
    with sqlite3.connect(data / "gatehouse.db") as database:
        database.execute("UPDATE audit_events SET actor = 'nobody' WHERE seq = 0")
    database.close()
    assert (await gatehouse("backup", tmp_path / "b", data_dir=data)).status == 0
    done = await gatehouse("restore", tmp_path / "b", "--root-key", data / "root.key", data_dir=tmp_path / "new")
    assert done.status == 1
    assert "the audit log in the backup is not whole from event 0" in done.err
    assert not (tmp_path / "new").exists()
