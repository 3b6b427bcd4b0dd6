"""Upstreams that fail, before a whole server with two workers: what callers, operators and the ledger see of it, on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gatehouse.testing.upstream import (
    STREAM_HEAD,
    FakeUpstream,
    chunk,
    completion,
    delta,
    failure,
    hang_up,
    http,
    silence,
    streamed,
    usage_of,
)
from tests.served.whole import Server, free_port, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

PRICE = '{input: "1", output: "1"}'
QUICK = "{first_byte: 0.6, idle: 0.6, total: 20}"
CONFIG = """
workers: 2
providers:
  - {{name: one, kind: openai-compatible, base_url: "{one}"}}
  - {{name: two, kind: openai-compatible, base_url: "{two}"}}
  - {{name: checked, kind: openai-compatible, base_url: "{two}", health: {{interval: 0.2}}}}
  - {{name: dead, kind: openai-compatible, base_url: "http://127.0.0.1:{dead}/v1"}}
models:
"""


class House:
    """The server and the two providers behind it. Each test has a model and so a target of its own: breakers are by target."""

    def __init__(self, server: Server, one: FakeUpstream, two: FakeUpstream) -> None:
        self.server = server
        self.one = one
        self.two = two

    async def state(self, target: str) -> dict[str, Any]:
        """How the workers see a target."""
        report = await self.server.admin("GET", "/admin/v1/targets")
        return next(row for row in report["data"] if row["id"] == target)

    async def until(self, target: str, state: str, seconds: float = 5.0) -> dict[str, Any]:
        """Return when a target is in `state`."""
        async with asyncio.timeout(seconds):
            while (row := await self.state(target))["state"] != state:
                await asyncio.sleep(0.05)
        return row


def model(name: str, *targets: str, more: str = "") -> str:
    """An entry of the file."""
    lines = "".join(f"      - {{{target}, price: {PRICE}, deadlines: {QUICK}}}\n" for target in targets)
    return f"  - name: {name}\n{more}    targets:\n{lines}"


def of(provider: str, name: str, more: str = "") -> str:
    return f"provider: {provider}, model: {name}{more}"


FAST = ", breaker: {open: 0.3, longest: 0.5}"
MODELS = "".join(
    [
        model("s21", of("dead", "s21"), of("two", "s21")),
        model("s22", of("one", "s22", ", weight: 1000000"), of("two", "s22")),
        model("s24", of("one", "s24")),
        model("s28", of("one", "s28")),
        *(model(f"s30-{at}", of("one", f"s30-{at}", ", weight: 1000000"), of("two", f"s30-{at}")) for at in range(4)),
        model("s30alone", of("one", "s30alone")),
        model("s31", of("one", "s31")),
        model("s32", of("one", "s32", FAST), of("two", "s32", FAST)),
        model("s33", of("one", "s33a"), of("one", "s33b"), of("two", "s33c"), of("two", "s33d")),
        model("gossip", of("one", "gossip", ", breaker: {open: 30, longest: 60}")),
        model("health", of("checked", "health")),
        model("hedge", of("one", "hedge", ", weight: 1000000"), of("two", "hedge"), more="    hedge: {after: 0.15, share: 1}\n"),
        model("ladder", of("one", "ladder"), more="    cache: {ttl: 0.1}\n    ladder: {stale: 60, text: Please come back later.}\n"),
        model("sticky", of("one", "sticky"), of("two", "sticky"), more="    policy: session\n    session_header: x-session-id\n"),
        model("work", of("one", "work"), of("two", "work"), more="    policy: least_work\n"),
    ]
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with FakeUpstream() as one, FakeUpstream() as two:
        config = CONFIG.format(one=one.url, two=two.url, dead=free_port()) + MODELS
        async with serving(tmp_path_factory.mktemp("failing") / "data", config) as server:
            yield House(server, one, two)


@pytest_asyncio.fixture(loop_scope="module")
async def house(running: House) -> House:
    running.one.will(completion("one"))
    running.two.will(completion("two"))
    return running


async def test_scenario_21_a_dead_member_of_the_pool(house: House) -> None:
    """Connection refused: every call is answered by the other member, and after a few the dead one is not tried any more."""
    replies = [await house.server.chat(model="s21") for _ in range(40)]
    assert {reply.status for reply in replies} == {200}
    assert {reply.headers["x-gatehouse-target"] for reply in replies} == {"two/s21"}
    assert sum("x-gatehouse-attempts" in reply.headers for reply in replies) <= 2 * 5
    assert (await house.state("dead/s21"))["state"] == "open"


async def test_scenario_22_accepts_and_never_answers(house: House) -> None:
    """The first-byte deadline ends each attempt; nobody notices but by the time; soon nobody waits."""
    house.one.will(silence)
    replies = await asyncio.gather(*(house.server.chat(model="s22", stream=True) for _ in range(12)))
    assert {reply.status for reply in replies} == {200}
    before = house.one.requests
    replies = await asyncio.gather(*(house.server.chat(model="s22", stream=True) for _ in range(12)))
    assert {reply.status for reply in replies} == {200}
    assert house.one.requests - before <= 4, "at most a probe a worker now and then"


async def test_scenario_24_stalls_mid_stream_and_the_breaker_counts_it(house: House) -> None:
    """Each stream ends with an error and no [DONE]; after so many the target is left alone."""

    async def stall(seen: Any, wire: Any) -> None:
        wire.write(STREAM_HEAD + chunk(delta("", role="assistant")) + chunk(delta("Hel")))
        await wire.closed()

    house.one.will(stall)
    replies = await asyncio.gather(*(house.server.chat(model="s24", stream=True) for _ in range(12)))
    for reply in replies:
        assert b"[DONE]" not in reply.body
        assert b'"error"' in reply.body
    assert (await house.until("one/s24", "open"))["reason"] == "upstream_timeout"


@pytest.mark.parametrize("play", [http(b"<html>", content_type="text/html"), hang_up])
async def test_scenario_28_nonsense_counts(house: House, play: Any) -> None:
    """200 with HTML, or a closed connection instead of an answer: 502 or 503 for the caller, never the caller's fault, and counted."""
    house.one.will(play)
    statuses = {(await house.server.chat(model="s28")).status for _ in range(16)}
    assert statuses <= {502, 503}
    assert (await house.state("one/s28"))["state"] in {"open", "half_open"}


