"""The OpenAI adapter against a provider that does what providers do: what goes out, what is taken as an answer, what is not."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gatehouse.adapters.providers.frame import HttpModel
from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Chunk, Event
from gatehouse.core.plans import Target
from gatehouse.core.secrets import Secret
from gatehouse.core.usage import Usage
from gatehouse.dialects.openai.profiles import OPENAI
from gatehouse.testing.upstream import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    FakeUpstream,
    Play,
    Seen,
    Wire,
    chunk,
    completion,
    delta,
    endless,
    failure,
    frame,
    hang_up,
    http,
    silence,
    story,
    stream,
    streamed,
    usage_frame,
    usage_of,
)
from tests.adapters.providers.trials import Trial, eventually, openai_model

KEY = "sk-live-0123456789"
TARGET = Target("lab/qwen", "lab", "qwen")
CALL = Call(model="assistant", messages=(Message("user", "hi"),), max_tokens=10)
STREAM = msgspec.structs.replace(CALL, stream=True)


def model_of(upstream: FakeUpstream, **options: Any) -> HttpModel:
    return openai_model(**{"base_url": upstream.url, "api_key": Secret(KEY), **options})


@pytest.fixture
async def model(upstream: FakeUpstream) -> AsyncIterator[HttpModel]:
    """The adapter, configured for the fake provider."""
    made = model_of(upstream)
    yield made
    await made.close()


async def events_of(model: HttpModel, call: Call = STREAM, trial: Trial | None = None) -> list[Event]:
    return [event async for event in await model.answer(call, TARGET, trial or Trial())]


def text_of(events: list[Event]) -> str:
    return "".join(choice.text or "" for event in events for choice in event.choices)


async def refused(model: HttpModel, call: Call = CALL, trial: Trial | None = None) -> UpstreamFailed:
    """The failure that `answer` itself raises: another target can still be tried."""
    with pytest.raises(UpstreamFailed) as caught:
        await model.answer(call, TARGET, trial or Trial())
    return caught.value


async def broken(model: HttpModel, trial: Trial | None = None) -> tuple[list[Event], UpstreamFailed]:
    """What a stream gave before it failed, and how it failed."""
    seen: list[Event] = []
    stream = await model.answer(STREAM, TARGET, trial or Trial())
    try:
        async for event in stream:
            seen.append(event)  # noqa: PERF401 - what came before the failure must be kept
    except UpstreamFailed as error:
        return seen, error
    pytest.fail("the stream looks finished")


# --- what goes out -----------------------------------------------------------------------------------------------------


async def test_a_whole_answer(upstream: FakeUpstream, model: HttpModel) -> None:
    """One Answer with its usage; the provider hears its own model name, its key and our request id, and nothing of the client's."""
    (event,) = await events_of(model, CALL)
    assert isinstance(event, Answer)
    assert (text_of([event]), event.usage, event.dialect) == ("Hello there.", Usage(input=3, output=5), "openai")
    seen = upstream.seen[0]
    assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
    assert seen.json() == {"model": "qwen", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
    assert set(seen.headers) == {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "content-type",
        "authorization",
        "x-request-id",
        "content-length",
    }
    assert (seen.headers["authorization"], seen.headers["x-request-id"]) == (f"Bearer {KEY}", "req_0123456789abcdef")


async def test_a_streamed_answer(upstream: FakeUpstream, model: HttpModel) -> None:
    """Chunks as they come, usage at the end, asked for whether the client wanted it or not; the connection is kept."""
    upstream.will(streamed(), stream())
    for _ in range(2):
        events = await events_of(model)
        assert all(isinstance(event, Chunk) for event in events)
        assert (text_of(events), events[-1].usage) == ("Hello there.", Usage(input=3, output=5))
        await eventually(lambda: model.pool.idle == 1)
    assert upstream.seen[0].json()["stream_options"] == {"include_usage": True}
    assert upstream.seen[0].headers["accept"] == "text/event-stream"
    assert upstream.accepted == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "max_tokens"),
        ({"profile": OPENAI}, "max_completion_tokens"),
    ],
)
async def test_the_bound_of_the_output_has_the_name_the_provider_knows(upstream: FakeUpstream, options: dict[str, Any], field: str) -> None:
    """OpenAI's newer models take only the newer name, most others only the older."""
    model = model_of(upstream, **options)
    await events_of(model, CALL)
    assert [name for name in upstream.seen[0].json() if "max" in name] == [field]
    await model.close()


