"""The library on its real parts: one process, a provider behind it, the same controls as a server's."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from gatehouse import Gatehouse, Reply
from gatehouse.compose.offline import newest_checkpoint, verify_audit
from gatehouse.core.events import Chunk
from gatehouse.errors import (
    Blocked,
    Forbidden,
    GatehouseError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    SettingsError,
    StartError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)
from gatehouse.settings import ModelSettings, Settings, TargetSettings, read_environment
from gatehouse.testing.upstream import FakeUpstream, completion, delta, endless, hang_up, story, stream, streamed, usage_of

CONFIG = """
listen: {{http: {{max_body_bytes: 100000}}}}
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}", api_key: "upstream-secret-value"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "2"}}}}]
  - name: cached
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "2"}}}}]
    cache: {{scope: key}}
  - name: guarded
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "2"}}}}]
    guard: {{input: block, output: block}}
"""
SECRET = "AKIA" + "Q3EGRSTUVWXY7ABC"


class House:
    """A data directory, a provider, and how to open the one on the other."""

    def __init__(self, folder: Path, upstream: FakeUpstream) -> None:
        self.upstream = upstream
        self.data_dir = folder / "data"
        self.config = folder / "gatehouse.yaml"
        self.config.write_text(CONFIG.format(url=upstream.url))

    def open(self, key: str | None = None) -> AbstractAsyncContextManager[Gatehouse]:
        return Gatehouse.open(self.config, data_dir=self.data_dir, key=key)

    async def key(self, **fields: Any) -> str:
        """A new key of a directory that nobody has open."""
        async with self.open() as gh:
            return await gh.create_key("app", **fields)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with FakeUpstream() as upstream:
        yield House(tmp_path, upstream)


async def until(condition: Any) -> None:
    """Return when `condition` holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def listen(reply: Reply, heard: list[str]) -> None:
    """Add each event's text to `heard`, whatever comes after it."""
    async for event in reply:
        heard.append(event.text)  # noqa: PERF401 - a comprehension would lose them when it raises


# -- answers -------------------------------------------------------------------------------------------------------


async def test_a_whole_answer_comes_with_its_usage_cost_and_target(house: House) -> None:
    """A prompt or messages; the provider gets its own credential and no trace of the caller's."""
    async with house.open() as gh:
        done = await gh.complete("hi", model="assistant", temperature=0.5)
        again = await gh.complete([{"role": "user", "content": "hi"}], model="assistant")
    assert (done.text, done.usage.input_total, done.usage.output_total) == ("Hello there.", 3, 5)
    assert (done.cost_usd, done.target, done.cache) == ("0.000013", "lab/fake", "bypass")
    assert (again.text, done.request_id != again.request_id) == ("Hello there.", True)
    sent = house.upstream.seen[0]
    assert (sent.json()["temperature"], sent.json()["messages"]) == (0.5, [{"role": "user", "content": "hi"}])
    assert sent.headers["authorization"] == "Bearer upstream-secret-value"


async def test_a_stream_yields_events_and_its_reply_knows_the_rest(house: House) -> None:
    """Each event's text as it comes; usage and cost stand in the reply when it has ended; it is read once."""
    house.upstream.will(stream())
    async with house.open() as gh:
        reply = gh.chat(model="assistant", messages="hi")
        events = [event async for event in reply]
        with pytest.raises(RuntimeError):
            _ = [event async for event in reply]
        rows = await gh.usage(["model", "outcome"])
    assert all(isinstance(event, Chunk) for event in events)
    assert "".join(event.text for event in events) == "Hello there."
    assert (reply.usage.total, reply.cost_usd, reply.target, reply.cache) == (8, "0.000013", "lab/fake", "bypass")
    assert [(row.group, row.requests, row.cost_usd) for row in rows] == [({"model": "assistant", "outcome": "completed"}, 1, "0.000013")]


async def test_an_answer_is_cached_as_the_route_says_and_costs_nothing_then(house: House) -> None:
    """The second one does not reach the provider; what is kept serves streams too."""
    async with house.open() as gh:
        first, second = [await gh.complete("hi", model="cached") for _ in range(2)]
        third = gh.chat(model="cached", messages="hi")
        text = "".join([event.text async for event in third])
    assert (first.cache, second.cache, second.cost_usd, third.cache, text) == ("miss", "hit", "0", "hit", "Hello there.")
    assert house.upstream.requests == 1