@pytest.mark.parametrize(("number", "said", "rests"), [(0, "9", True), (1, "1000000000", True), (2, "soon", False), (3, "-5", False)])
async def test_scenario_30_retry_after(house: House, number: int, said: str, rests: bool) -> None:
    """429 with advice: the other member is asked and this one is not, for as long as it said, with a cap; garbage is no advice."""
    house.one.will(failure(429, headers=[("retry-after", said)]))
    before = house.one.requests
    replies = [await house.server.chat(model=f"s30-{number}") for _ in range(4)]
    assert {reply.status for reply in replies} == {200}
    assert {reply.headers["x-gatehouse-target"] for reply in replies} == {f"two/s30-{number}"}
    row = await house.state(f"one/s30-{number}")
    assert row["asked_again_in"] <= 61, "a minute, and the moment at which another worker tries"
    assert row["state"] == ("resting" if rests else "closed")
    asked = house.one.requests - before
    assert asked <= 2 if rests else asked == 4


async def test_scenario_30_alone_it_tells_when(house: House) -> None:
    """The only target says 7 seconds: the caller is told no more and no less, also by the worker that never asked."""
    house.one.will(failure(429, headers=[("retry-after", "7")]))
    first = await house.server.chat(model="s30alone")
    assert (first.status, first.headers["retry-after"]) == (503, "7")
    await house.until("one/s30alone", "resting")
    before = house.one.requests
    replies = await asyncio.gather(*(house.server.chat(model="s30alone") for _ in range(20)))
    assert {reply.status for reply in replies} == {503}
    assert all(1 <= int(reply.headers["retry-after"]) <= 8 for reply in replies)
    assert house.one.requests == before


