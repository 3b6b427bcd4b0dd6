"""Fault and bad-input scenarios against the whole server: what a client sees of each, over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gatehouse.testing.upstream import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    FakeUpstream,
    chunk,
    completion,
    delta,
    failure,
    frame,
    hang_up,
    http,
    silence,
    story,
    stream,
    streamed,
    usage_of,
)
from tests.served.whole import Server, free_port, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """
workers: 2
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
  - {{name: spare, kind: openai-compatible, base_url: "{spare}"}}
  - {{name: dead, kind: openai-compatible, base_url: "http://127.0.0.1:{dead}/v1"}}
  - {{name: nowhere, kind: openai-compatible, base_url: "https://no-such-host.invalid/v1"}}
models:
  - name: assistant
    targets:
      - provider: lab
        model: fake
        price: {{input: "1", output: "1"}}
        deadlines: {{first_byte: 1, idle: 1, total: 30}}
        breaker: {{enabled: false}}  # each scenario by itself: what many in a row do is in test_dispatch_scenarios.py
  - name: small
    targets: [{{provider: lab, model: fake, context_window: 60, price: {{input: "1", output: "1"}}}}]
  - name: careful
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}, deadlines: {{first_byte: 1}}, breaker: {{enabled: false}}}}]
    fallbacks: [spare]
  - name: spare
    targets: [{{provider: spare, model: fake, price: {{input: "1", output: "1"}}}}]
  - name: refused
    targets: [{{provider: dead, model: fake, price: {{input: "1", output: "1"}}}}]
  - name: unknown-host
    targets: [{{provider: nowhere, model: fake, price: {{input: "1", output: "1"}}}}]
    fallbacks: [spare]
"""


class House:
    """The server and the two providers behind it."""

    def __init__(self, server: Server, lab: FakeUpstream, spare: FakeUpstream) -> None:
        self.server = server
        self.lab = lab
        self.spare = spare

    async def raw(self, body: bytes) -> Any:
        """A request with exactly these bytes as its body."""
        return await self.server.ask("POST", "/v1/chat/completions", body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with FakeUpstream() as lab, FakeUpstream() as spare:
        config = CONFIG.format(url=lab.url, spare=spare.url, dead=free_port())
        async with serving(tmp_path_factory.mktemp("scenarios") / "data", config) as server:
            yield House(server, lab, spare)


@pytest_asyncio.fixture(loop_scope="module")
async def house(running: House) -> House:
    running.lab.drop()  # idle connections of the test before
    running.lab.will(completion())
    running.spare.will(completion("from the spare"))
    return running


GOOD = b'{"model":"assistant","messages":[{"role":"user","content":"hi"}]}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        GOOD + b"x",
        GOOD + GOOD,
        b"[]",
        b"null",
        b"\xff\xfe\xfd",
        GOOD[:-1] + b",}",
    ],
)
async def test_scenario_01_not_json(house: House, body: bytes) -> None:
    """Invalid JSON, BOM, UTF-16, trailing garbage: 400 in OpenAI's shape, with little echo; nothing is sent."""
    before = house.lab.requests
    reply = await house.raw(body)
    assert reply.status == 400
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert len(reply.body) < 1024
    assert house.lab.requests == before


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"small","model":"assistant","messages":[{"role":"user","content":"hi"}]}',
        b'{"model":"small","mod\\u0065l":"assistant","messages":[{"role":"user","content":"hi"}]}',
        b'{"model":"assistant","messages":[{"role":"user","content":"hi","content":"ho"}]}',
        b'{"model":"assistant","messages":[{"role":"user","content":"hi"}],"metadata":{"a":"1","a":"2"}}',
    ],
)
async def test_scenario_02_duplicate_keys(house: House, body: bytes) -> None:
    """The same key twice, in any spelling and at any depth: 400."""
    reply = await house.raw(body)
    assert reply.status == 400
    assert "twice" in reply.json()["error"]["message"].lower() or "duplicate" in reply.json()["error"]["message"].lower()


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "-1e999"])
async def test_scenario_03_numbers_that_are_none(house: House, value: str) -> None:
    """NaN, infinities, 1e999 and huge integers: 400."""
    for field in ("temperature", "max_tokens", "seed"):
        assert (await house.raw(GOOD[:-1] + f',"{field}":{value}}}'.encode())).status == 400


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_scenario_04_nesting(house: House, opening: bytes) -> None:
    """A hundred thousand levels: 400, and the server goes on."""
    assert (await house.raw(opening * 100_000)).status == 400
    assert (await house.raw(GOOD[:-1] + b',"metadata":' + opening * 100_000)).status == 400
    assert (await house.server.chat()).status == 200


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"api_base": "http://127.0.0.1:1"}, "api_base"),
        ({"user_config": {}}, "user_config"),
        ({"surprise": 1}, "surprise"),
        ({"messages": [{"role": "user", "content": "hi", "surprise": 1}]}, "surprise"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "api_base": "x"}]}]}, "api_base"),
        ({"chat_template": "{{ evil }}"}, "chat_template"),
    ],
)
async def test_scenario_13_unknown_fields(house: House, fields: dict[str, Any], name: str) -> None:
    """Unknown or forbidden fields at any depth: 400 that names them; nothing is sent."""
    before = house.lab.requests
    reply = await house.server.chat(**fields)
    assert reply.status == 400
    assert name in reply.json()["error"]["message"]
    assert house.lab.requests == before


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": -1},
        {"max_tokens": 0},
        {"max_tokens": 10**12},
        {"n": 0},
        {"n": 10**6},
        {"temperature": -0.1},
        {"temperature": 99},
        {"top_p": 2},
        {"stop": ["x"] * 100},
        {"logit_bias": {"1": 1000}},
        {"top_logprobs": 3},
        {"presence_penalty": 5},
    ],
)
async def test_scenario_14_values_out_of_range(house: House, fields: dict[str, Any]) -> None:
    """Refused at the edge, never sent upstream."""
    before = house.lab.requests
    assert (await house.server.chat(**fields)).status == 400
    assert house.lab.requests == before