async def test_options(upstream: FakeUpstream) -> None:
    """A path of its own, fixed headers, no key: all as configured."""
    model = model_of(
        upstream, base_url=f"http://127.0.0.1:{upstream.port}/team/a/", api_key=None, headers={"OpenAI-Organization": Secret("org")}
    )
    await events_of(model, CALL)
    seen = upstream.seen[0]
    assert (seen.path, seen.headers["openai-organization"]) == ("/team/a/chat/completions", "org")
    assert "authorization" not in seen.headers
    await model.close()


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "http://models.example/v1"},
        {"base_url": "https://u:geheim@models.example"},
        {"api_key": Secret("geheim\r\nx-evil: 1")},
        {"headers": {"content-length": Secret("geheim")}},
        {"proxy": Secret("socks5://u:geheim@proxy")},
        {"max_connections": 0},
    ],
)
def test_options_that_cannot_work_are_refused_at_once(options: dict[str, Any]) -> None:
    """Before any call, and without showing what is secret in them."""
    with pytest.raises(ValueError) as caught:
        openai_model(**{"base_url": "https://models.example/v1", **options})
    assert "geheim" not in str(caught.value)


async def test_no_proxy_for_hosts_that_are_excepted(upstream: FakeUpstream) -> None:
    """A proxy is for everybody but those in the list."""
    model = model_of(upstream, proxy=Secret("http://127.0.0.1:9"), no_proxy=["127.0.0.0/8"])
    assert await events_of(model, CALL)
    await model.close()


# --- CVE lessons -------------------------------------------------------------------------------------------------------


async def test_cve_2025_11203_ping_tells_no_secret(upstream: FakeUpstream) -> None:
    """Health says what is wrong in our words: no key, no URL, no word of the provider."""
    cases: list[tuple[Play, str]] = [
        (http(b"{}"), ""),
        (failure(401, f"bad key {KEY}"), "credentials"),
        (failure(503, KEY), "503"),
        (hang_up, "closed"),
    ]
    for play, words in cases:
        upstream.will(play)
        model = model_of(upstream)
        said = await model.ping()
        assert words in said
        assert bool(said) is bool(words)
        for text in (said, repr(model), str(vars(model)), str(vars(model._http)), str(vars(model.pool))):
            assert KEY not in text
        assert upstream.seen[-1].path == "/v1/models"
        await model.close()


async def test_cve_2024_6587_the_call_cannot_choose_where_it_goes(upstream: FakeUpstream, model: HttpModel) -> None:
    """Whatever a client writes into extra fields stays in the body: the origin is fixed when the adapter is made."""
    async with FakeUpstream() as evil:
        call = msgspec.structs.replace(CALL, extra={"api_base": evil.url, "base_url": evil.url, "user_config": {"api_base": evil.url}})
        await events_of(model, call)
        assert (upstream.requests, evil.accepted) == (1, 0)


async def test_cve_2026_45401_redirects(upstream: FakeUpstream, model: HttpModel) -> None:
    """A provider that points elsewhere has failed; our key does not follow."""
    async with FakeUpstream() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            upstream.will(http(b"", status=status, headers=[("location", f"{elsewhere.url}/chat/completions")]))
            assert (await refused(model)).code == "upstream_invalid"
        assert elsewhere.accepted == 0


