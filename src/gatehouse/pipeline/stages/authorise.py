"""Authorise checks that the caller's role may call models and that its key may ask for this one.

The answer is the same whether or not the model exists: which names there are is not told to those without the grant.
Fallback targets belong to the model that was asked for and need no grant of their own.
"""

from gatehouse.core.errors import Forbidden
from gatehouse.core.grants import grants_model
from gatehouse.core.identity import Permission, Principal
from gatehouse.pipeline.exchange import Exchange


def authorise_model(principal: Principal, model: str) -> None:
    """Raises Forbidden when `principal` may not call models, or not the one named `model`."""
    if not principal.may(Permission.CALL_MODELS):
        raise Forbidden("The role of this API key does not allow calling models.", code="permission_denied")
    if not grants_model(principal.models, model):
        raise Forbidden(f"This API key has no grant for a model named {model[:128]!r}.", code="model_not_allowed", param="model")


class Authorise:
    """Refuses what the caller has no grant for."""

    name = "authorise"

    async def admit(self, x: Exchange) -> None:
        """Check `x.principal` against `x.call`; see `authorise_model`."""
        if x.principal is None or x.call is None:
            raise Forbidden("This call has no identity.", code="permission_denied")
        authorise_model(x.principal, x.call.model)

    def settle(self, x: Exchange) -> None:
        """Nothing is held."""
