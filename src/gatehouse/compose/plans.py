"""Settings to plans: every name resolved, every price looked up and frozen, so that a call decides with values only."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from gatehouse.adapters.engines.gguf import ModelFileRefused, read_context_length, slot_context
from gatehouse.compose.providers import address
from gatehouse.compose.providers import advice as known_advice
from gatehouse.compose.providers import capabilities as default_capabilities
from gatehouse.compose.providers import operations as default_operations
from gatehouse.core.calls import Operation
from gatehouse.core.money import parse_usd
from gatehouse.core.plans import (
    Breaker,
    CachePolicy,
    Capability,
    Deadlines,
    Forward,
    GuardPolicy,
    Hedge,
    Ladder,
    Passthrough,
    Plan,
    Target,
)
from gatehouse.core.usage import Price
from gatehouse.models import builtin_path
from gatehouse.settings import ModelSettings, PriceSettings, Settings, TargetSettings

LLAMACPP_CAPABILITIES = frozenset(
    {
        Capability.STREAM,
        Capability.JSON_OBJECT,
        Capability.JSON_SCHEMA,
        Capability.SEED,
        Capability.CHOICES,
        Capability.LOGIT_BIAS,
        Capability.PENALTIES,
    }
)
_CHAT_AND_TEXT: Final[frozenset[Operation]] = frozenset({"chat", "completion"})
FREE = PriceSettings(input="0", output="0")


class Found(Protocol):
    """A listing of the price catalogue."""

    @property
    def prices(self) -> dict[str, str]:
        """Decimal strings of USD per million tokens, by bucket."""
        ...

    @property
    def context_window(self) -> int | None:
        """In tokens."""
        ...

    @property
    def source(self) -> str:
        """Which catalogue, of which version."""
        ...


Lookup = Callable[[str, str | None, str], Found | None]
"""(provider kind, base URL, model) -> listing."""


def engine_name(target: TargetSettings) -> str:
    """The provider name under which an embedded engine's host is known: one host chats, another makes embeddings."""
    return f"{target.engine}{'+embeddings' if embeds(target) else ''}:{target.path}"


def embeds(target: TargetSettings) -> bool:
    """Whether an engine's target runs in embedding mode."""
    return target.operations is not None and "embedding" in target.operations


def build_plans(settings: Settings, lookup: Lookup) -> tuple[Plan, ...]:
    """One plan for each model, fallbacks followed through (each model once)."""
    models = {model.name: model for model in settings.models}
    targets = {name: tuple(_target(settings, target, lookup) for target in model.targets) for name, model in models.items()}
    return tuple(_plan(model, targets, models) for model in settings.models)


def _plan(model: ModelSettings, targets: dict[str, tuple[Target, ...]], models: dict[str, ModelSettings]) -> Plan:
    order: list[str] = []
    waiting = list(model.fallbacks)
    while waiting:
        name = waiting.pop(0)
        if name != model.name and name not in order:
            order.append(name)
            waiting.extend(models[name].fallbacks)
    plan = Plan(
        model=model.name,
        targets=targets[model.name],
        fallbacks=tuple(_as_fallbacks(models[name], targets[name]) for name in order),
        extra_fields=frozenset(model.extra_fields),
        max_output_tokens=model.max_output_tokens,
        cache=CachePolicy(model.cache.scope, model.cache.ttl) if model.cache else None,
        guard=GuardPolicy(
            input=model.guard.input,
            output=model.guard.output,
            max_text_bytes=model.guard.max_text_bytes,
            unscannable={str(kind): verdict for kind, verdict in model.guard.unscannable.items()},
        ),
        strict_audit=model.strict_audit,
        policy=model.policy,
        session_header=model.session_header,
        prefix_tokens=model.prefix_tokens,
        retries=model.retries,
        hedge=None if model.hedge is None else Hedge(model.hedge.after, model.hedge.quantile, model.hedge.share),
        ladder=None if model.ladder is None else Ladder(model.ladder.stale, model.ladder.text),
        remote_urls=model.remote_urls,
    )
    digest = hashlib.blake2b(msgspec.msgpack.encode(plan, order="sorted"), digest_size=16).digest()
    return msgspec.structs.replace(plan, digest=digest, aliases=tuple(model.aliases))


def passthroughs(settings: Settings) -> tuple[Passthrough, ...]:
    """Which models may be asked for by their provider's name without being listed."""
    return tuple(
        Passthrough(provider.name, frozenset(provider.passthrough if isinstance(provider.passthrough, list) else ("*",)))
        for provider in settings.providers
        if provider.passthrough
    )