async def test_scenario_31_refused_credentials(house: House) -> None:
    """401: one attempt, then none; 502 without a word of keys; an alert in the audit log and the metrics; a reload ends it."""
    house.one.will(failure(401, "Incorrect API key provided: sk-abcdef"))
    replies = [await house.server.chat(model="s31") for _ in range(10)]
    assert {reply.status for reply in replies} == {502}
    assert not any(b"sk-" in reply.body or b"key" in reply.body.lower() for reply in replies)
    row = await house.until("one/s31", "quarantined")
    assert row["asked_again_in"] > 200
    async with asyncio.timeout(5):
        while not (
            alarms := [row for row in (await house.server.admin("GET", "/admin/v1/audit"))["data"] if row["action"] == "target.quarantined"]
        ):
            await asyncio.sleep(0.05)
    assert [(alarm["subject"], alarm["outcome"]) for alarm in alarms] == [("one/s31", "refused")]
    assert await house.server.metric("gatehouse_target_out") >= 1
    status, out, _ = await house.server.gatehouse("targets")
    assert status == 0
    assert "quarantined" in out


async def test_scenario_32_all_down_then_back(house: House) -> None:
    """Both refuse for a while: callers get 503 with the time; when they are back every call is answered again within ten seconds."""
    house.one.will(failure(500))
    house.two.will(failure(500))
    for _ in range(60):
        await house.server.chat(model="s32")
    reply = await house.server.chat(model="s32")
    assert reply.status == 503
    assert int(reply.headers["retry-after"]) >= 1
    asked = house.one.requests + house.two.requests
    house.one.will(completion("one"))
    house.two.will(completion("two"))
    async with asyncio.timeout(10):
        good = 0
        while good < 10:
            good = good + 1 if (await house.server.chat(model="s32")).status == 200 else 0
            await asyncio.sleep(0.02)
    assert asked < 2000


async def test_scenario_33_the_retry_budget(house: House) -> None:
    """Two hundred calls while four targets fail: no more than a tenth of that is added, and the breakers make it far less."""
    house.one.will(failure(500))
    house.two.will(failure(500))
    before = house.one.requests + house.two.requests
    for _ in range(10):
        await asyncio.gather(*(house.server.chat(model="s33") for _ in range(20)))
    assert house.one.requests + house.two.requests - before <= 1.1 * 200


async def test_a_worker_learns_from_another(house: House) -> None:
    """One worker's breaker opens; within two seconds no worker asks the target, though the other has seen nothing of it."""
    house.one.will(failure(500))
    for _ in range(30):
        await house.server.chat(model="gossip")
        row = await house.state("one/gossip")
        if row["state"] == "open" and len(row["workers"]) == 2:
            break
        await asyncio.sleep(0.02)
    row = await house.state("one/gossip")
    assert [worker["state"] for worker in row["workers"]] == ["open", "open"]
    assert sum(worker["own"] for worker in row["workers"]) >= 1
    before = house.one.requests
    replies = await asyncio.gather(*(house.server.chat(model="gossip") for _ in range(30)))
    assert {reply.status for reply in replies} == {503}
    assert house.one.requests == before


async def test_active_health(house: House) -> None:
    """A provider that fails its health check is out before a caller meets it, and is back when it is well."""
    house.two.will(failure(500))
    await house.until("checked/health", "open")
    house.two.will(completion("well"))
    async with asyncio.timeout(10):
        while (await house.server.chat(model="health")).status != 200:
            await asyncio.sleep(0.05)


async def test_hedged(house: House) -> None:
    """The first is slow to begin: the second answers, the first one's connection is closed at once, both are in the ledger."""
    house.one.will(silence)
    reply = await house.server.chat(model="hedge", stream=True)
    assert reply.status == 200
    assert (reply.headers["x-gatehouse-target"], reply.headers["x-gatehouse-attempts"]) == ("two/hedge", "2")
    call = await house.server.admin("GET", f"/admin/v1/requests/{reply.headers['x-gatehouse-request-id']}")
    async with asyncio.timeout(5):
        while len(call["attempts"]) < 2:
            await asyncio.sleep(0.05)
            call = await house.server.admin("GET", f"/admin/v1/requests/{reply.headers['x-gatehouse-request-id']}")
    loser, winner = sorted(call["attempts"], key=lambda attempt: bool(attempt["final"]))
    assert (loser["target"], loser["error"], winner["target"], winner["outcome"]) == ("one/hedge", "overtaken", "two/hedge", "completed")
    assert float(loser["cost_usd"]) > 0
    assert loser["usage"]["output"] == 0