async def test_scenario_17_a_prompt_that_certainly_does_not_fit(house: House) -> None:
    """400 context_length_exceeded before anything is asked or held."""
    before = house.lab.requests
    reply = await house.server.chat("many words " * 3000, model="small")
    assert (reply.status, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert house.lab.requests == before


async def test_scenario_21_nobody_there(house: House) -> None:
    """Connection refused: 503 with Retry-After; an unknown host: the next target answers."""
    reply = await house.server.chat(model="refused")
    assert reply.status == 503
    assert int(reply.headers["retry-after"]) >= 1
    reply = await house.server.chat(model="unknown-host")
    assert (reply.status, reply.headers["x-gatehouse-target"]) == (200, "spare/fake")


async def test_scenario_22_accepts_and_never_answers(house: House) -> None:
    """The first-byte deadline passes, the next target answers; without one it is a 504. The ledger knows both attempts."""
    house.lab.will(silence)
    reply = await house.server.chat(model="careful", stream=True)
    assert (reply.status, reply.headers["x-gatehouse-target"]) == (200, "spare/fake")
    call = await house.server.admin("GET", f"/admin/v1/requests/{reply.headers['x-gatehouse-request-id']}")
    assert [(attempt["target"], attempt["outcome"]) for attempt in call["attempts"]] == [
        ("lab/fake", "failed"),
        ("spare/fake", "completed"),
    ]
    assert (await house.server.chat(stream=True)).status == 504


async def test_scenario_23_dies_after_the_first_token(house: House) -> None:
    """No silent retry: an error event, no [DONE], marked failed in the ledger, and the other target is not asked."""
    before = house.spare.requests
    house.lab.will(streamed([delta("Hel", role="assistant"), delta("lo")], then=lambda wire: wire.reset()))
    reply = await house.server.chat(model="careful", stream=True)
    text = reply.body.decode()
    assert reply.status == 200
    assert "Hel" in text
    assert '"error"' in text
    assert "[DONE]" not in text
    assert house.spare.requests == before
    call = await house.server.admin("GET", f"/admin/v1/requests/{reply.headers['x-gatehouse-request-id']}")
    assert call["attempts"][-1]["outcome"] == "failed"
    assert call["attempts"][-1]["usage"]["output"] >= 1


async def test_scenario_24_stalls_in_the_middle(house: House) -> None:
    """The idle deadline ends the stream with an error event."""

    async def stall(_seen: Any, wire: Any) -> None:
        wire.write(STREAM_HEAD + chunk(delta("Hel", role="assistant")))
        await wire.closed()

    house.lab.will(stall)
    text = (await house.server.chat(stream=True)).body.decode()
    assert '"error"' in text
    assert "[DONE]" not in text


async def test_scenario_25_cut_anywhere(house: House) -> None:
    """CRLF, CR, comments, several data lines, UTF-8 cut in the middle: the text that leaves is exact."""
    texts = ["Grüße ", "— 你好 ", "😀", " end"]
    frames = story(texts)
    wild = [piece.replace(b"\n", b"\r\n") if number % 3 == 0 else b": ping\n\n" + piece for number, piece in enumerate(frames)]
    data = b"".join(wild)
    for size in (1, 2, 3, 7, 1000):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        house.lab.will(STREAM_HEAD + b"".join(chunk(piece) for piece in pieces) + LAST_CHUNK)
        reply = await house.server.chat(stream=True)
        events = [json.loads(line[6:]) for line in reply.body.decode().splitlines() if line.startswith("data: {")]
        assert "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"]) == "".join(texts)
        assert reply.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("ending", [[], [DONE, DONE], [DONE, delta("after the end")]])