def unlisted_plan(settings: Settings, name: str, lookup: Lookup) -> Plan | None:
    """The plan of a model that is asked for as "<provider>/<model>": one target at the catalogue's price, everything else by default.

    Its target and label are the provider's as a whole, so that no caller's word becomes one of a metric, and it has no breaker: what
    a caller asks for in vain must not shut out what others ask for.
    """
    fitting = [passthrough for passthrough in passthroughs(settings) if passthrough.covers(name)]
    if not fitting:
        return None
    provider = max(fitting, key=lambda passthrough: len(passthrough.provider)).provider
    label = f"{provider}/*"
    target = _target(settings, TargetSettings(provider=provider, model=name[len(provider) + 1 :]), lookup)
    target = msgspec.structs.replace(target, id=label, breaker=Breaker(enabled=False))
    plan = Plan(model=name, targets=(target,), label=label)
    digest = hashlib.blake2b(msgspec.msgpack.encode(plan, order="sorted"), digest_size=16).digest()
    return msgspec.structs.replace(plan, digest=digest)


def _as_fallbacks(model: ModelSettings, targets: tuple[Target, ...]) -> tuple[Target, ...]:
    """What they are on the ladder of a model that falls back to them: engines are embedded, everything else is another model."""
    return tuple(
        msgspec.structs.replace(target, rung="model" if said.engine is None else "embedded")
        for said, target in zip(model.targets, targets, strict=True)
    )


def _target(settings: Settings, target: TargetSettings, lookup: Lookup) -> Target:
    deadlines = Deadlines(**{field: getattr(target.deadlines, field) for field in target.deadlines.__struct_fields__})
    breaker = Breaker(**{field: getattr(target.breaker, field) for field in target.breaker.__struct_fields__})
    if target.engine is not None:
        assert target.path is not None
        return Target(
            id=f"{target.engine}/{_short(target.path)}",
            provider=engine_name(target),
            model=_short(target.path),
            weight=target.weight,
            price=_price(target.price or FREE, "own"),
            context_window=engine_context(target),
            ends_at_context=True,
            max_output_tokens=target.max_output_tokens,
            capabilities=frozenset(target.capabilities) if target.capabilities is not None else LLAMACPP_CAPABILITIES,
            operations=frozenset(target.operations) if target.operations is not None else _CHAT_AND_TEXT,
            region=target.region,
            deadlines=deadlines,
            breaker=breaker,
        )
    assert target.provider is not None
    assert target.model is not None
    provider = next(provider for provider in settings.providers if provider.name == target.provider)
    price, window = None, target.context_window
    operations = frozenset(target.operations) if target.operations is not None else default_operations(provider)
    if target.price is not None:
        price = _price(target.price, "own")
    elif (found := _listed(lookup(provider.kind, address(provider) or None, target.model), operations)) is not None:
        price = _price(msgspec.convert({"output": "0", **found.prices}, PriceSettings), found.source)
        window = window or found.context_window
    elif settings.prices.on_unknown == "zero":
        price = _price(FREE, "zero")
    elif settings.prices.on_unknown == "fallback" and settings.prices.fallback is not None:
        price = _price(settings.prices.fallback, "fallback")
    return Target(
        id=f"{target.provider}/{target.model}",
        provider=target.provider,
        model=target.model,
        weight=target.weight,
        price=price,
        context_window=window,
        max_output_tokens=target.max_output_tokens,
        capabilities=frozenset(target.capabilities) if target.capabilities is not None else default_capabilities(provider, target.model),
        operations=operations,
        region=target.region,
        deadlines=deadlines,
        breaker=breaker,
        advice=known_advice(provider),
        forward=Forward(**{field: getattr(provider.forward, field) for field in provider.forward.__struct_fields__}),
    )


def engine_context(target: TargetSettings) -> int | None:
    """The context that an embedded engine gives a call: its file's or less; where that cannot be read, what its operator says."""
    assert target.path is not None
    try:
        length = read_context_length(builtin_path() if target.path == "builtin" else Path(target.path))
    except ModelFileRefused:
        # Its host will say what is wrong, and where it is heard: this server runs on without the model.
        return target.context_window
    return slot_context(length, target.context_window)


def _listed(found: Found | None, operations: frozenset[Operation]) -> Found | None:
    """A listing that says what such a target costs: only one that makes nothing but embeddings needs no price of what it writes."""
    return found if found is not None and ("output" in found.prices or operations == {"embedding"}) else None


def _short(path: str) -> str:
    return "tiny" if path == "builtin" else path.rsplit("/", 1)[-1].removesuffix(".gguf")


def _price(price: PriceSettings, source: str) -> Price:
    def units(text: str | None, otherwise: str) -> int:
        return int(parse_usd(otherwise if text is None else text))

    figures = (
        units(price.input, "0"),
        units(price.output, "0"),
        units(price.cached_input, price.input),
        units(price.cache_write, price.input),
        units(price.reasoning, price.output),
        units(price.audio_input, price.input),
        units(price.audio_output, price.output),
    )
    name = hashlib.blake2b(repr((source, figures)).encode(), digest_size=6).hexdigest()
    return Price(f"{source.partition(' ')[0]}:{name}", *figures)
