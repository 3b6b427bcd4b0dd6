"""The Gemini API and Vertex AI on real sockets: addresses, credentials, tokens and what is said when there are none."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gatehouse.adapters.providers._google_token import GoogleAuthoriser, assertion, read_service_account
from gatehouse.adapters.providers._http import HttpOptions, parse_base_url
from gatehouse.adapters.providers.frame import HttpModel, ModelOptions
from gatehouse.adapters.providers.gemini import gemini_codec
from gatehouse.adapters.providers.vertex import VertexModel, publisher_of, service_account, vertex_url
from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Event
from gatehouse.core.plans import Target
from gatehouse.core.ports import Model
from gatehouse.core.secrets import Secret
from gatehouse.core.usage import Usage
from gatehouse.testing.upstream import FakeUpstream, Play, Seen, Wire, http, silence, stream
from tests.adapters.providers.trials import Trial

KEY = "AIza-not-a-real-key-0123456789"
CALL = Call(model="assistant", messages=(Message("user", "hi"),), max_tokens=10)
STREAM = msgspec.structs.replace(CALL, stream=True)
EMBED = Call(operation="embedding", model="vectors", inputs=("a", "b"))
REPLY = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "Hello there."}]}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 5, "totalTokenCount": 8},
    "responseId": "r",
}
PIECES = [
    b'data: {"candidates":[{"content":{"parts":[{"text":"Hello "}]},"index":0}],"usageMetadata":{"promptTokenCount":3}}\r\n\r\n',
    b"data: "
    + json.dumps({**REPLY, "candidates": [{"content": {"parts": [{"text": "there."}]}, "finishReason": "STOP"}]}).encode()
    + b"\r\n\r\n",
]
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "Hello there."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 5},
}
MESSAGE_STREAM = [
    f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    for event in (
        {
            "type": "message_start",
            "message": {**MESSAGE, "content": [], "stop_reason": None, "usage": {"input_tokens": 3, "output_tokens": 1}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello there."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    )
]


async def google(seen: Seen, wire: Wire) -> None:
    """Answers each address in the format that belongs to it."""
    path = seen.path
    if path.endswith(":generateContent"):
        wire.write(http(json.dumps(REPLY).encode()))
    elif path.endswith(":streamGenerateContent?alt=sse"):
        wire.write(stream(PIECES))
    elif path.endswith(":batchEmbedContents"):
        wire.write(http(b'{"embeddings":[{"values":[1.0]},{"values":[2.0]}]}'))
    elif path.endswith(":predict"):
        wire.write(
            http(b'{"predictions":[{"embeddings":{"values":[1.0],"statistics":{"token_count":1}}},{"embeddings":{"values":[2.0]}}]}')
        )
    elif path.endswith(":rawPredict"):
        wire.write(http(json.dumps(MESSAGE).encode()))
    elif path.endswith(":streamRawPredict"):
        wire.write(stream(MESSAGE_STREAM))
    else:
        wire.write(http(b'{"models":[]}'))


async def answer_of(model: Model, call: Call = CALL, target: str = "gemini-3-flash") -> list[Event]:
    return [event async for event in await model.answer(call, Target(f"g/{target}", "g", target), Trial())]


async def refused(model: Model, call: Call = CALL, target: str = "gemini-3-flash") -> UpstreamFailed:
    with pytest.raises(UpstreamFailed) as caught:
        await answer_of(model, call, target)
    return caught.value


def text_of(events: list[Event]) -> str:
    return "".join(choice.text or "" for event in events for choice in event.choices)


# The Gemini API


def gemini_of(upstream: FakeUpstream, *keys: str) -> HttpModel:
    options = ModelOptions(name="g", base_url=f"http://127.0.0.1:{upstream.port}/v1beta", api_keys=[Secret(key) for key in keys or (KEY,)])
    return HttpModel(options, gemini_codec())


async def test_gemini_whole_streamed_and_embedded(upstream: FakeUpstream) -> None:
    """The key is in a header, never in an address; the model is in the address, where nothing in its name can end it."""
    upstream.will(google)
    model = gemini_of(upstream)
    (whole,) = await answer_of(model)
    pieces = await answer_of(model, STREAM)
    assert text_of([whole]) == text_of(pieces) == "Hello there."
    assert whole.usage == pieces[-1].usage == Usage(input=3, output=5)
    (vectors,) = await answer_of(model, EMBED, "gemini-embedding-001")
    assert isinstance(vectors, Answer)
    assert len(vectors.vectors) == 2
    await answer_of(model, CALL, "tunedModels/mine?x#y")
    assert [seen.path for seen in upstream.seen] == [
        "/v1beta/models/gemini-3-flash:generateContent",
        "/v1beta/models/gemini-3-flash:streamGenerateContent?alt=sse",
        "/v1beta/models/gemini-embedding-001:batchEmbedContents",
        "/v1beta/tunedModels/mine%3Fx%23y:generateContent",
    ]
    for seen in upstream.seen:
        assert seen.headers["x-goog-api-key"] == KEY
        assert KEY not in seen.path
        assert "authorization" not in seen.headers
    assert await model.ping() == ""
    assert upstream.seen[-1].path == "/v1beta/models"
    await model.close()


async def test_a_refused_key_makes_room_for_the_next(upstream: FakeUpstream) -> None:
    """Google refuses a key with a 400: it is the key that is left aside, not the caller that is blamed."""
    bad = {
        "error": {
            "code": 400,
            "message": f"API key {KEY} not valid.",
            "status": "INVALID_ARGUMENT",
            "details": [{"reason": "API_KEY_INVALID"}],
        }
    }

    async def choosy(seen: Seen, wire: Wire) -> None:
        if seen.headers["x-goog-api-key"] == KEY:
            wire.write(http(json.dumps(bad).encode(), status=400))
        else:
            await google(seen, wire)

    upstream.will(choosy)
    model = gemini_of(upstream, KEY, "AIza-another-key-0123456789")
    for _ in range(3):
        assert text_of(await answer_of(model)) == "Hello there."
    assert sum(seen.headers["x-goog-api-key"] == KEY for seen in upstream.seen) == 1
    await model.close()
    alone = gemini_of(upstream)
    error = await refused(alone)
    assert (error.code, error.caller_fault) == ("upstream_auth", False)
    assert KEY not in error.message + error.detail
    await alone.close()


async def test_what_cannot_be_said_leaves_no_byte(upstream: FakeUpstream) -> None:
    """No connection is opened for it."""
    model = gemini_of(upstream)
    error = await refused(model, msgspec.structs.replace(CALL, logit_bias={"1": 1.0}))
    assert (error.sent, error.caller_fault, upstream.accepted) == (False, True, 0)
    await model.close()


async def test_a_stream_that_breaks_off_is_told(upstream: FakeUpstream) -> None:
    """There is no last word in this format, so the end of bytes alone is no end."""
    upstream.will(stream(PIECES[:1]))
    model = gemini_of(upstream)
    events = await model.answer(STREAM, Target("g/m", "g", "m"), Trial())
    assert text_of([await anext(events)]) == "Hello "
    with pytest.raises(UpstreamFailed) as caught:
        await anext(events)
    assert caught.value.code == "upstream_broken"
    await model.close()


# Vertex AI


@pytest.fixture(scope="session")
def rsa() -> RSAPrivateKey:
    """A key of a service account."""
    return generate_private_key(65537, 2048)


def pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def key_file(folder: Path, key: Any, **fields: Any) -> Path:
    said = {
        "type": "service_account",
        "project_id": "acme",
        "private_key_id": "k1",
        "private_key": key if isinstance(key, str) else pem(key),
        "client_email": "gatehouse@acme.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
        **fields,
    }
    path = folder / "account.json"
    path.write_text(json.dumps(said))
    return path


class Tokens:
    """The place that gives tokens: checks each proof, gives token-1, token-2 ..."""

    def __init__(self, key: RSAPrivateKey) -> None:
        self.key = key
        self.given = 0
        self.life = 3600.0
        self.claims: dict[str, Any] = {}

    async def play(self, seen: Seen, wire: Wire) -> None:
        form = parse_qs(seen.body.decode())
        assert seen.headers["content-type"] == "application/x-www-form-urlencoded"
        assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        head, claims, signature = form["assertion"][0].split(".")
        try:
            self.key.public_key().verify(decoded(signature), f"{head}.{claims}".encode(), PKCS1v15(), SHA256())
        except InvalidSignature:
            wire.write(http(b'{"error":"invalid_grant","error_description":"secret-prose"}', status=400))
            return
        assert json.loads(decoded(head)) == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
        self.claims = json.loads(decoded(claims))
        self.given += 1
        body = {"access_token": f"token-{self.given}", "expires_in": self.life, "token_type": "Bearer"}
        wire.write(http(json.dumps(body).encode()))


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.fixture
def tokens(rsa: RSAPrivateKey) -> Tokens:
    """What the place that gives tokens knows."""
    return Tokens(rsa)


@pytest.fixture
async def giver(tokens: Tokens) -> AsyncIterator[FakeUpstream]:
    """The place that gives tokens."""
    async with FakeUpstream(tokens.play) as fake:
        yield fake


@pytest.fixture
async def vertex(upstream: FakeUpstream, giver: FakeUpstream, rsa: RSAPrivateKey, tmp_path: Path) -> AsyncIterator[VertexModel]:
    """A project in Frankfurt."""
    upstream.will(google)
    options = ModelOptions(name="v", base_url=f"http://127.0.0.1:{upstream.port}/v1")
    account, authoriser = service_account(options, str(key_file(tmp_path, rsa)), f"http://127.0.0.1:{giver.port}/token")
    model = VertexModel(options, authoriser, account.project_id, "europe-west3")
    yield model
    await model.close()


async def test_vertex_speaks_for_each_publisher(upstream: FakeUpstream, giver: FakeUpstream, tokens: Tokens, vertex: VertexModel) -> None:
    """One token for all of it. Claude goes in Anthropic's format, its version in the body and its name in the address alone."""
    parent = "/v1/projects/acme/locations/europe-west3"
    for target, path, call in (
        ("gemini-3-flash", "/publishers/google/models/gemini-3-flash:generateContent", CALL),
        ("gemini-3-flash", "/publishers/google/models/gemini-3-flash:streamGenerateContent?alt=sse", STREAM),
        ("endpoints/123/x", "/endpoints/123%2Fx:generateContent", CALL),
        ("claude-sonnet-4-5@20250929", "/publishers/anthropic/models/claude-sonnet-4-5%4020250929:rawPredict", CALL),
        ("publishers/anthropic/models/claude-opus", "/publishers/anthropic/models/claude-opus:streamRawPredict", STREAM),
        ("text-embedding-005", "/publishers/google/models/text-embedding-005:predict", EMBED),
    ):
        events = await answer_of(vertex, call, target)
        seen = upstream.seen[-1]
        assert (seen.path, seen.headers["authorization"]) == (parent + path, "Bearer token-1")
        if call is EMBED:
            assert events[-1].usage == Usage(input=1)
            continue
        assert text_of(events) == "Hello there."
        assert events[-1].usage == Usage(input=3, output=5)
        if "claude" in target:
            body = seen.json()
            assert (body["anthropic_version"], body.get("stream", False), "model" in body) == ("vertex-2023-10-16", call.stream, False)
    assert giver.requests == 1
    assert giver.seen[0].path == "/token"
    assert tokens.claims["iss"] == "gatehouse@acme.iam.gserviceaccount.com"
    assert tokens.claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    assert tokens.claims["aud"] == f"http://127.0.0.1:{giver.port}/token"
    assert tokens.claims["exp"] - tokens.claims["iat"] == 3600
    assert await vertex.ping() == ""


