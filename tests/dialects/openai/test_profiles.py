"""What each server that speaks like OpenAI is sent: the same call, in the words that server knows."""

import json
from typing import Any, get_args

import msgspec
import pytest

from gatehouse.core.calls import Call, ImagePart, Message, TextPart, ThinkingPart, Tool, ToolCall, ToolChoice
from gatehouse.core.plans import Capability
from gatehouse.dialects.openai import encode_completion_request, encode_embedding_request, encode_request
from gatehouse.dialects.openai.profiles import HOSTED, OPENAI, PLAIN, SERVERS, Profile

PROFILES = {"openai-compatible": PLAIN, **SERVERS, **HOSTED}
TOOL = Tool("look", "Looks.", {"type": "object"}, cache="5m")
CALL = Call(
    model="a",
    messages=(
        Message("developer", "Be brief."),
        Message("user", (TextPart("What is it?", cache="5m"), ImagePart("https://example.org/a.png", "low")), name="ann"),
        Message(
            "assistant",
            (ThinkingPart("It may be a cat.", "sig"), TextPart("One moment.")),
            tool_calls=(ToolCall("toolu_01A09q90qw90lq917835lq9", "look", "{}"),),
        ),
        Message("tool", "a cat", tool_call_id="toolu_01A09q90qw90lq917835lq9", is_error=True, cache="1h"),
    ),
    tools=(TOOL,),
    tool_choice=ToolChoice("required"),
    parallel_tool_calls=True,
    max_tokens=50,
    seed=7,
    user="u-1",
    metadata={"ticket": "1"},
    reasoning_effort="low",
    stream=True,
)


def written(profile: Profile, **changes: Any) -> Any:
    return json.loads(encode_request(msgspec.structs.replace(CALL, **changes), "m", profile))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_what_every_server_gets(profile: Profile) -> None:
    """The words, the tools and the bound arrive under every profile; nothing of ours does (marks, signatures, failure flags)."""
    body = written(profile)
    assert body["model"] == "m"
    assert body[profile.tokens_field] == 50
    assert body["tools"] == [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}]
    _, asked, called, result = body["messages"]
    assert [part.get("text") or part["image_url"]["url"] for part in asked["content"]] == ["What is it?", "https://example.org/a.png"]
    assert called["content"] == [{"type": "text", "text": "One moment."}]
    assert called["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}
    assert result["tool_call_id"] == called["tool_calls"][0]["id"]
    text = json.dumps(body)
    assert "is_error" not in text
    assert "sig" not in text
    assert '"cache"' not in text
    assert "thinking" not in text


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_what_cannot_be_said_is_a_missing_capability(profile: Profile) -> None:
    """A profile leaves out of a body only what advises; what asks is either sent or something its targets cannot do."""
    advice = {"user", "metadata", "reasoning_effort"}
    said = {"parallel_tool_calls"} if Capability.SINGLE_TOOL not in profile.capabilities else set()
    assert profile.drops <= advice | said


def test_profiles_name_their_sources() -> None:
    """Each says where its maker documents it, and hosted ones where they are."""
    for profile in PROFILES.values():
        assert profile.source.startswith("https://")
        assert profile.name in PROFILES
    assert {name for name, profile in HOSTED.items() if not profile.base_url} == {"azure-openai"}
    assert all(not profile.base_url for profile in SERVERS.values())


def test_openai_gets_its_own_words() -> None:
    """Nothing is changed for OpenAI but the name of the bound."""
    body = written(OPENAI)
    assert (body["max_completion_tokens"], body["stream_options"], body["seed"]) == (50, {"include_usage": True}, 7)
    assert (body["messages"][0]["role"], body["messages"][1]["name"], body["tool_choice"]) == ("developer", "ann", "required")
    assert (body["user"], body["metadata"], body["reasoning_effort"]) == ("u-1", {"ticket": "1"}, "low")


def test_mistral_gets_its_own() -> None:
    """random_seed, `any`, no stream_options, no names, no user, and ids of nine characters, the same for call and result."""
    body = written(HOSTED["mistral"])
    assert (body["random_seed"], body["tool_choice"]) == (7, "any")
    assert not {"seed", "stream_options", "user"} & body.keys()
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert "name" not in body["messages"][1]
    made = body["messages"][3]["tool_call_id"]
    assert len(made) == 9
    assert made.isalnum()
    own = Message("tool", "x", tool_call_id="abcDEF123")
    assert written(HOSTED["mistral"], messages=(own,))["messages"][0]["tool_call_id"] == "abcDEF123"


def test_reasoning_goes_back_where_there_is_a_place_for_it() -> None:
    """DeepSeek, vLLM and SGLang call it reasoning_content, OpenRouter and Ollama reasoning; the others are not sent it."""
    fields = {name: profile.reasoning_field for name, profile in PROFILES.items() if profile.reasoning_field}
    assert {name for name, field in fields.items() if field == "reasoning_content"} == {"deepseek", "vllm", "sglang"}
    assert {name for name, field in fields.items() if field == "reasoning"} == {"openrouter", "ollama"}
    for name, field in fields.items():
        assert written(PROFILES[name])["messages"][2][field] == "It may be a cat."


def test_openrouter_is_told_to_ignore_nothing() -> None:
    """It ignores what a model behind it cannot do unless told not to; it is told when something is asked that must not be ignored."""
    profile = HOSTED["openrouter"]
    assert written(profile)["provider"] == {"require_parameters": True}
    plain = Call(model="a", messages=(Message("user", "hi"),), max_tokens=5, temperature=0.5)
    assert "provider" not in json.loads(encode_request(plain, "m", profile))
    assert written(profile, extra={"provider": {"order": ["a"]}})["provider"] == {"order": ["a"]}


def test_openrouter_keeps_marks_for_a_cache() -> None:
    """It passes Anthropic's cache_control on; the others do not know it."""
    parts = written(HOSTED["openrouter"])["messages"][1]["content"]
    assert parts[0] == {"type": "text", "text": "What is it?", "cache_control": {"type": "ephemeral"}}


def test_bodies_of_the_other_operations_are_in_a_profiles_words() -> None:
    """What a server drops, renames or counts by itself holds for completions and embeddings too."""
    embed = Call(operation="embedding", model="m", inputs=("x",), dimensions=8, user="u")
    assert json.loads(encode_embedding_request(embed, "t", HOSTED["mistral"])) == {"model": "t", "input": "x", "output_dimension": 8}
    text = Call(operation="completion", model="m", inputs=("x",), stream=True, user="u", max_tokens=3)
    wanted = {"model": "t", "prompt": "x", "stream": True, "max_tokens": 3}
    assert json.loads(encode_completion_request(text, "t", HOSTED["together"])) == wanted


def test_the_operators_choices_are_the_profiles() -> None:
    """What the settings take as `profile` and `kind` is what there are profiles for."""
    from gatehouse.compose.providers import KINDS
    from gatehouse.settings import ProviderKind, ServerProfile

    assert set(get_args(ServerProfile)) == set(SERVERS)
    assert set(get_args(ProviderKind)) == set(KINDS)
    assert set(HOSTED) <= set(KINDS)
