"""What each server that speaks like OpenAI takes, calls otherwise, leaves out or cannot do: data, read by one encoder.

A part of a call that a server cannot honour is a capability its targets lack, so that Route sends the call elsewhere or says
so; it is never left out in silence. Left out is only what advises and does not ask (`drops`): who the user is, notes of
the caller, how hard to think. An operator who knows better lists `capabilities` at the target; what is listed is sent.
"""

from typing import Any, Final, Literal

import msgspec

from gatehouse.core.advice import ADVICE
from gatehouse.core.calls import Operation
from gatehouse.core.plans import Capability

TokensField = Literal["max_tokens", "max_completion_tokens"]

_ALL: Final[frozenset[Operation]] = frozenset({"chat", "completion", "embedding"})
_CHAT: Final[frozenset[Operation]] = frozenset({"chat"})
_CHAT_AND_VECTORS: Final[frozenset[Operation]] = frozenset({"chat", "embedding"})


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One server. `source` is where its maker says so; `base_url` its own, "" where everybody has another."""

    name: str
    source: str
    base_url: str = ""
    operations: frozenset[Operation] = _ALL
    """What it has an endpoint for."""
    lacks: frozenset[Capability] = frozenset()
    """What its targets cannot do unless the operator says otherwise."""
    tokens_field: TokensField = "max_tokens"
    """What it calls the bound of the output."""
    renames: dict[str, str] = {}
    """Fields it knows under another name."""
    drops: frozenset[str] = frozenset()
    """Fields of a `Call` that it refuses or ignores, and that only advise."""
    advice: frozenset[str] = frozenset()
    """Fields of `core.advice` that it knows. It is not told the others: many servers refuse what they do not know."""
    asks_usage: bool = True
    """It counts a stream when asked (`stream_options`); False: it always does, and does not know the field."""
    developer_role: bool = True
    """It knows messages of the role developer; else they are of the system."""
    speaker_names: bool = True
    """It takes the `name` of a message."""
    required_word: str = "required"
    """What it calls the tool choice that makes the model call some tool."""
    short_tool_ids: bool = False
    """It takes only ids of nine letters and digits; ids that other models made are turned into such, each always into the same."""
    reasoning_field: str = ""
    """The member of an assistant's message that carries its earlier reasoning back; "" where reasoning is not sent back."""
    cache_marks: bool = False
    """It takes Anthropic's cache_control on parts."""
    insists: dict[str, Any] = {}
    """Members to add when the call has a field that must not be ignored: for servers that ignore what they cannot do."""

    adjusts: bool = False
    """Whether a body written for OpenAI has to be changed; follows from the above."""
    rewrites: bool = False
    """Whether even a plain message may have to be written otherwise; follows from the above."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "adjusts", bool(self.renames or self.drops or self.insists))
        msgspec.structs.force_setattr(self, "rewrites", not (self.developer_role and self.speaker_names))

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What its targets can do."""
        return frozenset(Capability) - self.lacks


PLAIN: Final = Profile(
    name="openai-compatible",
    source="https://platform.openai.com/docs/api-reference/chat",
    advice=frozenset({"store", "safety_identifier", "prompt_cache_key", "verbosity"}),
)
"""A server of which nothing is known: it is taken at its word that it is compatible, and not told what says no more than a default."""

OPENAI: Final = Profile(
    name="openai",
    source="https://platform.openai.com/docs/api-reference/chat/create",
    base_url="https://api.openai.com/v1",
    lacks=frozenset({Capability.TOP_K}),
    tokens_field="max_completion_tokens",
    advice=ADVICE,
)

AZURE: Final = Profile(
    name="azure-openai",
    source="https://learn.microsoft.com/azure/foundry/reference/rest/chat-create-chat-completion",
    lacks=frozenset({Capability.TOP_K}),
    tokens_field="max_completion_tokens",
    advice=ADVICE,
)

