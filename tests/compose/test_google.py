"""Gemini, Vertex AI and Cohere from the operator's words: what is built of them, and what their targets can do."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gatehouse.compose.offline import OfflineError, check_providers
from gatehouse.compose.plans import build_plans
from gatehouse.compose.providers import address, build_model
from gatehouse.core.calls import Call, Message
from gatehouse.core.plans import Capability, Target
from gatehouse.operator_file import parse
from gatehouse.settings import Environment
from gatehouse.testing.model_contract import ContractAttempt
from gatehouse.testing.upstream import FakeUpstream, Seen, Wire, http

CALL = Call(model="assistant", messages=(Message("user", "hi"),), max_tokens=10)
ENVIRONMENT = Environment(data_dir=Path("unused"))
GEMINI = {"candidates": [{"content": {"parts": [{"text": "Hello."}]}, "finishReason": "STOP"}]}
COHERE = {"finish_reason": "COMPLETE", "message": {"content": [{"type": "text", "text": "Hello."}]}}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key of a service account."""
    key = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    path = tmp_path_factory.mktemp("google") / "account.json"
    said = {
        "type": "service_account",
        "project_id": "acme",
        "private_key": key,
        "client_email": "a@acme.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    path.write_text(json.dumps(said))
    return path


async def anybody(seen: Seen, wire: Wire) -> None:
    """Google's token service, its models and Cohere at once."""
    answer: dict[str, Any] = COHERE if seen.path == "/v2/chat" else GEMINI
    wire.write(http(json.dumps({"access_token": "token-1", "expires_in": 3600} if seen.path == "/token" else answer).encode()))


@pytest.mark.parametrize(
    ("provider", "path", "header"),
    [
        ("kind: gemini, api_key: k", "/models/m:generateContent", ("x-goog-api-key", "k")),
        (
            "kind: vertex, google: {credentials_file: KEY, token_url: 'URL/token'}",
            "/projects/acme/locations/global/publishers/google/models/m:generateContent",
            ("authorization", "Bearer token-1"),
        ),
        (
            "kind: vertex, google: {credentials_file: KEY, token_url: 'URL/token', project: other, location: europe-west4}",
            "/projects/other/locations/europe-west4/publishers/google/models/m:generateContent",
            ("authorization", "Bearer token-1"),
        ),
        ("kind: cohere, api_key: k", "/v2/chat", ("authorization", "Bearer k")),
    ],
)
async def test_a_call_of_each_kind(key_file: Path, provider: str, path: str, header: tuple[str, str]) -> None:
    """As the operator's file says it."""
    async with FakeUpstream(anybody) as upstream:
        url = f"http://127.0.0.1:{upstream.port}"
        words = provider.replace("KEY", str(key_file)).replace("URL", url)
        settings = parse(f"providers: [{{name: p, base_url: '{url}', {words}}}]", "f", {})
        check_providers(settings, ENVIRONMENT)
        model = build_model(settings.providers[0], ENVIRONMENT)
        (event,) = [event async for event in await model.answer(CALL, Target("p/m", "p", "m"), ContractAttempt())]
        assert event.choices[0].text == "Hello."
        assert upstream.seen[-1].path == path
        assert upstream.seen[-1].headers[header[0]] == header[1]
        await model.close()


def test_what_targets_can_do_is_their_publishers() -> None:
    """On Vertex, Claude's targets can do what Claude can; nothing asks for the key file to know it."""
    text = """
providers:
  - {name: vertex, kind: vertex, google: {credentials_file: gone.json, location: europe-west4}}
  - {name: cohere, kind: cohere, api_key: k}
models:
  - name: a
    targets:
      - {provider: vertex, model: gemini-2.5-pro}
      - {provider: vertex, model: "claude-sonnet-4-5@20250929"}
      - {provider: cohere, model: command-a-03-2025, price: {input: "1", output: "1"}}
"""
    settings = parse(text, "f", {})
    asked = []
    (plan,) = build_plans(settings, lambda kind, url, model: asked.append(url))
    gemini, claude, cohere = [target.capabilities for target in plan.targets]
    assert {Capability.CHOICES, Capability.SEED, Capability.AUDIO} <= gemini
    assert not {Capability.CHOICES, Capability.SEED, Capability.AUDIO} & claude
    assert Capability.SINGLE_TOOL in claude
    assert not {Capability.CHOICES, Capability.FILES, Capability.SINGLE_TOOL} & cohere
    assert asked == ["https://europe-west4-aiplatform.googleapis.com/v1"] * 2
    assert address(settings.providers[1]) == "https://api.cohere.com"
    with pytest.raises(OfflineError, match=r"provider 'vertex' of kind vertex cannot work: the credentials file gone.json cannot be read"):
        check_providers(settings, ENVIRONMENT)


def test_a_project_must_come_from_somewhere(key_file: Path, tmp_path: Path) -> None:
    """From the settings, or from the key file."""
    path = tmp_path / "account.json"
    path.write_text(json.dumps({**json.loads(key_file.read_text()), "project_id": ""}))
    settings = parse(f"providers: [{{name: p, kind: vertex, google: {{credentials_file: {path}}}}}]", "f", {})
    with pytest.raises(OfflineError, match=r"neither google\.project nor the credentials file names a project"):
        check_providers(settings, ENVIRONMENT)
