"""Two whole servers, each with a data directory and workers of its own, the same providers behind them and one Redis server between
them: what one finds out, the other knows, and without Redis each goes on alone."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gatehouse.testing.upstream import FakeUpstream, Seen, Wire, completion, failure
from tests.served.whole import Server, serving
from tests.valkeys import Valkey, valkey

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "swordfish-correct-horse"
CONFIG = """
workers: 2
state: {{url: "{state}", answer_seconds: 3}}
providers:
  - {{name: one, kind: openai-compatible, base_url: "{one}"}}
  - {{name: two, kind: openai-compatible, base_url: "{two}"}}
models:
"""
PRICE = '{input: "1", output: "1"}'
LONG = "{open: 30, longest: 60}"
SHORT = "{open: 0.3, longest: 0.3}"


def model(name: str, breaker: str = LONG, *, policy: str = "weighted", alone: bool = False) -> str:
    """An entry of the file: by far the most goes to `one`, what is left to `two`."""
    first = f"      - {{provider: one, model: {name}, weight: 1000000, price: {PRICE}, breaker: {breaker}}}\n"
    second = "" if alone else f"      - {{provider: two, model: {name}, price: {PRICE}}}\n"
    return f"  - name: {name}\n    policy: {policy}\n    targets:\n{first}{second}"


NAMES = ("breaker", "refused", "before", "after", "late")
MODELS = "".join(model(name) for name in NAMES)
HERE = MODELS + model("back") + model("busy", policy="least_work", alone=True)
THERE = MODELS + model("back", SHORT) + model("busy", policy="least_work").replace("weight: 1000000", "weight: 1")


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Return when `condition` holds."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


class Town:
    """Two servers, two providers, one Redis. Each test has a model of its own; `bad` says how `one` answers for a model."""

    def __init__(self, here: Server, there: Server, one: FakeUpstream, redis: Valkey, bad: dict[str, bytes]) -> None:
        self.here = here
        self.there = there
        self.one = one
        self.redis = redis
        self.bad = bad

    def asked(self, name: str) -> int:
        """How often `one` was asked for a model."""
        return sum(seen.json()["model"] == name for seen in self.one.seen)

    async def state(self, server: Server, name: str) -> dict[str, Any]:
        """How a server sees `one`'s target of a model."""
        report = await server.admin("GET", "/admin/v1/targets")
        return next(row for row in report["data"] if row["id"] == f"one/{name}")

    async def open(self, server: Server, name: str, answer: bytes | None = None) -> None:
        """Have calls of a server fail until it leaves the target alone."""
        self.bad[name] = answer or failure(500)

        async def left_alone() -> bool:
            assert (await server.chat(model=name)).status == 200
            row = await self.state(server, name)
            return row["state"] in {"open", "quarantined"} and any(worker["own"] for worker in row["workers"])

        await until(left_alone)

    async def heard(self, server: Server, name: str, state: str = "open") -> dict[str, Any]:
        """Return when every worker of a server leaves the target alone because of what it heard."""

        async def knows() -> bool:
            workers = (await self.state(server, name))["workers"]
            return [worker["state"] for worker in workers] == [state, state]

        await until(knows)
        row = await self.state(server, name)
        assert not any(worker["own"] for worker in row["workers"])
        return row

    async def degraded(self, server: Server) -> str:
        """What /readyz of a server says of the state that is shared."""
        reply = await server.ask("GET", "/readyz", admin=True, key=None)
        assert reply.status == 200
        return str(reply.json().get("degraded", {}).get("state", ""))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    bad: dict[str, bytes] = {}

    async def play(seen: Seen, wire: Wire) -> None:
        asked = seen.json()
        if asked["messages"][0]["content"] == "hang":
            await wire.closed()
        else:
            wire.write(bad.get(asked["model"], completion("one")))

    with valkey(folder, "--requirepass", PASSWORD) as redis:
        async with FakeUpstream(play, remember=10_000) as one, FakeUpstream(completion("two")) as two:
            state = f"redis://:{PASSWORD}@127.0.0.1:{redis.port}/0"
            config = CONFIG.format(one=one.url, two=two.url, state=state)
            async with serving(folder / "here", config + HERE) as here, serving(folder / "there", config + THERE) as there:
                found = Town(here, there, one, redis, bad)

                async def acquainted() -> bool:
                    return [await server.metric("gatehouse_state_servers") for server in (here, there)] == [1, 1]

                await until(acquainted)
                yield found


async def test_a_breaker_that_one_server_opened(town: Town) -> None:
    """The other server leaves the target alone too, all of its workers, without having asked it once."""
    await town.open(town.here, "breaker")
    row = await town.heard(town.there, "breaker")
    assert row["reason"]
    before = town.asked("breaker")
    replies = await asyncio.gather(*(town.there.chat(model="breaker") for _ in range(30)))
    assert {(reply.status, reply.headers["x-gatehouse-target"]) for reply in replies} == {(200, "two/breaker")}
    assert town.asked("breaker") == before


