"""What callers see of an upstream that refuses or breaks off, in each format they speak: whose fault it is, and never a whole answer
that is none."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gatehouse.testing.upstream import DONE, FakeUpstream, completion, delta, http, stream
from tests.served.whole import Reply, Server, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """
providers:
  - {{name: one, kind: openai-compatible, base_url: "{one}"}}
  - {{name: two, kind: openai-compatible, base_url: "{two}"}}
models:
  - {{name: alone, targets: [{{provider: one, model: alone, {rest}}}]}}
  - {{name: falls, fallbacks: [other], targets: [{{provider: one, model: falls, {rest}}}]}}
  - {{name: other, targets: [{{provider: two, model: other, {rest}}}]}}
  - {{name: words, ladder: {{text: Please come back later.}}, targets: [{{provider: one, model: words, {rest}}}]}}
"""
REST = 'price: {input: "1", output: "1"}, breaker: {enabled: false}'


class House:
    """The server and the two providers behind it."""

    def __init__(self, server: Server, one: FakeUpstream, two: FakeUpstream) -> None:
        self.server = server
        self.one = one
        self.two = two

    async def ask(self, form: str, model: str, *, streamed: bool = False, **fields: Any) -> Reply:
        """A question in one of the three formats."""
        said = {"model": model, "stream": streamed, **fields}
        match form:
            case "chat":
                return await self.server.ask("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], **said})
            case "responses":
                return await self.server.ask("POST", "/v1/responses", {"input": "hi", **said})
            case _:
                body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 50, **said}
                return await self.server.ask("POST", "/v1/messages", body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with FakeUpstream() as one, FakeUpstream() as two:
        config = CONFIG.format(one=one.url, two=two.url, rest=REST)
        async with serving(tmp_path_factory.mktemp("refusals") / "data", config) as server:
            yield House(server, one, two)


@pytest_asyncio.fixture(loop_scope="module")
async def house(running: House) -> House:
    running.one.will(completion("one"))
    running.two.will(completion("two"))
    return running


@pytest.mark.parametrize(
    ("form", "end", "error"),
    [
        ("chat", b"[DONE]", b'"upstream_broken"'),
        ("responses", b"response.completed", b"response.failed"),
        ("messages", b"message_stop", b"event: error"),
    ],
)
async def test_done_without_a_reason_is_a_broken_stream(house: House, form: str, end: bytes, error: bytes) -> None:
    """What came leaves, then an error, and never what a whole answer ends with; the record says failed."""
    house.one.will(stream([delta("", role="assistant"), delta("Hel"), DONE]))
    reply = await house.ask(form, "alone", streamed=True)
    assert reply.status == 200
    assert b"Hel" in reply.body
    assert error in reply.body
    assert end not in reply.body
    call = await house.server.admin("GET", f"/admin/v1/requests/{reply.headers['x-gatehouse-request-id']}")
    assert (call["attempts"][-1]["outcome"], call["attempts"][-1]["error"]) == ("failed", "upstream_broken")


LARGE = http(b"<html>413 Request Entity Too Large</html>", status=413, content_type="text/html")


@pytest.mark.parametrize(
    ("form", "kind"), [("chat", "invalid_request_error"), ("responses", "invalid_request_error"), ("messages", "request_too_large")]
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_too_large_for_the_target_is_a_413(house: House, form: str, kind: str, streamed: bool) -> None:
    """In each format's words; whole and streamed."""
    house.one.will(LARGE)
    reply = await house.ask(form, "alone", streamed=streamed)
    assert (reply.status, reply.json()["error"]["type"]) == (413, kind)


async def test_what_is_too_large_for_one_target_may_do_for_another(house: House) -> None:
    """A limit of one server's is not another's; where every one refuses it is a 413."""
    house.one.will(LARGE)
    reply = await house.ask("chat", "falls")
    assert (reply.status, reply.json()["choices"][0]["message"]["content"]) == (200, "two")
    house.two.will(LARGE)
    assert (await house.ask("chat", "falls")).status == 413


@pytest.mark.parametrize(
    "body",
    [
        b'{"object":"error","message":"The model `falls` does not exist.","type":"NotFoundError","param":null,"code":404}',
        b'{"error":{"message":"model \'falls\' not found","type":"api_error","param":null,"code":null}}',
        b'{"detail":"Not Found"}',
        b"404 page not found",
    ],
)
@pytest.mark.parametrize("form", ["chat", "responses", "messages"])
async def test_a_404_is_no_word_of_the_callers(house: House, form: str, body: bytes) -> None:
    """A model or an address that is not there is the operator's fault: the fallback answers, and without one it is a 502."""
    house.one.will(http(body, status=404))
    reply = await house.ask(form, "falls")
    assert (reply.status, b"two" in reply.body) == (200, True)
    reply = await house.ask(form, "alone")
    assert reply.status == 502
    assert b"falls" not in reply.body


async def test_the_words_of_the_ladder_have_a_usage_of_nothing(house: House) -> None:
    """Who asked for the usage of a stream gets it, and in the other formats, where it is always there, too."""
    house.one.will(http(b"", status=500))
    reply = await house.ask("chat", "words", streamed=True, stream_options={"include_usage": True})
    frames = [json.loads(line[6:]) for line in reply.body.decode().splitlines() if line.startswith("data: {")]
    usage = frames[-1]["usage"]
    assert (frames[-1]["choices"], usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == ([], 0, 0, 0)
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert "usage" not in (await house.ask("chat", "words", streamed=True)).body.decode()
    assert (await house.ask("chat", "words")).json()["usage"]["total_tokens"] == 0
    assert (await house.ask("messages", "words")).json()["usage"]["output_tokens"] == 0
    assert b"message_stop" in (await house.ask("messages", "words", streamed=True)).body
    assert (await house.ask("responses", "words")).json()["usage"]["total_tokens"] == 0
