"""Commands that speak to a running server: chat in all its ways, models, trace, usage; for people and for programs."""

import asyncio
import codecs
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gatehouse.cli.streams import Told
from gatehouse.testing.upstream import (
    STREAM_HEAD,
    FakeUpstream,
    Seen,
    Wire,
    chunk,
    completion,
    delta,
    endless,
    failure,
    story,
    stream,
    usage_of,
)
from tests.cli.commanding import ROOT, gatehouse, start
from tests.served.whole import Server, serving

CONFIG = """
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
  - {{name: gone, kind: openai-compatible, base_url: "http://127.0.0.1:9/v1"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, context_window: 8192, price: {{input: "1", output: "2"}}}}]
  - name: second
    targets: [{{provider: gone, model: fake, price: {{input: "1", output: "1"}}}}]
    fallbacks: [assistant]
    cache: {{scope: team, ttl: 60}}
"""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("tokens", "first", "took", "speed"),
    [(101, 0.5, 2.5, 50.0), (20, 0.0390, 0.0400, 500.0), (1, 0.1, 0.2, None), (None, 0.1, 0.2, None), (9, None, 0.2, None)],
)
async def test_how_fast_an_answer_came(tokens: int | None, first: float | None, took: float, speed: float | None) -> None:
    """After the first piece, which says how long the prompt took; an answer that came all at once is not said to be faster than it was."""
    told = Told("tiny", completion_tokens=tokens, first=first, took=took)
    assert told.tokens_per_second == (None if speed is None else pytest.approx(speed))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def upstream(provider: FakeUpstream) -> FakeUpstream:
    provider.drop()
    provider.will(stream(story(["Hel", "lo", " there."], usage=usage_of(12, 3))))
    return provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, provider: FakeUpstream) -> AsyncIterator[Server]:
    async with serving(tmp_path_factory.mktemp("talking") / "data", CONFIG.format(url=provider.url)) as running:
        yield running