async def test_many_calls_at_a_time(house: House) -> None:
    """Each gets its own answer, and the ledger has them all."""
    house.upstream.will(stream(story(["word "] * 100)))
    async with house.open() as gh:

        async def one() -> int:
            return len([event async for event in gh.chat(model="assistant", messages="hi") if event.text])

        assert await asyncio.gather(*(one() for _ in range(50))) == [100] * 50
        assert [row.requests for row in await gh.usage()] == [50]


async def test_the_embedded_model_runs_in_a_host_of_its_own(tmp_path: Path) -> None:
    """Without a configuration there is `tiny`; its host ends with the library."""
    async with Gatehouse.open(data_dir=tmp_path / "data") as gh:
        done = await gh.complete("Who are you?", model="tiny", max_tokens=24)
        hosts = [words for words in children() if "_engine" in words]
        assert gh.models == ("tiny",)
        assert gh.problems == {}
    assert done.text
    assert (done.target, done.usage.output_total > 0, len(hosts)) == ("llamacpp/tiny", True, 1)
    assert [words for words in children() if "_engine" in words] == []


def children() -> list[list[str]]:
    """Command lines of this process's children."""
    listed = Path("/proc/self/task").glob("*/children")
    pids = [pid for path in listed for pid in path.read_text().split()]
    return [(Path("/proc") / pid / "cmdline").read_text().split("\0") for pid in pids]


# -- refusals ------------------------------------------------------------------------------------------------------


async def test_what_is_wrong_with_a_call_is_said_in_errors_of_one_tree(house: House) -> None:
    """A field, a model, a size, a value that is no JSON: each its type, all GatehouseError."""
    async with house.open() as gh:
        with pytest.raises(InvalidRequest) as wrong:
            await gh.complete("hi", model="assistant", temperature="hot")
        assert wrong.value.param == "temperature"
        with pytest.raises(NotFound):
            await gh.complete("hi", model="nonesuch")
        with pytest.raises(TooLarge):
            await gh.complete("word " * 30_000, model="assistant")
        with pytest.raises(InvalidRequest, match="JSON"):
            await gh.complete("hi", model="assistant", seed=object())
        with pytest.raises(InvalidRequest) as streaming:
            gh.chat(model="assistant", messages="hi", stream=False)
        assert streaming.value.param == "stream"
        with pytest.raises(GatehouseError):
            await gh.usage(["colour"])
    assert house.upstream.requests == 0


async def test_guards_hold_in_both_directions(house: House) -> None:
    """A secret in the prompt never leaves; one in the answer never arrives, and both are in the ledger."""
    house.upstream.will(stream([delta("look: "), delta(SECRET), delta(finish="stop"), b"data: [DONE]\n\n"]))
    async with house.open() as gh:
        with pytest.raises(Blocked):
            await gh.complete(f"is {SECRET} good?", model="guarded")
        assert house.upstream.requests == 0
        heard: list[str] = []
        with pytest.raises(Blocked):
            await listen(gh.chat(model="guarded", messages="tell me"), heard)
        assert SECRET not in "".join(heard)
        rows = await gh.usage(["outcome"])
    assert sorted((str(row.group["outcome"]), row.requests) for row in rows) == [("guard", 1), ("refused", 1)]


async def test_a_provider_that_fails_is_an_error_with_its_reason(house: House) -> None:
    """Before the first byte and in the middle of a stream; a broken stream never ends like a finished one."""
    async with house.open() as gh:
        house.upstream.will(streamed([delta("half")], then=lambda wire: wire.reset()))
        heard: list[str] = []
        with pytest.raises(UpstreamFailed) as broken:
            await listen(gh.chat(model="assistant", messages="hi"), heard)
        assert ("".join(heard), broken.value.code) == ("half", "upstream_broken")
        house.upstream.will(hang_up)
        with pytest.raises(UpstreamFailed):
            await gh.complete("hi", model="assistant")


# -- keys ----------------------------------------------------------------------------------------------------------


