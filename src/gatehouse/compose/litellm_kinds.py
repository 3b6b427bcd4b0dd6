"""Where LiteLLM's provider prefixes lead here: which kind of provider, at which address, under which name.

From LiteLLM's public documentation of its proxy and providers (https://docs.litellm.ai/docs/providers). A prefix that is not
here is reported, never guessed.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec


class Prefix(msgspec.Struct, frozen=True):
    """One prefix ("groq/"). `base_url` is the provider's own address where the kind has none; `variable` holds its key when the
    configuration names none; `suffix` is added to an address that LiteLLM takes without it."""

    kind: str
    variable: str = ""
    base_url: str = ""
    profile: str = ""
    suffix: str = ""
    operation: str = ""
    needs_address: bool = False


_LIKE: Final = "openai-compatible"

PREFIXES: Final[Mapping[str, Prefix]] = {
    "openai": Prefix("openai", "OPENAI_API_KEY"),
    "text-completion-openai": Prefix("openai", "OPENAI_API_KEY", operation="completion"),
    "azure": Prefix("azure-openai", "AZURE_API_KEY", needs_address=True),
    "azure_ai": Prefix(_LIKE, "AZURE_AI_API_KEY", needs_address=True),
    "anthropic": Prefix("anthropic", "ANTHROPIC_API_KEY"),
    "bedrock": Prefix("bedrock"),
    "gemini": Prefix("gemini", "GEMINI_API_KEY"),
    "vertex_ai": Prefix("vertex"),
    "cohere": Prefix("cohere", "COHERE_API_KEY"),
    "cohere_chat": Prefix("cohere", "COHERE_API_KEY"),
    "mistral": Prefix("mistral", "MISTRAL_API_KEY"),
    "groq": Prefix("groq", "GROQ_API_KEY"),
    "together_ai": Prefix("together", "TOGETHERAI_API_KEY"),
    "fireworks_ai": Prefix("fireworks", "FIREWORKS_AI_API_KEY"),
    "deepseek": Prefix("deepseek", "DEEPSEEK_API_KEY"),
    "openrouter": Prefix("openrouter", "OPENROUTER_API_KEY"),
    "ollama": Prefix(_LIKE, base_url="http://localhost:11434/v1", profile="ollama", suffix="/v1"),
    "ollama_chat": Prefix(_LIKE, base_url="http://localhost:11434/v1", profile="ollama", suffix="/v1"),
    "hosted_vllm": Prefix(_LIKE, profile="vllm", needs_address=True),
    "vllm": Prefix(_LIKE, profile="vllm", needs_address=True),
    "huggingface": Prefix(_LIKE, "HF_TOKEN", profile="tgi", suffix="/v1", needs_address=True),
    "openai_like": Prefix(_LIKE, needs_address=True),
    "custom_openai": Prefix(_LIKE, needs_address=True),
    "litellm_proxy": Prefix(_LIKE, "LITELLM_PROXY_API_KEY", needs_address=True),
    "lm_studio": Prefix(_LIKE, needs_address=True),
    "llamafile": Prefix(_LIKE, base_url="http://127.0.0.1:8080/v1", profile="llama-server"),
    "xai": Prefix(_LIKE, "XAI_API_KEY", "https://api.x.ai/v1"),
    "perplexity": Prefix(_LIKE, "PERPLEXITYAI_API_KEY", "https://api.perplexity.ai"),
    "nvidia_nim": Prefix(_LIKE, "NVIDIA_NIM_API_KEY", "https://integrate.api.nvidia.com/v1"),
    "cerebras": Prefix(_LIKE, "CEREBRAS_API_KEY", "https://api.cerebras.ai/v1"),
    "deepinfra": Prefix(_LIKE, "DEEPINFRA_API_KEY", "https://api.deepinfra.com/v1/openai"),
    "sambanova": Prefix(_LIKE, "SAMBANOVA_API_KEY", "https://api.sambanova.ai/v1"),
}

_BARE: Final = (
    (re.compile(r"(gpt-|chatgpt-|o[1-9](-|$)|text-embedding-|babbage-|davinci-)"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"command-"), "cohere"),
)
"""Model names that LiteLLM takes without a prefix."""


def split_model(model: str) -> tuple[str, str] | None:
    """Prefix and model of LiteLLM's `model`; None when it has no prefix that is known here."""
    prefix, slash, rest = model.partition("/")
    if slash and prefix in PREFIXES:
        if prefix == "bedrock" and rest.startswith(("converse/", "invoke/")):
            rest = rest.partition("/")[2]
        return (prefix, rest) if rest else None
    bare = next((known for pattern, known in _BARE if not slash and pattern.match(model)), None)
    return None if bare is None else (bare, model)


