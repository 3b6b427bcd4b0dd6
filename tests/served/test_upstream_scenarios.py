"""Fault scenarios that concern providers, against the whole server: what callers, ledger and provider see of each."""

import asyncio
import contextlib
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme

from gatehouse.testing.upstream import FakeUpstream, Seen, Wire, completion, endless, failure, http, story, streamed
from tests.served.whole import Server, free_port, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ("plain", "left", "limited", "alone", "down", "failing", "selfsigned", "misnamed", "outdated", "plaintext")
PROVIDER = '  - {{name: {name}, kind: openai-compatible, base_url: "{url}", max_connections: 4, max_waiting: 4{more}}}\n'
MODEL = """  - name: {name}
    retries: {retries}
    fallbacks: [{fallbacks}]
    targets: [{{provider: {name}, model: fake, price: {{input: "1", output: "1"}}, breaker: {{{breaker}}}}}]
"""


class House:
    """The server, the provider behind most names, and the spare one."""

    def __init__(self, server: Server, lab: FakeUpstream, spare: FakeUpstream, secure: dict[str, FakeUpstream]) -> None:
        self.server = server
        self.lab = lab
        self.spare = spare
        self.secure = secure

    async def trace(self, request_id: str) -> Any:
        """A call as the ledger has it."""
        return await self.server.admin("GET", f"/admin/v1/requests/{request_id}")


def settings_of(urls: dict[str, str], more: dict[str, str]) -> str:
    """A provider and a model of the same name for each; those before TLS have a spare, and `failing` is retried and never left alone."""
    text = "workers: 1\nproviders:\n" + "".join(PROVIDER.format(name=name, url=url, more=more.get(name, "")) for name, url in urls.items())
    text += "models:\n"
    for name in urls:
        fallbacks = "spare" if name in {"limited", "selfsigned"} else ""
        breaker = "failures: 1000000" if name == "failing" else "open: 0.2, longest: 0.5"
        text += MODEL.format(name=name, retries=3 if name == "failing" else 0, fallbacks=fallbacks, breaker=breaker)
    return text