# --- whose fault it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code", "caller_fault", "retry_after"),
    [
        (failure(400, "no such parameter"), "upstream_rejected", True, None),
        (failure(422, "bad"), "upstream_rejected", True, None),
        (failure(401, f"key {KEY} is wrong"), "upstream_auth", False, None),
        (failure(403), "upstream_auth", False, None),
        (failure(429, headers=[("retry-after", "7")]), "upstream_overloaded", False, 7.0),
        (failure(503), "upstream_overloaded", False, None),
        (failure(500, f"trace with {KEY}"), "upstream_rejected", False, None),
        (http(b"<html>Bad gateway</html>", status=502, content_type="text/html"), "upstream_rejected", False, None),
        (http(b"", status=204), "upstream_invalid", False, None),
        (http(b"{}", status=202), "upstream_invalid", False, None),
    ],
)
@pytest.mark.parametrize("call", [CALL, STREAM], ids=["whole", "stream"])
async def test_failures_are_told_apart(
    upstream: FakeUpstream, model: HttpModel, answer: bytes, code: str, caller_fault: bool, retry_after: float | None, call: Call
) -> None:
    """Status and body become one failure with a code; what the provider said stays with us, the key above all."""
    upstream.will(answer)
    trial = Trial()
    error = await refused(model, call, trial)
    assert (error.code, error.caller_fault, error.retry_after) == (code, caller_fault, retry_after)
    assert trial.sent
    assert error.detail.startswith("lab: ")
    assert KEY not in error.message + error.detail
    upstream.will(completion())
    assert await events_of(model, CALL)


@pytest.mark.parametrize(
    "answer",
    [
        http(b"<html>Welcome</html>", content_type="text/html"),
        http(b"Service unavailable", content_type="text/plain"),
        http(b""),
        http(b"", content_type="text/html"),
        http(b"null"),
        http(b"[]"),
        http(b"{"),
        http(b"{}"),
        http(b'{"choices":[]}'),
        http(b"\xff\xfe"),
        http(b'{"choices":' * 5000),
        stream([]),
        stream([DONE]),
        stream([b": only a comment\n\n"]),
        stream([b"data: <html>\n\n"]),
        http(b"", content_type="text/event-stream"),
    ],
)
@pytest.mark.parametrize("call", [CALL, STREAM], ids=["whole", "stream"])
async def test_scenario_28_a_200_that_is_no_answer(upstream: FakeUpstream, model: HttpModel, answer: bytes, call: Call) -> None:
    """HTML, nothing, or something else under status 200: a failure of the target, before any event, and not a word of it is told."""
    upstream.will(answer)
    error = await refused(model, call)
    assert error.code in {"upstream_invalid", "upstream_broken"}
    assert not error.caller_fault
    assert not any(word in error.message + error.detail for word in ("html", "Welcome", "comment"))


async def test_a_stream_answered_whole_is_accepted(upstream: FakeUpstream, model: HttpModel) -> None:
    """Some servers do not stream everything: one Answer then."""
    upstream.will(completion("whole"))
    (event,) = await events_of(model)
    assert isinstance(event, Answer)
    assert text_of([event]) == "whole"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/problem+json"])
async def test_content_types_that_are_json(upstream: FakeUpstream, model: HttpModel, kind: str) -> None:
    """JSON is JSON however it is spelt."""
    upstream.will(completion().replace(b"application/json", kind.encode()))
    assert text_of(await events_of(model, CALL)) == "Hello there."


# --- reliability scenarios ---------------------------------------------------------------------------------------------


async def test_scenario_21_connect_refused_is_raised_before_anything_was_sent() -> None:
    """Unreachable, not sent: another target can be tried at no risk."""
    async with FakeUpstream() as upstream:
        model = model_of(upstream)
    trial = Trial()
    error = await refused(model, trial=trial)
    assert (error.code, error.sent, trial.sent) == ("upstream_unreachable", False, False)
    await model.close()


@pytest.mark.parametrize("call", [CALL, STREAM], ids=["whole", "stream"])
async def test_scenario_22_an_upstream_that_never_answers(upstream: FakeUpstream, model: HttpModel, call: Call) -> None:
    """The first-byte deadline ends the wait, also for a whole answer: that may take longer by what its tokens may take."""
    upstream.will(silence)
    call = msgspec.structs.replace(call, max_tokens=1)
    error = await refused(model, call, Trial(first_byte=0.05))
    assert error.code == "upstream_timeout"
    await upstream.until(lambda up: up.connections == 0)


async def test_a_whole_answer_may_take_as_long_as_its_tokens(upstream: FakeUpstream, model: HttpModel) -> None:
    """A long answer that is not streamed sends its first byte only after its last token; it is not given up for that."""

    async def slow(seen: Seen, wire: Wire) -> None:
        await asyncio.sleep(0.2)
        wire.write(completion())

    upstream.will(slow)
    assert await events_of(model, msgspec.structs.replace(CALL, max_tokens=100), Trial(first_byte=0.05))
    assert await events_of(model, msgspec.structs.replace(CALL, max_tokens=None), Trial(first_byte=0.05))


