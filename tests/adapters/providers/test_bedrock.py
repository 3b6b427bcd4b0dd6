"""Bedrock on a real socket, before an upstream that checks each signature: what goes out, what comes back, what is said of failures."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatehouse.adapters.providers._aws_keys import ContainerRole, FixedKey, InstanceRole, KeySource, MachineKey, ProfileKey
from gatehouse.adapters.providers._sigv4 import AwsKey
from gatehouse.adapters.providers.bedrock import AwsAuthoriser, bedrock_codec, bedrock_url
from gatehouse.adapters.providers.frame import HttpModel, ModelOptions
from gatehouse.core.calls import Call, Message
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Chunk, Event
from gatehouse.core.plans import Target
from gatehouse.core.secrets import Secret
from gatehouse.core.usage import Usage
from gatehouse.testing.bedrock import STREAM_HEAD, Account, converse, converse_stream, exception, refusal, signed_by, story
from gatehouse.testing.upstream import FakeUpstream, Play, Seen, Wire, chunk, http
from tests.adapters.providers.trials import Trial, eventually

REGION = "eu-central-1"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
ACCOUNT = Account("AKIDEXAMPLE", SECRET, REGION)
KEY = AwsKey("AKIDEXAMPLE", Secret(SECRET))
CLAUDE = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = "arn:aws:bedrock:eu-central-1:123456789012:application-inference-profile/a1b2c3"
CALL = Call(model="assistant", messages=(Message("user", "hi"),), max_tokens=10)
STREAM = msgspec.structs.replace(CALL, stream=True)


def model_of(
    upstream: FakeUpstream, source: KeySource | None = None, *, region: str = REGION, now: Callable[[], float] = time.time
) -> HttpModel:
    options = ModelOptions(name="aws", base_url=f"http://127.0.0.1:{upstream.port}")
    return HttpModel(options, bedrock_codec(), AwsAuthoriser(source or FixedKey(KEY), region, now))


async def events_of(model: HttpModel, call: Call = CALL, target: str = CLAUDE) -> list[Event]:
    return [event async for event in await model.answer(call, Target(f"aws/{target}", "aws", target), Trial())]


async def refused(model: HttpModel, call: Call = CALL) -> UpstreamFailed:
    with pytest.raises(UpstreamFailed) as caught:
        await events_of(model, call)
    return caught.value


def text_of(events: list[Event]) -> str:
    return "".join(choice.text or "" for event in events for choice in event.choices)


@pytest.mark.parametrize("target", [CLAUDE, ARN])
async def test_a_signed_call_whole_and_streamed(upstream: FakeUpstream, target: str) -> None:
    """Ids with colons and ARNs with slashes are signed as they are sent; connections are kept."""
    upstream.will(signed_by(ACCOUNT, converse(), time.time), signed_by(ACCOUNT, converse_stream(), time.time))
    model = model_of(upstream)
    (whole,) = await events_of(model, CALL, target)
    assert isinstance(whole, Answer)
    await eventually(lambda: model.pool.idle == 1)
    pieces = await events_of(model, STREAM, target)
    assert all(isinstance(piece, Chunk) for piece in pieces)
    assert text_of([whole]) == text_of(pieces) == "Hello there."
    assert whole.usage == pieces[-1].usage == Usage(input=3, output=5)
    first, second = upstream.seen
    assert first.path == second.path.removesuffix("-stream")
    assert (first.headers["accept"], second.headers["accept"]) == ("application/json", "application/vnd.amazon.eventstream")
    assert upstream.accepted == 1
    await model.close()


async def test_every_byte_of_a_stream_may_come_alone(upstream: FakeUpstream) -> None:
    """The binary framing over a slow network."""

    async def drip(seen: Seen, wire: Wire) -> None:
        wire.write(STREAM_HEAD)
        for byte in b"".join(story()):
            wire.write(chunk(bytes([byte])))
        wire.write(chunk(b"\0" * 3) + b"0\r\n\r\n")

    upstream.will(drip)
    model = model_of(upstream)
    assert text_of(await events_of(model, STREAM)) == "Hello there."
    await model.close()


async def test_an_api_key_instead_of_a_signature(upstream: FakeUpstream) -> None:
    """A Bedrock API key goes out as a bearer token, and nothing is signed."""
    upstream.will(converse())
    model = HttpModel(
        ModelOptions(name="aws", base_url=f"http://127.0.0.1:{upstream.port}", api_keys=(Secret("bedrock-api-key-0123456789"),)),
        bedrock_codec(),
    )
    assert text_of(await events_of(model)) == "Hello there."
    assert upstream.seen[0].headers["authorization"] == "Bearer bedrock-api-key-0123456789"
    assert "x-amz-date" not in upstream.seen[0].headers
    await model.close()


@pytest.mark.parametrize(
    ("account", "region", "skew", "said"),
    [
        (msgspec.structs.replace(ACCOUNT, secret_access_key="other"), REGION, 0, "check the secret access key"),
        (msgspec.structs.replace(ACCOUNT, access_key_id="AKIDOTHER"), REGION, 0, "AWS does not know the access key"),
        (msgspec.structs.replace(ACCOUNT, session_token="t"), REGION, 0, "its session token is missing or wrong"),
        (ACCOUNT, "us-east-1", 0, "the region of the provider"),
        (ACCOUNT, REGION, -3600, "by about 60 minutes (behind), which accepts five minutes: set it, best by NTP"),
        (ACCOUNT, REGION, 3600, "by about 60 minutes (ahead), which accepts five minutes: set it, best by NTP"),
    ],
)
async def test_what_is_wrong_with_a_signature_is_said(
    upstream: FakeUpstream, account: Account, region: str, skew: float, said: str
) -> None:
    """Operators read what to do; callers read that the model is not available, and nothing of keys or clocks."""
    upstream.will(signed_by(account, converse(), time.time))
    model = model_of(upstream, region=region, now=lambda: time.time() + skew)
    error = await refused(model)
    assert error.code == "upstream_auth"
    assert said in error.detail
    assert "AKID" not in error.detail
    assert error.message == "The model is not available: its provider refused us."
    await model.close()


async def test_an_expired_session_token(upstream: FakeUpstream) -> None:
    """The token travels and is signed; when it has expired the detail says so, and no secret is in it."""
    account = msgspec.structs.replace(ACCOUNT, session_token="session-abcdef", expires=time.time() - 1)
    upstream.will(signed_by(account, converse(), time.time))
    model = model_of(upstream, FixedKey(AwsKey("AKIDEXAMPLE", Secret(SECRET), Secret("session-abcdef"))))
    error = await refused(model)
    assert (error.code, "session token has expired" in error.detail) == ("upstream_auth", True)
    assert upstream.seen[0].headers["x-amz-security-token"] == "session-abcdef"
    assert "session-abcdef" not in str(error) + error.detail
    await model.close()


@pytest.mark.parametrize(
    ("play", "code", "fault"),
    [
        (refusal(429, "ThrottlingException", "Too many tokens"), "upstream_overloaded", False),
        (refusal(400, "ValidationException", "Malformed input"), "upstream_rejected", True),
        (refusal(503, "ServiceUnavailableException", "x"), "upstream_overloaded", False),
        (http(b"<html>", content_type="text/html"), "upstream_invalid", False),
        (http(b"", content_type="application/vnd.amazon.eventstream"), "upstream_broken", False),
        (STREAM_HEAD + chunk(exception("throttlingException", "x")) + b"0\r\n\r\n", "upstream_overloaded", False),
        (STREAM_HEAD + chunk(story()[0] + exception("internalServerException", "x")) + b"0\r\n\r\n", "upstream_rejected", False),
        (STREAM_HEAD + chunk(b"data: {}\n\n" * 3) + b"0\r\n\r\n", "upstream_invalid", False),
    ],
)
async def test_failures_before_the_first_event_let_another_target_try(upstream: FakeUpstream, play: Play, code: str, fault: bool) -> None:
    """Raised from the answer itself, whatever shape they come in."""
    upstream.will(play)
    model = model_of(upstream)
    error = await refused(model, STREAM)
    assert (error.code, error.caller_fault) == (code, fault)
    await model.close()


async def test_a_stream_that_dies_never_looks_finished(upstream: FakeUpstream) -> None:
    """Cut after the first event: what came is given out, then the failure."""
    upstream.will(STREAM_HEAD + chunk(b"".join(story()[:2])) + b"0\r\n\r\n")
    model = model_of(upstream)
    seen: list[Event] = []
    with pytest.raises(UpstreamFailed) as caught:  # noqa: PT012 - it may fail at any piece
        async for event in await model.answer(STREAM, Target("aws/x", "aws", CLAUDE), Trial()):
            seen.append(event)  # noqa: PERF401 - what came before the failure must be kept
    assert text_of(seen) == "Hel"
    assert caught.value.code == "upstream_broken"
    await model.close()


def test_the_address_of_a_region() -> None:
    """China has a domain of its own."""
    assert bedrock_url("eu-central-1") == "https://bedrock-runtime.eu-central-1.amazonaws.com"
    assert bedrock_url("cn-north-1") == "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"


# Where keys come from


def machine(*, expires: str = "2099-01-01T00:00:00Z", role: str = "models", imds2: bool = True) -> Callable[[Seen, Wire], Awaitable[None]]:
    """The machine's own address, as EC2 answers; `imds2` refuses who shows no session token."""
    key = b'{"Code":"Success","AccessKeyId":"AKIDEXAMPLE","SecretAccessKey":"%b","Token":"role-token","Expiration":"%b"}'

    async def play(seen: Seen, wire: Wire) -> None:
        if (seen.method, seen.path) == ("PUT", "/latest/api/token"):
            assert seen.headers["x-aws-ec2-metadata-token-ttl-seconds"] == "300"
            wire.write(http(b"imds-token", content_type="text/plain"))
        elif imds2 and seen.headers.get("x-aws-ec2-metadata-token") != "imds-token":
            wire.write(http(b"", status=401))
        elif seen.path == "/latest/meta-data/iam/security-credentials/":
            wire.write(http(role.encode(), content_type="text/plain"))
        elif seen.path == "/latest/meta-data/iam/security-credentials/models":
            wire.write(http(key % (SECRET.encode(), expires.encode())))
        else:
            wire.write(http(b"", status=404))

    return play