def contexts(folder: Path) -> tuple[str, dict[str, ssl.SSLContext]]:
    """A bundle of the authority that is trusted, and servers with something wrong each."""
    trusted, other = trustme.CA(), trustme.CA()
    trusted.cert_pem.write_to_path(str(folder / "ca.pem"))
    made = {
        "selfsigned": other.issue_cert("127.0.0.1"),
        "misnamed": trusted.issue_cert("api.example.com"),
        "outdated": trusted.issue_cert(
            "127.0.0.1", not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=datetime(2021, 1, 1, tzinfo=UTC)
        ),
    }
    found = {}
    for name, certificate in made.items():
        found[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(found[name])
    return str(folder / "ca.pem"), found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("upstreams")
    bundle, broken = contexts(folder)
    async with FakeUpstream() as lab, FakeUpstream() as spare, contextlib.AsyncExitStack() as stack:
        secure = {}
        for name, context in broken.items():
            secure[name] = upstream = FakeUpstream()
            await upstream.start(tls=context)
            await stack.enter_async_context(upstream)
        urls = dict.fromkeys(NAMES, lab.url) | {name: upstream.url for name, upstream in secure.items()} | {"spare": spare.url}
        urls["plaintext"] = lab.url.replace("http://", "https://")
        urls["down"] = f"http://127.0.0.1:{free_port()}/v1"
        more = dict.fromkeys([*secure, "plaintext"], f', ca_bundle: "{bundle}"')
        async with serving(folder / "data", settings_of(urls, more)) as server:
            yield House(server, lab, spare, secure)


@pytest_asyncio.fixture(loop_scope="module")
async def house(running: House) -> House:
    running.lab.drop()  # idle connections of the test before
    running.lab.will(completion())
    running.spare.will(completion("from the spare"))
    return running


async def until(condition: Any, *, seconds: float = 10.0) -> Any:
    """What `condition` gives as soon as it is true. Raises TimeoutError when it does not come about."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
    return found


async def test_scenario_09_a_gzip_bomb_either_way(house: House) -> None:
    """A compressed request is refused as such, a compressed answer is a failed target: neither is unpacked, so no bomb goes off."""
    bomb = gzip.compress(b" " * 50_000_000)
    reply = await house.server.ask("POST", "/v1/chat/completions", bomb, headers={"content-encoding": "gzip"})
    assert reply.status in {400, 415}
    house.lab.will(http(bomb, headers=[("content-encoding", "gzip")]))
    reply = await house.server.chat(model="plain")
    assert reply.status == 502
    assert len(reply.body) < 1_000


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#/properties/b"}, "b": {"$ref": "#/properties/a"}}},
        {"type": "object", "description": "x" * 10_000_000},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}},
    ],
    ids=["circle", "ten megabytes", "bomb"],
)
async def test_scenario_15_a_tool_schema_that_is_a_trap(house: House, schema: dict[str, Any]) -> None:
    """References in a circle, ten megabytes, a pattern that takes for ever: a 400 that names the place, and the provider hears nothing."""
    before = house.lab.requests
    reply = await house.server.chat(model="plain", tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])
    assert reply.status == 400
    assert reply.json()["error"]["param"].startswith("tools[0].function.parameters")
    assert len(reply.body) < 1_000
    assert house.lab.requests == before


async def test_scenario_19_a_client_that_leaves_mid_stream(house: House) -> None:
    """The provider's connection is closed, the slot is free for the next call, and what was written is billed once."""
    key = await house.server.make_key(limits={"concurrency": 1})
    house.lab.will(endless("word ", gap=0.001))
    body = json.dumps({"model": "left", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 500}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"word ")
    writer.transport.abort()
    await house.lab.until(lambda lab: lab.connections == 0)
    house.lab.will(completion())
    request_id = next(line.split(": ")[1] for line in answer.decode().split("\r\n") if line.lower().startswith("x-gatehouse-request-id"))

    async def closed() -> Any:
        reply = await house.server.ask("GET", f"/admin/v1/requests/{request_id}", admin=True)
        found = reply.json().get("attempts") if reply.status == 200 else None
        return found if found and found[-1]["outcome"] == "client" else None

    attempts = await until(closed)
    assert len(attempts) == 1
    assert 1 <= attempts[0]["usage"]["output"] < 500
    assert (await house.server.chat(model="left", key=key)).status == 200


@pytest.mark.parametrize("said", ["1", "date", "soon", "1000000000", "-5", ""])
async def test_scenario_30_retry_after_of_every_kind(house: House, said: str) -> None:
    """Seconds, a date, garbage, centuries: another target answers at once, and no wait that is passed on is longer than five minutes."""
    value = format_datetime(datetime.now(UTC) + timedelta(hours=5), usegmt=True) if said == "date" else said
    headers = [("retry-after", value), ("date", format_datetime(datetime.now(UTC), usegmt=True))] if value else []
    house.lab.will(failure(429, "slow down", headers=headers))
    before = house.lab.requests
    replies = [await house.server.chat(model="limited") for _ in range(5)]
    assert {(reply.status, reply.headers["x-gatehouse-target"]) for reply in replies} == {(200, "spare/fake")}
    assert house.lab.requests <= before + 5
    reply = await house.server.chat(model="alone")
    assert reply.status in {429, 503}
    assert 0 < int(reply.headers["retry-after"]) <= 300


async def test_scenario_32_all_down_then_back(house: House) -> None:
    """While nobody is there calls end at once with when to come back; once somebody is, the next ones are answered within ten seconds,
    and the first to look is not a herd."""
    replies = [await house.server.chat(model="down") for _ in range(8)]
    assert {reply.status for reply in replies} == {503}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies)
    config = house.server.config.read_text()
    port = int(config.split("name: down")[1].split("127.0.0.1:")[1].split("/")[0])
    asked = asyncio.Event()

    async def first_look(seen: Seen, wire: Wire) -> None:
        asked.set()
        await asyncio.sleep(0.2)
        wire.write(completion())

    back = FakeUpstream(first_look)
    await back.start(port=port)
    try:
        crowd: list[Any] = []
        async with asyncio.timeout(10):
            while not asked.is_set():
                crowd = await asyncio.gather(*[house.server.chat(model="down") for _ in range(10)])
            assert back.requests <= 1 + sum(reply.status == 200 for reply in crowd)
            back.will(completion())
            while (await house.server.chat(model="down")).status != 200:
                await asyncio.sleep(0.05)
        replies = await asyncio.gather(*[house.server.chat(model="down") for _ in range(8)])
        assert {reply.status for reply in replies} == {200}
    finally:
        await back.stop()