async def test_one_question(server: Server, upstream: FakeUpstream) -> None:
    """The answer alone is on standard output; model, URL and key were found; the figures are beside it."""
    said = await gatehouse("chat", "How", "are", "you?", "--system", "Be kind.", data_dir=server.data_dir)
    assert (said.status, said.out) == (0, "Hello there.\n")
    for word in ("12 + 3 tokens", "tokens/s", "first token after", "$0.000018", "lab/fake", "cache bypass", "req_"):
        assert word in said.err
    assert upstream.seen[-1].json()["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "How are you?"}]


async def test_one_question_of_a_program(server: Server, upstream: FakeUpstream) -> None:
    """`--json` is one value on standard output and nothing on standard error; standard input is the prompt, or stands for -."""
    said = await gatehouse("chat", "--model", "assistant", "--json", data_dir=server.data_dir, stdin=b"From a pipe\n")
    assert (said.status, said.err) == (0, "")
    told = said.json()
    assert (told["text"], told["cost_usd"], told["target"], told["finish_reason"]) == ("Hello there.", "0.000018", "lab/fake", "stop")
    assert told["request_id"].startswith("req_")
    assert upstream.seen[-1].json()["messages"] == [{"role": "user", "content": "From a pipe"}]
    environment = {"GATEHOUSE_URL": f"{server.url}/v1", "GATEHOUSE_KEY": server.key}
    said = await gatehouse("chat", "Sum up:", "-", "-m", "assistant", stdin=b"a text", environment=environment)
    assert (said.status, said.out) == (0, "Hello there.\n")
    assert upstream.seen[-1].json()["messages"] == [{"role": "user", "content": "Sum up: a text"}]


async def test_an_interrupt_is_a_disconnect(server: Server, upstream: FakeUpstream) -> None:
    """Ctrl-C: what came stays, exit status 130, and the server ends the call as one whose client has gone."""
    upstream.will(endless("word ", gap=0.01))
    process = await start("chat", "Talk", data_dir=server.data_dir)
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readexactly(10) == b"word word "
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert b"stopped after" in err
    assert b"Traceback" not in err
    rows = await server.usage("outcome")
    async with asyncio.timeout(20):
        while not any(row["outcome"] == "client" for row in rows):
            await asyncio.sleep(0.05)
            rows = await server.usage("outcome")


async def test_a_broken_answer_is_not_a_whole_one(server: Server, upstream: FakeUpstream) -> None:
    """What came is shown, the error and the request's id are told, and the status is 1."""

    async def break_off(_seen: Seen, wire: Wire) -> None:
        wire.write(STREAM_HEAD + chunk(delta("", role="assistant")) + chunk(delta("Half ")))
        await wire.flush()
        wire.end()

    upstream.will(break_off)
    said = await gatehouse("chat", "Talk", data_dir=server.data_dir)
    assert (said.status, said.out) == (1, "Half \n")
    assert said.err.startswith("gatehouse: ")
    assert "[req_" in said.err


async def test_refusals_are_sentences(server: Server, upstream: FakeUpstream) -> None:
    """A model that is not there, a wrong key, a provider that refuses: the server's words, never a traceback."""
    upstream.will(failure(400, "no such thing"))
    for words in (["--model", "nobody"], ["--key", "gh_live_wrong"], ["--model", "assistant"]):
        said = await gatehouse("chat", "Hi", *words, "--model", "assistant" if "--key" in words else words[-1], data_dir=server.data_dir)
        assert (said.status, said.out) == (1, "")
        assert said.err.startswith("gatehouse: ")
        assert "HTTP 4" in said.err
        assert "Traceback" not in said.err


async def test_the_local_key_stays_here(server: Server, upstream: FakeUpstream) -> None:
    """The administrator's key of the data directory is never sent to another machine."""
    for command in (("chat", "Hi", "--model", "x"), ("usage",)):
        said = await gatehouse(*command, "--url", "http://192.0.2.1:1", data_dir=server.data_dir)
        assert said.status == 1
        assert "No key" in said.err


async def test_what_answers_is_no_gatehouse(server: Server, upstream: FakeUpstream) -> None:
    """The wrong port, or somebody else's: a sentence."""
    upstream.will(completion())
    said = await gatehouse("usage", "--url", upstream.url, "--key", "k")
    assert (said.status, "is not the admin port of a Gatehouse" in said.err) == (1, True)
    said = await gatehouse("chat", "Hi", "--model", "m", "--url", upstream.url, "--key", "k")
    assert (said.status, "is not the data port of a Gatehouse" in said.err) == (1, True)


async def test_models(server: Server) -> None:
    """What may be asked for, with targets, prices, context and fallbacks, for people and for programs."""
    said = await gatehouse("models", "--json", data_dir=server.data_dir)
    assert said.err == ""
    first, second = said.json()["data"]
    assert (first["name"], first["targets"][0]["id"], first["targets"][0]["context_window"]) == ("assistant", "lab/fake", 8192)
    assert (first["targets"][0]["price"]["input"], first["targets"][0]["price"]["output"]) == ("1", "2")
    assert (second["fallbacks"][0][0]["id"], second["cache"]) == ("lab/fake", {"scope": "team", "ttl": 60.0})
    said = await gatehouse("models", data_dir=server.data_dir)
    assert said.status == 0
    for word in ("assistant", "lab/fake", "$1 / $2", "8,192", "fallback 1", "cached 60 s for the team"):
        assert word in said.out


async def test_models_of_a_key_that_is_no_operators(server: Server) -> None:
    """A developer's key sees what it may ask for, from the data port; chat finds its model the same way, without the admin port."""
    key = await server.make_key(models=["second"])
    said = await gatehouse("models", "--json", "--key", key, data_dir=server.data_dir)
    assert [model["id"] for model in said.json()["data"]] == ["second"]
    said = await gatehouse("models", "--key", key, data_dir=server.data_dir)
    assert (said.status, "second" in said.out, "assistant" in said.out) == (0, True, False)
    said = await gatehouse("chat", "Hi", "--json", "--url", server.url, "--key", key)
    assert said.json()["model"] == "second"


async def test_a_trace_shows_attempts_on_one_axis(server: Server, upstream: FakeUpstream) -> None:
    """A call that fell back: both attempts, every stage, the stream; the axis ends with the call."""
    asked = (await gatehouse("chat", "Hi", "--model", "second", "--json", data_dir=server.data_dir)).json()
    assert asked["target"] == "lab/fake"
    said = await gatehouse("trace", asked["request_id"], data_dir=server.data_dir)
    assert said.status == 0
    lines = said.out.splitlines()
    assert lines[0].startswith(f"{asked['request_id']}  key ")
    assert [line.split("  ")[:2] for line in lines[1:3]] == [["attempt 1", "gone/fake"], ["attempt 2", "lab/fake"]]
    drawn = [line.split()[0] for line in lines[4:]]
    assert [name for name in drawn if name != "first"] == [
        "record", "identify", "read", "authorise", "route", "limit", "guard", "cache", "dispatch", "attempt", "attempt", "stream",
    ]  # fmt: skip
    told = (await gatehouse("trace", asked["request_id"], "--json", data_dir=server.data_dir)).json()
    assert [attempt["outcome"] for attempt in told["attempts"]] == ["failed", "completed"]
    said = await gatehouse("trace", "req_none", data_dir=server.data_dir)
    assert (said.status, said.out) == (1, "")


async def test_every_command_speaks_json(server: Server) -> None:
    """`--json`: one value on standard output, nothing on standard error."""
    made = (await gatehouse("keys", "create", "x", "--json", data_dir=server.data_dir)).json()
    for words in (
        ["keys", "list"],
        ["keys", "rotate", made["id"]],
        ["keys", "revoke", made["id"]],
        ["usage", "--group-by", "key,outcome"],
        ["audit", "checkpoint"],
        ["audit", "verify"],
        ["doctor"],
    ):
        said = await gatehouse(*words, "--json", data_dir=server.data_dir)
        assert (said.status, said.err) == (0, ""), (words, said)
        assert json.loads(said.out) is not None
    for words in (["version"], ["config", "check", str(server.config)]):
        said = await gatehouse(*words, "--json")
        assert (said.status, said.err) == (0, ""), words
        assert said.json()


class Terminal:
    """A command on a pseudo terminal."""

    def __init__(self, *words: str) -> None:
        self._words = words
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    async def __aenter__(self) -> "Terminal":
        self._ours, theirs = pty.openpty()
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gatehouse", *self._words,
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )  # fmt: skip
        os.close(theirs)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    async def until(self, text: str) -> str:
        """What was shown up to and with `text`, which is then behind us."""
        try:
            async with asyncio.timeout(20):
                while text not in self.seen:
                    self.seen += self._decoder.decode(await asyncio.to_thread(os.read, self._ours, 65536))
        except TimeoutError:
            raise AssertionError(f"no {text!r} in {self.seen!r}") from None
        shown, _, self.seen = self.seen.partition(text)
        return shown + text


