"""Kinds of providers: one table from the kind in the operator's file to what builds its model.

A new kind is its literal in `settings.ProviderKind` and its line in `KINDS`. Builders import their adapter when they are
called, so that a kind nobody configured costs nothing.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from gatehouse.core.ports import Model
from gatehouse.settings import Environment, ProviderSettings

if TYPE_CHECKING:
    from gatehouse.adapters.providers.frame import ModelOptions


def build_model(settings: ProviderSettings, environment: Environment) -> Model:
    """The model of one provider. Raises ValueError or OSError when its settings cannot work."""
    return KINDS[settings.kind](settings, environment)


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


def _openai(settings: ProviderSettings, environment: Environment) -> Model:
    from gatehouse.adapters.providers.frame import HttpModel
    from gatehouse.adapters.providers.openai import OPENAI_BASE_URL, openai_codec

    own = settings.kind == "openai"
    return HttpModel(model_options(settings, environment, OPENAI_BASE_URL), openai_codec("max_completion_tokens" if own else "max_tokens"))


Builder = Callable[[ProviderSettings, Environment], Model]

KINDS: Final[Mapping[str, Builder]] = {
    "openai": _openai,
    "openai-compatible": _openai,
}