async def test_scenario_33_the_retry_budget_holds(house: House) -> None:
    """Every call fails and may be tried three times more: the provider hears at most a tenth more than was asked, beside the handful that
    any model may spend."""
    house.lab.will(failure(500, "broken"))
    before = house.lab.requests
    calls = 120
    for _ in range(calls // 8):
        replies = await asyncio.gather(*[house.server.chat(model="failing") for _ in range(8)])
        assert {reply.status for reply in replies} <= {502, 503}
    handful = 3 * 10  # each window of ten seconds has its own, and the run may touch three
    assert calls <= house.lab.requests - before <= calls * 1.1 + handful


@pytest.mark.parametrize("name", ["selfsigned", "misnamed", "outdated", "plaintext"])
async def test_scenario_34_a_certificate_that_is_no_proof(house: House, name: str) -> None:
    """Nobody we trust, another name, expired, no TLS at all: the provider gets no request and no plain text, the log says why, the next
    target answers where there is one."""
    upstream = house.secure.get(name, house.lab)
    before = upstream.requests
    reply = await house.server.chat(model=name)
    if name == "selfsigned":
        assert (reply.status, reply.headers["x-gatehouse-target"]) == (200, "spare/fake")
    else:
        assert reply.status == 503
    assert upstream.requests == before
    if name != "plaintext":
        assert f"{name}: the certificate of 127.0.0.1:{upstream.port} was refused" in house.server.log.read_text()


async def test_scenario_35_ten_times_too_much(house: House) -> None:
    """What the connections and the queue hold is served; all the rest is told to come back while those are still running, and nothing of it
    reaches the provider."""
    gate = asyncio.Event()

    async def held(seen: Seen, wire: Wire) -> None:
        await gate.wait()
        wire.write(completion())

    house.lab.will(held)
    before = house.lab.requests
    tasks = [asyncio.create_task(house.server.chat(model="plain")) for _ in range(80)]
    done: set[asyncio.Task[Any]] = set()
    async with asyncio.timeout(30):
        while len(done) < 72:
            done, _ = await asyncio.wait(tasks, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
            done = {task for task in tasks if task.done()}
    refused = [task.result() for task in done]
    assert {reply.status for reply in refused} <= {429, 503}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
    # The refusals may be here before the others have got so far.
    await house.lab.until(lambda fake: fake.requests - before == 4)
    gate.set()
    served = [await task for task in tasks if task not in done]
    assert [reply.status for reply in served] == [200] * 8
    assert house.lab.requests - before == 8


async def test_scenario_50_a_restart_breaks_no_stream(tmp_path: Path) -> None:
    """SIGTERM with streams running: not ready, new connections refused at once, every stream ends as it would have, exit status 0."""
    gate = asyncio.Event()
    frames = story(["begun ", "done"])

    async def slow(seen: Seen, wire: Wire) -> None:
        play = streamed(frames[:2], then=lambda _: None)
        assert not isinstance(play, bytes)
        await play(seen, wire)
        await gate.wait()
        for frame in frames[2:]:
            wire.write(b"%x\r\n%b\r\n" % (len(frame), frame))
        wire.write(b"0\r\n\r\n")

    async with FakeUpstream(slow) as lab:
        config = settings_of({"plain": lab.url, "spare": lab.url}, {}).replace("max_connections: 4", "max_connections: 100")
        async with serving(tmp_path / "data", config) as server:
            tasks = [asyncio.create_task(server.chat(model="plain", stream=True)) for _ in range(40)]
            await lab.until(lambda fake: fake.requests == 40, seconds=20)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            stopping = asyncio.create_task(server.stop())

            async def refused() -> bool:
                try:
                    (await asyncio.open_connection("127.0.0.1", server.port))[1].close()
                except OSError:
                    return True
                return False

            await until(refused)
            writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b" 503 " in (await reader.read()).split(b"HTTP/1.1")[-1]
            writer.close()
            gate.set()
            replies = await asyncio.gather(*tasks)
            assert {reply.status for reply in replies} == {200}
            assert all(reply.body.endswith(b"data: [DONE]\n\n") and b"done" in reply.body for reply in replies)
            assert await stopping == 0