async def test_a_conversation(server: Server, upstream: FakeUpstream) -> None:
    """On a terminal without a prompt: turns are remembered, Ctrl-C stops an answer and not the conversation, errors neither."""
    async with Terminal("chat", "--data-dir", str(server.data_dir)) as terminal:
        await terminal.until("› ")
        terminal.type("First\n")
        await terminal.until("cache bypass")
        await terminal.until("› ")
        terminal.type("Second\n")
        await terminal.until("cache bypass")
        await terminal.until("› ")
        asked = [message["content"] for message in upstream.seen[-1].json()["messages"]]
        assert asked == ["First", "Hello there.", "Second"]
        upstream.will(endless("more ", gap=0.01))
        terminal.type("Third\n")
        await terminal.until("more more")
        terminal.process.send_signal(signal.SIGINT)
        await terminal.until("stopped after")
        upstream.will(failure(400, "not this"))
        terminal.type("Fourth\n")
        await terminal.until("HTTP 4")
        upstream.will(stream())
        terminal.type("/reset\n")
        await terminal.until("Forgotten")
        terminal.type("Fifth\n")
        await terminal.until("cache bypass")
        assert [message["content"] for message in upstream.seen[-1].json()["messages"]] == ["Fifth"]
        terminal.type("/quit\n")
        async with asyncio.timeout(10):
            assert await terminal.process.wait() == 0


async def test_an_answer_cannot_command_the_terminal(server: Server, upstream: FakeUpstream) -> None:
    """Escape sequences in an answer are shown as marks; a title is not set, a link's address not hidden."""
    upstream.will(stream(story(["\x1b]0;owned\x07", "\x1b[31mred [here](http://evil.example)\u202e"])))
    async with Terminal("chat", "Hi", "--data-dir", str(server.data_dir)) as terminal:
        shown = await terminal.until("req_")
    assert "\x1b]0;" not in shown
    assert "\x1b]8;" not in shown
    assert "\u202e" not in shown
    assert "http://evil.example" in shown


async def test_completion_is_offered() -> None:
    """`--show-completion` prints a script for the shell; the shell's question is answered with our commands."""
    said = await gatehouse("--show-completion", "bash")
    assert (said.status, "complete" in said.out) == (0, True)
    variable = re.search(r"(_\w+_COMPLETE)=complete_bash", said.out)
    assert variable is not None
    said = await gatehouse(environment={"COMP_WORDS": "gatehouse tra", "COMP_CWORD": "1", variable[1]: "complete_bash"})
    assert said.out.split() == ["trace"]
