"""Start, reload, stop, and what happens when processes die: the whole server, from outside."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gatehouse.testing.upstream import FakeUpstream, completion, endless, story, streamed, usage_of
from tests.served.whole import Server, serving

CONFIG = """
workers: 2
drain_seconds: 8
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
"""

SERVER_KILLS = int(os.environ.get("SERVER_KILLS", "2"))
"""`SERVER_KILLS=10 pytest tests/served/test_lifecycle.py` is the long form."""


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(completion(usage=usage_of(3, 5))) as running:
        yield running


@pytest.fixture
async def server(tmp_path: Path, upstream: FakeUpstream) -> AsyncIterator[Server]:
    async with serving(tmp_path / "data", CONFIG.format(url=upstream.url)) as running:
        yield running


@pytest.fixture
async def build() -> AsyncIterator[Callable[[Path, str], Server]]:
    """Servers that a test starts and kills itself; what is left of them ends with the test."""
    made: list[Server] = []

    def make(data_dir: Path, config: str) -> Server:
        made.append(Server(data_dir, config))
        return made[-1]

    yield make
    for server in made:
        if server.process is not None and server.process.returncode is None:
            await server.stop()


async def audited(server: Server, action: str) -> list[dict[str, Any]]:
    page = await server.admin("GET", "/admin/v1/audit?limit=200")
    return [row for row in page["data"] if row["action"] == action]


async def until(condition: Any, seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_a_second_server_on_the_same_directory(server: Server) -> None:
    """Refused at once, with what to do."""
    status, _, err = await server.gatehouse("serve", "--port", "0", "--admin-port", "0")
    assert status == 1
    assert "another Gatehouse runs on" in err
    assert "Traceback" not in err


async def test_scenario_52_reload(server: Server, upstream: FakeUpstream) -> None:
    """A good file is swapped in whole, a broken one changes nothing and says line and reason; both audited; streams go on."""
    upstream.will(endless(gap=0.02))
    stream = asyncio.create_task(server.chat(stream=True))
    await upstream.until(lambda up: up.requests == 1)
    upstream.will(completion())
    good = server.config.read_text()
    server.config.write_text(good + "  - name: second\n    targets: [{provider: lab, model: other, price: {input: '1', output: '1'}}]\n")

    async def has_second() -> bool:
        return {(await server.chat(model="second")).status for _ in range(6)} == {200}

    await until(has_second)
    (event,) = await audited(server, "config.reload")
    assert (event["outcome"], event["detail"]["changed"]) == ("ok", "models: +second")
    server.config.write_text(good + "  - name: third\n    targetz: []\n")

    async def refused() -> bool:
        return len(await audited(server, "config.reload")) == 2

    await until(refused)
    event = (await audited(server, "config.reload"))[0]
    assert event["outcome"] == "refused"
    assert "targetz" in event["detail"]["reason"]
    assert "line " in event["detail"]["reason"]
    assert (await server.chat(model="second")).status == 200
    ready = (await server.ask("GET", "/readyz", admin=True, key=None)).json()
    assert "targetz" in ready["degraded"]["configuration"]
    server.config.write_text(good)
    os.kill(server.pid, signal.SIGHUP)

    async def second_gone() -> bool:
        return {(await server.chat(model="second")).status for _ in range(6)} == {404}

    await until(second_gone)
    assert not stream.done()
    stream.cancel()


async def test_scenario_51_a_killed_worker(server: Server, upstream: FakeUpstream) -> None:
    """The other worker serves on, a new one takes its place, the port is kept; what was open is closed as lost and charged its hold."""
    key = await server.make_key(budget={"usd": "1", "period": "total"})
    upstream.will(endless(gap=0.02))
    free = await server.make_key()
    stuck = [asyncio.create_task(server.chat(key=each, stream=True, max_tokens=100)) for each in (key, free) * 8]
    await upstream.until(lambda up: up.requests >= 16)
    upstream.will(completion(usage=usage_of(3, 5)))
    before = server.workers()
    assert len(before) == 2
    # The one that carries more of the calls.
    victim = max(before, key=lambda pid: sum(os.readlink(path).startswith("socket:") for path in Path(f"/proc/{pid}/fd").iterdir()))
    os.kill(victim, signal.SIGKILL)
    statuses = []
    for _ in range(20):
        try:
            statuses.append((await server.chat(key=key)).status)
        except (ConnectionError, asyncio.IncompleteReadError):
            statuses.append(0)  # a connection that the dead worker had taken
    assert statuses.count(200) >= 19

    async def two_again() -> bool:
        workers = server.workers()
        return len(workers) == 2 and victim not in workers

    await until(two_again)

    async def lost_are_booked() -> bool:
        return any(row["outcome"] == "lost" for row in await server.usage("key,outcome"))

    await until(lost_are_booked)
    rows = [row for row in await server.usage("key,outcome") if row["outcome"] == "lost"]
    assert {row["key"] for row in rows} <= {key[8:16], free[8:16]}
    assert 1 <= sum(row["requests"] for row in rows) <= 16
    # Each hold covered at most its prompt's bound and a hundred tokens of answer, and a key without a budget is charged it too.
    assert all(0 < float(row["cost_usd"]) <= row["requests"] * 300e-6 for row in rows)
    meters = await server.admin("GET", "/admin/v1/meters")
    money = next(meter for meter in meters["data"] if meter["dimension"] == "money" and key[8:16] in meter["meter"])
    assert money["balanced"]
    assert money["in_doubt"] == 0
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)


async def test_scenario_51_sigterm_twice(server: Server, upstream: FakeUpstream) -> None:
    """Running streams finish within the grace, readiness says no first, a second signal changes nothing, and the end is clean."""
    upstream.will(streamed(story(["w "] * 60), gap=0.03))
    streams = [asyncio.create_task(server.chat(stream=True)) for _ in range(10)]
    await upstream.until(lambda up: up.requests == 10)
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    server.process.send_signal(signal.SIGTERM)
    replies = await asyncio.gather(*streams)
    assert all(reply.body.endswith(b"data: [DONE]\n\n") for reply in replies)
    assert await server.stop() == 0
    assert not (server.data_dir / "run" / "server.json").exists()
    status, out, _ = await server.gatehouse("audit", "verify", "--json")
    report = json.loads(out)
    assert (status, report["ok"]) == (0, True)
    assert report["signed"] == report["size"]


async def test_the_whole_server_is_killed_under_load(tmp_path: Path, upstream: FakeUpstream, build: Callable[[Path, str], Server]) -> None:
    """Again and again kill -9 of everything under load: no answered call is missing, none is charged twice, never over the cap."""
    data = tmp_path / "data"
    server = build(data, CONFIG.format(url=upstream.url))
    await server.start()
    key = await server.make_key(budget={"usd": "100", "period": "total"})
    answered: set[str] = set()
    for round_ in range(SERVER_KILLS):
        stop = asyncio.Event()

        async def load(stop: asyncio.Event = stop) -> None:
            while not stop.is_set():
                try:
                    reply = await server.chat(key=key, max_tokens=50)
                except (OSError, asyncio.IncompleteReadError):
                    return
                if reply.status == 200:
                    answered.add(reply.headers["x-gatehouse-request-id"])

        tasks = [asyncio.create_task(load()) for _ in range(8)]
        await asyncio.sleep(0.4 + 0.3 * (round_ % 4))
        processes = [server.pid, *server.workers()]
        for pid in processes:
            os.kill(pid, signal.SIGKILL)
        stop.set()
        await asyncio.gather(*tasks)
        assert server.process is not None
        await server.process.wait()
        await server.start()
    rows = {row["outcome"]: row for row in await server.usage("outcome")}
    assert rows["completed"]["requests"] >= len(answered)
    known: set[str] = set()
    cursor = ""
    while True:
        page = await server.admin("GET", f"/admin/v1/requests?limit=1000{cursor}")
        for row in page["data"]:
            assert row["id"] not in known
            known.add(row["id"])
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert answered <= known
    assert float(rows["completed"]["cost_usd"]) == pytest.approx(rows["completed"]["requests"] * 8e-6, abs=1e-12)
    meters = await server.admin("GET", "/admin/v1/meters")
    assert all(meter["balanced"] for meter in meters["data"])

    async def nothing_in_doubt() -> bool:
        return all(meter["in_doubt"] == 0 for meter in (await server.admin("GET", "/admin/v1/meters"))["data"])

    await until(nothing_in_doubt)
    await server.stop()
    status, out, _ = await server.gatehouse("audit", "verify", "--json")
    assert (status, json.loads(out)["ok"]) == (0, True)


async def test_the_data_directory_is_lost(tmp_path: Path, upstream: FakeUpstream, build: Callable[[Path, str], Server]) -> None:
    """Database elsewhere, everything killed with calls open, the data directory gone: what was held is charged, nothing stays in doubt."""
    root = tmp_path / "root.key"
    root.touch(mode=0o600)
    root.write_text(os.urandom(32).hex())
    config = CONFIG.format(url=upstream.url) + f'storage: {{url: "sqlite:///{tmp_path}/elsewhere.db"}}\nsecrets: {{root: "file:{root}"}}\n'
    server = build(tmp_path / "data", config)
    await server.start()
    administrator = server.key
    key = await server.make_key(budget={"usd": "0.05", "period": "total"})
    assert (await server.chat(key=key, max_tokens=50)).status == 200
    upstream.will(endless(gap=0.02))
    stuck = [asyncio.create_task(server.chat(key=key, stream=True, max_tokens=100)) for _ in range(6)]
    await upstream.until(lambda up: up.requests == 7)
    for pid in (server.pid, *server.workers()):
        os.kill(pid, signal.SIGKILL)
    await asyncio.gather(*stuck, return_exceptions=True)
    assert server.process is not None
    await server.process.wait()
    shutil.rmtree(server.data_dir)
    await server.start()
    server.data_dir.joinpath("admin.key").write_text(administrator)
    upstream.will(completion())
    assert (await server.chat(key=key, max_tokens=50)).status in {200, 429}

    async def money() -> Any:
        meters = await server.admin("GET", "/admin/v1/meters")
        return next(meter for meter in meters["data"] if key[8:16] in meter["meter"] and meter["dimension"] == "money")

    async def resolved() -> bool:
        return bool((await money())["in_doubt"] == 0)

    await until(resolved)
    state = await money()
    assert state["balanced"]
    # Six calls were open, each held for at least its hundred tokens of answer.
    assert state["spent"] >= 6 * 100 * 10_000
    assert state["spent"] + state["live"] <= state["cap"]
    await server.stop()


async def test_tls(tmp_path: Path, upstream: FakeUpstream) -> None:
    """The data port over TLS; the certificate is read again when it changes."""
    import ssl

    import trustme

    authority = trustme.CA()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def write() -> bytes:
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(key)
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())

    first = write()
    config = CONFIG.format(url=upstream.url) + f"listen: {{tls: {{cert: {cert}, key: {key}}}}}\n"
    async with serving(tmp_path / "data", config) as server:
        context = ssl.create_default_context()
        authority.configure_trust(context)

        async def served() -> bytes:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context, server_hostname="localhost")
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            return bytes(shown)

        assert server.url.startswith("https://")
        assert await served() == first
        second = write()

        async def changed() -> bool:
            return {await served() for _ in range(4)} == {second}

        await until(changed)