async def test_an_instances_role_signs_and_is_asked_once(upstream: FakeUpstream) -> None:
    """IMDSv2, with its token; many calls at once ask the machine one time, and the role's token is signed and sent."""
    async with FakeUpstream(machine()) as metadata:
        upstream.will(signed_by(msgspec.structs.replace(ACCOUNT, session_token="role-token"), converse(), time.time))
        model = model_of(upstream, MachineKey("aws", InstanceRole(f"http://127.0.0.1:{metadata.port}")))
        await asyncio.gather(*[events_of(model) for _ in range(5)])
        assert [seen.method for seen in metadata.seen] == ["PUT", "GET", "GET"]
        assert upstream.requests == 5
        await model.close()


async def test_a_key_is_renewed_before_it_expires(upstream: FakeUpstream) -> None:
    """Five minutes ahead; when the machine does not answer then, the old key serves to its end and no longer."""
    clock = [1_000.0]
    async with FakeUpstream(machine(expires="1970-01-01T01:00:00Z")) as metadata:
        source = MachineKey("aws", InstanceRole(f"http://127.0.0.1:{metadata.port}"), now=lambda: clock[0])
        kept = await source.key()
        clock[0] = 3_000.0
        assert await source.key() is kept
        clock[0] = 3_301.0
        assert await source.key() is not kept
        assert metadata.requests == 6
        metadata.will(http(b"", status=500))
        clock[0] = 3_400.0
        assert (await source.key()).expires == 3_600.0
        clock[0] = 3_601.0
        with pytest.raises(UpstreamFailed) as caught:
            await source.key()
        assert (caught.value.code, caught.value.sent) == ("upstream_auth", False)
        assert "500" in caught.value.detail
        await source.close()


