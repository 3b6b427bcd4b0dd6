"""Every kind of provider, built from the operator's words and asked over a real socket by its own wire format."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatehouse.compose.plans import build_plans
from gatehouse.compose.providers import KINDS, build_model
from gatehouse.core.calls import Call, Message
from gatehouse.core.collect import Collector
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.plans import Capability, Deadlines, Target
from gatehouse.core.secrets import Secret
from gatehouse.operator_file import SettingsError, parse
from gatehouse.settings import Environment, ProviderSettings
from gatehouse.testing import anthropic
from gatehouse.testing.model_contract import ContractAttempt
from gatehouse.testing.upstream import FakeUpstream, Seen, Wire, completion, failure, http, stream

KEY = "sk-very-secret-0001"
CALL = Call(model="assistant", messages=(Message("user", "hi"),), max_tokens=10)
ENVIRONMENT = Environment(data_dir=Path("unused"))


async def anybody(seen: Seen, wire: Wire) -> None:
    """Answers each path in the format it belongs to."""
    path = seen.path.partition("?")[0]
    body = json.loads(seen.body) if seen.body else {}
    if path.endswith("/models"):
        wire.write(http(b'{"data":[]}'))
    elif path.endswith("/messages"):
        wire.write(stream(anthropic.story()) if body.get("stream") else anthropic.message())
    elif path.endswith("/chat/completions"):
        wire.write(stream() if body.get("stream") else completion())
    else:
        wire.write(failure(404))


class Case(msgspec.Struct, frozen=True):
    """A kind as configured, where it is expected to ask and with which header."""

    kind: str
    path: str
    header: tuple[str, str] = ("authorization", f"Bearer {KEY}")
    base: str = ""
    settings: dict[str, Any] = {}


CASES = {
    "openai": Case("openai", "/v1/chat/completions", base="/v1"),
    "vllm": Case("openai-compatible", "/v1/chat/completions", base="/v1", settings={"profile": "vllm"}),
    "azure, v1": Case("azure-openai", "/openai/v1/chat/completions", ("api-key", KEY)),
    "azure, deployments": Case(
        "azure-openai",
        "/openai/deployments/gpt%204%2Fx/chat/completions?api-version=2024-10-21",
        ("api-key", KEY),
        settings={"api_version": "2024-10-21"},
    ),
    "azure, Entra": Case("azure-openai", "/openai/v1/chat/completions", settings={"credential": "bearer"}),
    "anthropic": Case("anthropic", "/v1/messages", ("x-api-key", KEY), base="/v1"),
    "mistral": Case("mistral", "/v1/chat/completions", base="/v1"),
    "groq": Case("groq", "/openai/v1/chat/completions", base="/openai/v1"),
    "together": Case("together", "/v1/chat/completions", base="/v1"),
    "fireworks": Case("fireworks", "/inference/v1/chat/completions", base="/inference/v1"),
    "deepseek": Case("deepseek", "/chat/completions"),
    "openrouter": Case("openrouter", "/api/v1/chat/completions", base="/api/v1"),
}


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    """A provider of every kind at once."""
    async with FakeUpstream(anybody) as made:
        yield made


def settings_of(case: Case, upstream: FakeUpstream) -> ProviderSettings:
    base_url = f"http://127.0.0.1:{upstream.port}{case.base}"
    return msgspec.convert(
        {"name": "lab", "kind": case.kind, "base_url": base_url, "api_key": Secret(KEY), **case.settings}, ProviderSettings
    )


def test_every_kind_is_tried() -> None:
    """The cases of this file leave out no kind that is spoken to over OpenAI's or Anthropic's format."""
    others = {"gemini", "vertex", "cohere", "bedrock"}
    assert {case.kind for case in CASES.values()} | {"openai-compatible"} == set(KINDS) - others


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_call_of_each_kind(upstream: FakeUpstream, case: Case, streamed: bool) -> None:
    """The path, the credential's header and the model's name are the kind's; the answer and its usage are the same for all."""
    model = build_model(settings_of(case, upstream), ENVIRONMENT)
    collector = Collector()
    call = msgspec.structs.replace(CALL, stream=streamed)
    async for event in await model.answer(call, Target("lab/gpt 4/x", "lab", "gpt 4/x"), ContractAttempt()):
        collector.add(event)
    answer = collector.answer()
    assert (answer.text, answer.choices[0].finish) == ("Hello there.", "stop")
    assert answer.usage is not None
    assert (answer.usage.input_total, answer.usage.output_total) == (3, 5)
    seen = upstream.seen[0]
    assert (seen.path, seen.headers[case.header[0]]) == (case.path, case.header[1])
    assert seen.json()["model"] == "gpt 4/x"
    assert [name for name, value in seen.headers.items() if KEY in value] == [case.header[0]]
    assert await model.ping() == ""
    assert upstream.seen[-1].method == "GET"
    await model.close()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_refused_key_of_each_kind(upstream: FakeUpstream, case: Case) -> None:
    """A 401 is our trouble with the provider, whatever its words, and its words are not passed on."""
    upstream.will(http(json.dumps({"error": {"message": f"Invalid key {KEY}"}}).encode(), status=401))
    model = build_model(settings_of(case, upstream), ENVIRONMENT)
    with pytest.raises(UpstreamFailed) as caught:
        await model.answer(CALL, Target("lab/m", "lab", "m"), ContractAttempt(deadlines=Deadlines()))
    assert caught.value.code == "upstream_auth"
    assert KEY not in str(caught.value) + caught.value.detail
    await model.close()