async def test_calls_that_wait_share_one_token(giver: FakeUpstream, vertex: VertexModel) -> None:
    """Fifty at once, one question."""
    answers = await asyncio.gather(*[answer_of(vertex) for _ in range(50)])
    assert {text_of(events) for events in answers} == {"Hello there."}
    assert giver.requests == 1


async def test_a_caller_who_leaves_takes_the_token_from_nobody(giver: FakeUpstream, tokens: Tokens, vertex: VertexModel) -> None:
    """The first call that waits is cut off; the next asks anew."""
    giver.will(silence, tokens.play)
    first = asyncio.create_task(answer_of(vertex))
    await giver.until(lambda fake: fake.requests == 1)
    second = asyncio.create_task(answer_of(vertex))
    first.cancel()
    assert text_of(await second) == "Hello there."


async def test_a_stale_token_is_replaced_and_the_call_repeated(
    upstream: FakeUpstream, giver: FakeUpstream, vertex: VertexModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 401 for a token that was given a while ago: the caller notices nothing. For a fresh one it is the answer."""
    authoriser = vertex._models["google"]._authoriser
    assert isinstance(authoriser, GoogleAuthoriser)
    clock = Clock()
    monkeypatch.setattr(authoriser, "_now", clock)

    async def fussy(seen: Seen, wire: Wire) -> None:
        if seen.headers["authorization"] == "Bearer token-1":
            wire.write(http(b'{"error":{"code":401,"status":"UNAUTHENTICATED","message":"secret-prose"}}', status=401))
        else:
            await google(seen, wire)

    assert text_of(await answer_of(vertex)) == "Hello there."
    upstream.will(fussy)
    error = await refused(vertex)
    assert (error.code, giver.requests) == ("upstream_auth", 1)
    assert "secret-prose" not in error.message + error.detail
    clock.now += 60
    assert text_of(await answer_of(vertex)) == "Hello there."
    assert [seen.headers["authorization"] for seen in upstream.seen[-2:]] == ["Bearer token-1", "Bearer token-2"]
    assert giver.requests == 2


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """An authoriser with a clock of its own."""

    def __init__(self, giver: FakeUpstream, path: Path) -> None:
        url = f"http://127.0.0.1:{giver.port}/token"
        self.clock = Clock()
        options = HttpOptions(label="v", base=parse_base_url(url))
        self.authoriser = GoogleAuthoriser(options, lambda: read_service_account(path, url), lambda: 1_700_000_000.0, self.clock)

    async def token(self) -> str:
        from gatehouse.adapters.providers._codec import Unsigned

        ((name, value),) = await self.authoriser.headers(Unsigned("POST", "h", "/", b""), Trial().deadlines)
        assert name == "authorization"
        return value.removeprefix("Bearer ")

    async def no_token(self) -> UpstreamFailed:
        with pytest.raises(UpstreamFailed) as caught:
            await self.token()
        error = caught.value
        assert (error.sent, error.caller_fault) == (False, False)
        assert error.message == "The model is not available: we could not sign in to its provider."
        assert "secret" not in error.detail
        return error


@pytest.fixture
async def rig(giver: FakeUpstream, rsa: RSAPrivateKey, tmp_path: Path) -> AsyncIterator[Rig]:
    """An authoriser whose time stands still."""
    made = Rig(giver, key_file(tmp_path, rsa))
    yield made
    await made.authoriser.close()
    await made.authoriser.close()


async def test_a_token_is_renewed_before_its_end(rig: Rig) -> None:
    """Five minutes before, so that no call carries one that ends on its way."""
    assert [await rig.token(), await rig.token()] == ["token-1", "token-1"]
    rig.clock.now += 3299
    assert await rig.token() == "token-1"
    rig.clock.now += 1
    assert await rig.token() == "token-2"


async def test_while_a_token_is_renewed_calls_go_on_with_the_old_one(rig: Rig, giver: FakeUpstream, tokens: Tokens) -> None:
    """Only the call that noticed waits."""
    await rig.token()
    rig.clock.now += 3400
    release = asyncio.Event()

    async def slowly(seen: Seen, wire: Wire) -> None:
        await release.wait()
        await tokens.play(seen, wire)

    giver.will(slowly)
    renewing = asyncio.create_task(rig.token())
    await giver.until(lambda fake: fake.requests == 2)
    assert await rig.token() == "token-1"
    release.set()
    assert await renewing == "token-2"


@pytest.mark.parametrize(
    ("play", "code"),
    [
        (http(b"{}", status=503), "upstream_unreachable"),
        (http(b'{"error":"invalid_grant","error_description":"secret"}', status=400), "upstream_auth"),
        (http(b"<html>secret", status=403), "upstream_auth"),
        (http(b'{"access_token":3}'), "upstream_auth"),
        (http(b'{"access_token":"secret\\r\\nx: y","expires_in":5}'), "upstream_auth"),
    ],
)
async def test_no_token_is_never_the_callers_fault(rig: Rig, giver: FakeUpstream, tokens: Tokens, play: Play, code: str) -> None:
    """It is told again for a moment without asking; then the next call asks anew."""
    giver.will(play)
    assert (await rig.no_token()).code == code
    assert (await rig.no_token()).code == code
    assert giver.requests == 1
    giver.will(tokens.play)
    rig.clock.now += 2
    assert await rig.token() == "token-1"


async def test_a_token_that_cannot_be_renewed_is_used_until_its_end(rig: Rig, giver: FakeUpstream) -> None:
    """The place that gives tokens may be down for five minutes without anybody noticing."""
    await rig.token()
    giver.will(http(b"{}", status=500))
    rig.clock.now += 3400
    assert [await rig.token(), await rig.token()] == ["token-1", "token-1"]
    assert giver.requests == 2
    rig.clock.now += 201
    assert (await rig.no_token()).code == "upstream_unreachable"


async def test_a_new_key_is_taken_from_the_file(rig: Rig, giver: FakeUpstream, tokens: Tokens, tmp_path: Path) -> None:
    """The file is read for each token: no restart."""
    other = generate_private_key(65537, 2048)
    tokens.key = other
    assert "invalid_grant" in (await rig.no_token()).detail
    key_file(tmp_path, other)
    rig.clock.now += 2
    assert await rig.token() == "token-1"
    (tmp_path / "account.json").unlink()
    rig.clock.now += 3700
    error = await rig.no_token()
    assert (error.code, "cannot be read" in error.detail) == ("upstream_auth", True)


# Key files


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"type": "authorized_user"}, "of type authorized_user: a key of a service account is needed"),
        ({"type": "<script>"}, "of type unknown"),
        ({"client_email": ""}, "a key of a service account is needed"),
        ({"private_key": "secret"}, "private_key in the credentials file cannot be read"),
        ({"token_uri": "https://evil.example/token"}, "token_uri that is not at https://oauth2.googleapis.com"),
        ({"token_uri": "http://oauth2.googleapis.com/token"}, "token_uri that is not at"),
        ({"token_uri": "https://oauth2.googleapis.com@evil.example/token"}, "token_uri that is not at"),
        ({"token_uri": "https://oauth2.googleapis.com.evil.example/token"}, "token_uri that is not at"),
        ({"token_uri": ""}, "token_uri that is not at"),
    ],
)
def test_a_key_file_that_cannot_be_used(rsa: RSAPrivateKey, tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    """Said by what is wrong with it; a token_uri elsewhere would be sent a proof of who we are."""
    path = key_file(tmp_path, rsa, **fields)
    with pytest.raises(ValueError, match=words.replace("<", ".")) as caught:
        read_service_account(path)
    assert "secret" not in str(caught.value)


def test_a_key_file_that_is_none(tmp_path: Path) -> None:
    """Missing, a folder, no JSON, a key of another kind."""
    path = tmp_path / "account.json"
    with pytest.raises(ValueError, match=r"cannot be read \(No such file or directory\)"):
        read_service_account(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_service_account(tmp_path)
    path.write_text("secret")
    with pytest.raises(ValueError, match="is not a key file of a service account") as caught:
        read_service_account(path)
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="not an RSA key"):
        read_service_account(key_file(tmp_path, ec.generate_private_key(ec.SECP256R1())))


def test_the_operators_word_goes_before_the_files(rsa: RSAPrivateKey, tmp_path: Path) -> None:
    """For a private way to Google; the proof is made out to that address. Nothing secret is in what is shown of it."""
    account = read_service_account(key_file(tmp_path, rsa, token_uri="https://evil.example/"), "https://tokens.acme.example/token")
    claims = json.loads(decoded(assertion(account, 1_700_000_000.9).split(".")[1]))
    assert (claims["aud"], claims["iat"]) == ("https://tokens.acme.example/token", 1_700_000_000)
    assert "PRIVATE" not in repr(account)


@pytest.mark.parametrize(
    ("model", "publisher"),
    [
        ("gemini-3-flash", ("google", "gemini-3-flash")),
        ("claude-sonnet-4-5@20250929", ("anthropic", "claude-sonnet-4-5@20250929")),
        ("publishers/anthropic/models/claude-x", ("anthropic", "claude-x")),
        ("publishers/meta/models/llama", ("meta", "llama")),
        ("publishers/google/other/x", ("google", "publishers/google/other/x")),
        ("endpoints/123", ("google", "endpoints/123")),
    ],
)
def test_whose_model_it_is(model: str, publisher: tuple[str, str]) -> None:
    """By its name, or written out."""
    assert publisher_of(model) == publisher


async def test_a_publisher_we_do_not_speak_for(upstream: FakeUpstream, giver: FakeUpstream, vertex: VertexModel) -> None:
    """The configuration's fault; nothing is sent."""
    error = await refused(vertex, CALL, "publishers/meta/models/llama")
    assert (error.sent, error.caller_fault, upstream.requests, giver.requests) == (False, False, 0, 0)
    assert "'meta'" in error.detail


def test_where_vertex_is() -> None:
    """The location is part of the address, save for the global one."""
    assert vertex_url("europe-west4") == "https://europe-west4-aiplatform.googleapis.com/v1"
    assert vertex_url("global") == "https://aiplatform.googleapis.com/v1"
