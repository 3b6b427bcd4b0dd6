"""Kinds of providers: one table from the kind in the operator's file to what builds its model and what its targets can do.

A new kind is its literal in `settings.ProviderKind` and its entry in `KINDS`. Adapters are imported when a model is built, so
that a kind nobody configured costs nothing.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from gatehouse.compose.aws import BEDROCK_CAPABILITIES, bedrock_home, build_bedrock
from gatehouse.compose.google import GEMINI_CAPABILITIES, build_gemini, build_vertex, gemini_home, is_claude, vertex_home
from gatehouse.core.calls import Operation
from gatehouse.core.plans import CHATS, Capability
from gatehouse.core.ports import Model, Tally, Turn
from gatehouse.dialects.openai.profiles import HOSTED, PLAIN, SERVERS, Profile
from gatehouse.settings import Environment, ProviderSettings

if TYPE_CHECKING:
    from gatehouse.adapters.providers.frame import ModelOptions

Builder = Callable[[ProviderSettings, Environment], Model]


class Kind(msgspec.Struct, frozen=True):
    """One kind: how its model is made (raises ValueError or OSError when the settings cannot work), what its targets can do, and
    where it is when the settings name no address ("" when they must).
    """

    build: Builder
    capabilities: Callable[[ProviderSettings, str], frozenset[Capability]]
    home: Callable[[ProviderSettings], str] = lambda settings: ""
    operations: Callable[[ProviderSettings], frozenset[Operation]] = lambda settings: CHATS
    advice: Callable[[ProviderSettings], frozenset[str]] = lambda settings: frozenset()


def build_model(settings: ProviderSettings, environment: Environment, tally: Tally | None = None, turn: Turn | None = None) -> Model:
    """The model of one provider; `tally` counts its keys, at the end of `turn` its requests leave.

    Raises ValueError or OSError when its settings cannot work.
    """
    from gatehouse.adapters.providers.frame import HttpModel

    model = KINDS[settings.kind].build(settings, environment)
    if isinstance(model, HttpModel):
        model.turn = turn
        if tally is not None:
            model.count_keys(tally)
    return model


def capabilities(settings: ProviderSettings, model: str) -> frozenset[Capability]:
    """What a provider's `model` can do when the operator does not say."""
    return KINDS[settings.kind].capabilities(settings, model)


def address(settings: ProviderSettings) -> str:
    """Where a provider is: the address in its settings, or its kind's own."""
    return settings.base_url or KINDS[settings.kind].home(settings)


def operations(settings: ProviderSettings) -> frozenset[Operation]:
    """What targets of a provider answer when the operator does not say; never embeddings, for which there are models of their own."""
    return KINDS[settings.kind].operations(settings)


def advice(settings: ProviderSettings) -> frozenset[str]:
    """The fields of `core.advice` that targets of a provider are told."""
    return KINDS[settings.kind].advice(settings)


def model_options(settings: ProviderSettings, environment: Environment, base_url: str) -> "ModelOptions":
    """What every kind built on the HTTP frame says of itself; `base_url` is the kind's own, for settings that name none."""
    from gatehouse.adapters.providers.frame import ModelOptions

    proxy = settings.proxy or environment.https_proxy
    if proxy is not None and proxy.reveal() == "none":
        proxy = None
    return ModelOptions(
        name=settings.name,
        base_url=settings.base_url or base_url,
        api_keys=tuple(key for key in (settings.api_key, *settings.api_keys) if key),
        plaintext=settings.plaintext,
        ca_bundle=settings.ca_bundle,
        proxy=proxy,
        no_proxy=tuple(name.strip() for name in environment.no_proxy.split(",") if name.strip()),
        max_connections=settings.max_connections,
        max_waiting=settings.max_waiting,
        headers=settings.headers,
    )


def _profile(settings: ProviderSettings) -> Profile:
    if settings.profile is not None:
        return SERVERS[settings.profile]
    return HOSTED.get(settings.kind, PLAIN)


def _openai_capabilities(settings: ProviderSettings, model: str) -> frozenset[Capability]:
    return _profile(settings).capabilities


def _openai_operations(settings: ProviderSettings) -> frozenset[Operation]:
    profile = _profile(settings)
    return CHATS if profile.name in _CHAT_ONLY else profile.operations - {"embedding"}


def _openai_advice(settings: ProviderSettings) -> frozenset[str]:
    return _profile(settings).advice