@pytest.mark.parametrize(
    ("play", "said"),
    [
        (machine(role=""), "has no role"),
        (machine(role="other"), "404"),
        (machine(expires="soon"), "holds no key"),
        (http(b"", status=403), "403"),
        (http(b"\x00\x01"), "no text"),
    ],
)
async def test_a_machine_without_a_key(upstream: FakeUpstream, play: Play, said: str) -> None:
    """Told as missing credentials, with what was found; the model is asked nothing."""
    async with FakeUpstream(play) as metadata:
        model = model_of(upstream, MachineKey("aws", InstanceRole(f"http://127.0.0.1:{metadata.port}")))
        error = await refused(model)
        assert (error.code, error.sent) == ("upstream_auth", False)
        assert said in error.detail
        assert upstream.requests == 0
        await model.close()


async def test_a_machine_that_cannot_be_reached(upstream: FakeUpstream) -> None:
    """No instance, or one that does not answer: unreachable, not refused, so no target is put aside for it."""
    async with FakeUpstream() as gone:
        url = f"http://127.0.0.1:{gone.port}"
    model = model_of(upstream, MachineKey("aws", InstanceRole(url)))
    assert (await refused(model)).code == "upstream_unreachable"
    await model.close()


async def test_a_containers_role(upstream: FakeUpstream, tmp_path: Path) -> None:
    """ECS and EKS: the address they name, with the token from their file, read each time as it is rotated."""
    token = tmp_path / "token"
    token.write_text("first\n")
    body = b'{"AccessKeyId":"AKIDEXAMPLE","SecretAccessKey":"s","Token":"t","Expiration":"2099-01-01T00:00:00Z"}'
    async with FakeUpstream(http(body)) as metadata:
        role = ContainerRole(f"http://127.0.0.1:{metadata.port}/v2/credentials/abc?x=1", token)
        assert (await role.fetch()).access_key_id == "AKIDEXAMPLE"
        token.write_text("second\n")
        await role.fetch()
        assert [(seen.path, seen.headers["authorization"]) for seen in metadata.seen] == [
            ("/v2/credentials/abc?x=1", "first"),
            ("/v2/credentials/abc?x=1", "second"),
        ]
        token.unlink()
        with pytest.raises(UpstreamFailed):
            await role.fetch()
        await role.close()


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/x", "http://169.254.169.254/x", "http://example.com/x", "ftp://169.254.170.2/x", "http:///x"]
)
def test_container_keys_come_from_nowhere_else(url: str) -> None:
    """Plain http only to this machine and to the addresses AWS uses for it."""
    with pytest.raises(ValueError):
        ContainerRole(url)