async def test_anthropic_says_its_version(upstream: FakeUpstream) -> None:
    """The version of its API is a header; the operator may name another."""
    for headers, version in (({}, "2023-06-01"), ({"Anthropic-Version": Secret("2099-01-01")}, "2099-01-01")):
        settings = msgspec.structs.replace(settings_of(CASES["anthropic"], upstream), headers=headers)
        model = build_model(settings, ENVIRONMENT)
        await model.answer(CALL, Target("lab/m", "lab", "m"), ContractAttempt())
        assert upstream.seen[-1].headers["anthropic-version"] == version
        await model.close()


async def test_an_operation_a_kind_does_not_have(upstream: FakeUpstream) -> None:
    """Route keeps such calls away; one that comes all the same fails before a byte is sent."""
    model = build_model(settings_of(CASES["anthropic"], upstream), ENVIRONMENT)
    with pytest.raises(UpstreamFailed) as caught:
        await model.answer(Call(operation="embedding", model="a", inputs=("x",)), Target("lab/m", "lab", "m"), ContractAttempt())
    assert (caught.value.sent, upstream.requests) == (False, 0)
    await model.close()


def test_targets_can_do_what_their_provider_can() -> None:
    """What a kind or profile cannot do its targets cannot, unless the operator lists what they can."""
    text = """
providers:
  - {name: fast, kind: groq, api_key: k}
  - {name: own, kind: openai-compatible, base_url: "http://127.0.0.1:1/v1", profile: ollama}
  - {name: claude, kind: anthropic, api_key: k}
models:
  - name: a
    targets:
      - {provider: fast, model: m, price: {input: "1", output: "1"}}
      - {provider: own, model: m, price: {input: "1", output: "1"}}
      - {provider: claude, model: m, price: {input: "1", output: "1"}}
      - {provider: fast, model: n, price: {input: "1", output: "1"}, capabilities: [stream, logprobs]}
"""
    (plan,) = build_plans(parse(text, "f", {}), lambda kind, url, model: None)
    fast, own, claude, listed = [target.capabilities for target in plan.targets]
    assert Capability.LOGPROBS not in fast
    assert Capability.TOOLS in fast
    assert Capability.TOOL_CHOICE not in own
    assert Capability.JSON_SCHEMA in own
    assert not {Capability.SEED, Capability.CHOICES} & claude
    assert listed == {Capability.STREAM, Capability.LOGPROBS}


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        ("{name: p, kind: azure-openai, api_key: k}", "needs base_url"),
        ("{name: p, kind: openai, profile: vllm}", "takes no profile"),
        ("{name: p, kind: openai, api_version: '1'}", "for azure-openai"),
        ("{name: p, kind: openai, credential: bearer}", "for azure-openai"),
        ("{name: p, kind: openai, api_key: k, api_keys: [a, b]}", "both api_key and api_keys"),
        ("{name: p, kind: openai, api_keys: [a, '']}", "empty entry"),
    ],
)
def test_settings_that_cannot_be_meant(provider: str, words: str) -> None:
    """A setting that would do nothing is refused with its line, not ignored."""
    with pytest.raises(SettingsError, match=words) as caught:
        parse(f"providers:\n  - {provider}\n", "f", {})
    assert "line 2" in str(caught.value)