@pytest.mark.parametrize("how", [Wire.end, Wire.reset], ids=["closed", "reset"])
async def test_scenario_23_an_upstream_that_dies_mid_stream(upstream: FakeUpstream, model: HttpModel, how: Any) -> None:
    """What was said is handed over, then the stream fails as broken: never an end, never a second request."""
    upstream.will(streamed([delta("", role="assistant"), delta("Hel")], gap=0.01, then=how))
    seen, error = await broken(model)
    assert (text_of(seen), error.code) == ("Hel", "upstream_broken")
    assert upstream.requests == 1


async def test_scenario_23_a_stream_cut_at_a_proper_chunk_boundary(upstream: FakeUpstream, model: HttpModel) -> None:
    """An answer whose HTTP ends properly and whose content does not is broken all the same."""
    upstream.will(streamed([delta("", role="assistant"), delta("Hel")]))
    seen, error = await broken(model)
    assert (text_of(seen), error.code) == ("Hel", "upstream_broken")


async def test_scenario_24_an_upstream_that_stalls_mid_stream(upstream: FakeUpstream, model: HttpModel) -> None:
    """Silence longer than the idle deadline ends the stream as a timeout and closes the connection."""
    upstream.will(streamed([delta("", role="assistant"), delta("Hel")], then=lambda wire: None))
    seen, error = await broken(model, Trial(idle=0.05))
    assert (text_of(seen), error.code) == ("Hel", "upstream_timeout")
    await upstream.until(lambda up: up.connections == 0)


async def test_scenario_25_any_split_of_the_bytes_gives_the_same_events(upstream: FakeUpstream, model: HttpModel) -> None:
    """Byte by byte, at random, in one piece; LF, CRLF or CR; comments between; characters cut in two: the same text."""
    frames = [
        delta("", role="assistant"),
        b": ping\n\n",
        delta("Grüße "),
        delta("aus 東京 \N{WAVING HAND SIGN}").replace(b"\n", b"\r\n"),
        delta(".").replace(b"\n", b"\r"),
        delta(finish="stop"),
        usage_frame(usage_of(3, 5)),
        DONE,
    ]
    body = b"".join(frames)
    rng = random.Random(25)
    cuts = [[1] * len(body), [len(body)], *([rng.randint(1, 40) for _ in range(len(body))] for _ in range(6))]
    for sizes in cuts:
        pieces = []
        at = 0
        for size in sizes:
            pieces.append(body[at : at + size])
            at += size
            if at >= len(body):
                break
        upstream.will(stream(pieces) if rng.random() < 0.5 else streamed(pieces))
        events = await events_of(model)
        assert text_of(events) == "Grüße aus 東京 \N{WAVING HAND SIGN}."
        assert [event.usage for event in events if event.usage] == [Usage(input=3, output=5)]
        await eventually(lambda: model.pool.idle == 1)
    assert upstream.accepted == 1


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("no [DONE]", story()[:-1]),
        ("[DONE] twice", [*story(), DONE]),
        ("data after [DONE]", [*story(), delta("more"), b"data: {broken\n\n"]),
    ],
)
@pytest.mark.parametrize("slowly", [False, True])
async def test_scenario_26_the_end_comes_once(
    upstream: FakeUpstream, model: HttpModel, name: str, frames: list[bytes], slowly: bool
) -> None:
    """However a server spells its end, the stream ends once; what follows is dropped and holds nobody up."""
    upstream.will(streamed(frames, gap=0.002) if slowly else stream(frames))
    for _ in range(2):
        events = await events_of(model)
        assert (text_of(events), events[-1].usage) == ("Hello there.", Usage(input=3, output=5))
        await eventually(lambda: model.pool.open == model.pool.idle)
    assert upstream.accepted == 1