async def test_credentials_that_one_server_had_refused(town: Town) -> None:
    """A quarantine is known to the other, for its term; in the audit log it stands once, with the server that saw it."""
    await town.open(town.here, "refused", failure(401))
    row = await town.heard(town.there, "refused", "quarantined")
    assert 0 < row["asked_again_in"] <= 300.5
    found = []
    for server in (town.here, town.there):
        events = (await server.admin("GET", "/admin/v1/audit?limit=200"))["data"]
        found.append(sum(event["action"] == "target.quarantined" and event["subject"] == "one/refused" for event in events))
    assert found == [1, 0]


async def test_a_target_that_one_server_found_well(town: Town) -> None:
    """The other server's configuration leaves targets alone for less long, whatever it hears: it tries, finds the target well, and the
    first one asks it again long before its own term is over."""
    await town.open(town.here, "back")
    before = await town.state(town.here, "back")
    assert before["asked_again_in"] > 10
    town.bad.pop("back")

    async def asked_again() -> bool:
        await town.there.chat(model="back")
        return (await town.here.chat(model="back")).headers["x-gatehouse-target"] == "one/back"

    await until(asked_again)


async def test_work_that_another_server_has_there(town: Town) -> None:
    """Calls that one server has with a target count when the other chooses, until they have ended."""
    hanging = [asyncio.create_task(town.here.chat("hang", model="busy")) for _ in range(3)]

    async def chosen() -> set[str]:
        replies = [await town.there.chat(model="busy") for _ in range(20)]
        return {reply.headers["x-gatehouse-target"] for reply in replies}

    async def avoided() -> bool:
        return await chosen() == {"two/busy"}

    async def shared_out() -> bool:
        return await chosen() == {"one/busy", "two/busy"}

    try:
        await until(avoided)
    finally:
        for call in hanging:
            call.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
    await until(shared_out)


async def test_redis_is_killed_and_comes_back(town: Town) -> None:
    """Both servers serve on and say what is wrong: once in the log, in /readyz, as a metric, without the password. What each finds out
    stays with it. When Redis is back, sharing resumes by itself, and what was found out meanwhile is told too."""
    town.redis.kill()

    async def both_know() -> bool:
        return all([await town.degraded(server) for server in (town.here, town.there)])

    await until(both_know)
    assert await town.there.metric("gatehouse_state_connected") == 0
    assert "cannot be reached" in await town.degraded(town.here)
    await town.open(town.here, "before")
    replies = [await town.there.chat(model="before") for _ in range(3)]
    assert {reply.status for reply in replies} == {200}
    assert (await town.state(town.there, "before"))["state"] == "closed"
    town.redis.start()

    async def both_well() -> bool:
        return not any([await town.degraded(server) for server in (town.here, town.there)])

    await until(both_well)
    assert await town.there.metric("gatehouse_state_connected") == 1
    await town.heard(town.there, "before")
    await town.open(town.there, "after")
    await town.heard(town.here, "after")
    for server in (town.here, town.there):
        log = server.log.read_text()
        assert log.count("calls go on by what this server knows") == 1
        assert log.count("is shared again") == 1
        assert PASSWORD not in log
        status, out, err = await server.gatehouse("doctor", "--json", "--config", str(server.config))
        assert '"part": "state", "state": "ok"' in " ".join(out.split()), (status, out, err)
        assert PASSWORD not in out + err


async def test_a_frozen_redis_holds_nobody_up(town: Town) -> None:
    """A Redis that keeps its connections and says nothing is noticed; calls are answered all the while."""
    town.redis.freeze()
    try:

        async def noticed() -> bool:
            assert (await town.here.chat(model="late")).status == 200
            return bool(await town.degraded(town.here))

        await until(noticed)
    finally:
        town.redis.thaw()

    async def well() -> bool:
        return not await town.degraded(town.here)

    await until(well)


async def test_a_server_that_is_killed(town: Town) -> None:
    """Within seconds it counts no longer, and the other serves on."""

    async def heard_of(number: int) -> bool:
        return await town.there.metric("gatehouse_state_servers") == number

    await until(lambda: heard_of(1))
    for pid in (*town.here.workers(), town.here.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await until(lambda: heard_of(0))
    assert (await town.there.chat(model="late")).status == 200


async def test_start_up_waits_for_nobody(tmp_path: Path) -> None:
    """A server whose Redis is not there starts, serves, and says that nothing is shared."""
    redis = Valkey(tmp_path)
    async with FakeUpstream(completion("hello")) as one:
        config = CONFIG.format(one=one.url, two=one.url, state=redis.url) + model("only", alone=True)
        async with serving(tmp_path / "alone", config) as server:
            assert (await server.chat(model="only")).status == 200

            async def said() -> bool:
                reply = await server.ask("GET", "/readyz", admin=True, key=None)
                return "nothing is shared" in str(reply.json())

            await until(said)
            status, out, _err = await server.gatehouse("doctor", "--config", str(server.config))
            assert status == 1
            assert "cannot be reached" in out
