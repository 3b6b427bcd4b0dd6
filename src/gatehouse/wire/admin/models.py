"""How a frozen plan is shown: what may be asked for, who answers it, and what that costs."""

from gatehouse.core.money import format_usd
from gatehouse.core.plans import Plan, Target
from gatehouse.core.usage import Price
from gatehouse.wire.admin.views import CacheView, ModelView, PriceView, TargetView


def model_view(plan: Plan) -> ModelView:
    """A plan without what callers and operators have no use for."""
    return ModelView(
        name=plan.model,
        aliases=list(plan.aliases),
        targets=[_target(target) for target in plan.targets],
        fallbacks=[[_target(target) for target in group] for group in plan.fallbacks],
        max_output_tokens=plan.max_output_tokens,
        cache=None if plan.cache is None else CacheView(scope=plan.cache.scope, ttl=plan.cache.ttl),
        guard_input=plan.guard.input,
        guard_output=plan.guard.output,
        strict_audit=plan.strict_audit,
    )


def _target(target: Target) -> TargetView:
    return TargetView(
        id=target.id,
        provider=target.provider,
        model=target.model,
        weight=target.weight,
        price=None if target.price is None else _price(target.price),
        context_window=target.context_window,
        max_output_tokens=target.max_output_tokens,
        capabilities=sorted(target.capabilities),
        region=target.region,
    )


def _price(price: Price) -> PriceView:
    return PriceView(
        snapshot=price.snapshot,
        input=format_usd(price.input),
        cached_input=format_usd(price.cached_input),
        cache_write=format_usd(price.cache_write),
        output=format_usd(price.output),
        reasoning=format_usd(price.reasoning),
        audio_input=format_usd(price.audio_input),
        audio_output=format_usd(price.audio_output),
    )
