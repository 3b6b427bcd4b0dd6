"""Authorise checks that the caller's role may call models and that its key may ask for this one.

The answer is the same whether or not the model exists: which names there are is not told to those without the grant.
An alias is judged by `gatehouse.core.grants.grants_call`. Fallback targets belong to the model that was asked for and need
no grant of their own.
"""

from collections.abc import Callable, Sequence
from typing import Final

from gatehouse.core.errors import Forbidden
from gatehouse.core.grants import grants_call
from gatehouse.core.identity import Permission, Principal
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.runner import nothing_held

_CALL_MODELS: Final = Permission.CALL_MODELS
Canonical = Callable[[str], str]
"""A model's own name for any name it may be asked for by; a name that nothing is known of stays as it is."""


def authorise_model(principal: Principal, asked: str, canonical: Canonical) -> None:
    """Raises Forbidden when `principal` may not call models, or not the one that is asked for as `asked`."""
    if not principal.may(Permission.CALL_MODELS):
        raise Forbidden("The role of this API key does not allow calling models.", code="permission_denied")
    if principal.models is not None and not grants_call(principal.models, asked, canonical(asked)):
        raise Forbidden(f"This API key has no grant for a model named {asked[:128]!r}.", code="model_not_allowed", param="model")


class Authorise:
    """Refuses what the caller has no grant for."""

    name = "authorise"
    settle = nothing_held

    def __init__(self, canonical: Canonical = str) -> None:
        self._canonical = canonical

    async def admit(self, x: Exchange) -> None:
        """Check `x.principal` against `x.call`; see `authorise_model`."""
        self.at_once(x)

    def clear(self, calls: Sequence[Exchange]) -> Sequence[Exchange]:
        """A key that is not bound to models, or that names this one letter for letter, needs no look at what the name stands for."""
        others = []
        for x in calls:
            principal, call = x.principal, x.call
            if principal is not None and call is not None and principal.may(_CALL_MODELS):
                models = principal.models
                if models is None or call.model in models:
                    continue
            others.append(x)
        return others

    def at_once(self, x: Exchange) -> bool:
        """All of `admit`: nothing here waits."""
        if x.principal is None or x.call is None:
            raise Forbidden("This call has no identity.", code="permission_denied")
        authorise_model(x.principal, x.call.model, self._canonical)
        return True