async def test_under_a_key_its_grants_and_limits_hold(house: House) -> None:
    """The model it may not ask for, the second request in a minute, reports: all refused, and audited like a server's."""
    key = await house.key(models=["assistant"], requests_per_minute=1)
    async with house.open(key) as gh:
        with pytest.raises(Forbidden):
            await gh.complete("hi", model="cached")
        await gh.complete("hi", model="assistant")
        with pytest.raises(LimitExceeded) as over:
            await gh.complete("hi", model="assistant")
        assert over.value.retry_after is not None
        with pytest.raises(Forbidden):
            await gh.usage()
        with pytest.raises(Forbidden):
            await gh.create_key("more")
    async with house.open() as gh:
        rows = await gh.usage(["key", "outcome"])
    own = {str(row.group["outcome"]): row.requests for row in rows if row.group["key"] == key.split("_")[2]}
    assert own == {"completed": 1, "refused": 2}


async def test_a_budget_holds_across_openings(house: House) -> None:
    """Money is the ledger's: what was spent before the directory was closed counts after it is opened again."""
    key = await house.key(budget_usd="0.001", budget_period="total")
    house.upstream.will(completion(usage=usage_of(300, 300)))
    async with house.open(key) as gh:
        done = await gh.complete("hi", model="assistant", max_tokens=400)
        assert done.cost_usd == "0.0009"
    async with house.open(key) as gh:
        with pytest.raises(LimitExceeded) as over:
            await gh.complete("hi", model="assistant", max_tokens=400)
        assert over.value.code == "insufficient_quota"
    assert house.upstream.requests == 1


async def test_a_key_that_is_no_good_opens_nothing(house: House) -> None:
    """It is checked when the directory is opened, which is free again afterwards."""
    with pytest.raises(Unauthenticated):
        async with house.open("gh_live_nobody"):
            pytest.fail("it opened")
    async with house.open() as gh:
        assert gh.models == ("assistant", "cached", "guarded")
        with pytest.raises(InvalidRequest):
            await gh.create_key("app", colour="blue")