def profile(tmp_path: Path, name: str, credentials: str = "", config: str = "", now: Callable[[], float] = time.monotonic) -> ProfileKey:
    files = (tmp_path / "credentials", tmp_path / "config")
    for path, text in zip(files, (credentials, config), strict=True):
        if text:
            path.write_text(text)
    return ProfileKey("aws", name, files, now)


async def test_a_profiles_key_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    """As tools that renew keys write them there; a look every few seconds, not each call."""
    clock = [0.0]
    text = "[default]\naws_access_key_id = A\naws_secret_access_key = B\n"
    text += "[work]\naws_access_key_id=C\naws_secret_access_key=D%s\naws_session_token=T1\n"
    source = profile(tmp_path, "work", text, now=lambda: clock[0])
    first = await source.key()
    assert (first.access_key_id, first.secret_access_key, first.session_token) == ("C", Secret("D%s"), Secret("T1"))
    (tmp_path / "credentials").write_text(text.replace("T1", "T2-longer"))
    assert await source.key() is first
    clock[0] = 6.0
    assert (await source.key()).session_token == Secret("T2-longer")


async def test_a_profile_of_the_config_file(tmp_path: Path) -> None:
    """There its section is called "profile NAME", the default one "default"."""
    config = "[default]\naws_access_key_id=A\naws_secret_access_key=B\n[profile work]\naws_access_key_id=C\naws_secret_access_key=D\n"
    assert (await profile(tmp_path, "work", config=config).key()).access_key_id == "C"
    assert (await profile(tmp_path, "default", config=config).key()).access_key_id == "A"


@pytest.mark.parametrize(
    ("credentials", "config", "said"),
    [
        ("", "", "no key for profile 'work'"),
        ("[other]\naws_access_key_id=A\n", "", "no key for profile 'work'"),
        ("not an ini file", "", "no key for profile 'work'"),
        ("", "[profile work]\nsso_session = x\nsso_start_url = y\n", "by sso_session, sso_start_url, which Gatehouse does not do"),
        ("", "[profile work]\ncredential_process = /bin/echo\n", "credential_process"),
    ],
)
async def test_a_profile_without_a_key(tmp_path: Path, credentials: str, config: str, said: str) -> None:
    """What was looked for, where, and what to do; no command of such a file is ever run."""
    with pytest.raises(UpstreamFailed) as caught:
        await profile(tmp_path, "work", credentials, config).key()
    assert said in caught.value.detail
    assert not caught.value.sent


def test_no_key_is_printed() -> None:
    """Neither by what holds it nor by what asks for it."""
    held: list[Any] = [KEY, FixedKey(KEY), AwsAuthoriser(FixedKey(KEY), REGION)]
    assert all(SECRET not in repr(each) for each in held)