async def test_scenario_26_the_end_missing_or_doubled(house: House, ending: list[bytes]) -> None:
    """Exactly one [DONE], nothing after it."""
    house.lab.will(stream([*story(["all"])[:-1], *ending]))
    body = (await house.server.chat(stream=True)).body
    assert body.count(b"[DONE]") == 1
    assert body.endswith(b"data: [DONE]\n\n")
    assert b"after the end" not in body


async def test_scenario_27_a_chunk_that_is_no_json(house: House) -> None:
    """An error event, and nothing of what the provider wrote."""
    house.lab.will(stream([delta("Hel", role="assistant"), frame('{"broken": "internal-detail'), DONE]))
    text = (await house.server.chat(stream=True)).body.decode()
    assert '"error"' in text
    assert "internal-detail" not in text
    assert "[DONE]" not in text


@pytest.mark.parametrize("play", [http(b"<html>oops</html>", content_type="text/html"), http(b""), http(b"{}"), http(b"[1]"), hang_up])
@pytest.mark.parametrize("streaming", [False, True])
async def test_scenario_28_two_hundred_and_no_answer(house: House, play: Any, streaming: bool) -> None:
    """HTML, nothing, or JSON of another kind: 502 or 503, or the next target; never a 200, never its words."""
    house.lab.will(play)
    reply = await house.server.chat(stream=streaming)
    assert reply.status in {502, 503}
    assert b"oops" not in reply.body
    reply = await house.server.chat(model="careful", stream=streaming)
    assert (reply.status, reply.headers["x-gatehouse-target"]) == (200, "spare/fake")


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": -5, "completion_tokens": 3, "total_tokens": -2}, usage_of(10**12, 10**12)])
async def test_scenario_29_usage_missing_or_absurd(house: House, usage: dict[str, int]) -> None:
    """Counted locally and flagged; the ledger is never negative and never absurd."""
    house.lab.will(completion("some words of an answer", usage=usage))
    reply = await house.server.chat()
    assert reply.status == 200
    call = await house.server.admin("GET", f"/admin/v1/requests/{reply.headers['x-gatehouse-request-id']}")
    attempt = call["attempts"][-1]
    assert "estimated_usage" in attempt["flags"]
    assert 1 <= attempt["usage"]["output"] < 100
    assert 0 < attempt["usage"]["input"] < 1000


async def test_scenario_31_the_provider_refuses_our_key(house: House) -> None:
    """401 from the provider is not the caller's 401: a 502 without key detail, or the next target."""
    house.lab.will(failure(401, "Incorrect API key provided: sk-very-secret"))
    reply = await house.server.chat()
    assert reply.status == 502
    assert "sk-very-secret" not in reply.body.decode()
    assert (await house.server.chat(model="careful")).headers["x-gatehouse-target"] == "spare/fake"


async def test_scenario_60_line_breaks_in_what_callers_send(house: House) -> None:
    """New lines, ANSI and pipes in model, user and headers: one line an event wherever it is shown."""
    evil = "x\n2026 CRITICAL forged\x1b[31m|=CEF"
    reply = await house.server.chat(model=evil)
    assert reply.status in {400, 404}
    await house.server.chat(user=evil)
    await house.server.make_key(name="plain")
    page = await house.server.admin("GET", "/admin/v1/audit?limit=50")
    for row in page["data"]:
        assert all(value.isprintable() for value in [row["subject"], row["action"], *row["detail"].values()])
    status, out, _ = await house.server.gatehouse("trace", reply.headers["x-gatehouse-request-id"])
    assert status == 0
    assert "\x1b[31m" not in out
    assert "forged" not in [line.split(" ")[0] for line in house.server.log.read_text().splitlines()]


async def test_scenario_20_a_client_that_does_not_read(house: House) -> None:
    """A bounded amount is buffered, then the provider is made to wait: it does not get rid of more than that."""
    sent = 0
    stopped = asyncio.Event()

    async def flood(_seen: Any, wire: Any) -> None:
        nonlocal sent
        wire.write(STREAM_HEAD)
        piece = chunk(delta("x" * 8000, role="assistant"))
        while not wire.gone:
            wire.write(piece)
            await wire.flush()
            sent += len(piece)
        stopped.set()

    house.lab.will(flood)
    reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port, limit=4096)
    body = b'{"model":"assistant","stream":true,"messages":[{"role":"user","content":"hi"}]}'
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n"
        % (house.server.key.encode(), len(body))
        + body
    )
    await reader.readuntil(b"\r\n\r\n")
    previous = -1
    async with asyncio.timeout(20):
        while previous != sent:
            previous = sent
            await asyncio.sleep(0.3)
    # Socket buffers of the system on both sides and our own bound; not all that was to be had.
    assert sent < 30_000_000
    writer.transport.abort()
    await asyncio.wait_for(stopped.wait(), 5)