async def test_a_directory_of_somebody_else_needs_a_key(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not own the files is not their local operator."""
    house.data_dir.mkdir()
    owner = house.data_dir.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(StartError, match="API key"):
        async with house.open():
            pytest.fail("it opened")


# -- one steward ---------------------------------------------------------------------------------------------------


async def test_a_second_one_on_the_same_directory_is_refused(house: House) -> None:
    """In this process, as a library in another, and as a server: each is told who is in the way."""
    other = (
        "import asyncio, sys\nfrom gatehouse import Gatehouse\n"
        "async def main():\n    async with Gatehouse.open(sys.argv[1], data_dir=sys.argv[2]):\n        pass\nasyncio.run(main())"
    )
    words = (str(house.config), str(house.data_dir))
    async with house.open() as gh:
        with pytest.raises(StartError, match="another Gatehouse"):
            async with house.open():
                pytest.fail("it opened")
        for command in (
            ("-c", other, *words),
            ("-m", "gatehouse", "serve", "--port", "0", "--admin-port", "0", "--config", words[0], "--data-dir", words[1]),
        ):
            done = await asyncio.to_thread(subprocess.run, [sys.executable, *command], capture_output=True, text=True, timeout=60)
            assert done.returncode != 0
            assert "another Gatehouse runs on" in done.stderr
        assert (await gh.complete("hi", model="assistant")).text


async def test_settings_of_a_program_are_validated_like_a_file(tmp_path: Path) -> None:
    """What a file could not say, an object cannot either; a file that is not there is a sentence."""
    wrong = Settings(models=[ModelSettings(name="a", targets=[TargetSettings(engine="llamacpp", path="builtin")], fallbacks=["b"])])
    for config in (wrong, Settings(workers=0), tmp_path / "missing.yaml"):
        with pytest.raises(SettingsError):
            async with Gatehouse.open(config, data_dir=tmp_path / "data"):
                pytest.fail("it opened")


# -- ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["break", "cancel", "aclose"])
async def test_leaving_a_stream_stops_the_model_at_once_and_bills_what_came(house: House, how: str) -> None:
    """However the reader leaves: the provider's connection is closed, tokens so far are paid, the outcome is the client's."""
    house.upstream.will(endless(gap=0.001))
    async with house.open() as gh:
        reply = gh.chat(model="assistant", messages="hi", max_tokens=100_000)
        begun = asyncio.Event()

        async def read() -> None:
            count = 0
            async for _ in reply:
                count += 1
                if count == 20:
                    begun.set()
                    if how == "break":
                        break

        task = asyncio.create_task(read())
        await begun.wait()
        if how == "cancel":
            task.cancel()
        elif how == "aclose":
            await reply.aclose()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, {"break": type(None), "cancel": asyncio.CancelledError, "aclose": Unavailable}[how])
        await until(lambda: house.upstream.connections == 0)
        (row,) = await gh.usage(["outcome"])
        assert (row.group, row.requests) == ({"outcome": "client"}, 1)
        assert 15 <= row.output_tokens <= 2000
        assert row.charge > 0
        assert reply.cost_usd == row.cost_usd


async def test_cancelling_a_whole_answer_stops_the_model(house: House) -> None:
    """The provider's connection is closed; the caller's own task sees nothing but its own cancellation."""
    house.upstream.will(endless(gap=0.001))
    async with house.open() as gh:
        task = asyncio.create_task(gh.complete("hi", model="assistant"))
        await until(lambda: house.upstream.connections == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: house.upstream.connections == 0)
        assert [(row.group, row.requests) for row in await gh.usage(["outcome"])] == [({"outcome": "client"}, 1)]


async def test_without_its_journal_it_takes_no_calls(house: House) -> None:
    """What could not be recorded is not carried: the program is told within a second or two, and closing still works."""
    async with house.open() as gh:
        await gh.complete("hi", model="assistant")
        shutil.rmtree(house.data_dir / "journals")

        async def until_refused() -> None:
            while True:
                await gh.complete("hi", model="assistant")

        with pytest.raises(Unavailable, match="journal"):
            await asyncio.wait_for(until_refused(), 20)
    async with house.open() as gh:
        assert (await gh.complete("hi", model="assistant")).text


async def test_closing_ends_what_runs_and_leaves_signed_books(house: House) -> None:
    """A running call ends with an error and is in the ledger; the journal is drained and gone; the audit log is proven."""
    house.upstream.will(endless(gap=0.001))
    async with house.open() as gh:
        reply = gh.chat(model="assistant", messages="hi", max_tokens=100_000)
        heard = asyncio.Event()

        async def read() -> None:
            async for _ in reply:
                heard.set()

        task = asyncio.create_task(read())
        await heard.wait()
    with pytest.raises(Unavailable):
        await task
    with pytest.raises(Unavailable):
        await gh.complete("hi", model="assistant")
    assert list((house.data_dir / "journals").iterdir()) == []
    environment = read_environment()
    note = await asyncio.to_thread(newest_checkpoint, house.data_dir, environment, house.config)
    (house.data_dir / "note").write_text(note)
    report = await asyncio.to_thread(lambda: verify_audit(house.data_dir, environment, house.config, house.data_dir / "note", show=False))
    assert report.ok
    async with house.open() as gh:
        assert [(row.group, row.requests) for row in await gh.usage(["outcome"])] == [({"outcome": "shutdown"}, 1)]


async def test_a_process_that_was_killed_is_settled_at_the_next_opening(house: House) -> None:
    """Its finished calls are in the ledger, its open one is lost and charged its hold."""
    program = (
        "import asyncio, sys\nfrom gatehouse import Gatehouse\n"
        "async def main():\n"
        "    async with Gatehouse.open(sys.argv[1], data_dir=sys.argv[2], key=sys.argv[3]) as gh:\n"
        "        await gh.complete('hi', model='assistant')\n"
        "        async for event in gh.chat(model='assistant', messages='hi', max_tokens=1000):\n"
        "            print('going', flush=True)\n"
        "asyncio.run(main())"
    )
    house.upstream.will(completion(), endless(gap=0.01))
    key = await house.key(budget_usd="1")
    words = (sys.executable, "-c", program, str(house.config), str(house.data_dir), key)
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"going\n"
    process.kill()
    await process.wait()
    async with house.open() as gh:
        rows = await gh.usage(["outcome"])
    assert sorted((str(row.group["outcome"]), row.requests, row.charge > 0) for row in rows) == [("completed", 1, True), ("lost", 1, True)]