async def test_the_ladder(house: House) -> None:
    """Well: the target. Down: what was answered before, for the same call; words for any other; both free, flagged and completed."""
    house.one.will(completion("fresh", usage=usage_of(3, 5)))
    first = await house.server.chat("a question", model="ladder")
    assert (first.headers["x-gatehouse-rung"], first.headers["x-gatehouse-cache"]) == ("target", "miss")
    house.one.will(failure(500))
    await asyncio.sleep(0.15)
    async with asyncio.timeout(10):
        while True:
            # The answer is kept by the worker that gave it: another one has only the words.
            stale = await house.server.chat("a question", model="ladder")
            if stale.headers["x-gatehouse-rung"] == "stale":
                break
            assert stale.headers["x-gatehouse-rung"] == "text"
    assert stale.json()["choices"][0]["message"]["content"] == "fresh"
    assert stale.headers["x-gatehouse-cache"] == "stale"
    for _ in range(3):
        # Asked again it is said again: the words are never in the cache.
        words = await house.server.chat("another question", model="ladder", stream=True)
        assert (words.headers["x-gatehouse-rung"], words.headers["x-gatehouse-cache"]) == ("text", "bypass")
        assert b"Please come back later." in words.body
        assert words.body.rstrip().endswith(b"[DONE]")
    call = await house.server.admin("GET", f"/admin/v1/requests/{stale.headers['x-gatehouse-request-id']}")
    last = call["attempts"][-1]
    assert (last["outcome"], last["cost_usd"], last["flags"], last["target"]) == ("completed", "0", ["rung:stale"], "")


async def test_sessions_stick(house: House) -> None:
    """The same header leads to the same target whichever worker takes the call; sessions spread."""
    seen: dict[str, set[str]] = {}
    for number in range(12):
        for _ in range(3):
            reply = await house.server.ask(
                "POST",
                "/v1/chat/completions",
                {"model": "sticky", "messages": [{"role": "user", "content": "hi"}]},
                headers={"x-session-id": f"session-{number}"},
            )
            seen.setdefault(f"session-{number}", set()).add(reply.headers["x-gatehouse-target"])
    assert {len(targets) for targets in seen.values()} == {1}
    assert len(set().union(*seen.values())) == 2


async def test_least_work_avoids_the_busy_one(house: House) -> None:
    """While one target is held up by a long stream, calls go to the other, from every worker within two seconds."""
    gate = asyncio.Event()

    async def long(seen: Any, wire: Any) -> None:
        wire.write(STREAM_HEAD + chunk(delta("", role="assistant")))
        while not gate.is_set() and not wire.gone:
            wire.write(chunk(delta("word ")))
            await asyncio.sleep(0.1)
        wire.end()

    house.one.will(long)
    house.two.will(long)
    first = asyncio.get_running_loop().create_task(house.server.chat("x" * 4000, model="work", stream=True, max_tokens=4000))
    async with asyncio.timeout(5):
        while not (busy := [row for row in ("one/work", "two/work") if any(w["running"] for w in (await house.state(row))["workers"])]):
            await asyncio.sleep(0.02)
    (house.two if busy == ["one/work"] else house.one).will(completion("quick"))
    await asyncio.sleep(1.2)
    replies = [await house.server.chat(model="work") for _ in range(10)]
    other = "two/work" if busy == ["one/work"] else "one/work"
    assert {reply.headers["x-gatehouse-target"] for reply in replies} == {other}
    gate.set()
    await first


async def test_scenario_50_streams_are_finished_while_targets_are_out(house: House) -> None:
    """A reload, which ends quarantines, breaks no stream that runs."""
    house.one.will(streamed([delta("", role="assistant"), *(delta("word ") for _ in range(20)), delta(finish="stop")], gap=0.05))
    stream = asyncio.get_running_loop().create_task(house.server.chat(model="sticky", stream=True))
    await asyncio.sleep(0.2)
    house.server.config.write_text(house.server.config.read_text() + "\n")
    reply = await stream
    assert reply.status == 200