def _azure_advice(settings: ProviderSettings) -> frozenset[str]:
    """The older surface refuses fields that are newer than the version it is asked for."""
    return _profile(settings).advice if settings.api_version is None else frozenset()


def _openai(settings: ProviderSettings, environment: Environment) -> Model:
    from gatehouse.adapters.providers.frame import HttpModel
    from gatehouse.adapters.providers.openai import openai_codec

    profile = _profile(settings)
    return HttpModel(model_options(settings, environment, profile.base_url), openai_codec(profile))


def _azure(settings: ProviderSettings, environment: Environment) -> Model:
    from gatehouse.adapters.providers.frame import HttpModel
    from gatehouse.adapters.providers.openai import azure_codec

    return HttpModel(model_options(settings, environment, ""), azure_codec(settings.api_version, settings.credential or "api-key"))


def _anthropic_home(settings: ProviderSettings) -> str:
    from gatehouse.adapters.providers.anthropic import ANTHROPIC_BASE_URL

    return ANTHROPIC_BASE_URL


def _anthropic(settings: ProviderSettings, environment: Environment) -> Model:
    from gatehouse.adapters.providers.anthropic import ANTHROPIC_BASE_URL, anthropic_codec
    from gatehouse.adapters.providers.frame import HttpModel

    return HttpModel(model_options(settings, environment, ANTHROPIC_BASE_URL), anthropic_codec())


def _vertex_capabilities(settings: ProviderSettings, model: str) -> frozenset[Capability]:
    return ANTHROPIC_CAPABILITIES if is_claude(model) else GEMINI_CAPABILITIES


def _cohere_home(settings: ProviderSettings) -> str:
    from gatehouse.adapters.providers.cohere import COHERE_BASE_URL

    return COHERE_BASE_URL


def _cohere(settings: ProviderSettings, environment: Environment) -> Model:
    from gatehouse.adapters.providers.cohere import cohere_codec
    from gatehouse.adapters.providers.frame import HttpModel

    return HttpModel(model_options(settings, environment, _cohere_home(settings)), cohere_codec())


ANTHROPIC_CAPABILITIES: Final = frozenset(
    {
        Capability.STREAM,
        Capability.TOOLS,
        Capability.TOOL_CHOICE,
        Capability.SINGLE_TOOL,
        Capability.IMAGES,
        Capability.FILES,
        Capability.JSON_SCHEMA,
        Capability.TOP_K,
    }
)
"""https://docs.anthropic.com/en/api/messages"""

_CHAT_ONLY: Final = frozenset({"openai", "azure-openai"})
"""They have `/completions`, but for a few models of the past."""

COHERE_CAPABILITIES: Final = frozenset(
    {
        Capability.STREAM,
        Capability.TOOLS,
        Capability.TOOL_CHOICE,
        Capability.IMAGES,
        Capability.JSON_OBJECT,
        Capability.JSON_SCHEMA,
        Capability.LOGPROBS,
        Capability.SEED,
        Capability.PENALTIES,
        Capability.TOP_K,
    }
)
"""https://docs.cohere.com/reference/chat"""

_LIKE_OPENAI: Final = Kind(_openai, _openai_capabilities, lambda settings: _profile(settings).base_url, _openai_operations, _openai_advice)

KINDS: Final[Mapping[str, Kind]] = {
    "openai": _LIKE_OPENAI,
    "openai-compatible": _LIKE_OPENAI,
    "azure-openai": Kind(_azure, _openai_capabilities, advice=_azure_advice),
    "anthropic": Kind(_anthropic, lambda settings, model: ANTHROPIC_CAPABILITIES, _anthropic_home),
    "mistral": _LIKE_OPENAI,
    "groq": _LIKE_OPENAI,
    "together": _LIKE_OPENAI,
    "fireworks": _LIKE_OPENAI,
    "deepseek": _LIKE_OPENAI,
    "openrouter": _LIKE_OPENAI,
    "gemini": Kind(build_gemini, lambda settings, model: GEMINI_CAPABILITIES, gemini_home),
    "vertex": Kind(build_vertex, _vertex_capabilities, vertex_home),
    "cohere": Kind(_cohere, lambda settings, model: COHERE_CAPABILITIES, _cohere_home),
    "bedrock": Kind(build_bedrock, lambda settings, model: BEDROCK_CAPABILITIES, bedrock_home),
}
