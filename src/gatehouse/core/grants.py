"""What a key may ask for, and what it may hand on: nobody gives away more than they have."""

from collections.abc import Iterable

from gatehouse.core.identity import Principal, Role
from gatehouse.core.limits import Budget


def grants_model(models: frozenset[str] | None, name: str) -> bool:
    """Whether `models` covers the model `name`. None covers all; an entry that ends in `*` covers every name it begins.

    The same answer for Authorise, `/v1/models` and whatever else asks.
    """
    if models is None or name in models:
        return True
    return any(entry[-1:] == "*" and name.startswith(entry[:-1]) for entry in models)


def grants_call(models: frozenset[str] | None, asked: str, model: str) -> bool:
    """Whether `models` covers a call that asks for `asked`, which means the model `model`.

    A model's own name grants it under all its aliases. An alias grants it under that alias, and only where it is named letter
    for letter: a pattern reads models' own names, so that a new alias never makes an old key reach further.
    """
    return models is None or asked in models or grants_model(models, model)


def delegation_excess(actor: Principal, wanted: Principal) -> str | None:
    """The field in which `wanted` would be more than `actor` may hand on, or None when it is within bounds.

    An administrator may make any key of its own tenant. Everybody else only keys within their own: no further role,
    model, time or limit, in the same team.
    """
    if wanted.tenant != actor.tenant:
        return "tenant"
    if Role.ADMIN in actor.roles:
        return None
    checks: tuple[tuple[str, bool], ...] = (
        ("roles", wanted.roles <= actor.roles),
        ("team", wanted.team == actor.team),
        ("models", _models_within(actor.models, wanted.models)),
        ("expires_at", _within(actor.expires_at, wanted.expires_at)),
        ("limits.requests_per_minute", _within(actor.limits.requests_per_minute, wanted.limits.requests_per_minute)),
        ("limits.tokens_per_minute", _within(actor.limits.tokens_per_minute, wanted.limits.tokens_per_minute)),
        ("limits.concurrency", _within(actor.limits.concurrency, wanted.limits.concurrency)),
        ("budget", _budget_within(actor.limits.budget, wanted.limits.budget)),
    )
    return next((field for field, within in checks if not within), None)


def _models_within(own: frozenset[str] | None, wanted: Iterable[str] | None) -> bool:
    if own is None:
        return True
    # A pattern is covered by an equal or shorter pattern, which reads it like a name.
    return wanted is not None and all(grants_model(own, entry) for entry in wanted)


def _within(own: float | None, wanted: float | None) -> bool:
    return own is None or (wanted is not None and wanted <= own)


def _budget_within(own: Budget | None, wanted: Budget | None) -> bool:
    if own is None:
        return True
    # Amounts of different periods cannot be compared: a day's budget every day is more than the month's.
    return wanted is not None and wanted.period == own.period and wanted.usd <= own.usd