_SERVERS: Final = (
    Profile(
        name="vllm",
        source="https://docs.vllm.ai/en/stable/serving/openai_compatible_server/",
        lacks=frozenset({Capability.FILES, Capability.INFILL}),
        drops=frozenset({"user", "metadata"}),
        developer_role=False,
        reasoning_field="reasoning_content",
    ),
    Profile(
        name="sglang",
        source="https://docs.sglang.ai/basic_usage/openai_api_completions.html",
        lacks=frozenset({Capability.FILES, Capability.AUDIO}),
        drops=frozenset({"user", "metadata"}),
        reasoning_field="reasoning_content",
    ),
    Profile(
        name="ollama",
        source="https://docs.ollama.com/api/openai-compatibility",
        lacks=frozenset(
            {
                Capability.FILES,
                Capability.AUDIO,
                Capability.CHOICES,
                Capability.LOGIT_BIAS,
                Capability.TOOL_CHOICE,
                Capability.SINGLE_TOOL,
                Capability.TOP_K,
            }
        ),
        drops=frozenset({"user", "metadata", "parallel_tool_calls"}),
        developer_role=False,
        reasoning_field="reasoning",
    ),
    Profile(
        name="tgi",
        source="https://huggingface.co/docs/text-generation-inference/reference/api_reference",
        operations=frozenset({"chat", "completion"}),
        lacks=frozenset(
            {Capability.FILES, Capability.AUDIO, Capability.CHOICES, Capability.LOGIT_BIAS, Capability.SINGLE_TOOL, Capability.TOP_K}
        ),
        drops=frozenset({"user", "metadata", "parallel_tool_calls", "reasoning_effort"}),
        developer_role=False,
    ),
    Profile(
        name="llama-server",
        source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        lacks=frozenset({Capability.FILES, Capability.INFILL}),
        drops=frozenset({"user", "metadata"}),
        developer_role=False,
    ),
)

_HOSTED: Final = (
    Profile(
        name="mistral",
        source="https://docs.mistral.ai/api/endpoint/chat",
        base_url="https://api.mistral.ai/v1",
        operations=_CHAT_AND_VECTORS,
        lacks=frozenset({Capability.FILES, Capability.AUDIO, Capability.LOGPROBS, Capability.LOGIT_BIAS, Capability.TOP_K}),
        renames={"seed": "random_seed", "dimensions": "output_dimension"},
        advice=frozenset({"prompt_cache_key"}),
        drops=frozenset({"user", "reasoning_effort"}),
        asks_usage=False,
        developer_role=False,
        speaker_names=False,
        required_word="any",
        short_tool_ids=True,
    ),
    Profile(
        name="groq",
        source="https://console.groq.com/docs/openai",
        base_url="https://api.groq.com/openai/v1",
        operations=_CHAT,
        lacks=frozenset(
            {
                Capability.FILES,
                Capability.AUDIO,
                Capability.LOGPROBS,
                Capability.LOGIT_BIAS,
                Capability.CHOICES,
                Capability.PENALTIES,
                Capability.TOP_K,
            }
        ),
        tokens_field="max_completion_tokens",
        drops=frozenset({"metadata"}),
        speaker_names=False,
    ),
    Profile(
        name="together",
        source="https://docs.together.ai/reference/chat-completions-1",
        base_url="https://api.together.xyz/v1",
        lacks=frozenset({Capability.FILES, Capability.LOGPROBS, Capability.SINGLE_TOOL, Capability.INFILL}),
        drops=frozenset({"user", "metadata", "parallel_tool_calls"}),
        asks_usage=False,
        developer_role=False,
    ),
    Profile(
        name="fireworks",
        source="https://docs.fireworks.ai/api-reference/post-chatcompletions",
        base_url="https://api.fireworks.ai/inference/v1",
        lacks=frozenset({Capability.FILES, Capability.AUDIO, Capability.INFILL}),
        drops=frozenset({"metadata"}),
        developer_role=False,
    ),
    Profile(
        name="deepseek",
        source="https://api-docs.deepseek.com/api/create-chat-completion",
        base_url="https://api.deepseek.com",
        operations=_CHAT,
        lacks=frozenset(
            {
                Capability.IMAGES,
                Capability.AUDIO,
                Capability.FILES,
                Capability.JSON_SCHEMA,
                Capability.CHOICES,
                Capability.SEED,
                Capability.LOGIT_BIAS,
                Capability.SINGLE_TOOL,
                Capability.TOP_K,
            }
        ),
        drops=frozenset({"user", "metadata", "parallel_tool_calls", "reasoning_effort"}),
        developer_role=False,
        reasoning_field="reasoning_content",
    ),
    Profile(
        name="openrouter",
        source="https://openrouter.ai/docs/api-reference/overview",
        base_url="https://openrouter.ai/api/v1",
        lacks=frozenset({Capability.CHOICES, Capability.INFILL}),
        drops=frozenset({"metadata"}),
        advice=frozenset({"verbosity"}),
        developer_role=False,
        reasoning_field="reasoning",
        cache_marks=True,
        insists={"provider": {"require_parameters": True}},
    ),
)

SERVERS: Final = {profile.name: profile for profile in _SERVERS}
"""What an operator runs: `profile:` of a provider of kind openai-compatible."""
HOSTED: Final = {profile.name: profile for profile in (OPENAI, AZURE, *_HOSTED)}
"""What others run: kinds of their own."""

BINDING: Final = frozenset(
    {
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "seed",
        "logit_bias",
        "logprobs",
        "top_k",
        "frequency_penalty",
        "presence_penalty",
    }
)
"""Fields that must not be ignored (`Profile.insists`)."""