STRATEGIES: Final[Mapping[str, str]] = {
    "simple-shuffle": "weighted",
    "least-busy": "least_work",
    "usage-based-routing": "least_work",
    "usage-based-routing-v2": "least_work",
    "latency-based-routing": "latency",
    "cost-based-routing": "cost",
}
"""How LiteLLM picks a deployment, and the policy that comes nearest."""

MODES: Final[Mapping[str, str]] = {"chat": "", "completion": "completion", "embedding": "embedding", "responses": ""}
"""`model_info.mode`, and the operation to name; "" is what targets do anyway."""

ELSEWHERE: Final[Mapping[str, str]] = {
    "rpm": "limits belong to keys here: gatehouse keys create NAME --rpm",
    "tpm": "limits belong to keys here: gatehouse keys create NAME --tpm",
    "max_parallel_requests": "limits belong to keys (concurrency) and to the provider (max_connections)",
    "tags": "routing by tag is not known here; make a model for each, and grant it to the keys",
    "drop_params": "a target that cannot honour a field of a call is left out; nothing is dropped silently",
    "additional_drop_params": "a target that cannot honour a field of a call is left out; nothing is dropped silently",
    "modify_params": "calls are never changed to fit a target",
    "callbacks": "calls are in the ledger and the audit log; metrics are at /metrics on the admin port",
    "success_callback": "calls are in the ledger and the audit log; metrics are at /metrics on the admin port",
    "failure_callback": "calls are in the ledger and the audit log; metrics are at /metrics on the admin port",
    "service_callbacks": "metrics are at /metrics on the admin port",
    "set_verbose": "there is no verbose mode that would print prompts",
    "json_logs": "logs go to standard error",
    "turn_off_message_logging": "contents are never logged here",
    "redact_user_api_key_info": "keys are never logged here",
    "context_window_fallbacks": (
        "targets that cannot hold a call are left out before it is sent: give targets[].context_window, and put the larger model"
        " among fallbacks"
    ),
    "content_policy_fallbacks": "a refusal of a model is an answer, and is not asked elsewhere",
    "max_fallbacks": "all fallbacks are tried, inside the retry budget",
    "retry_after": "Retry-After of a target is honoured, with a cap",
    "retry_policy": "models[].retries says how often; the retry budget bounds them all",
    "enable_pre_call_checks": "that is always done",
    "redis_host": "one server needs no Redis; limits hold without it",
    "redis_port": "one server needs no Redis; limits hold without it",
    "redis_password": "one server needs no Redis; limits hold without it",
    "redis_url": "one server needs no Redis; limits hold without it",
    "routing_strategy_args": "the policies have no arguments",
    "master_key": (
        "give an administrator's key of your own in GATEHOUSE_BOOTSTRAP_KEY (24 characters or more), or take the one that a first"
        " start makes"
    ),
    "database_url": (
        "Gatehouse keeps its own tables (storage.url). Keys, teams and budgets in LiteLLM's database are not read: make them with"
        " gatehouse keys create"
    ),
    "database_connection_pool_limit": "the pool is small and fixed",
    "store_model_in_db": "models stand in the operator's file, which is reloaded when it changes",
    "alerting": "alerts are made from metrics and audit events",
    "custom_auth": "code in the configuration is never run",
    "custom_key_generate": "code in the configuration is never run",
    "allowed_routes": "what a key may do follows from its roles and models",
    "litellm_key_header_name": "keys come as Authorization: Bearer or x-api-key",
}
"""Settings that are not taken over, and what there is instead."""