async def test_scenario_27_a_chunk_that_is_not_json(upstream: FakeUpstream, model: HttpModel) -> None:
    """The stream fails as invalid after what was good; nothing of the bad chunk is told."""
    upstream.will(streamed([delta("", role="assistant"), delta("Hel"), b'data: {"choices": [{"delta": geheim\n\n', *story()]))
    seen, error = await broken(model)
    assert (text_of(seen), error.code) == ("Hel", "upstream_invalid")
    assert "geheim" not in error.message + error.detail
    await upstream.until(lambda up: up.connections == 0)


async def test_an_error_inside_a_stream(upstream: FakeUpstream, model: HttpModel) -> None:
    """A provider that breaks off with an error object in the stream: a failure, without its words."""
    upstream.will(streamed([delta("", role="assistant"), delta("Hel"), frame({"error": {"message": f"oom {KEY}", "code": 500}})]))
    seen, error = await broken(model)
    assert text_of(seen) == "Hel"
    assert KEY not in error.message + error.detail


async def test_an_error_as_the_first_frame_can_still_fall_back(upstream: FakeUpstream, model: HttpModel) -> None:
    """Before the first event it is raised from `answer`."""
    upstream.will(streamed([frame({"error": {"message": "overloaded", "code": 429}})]))
    assert (await refused(model, STREAM)).code == "upstream_overloaded"


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": 5, "total_tokens": 0},
        {"prompt_tokens": 10**12, "completion_tokens": 5, "total_tokens": 10**12 + 5},
        {"prompt_tokens": 3, "completion_tokens": -1, "total_tokens": 2},
        {"prompt_tokens": "many"},
        {"prompt_tokens": 1e400},
    ],
)
async def test_scenario_29_absurd_usage_is_no_usage(upstream: FakeUpstream, model: HttpModel, usage: dict[str, Any]) -> None:
    """Counts that cannot be are not passed on, whole or streamed: whoever accounts counts for itself."""
    text = msgspec.json.encode({**usage, "prompt_tokens": 0}) if usage["prompt_tokens"] == 1e400 else msgspec.json.encode(usage)
    if usage["prompt_tokens"] == 1e400:
        text = text.replace(b'"prompt_tokens":0', b'"prompt_tokens":1e400')
    whole = b'{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":%b}' % text
    upstream.will(http(whole))
    (event,) = await events_of(model, CALL)
    assert (text_of([event]), event.usage) == ("Hi", None)
    last = b'data: {"id":"x","choices":[],"usage":%b}\n\n' % text
    upstream.will(stream([delta("", role="assistant"), delta("Hi"), delta(finish="stop"), last, DONE]))
    events = await events_of(model)
    assert (text_of(events), [event.usage for event in events if event.usage]) == ("Hi", [])


async def test_scenario_29_missing_usage(upstream: FakeUpstream, model: HttpModel) -> None:
    """A provider that does not count is answered for all the same."""
    upstream.will(completion(usage={}), stream(story(usage={})))
    assert [event.usage for event in await events_of(model, CALL)] == [None]
    assert not any(event.usage for event in await events_of(model))


# --- leaving -----------------------------------------------------------------------------------------------------------


async def test_scenario_19_whoever_leaves_closes_the_connection(upstream: FakeUpstream, model: HttpModel) -> None:
    """A stream closed mid-way, or a task cancelled in it: the provider sees the end at once."""
    upstream.will(endless(gap=0.001))
    stream = await model.answer(STREAM, TARGET, Trial())
    await anext(stream)
    await stream.aclose()
    assert model.pool.open == 0
    await upstream.until(lambda up: up.connections == 0, seconds=1.0)

    async def read() -> None:
        async for _ in await model.answer(STREAM, TARGET, Trial()):
            pass

    reading = asyncio.get_running_loop().create_task(read())
    await upstream.until(lambda up: up.requests == 2)
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert model.pool.open == 0
    await upstream.until(lambda up: up.connections == 0, seconds=1.0)


async def test_a_burst_is_one_wake_up(upstream: FakeUpstream, model: HttpModel) -> None:
    """A thousand events in one write all arrive, in order."""
    upstream.will(
        STREAM_HEAD + chunk(b"".join([delta("", role="assistant"), *(delta(f"{n} ") for n in range(1000)), *story([])[1:]])) + LAST_CHUNK
    )
    assert text_of(await events_of(model)) == "".join(f"{n} " for n in range(1000))
