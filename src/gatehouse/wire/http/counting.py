"""`/v1/messages/count_tokens`: how many tokens a prompt has, without asking a model.

The count is exact where every target of the model can count; elsewhere it is the estimate that accounting uses where a target
does not tell. A header says which of them it is. Whoever may not call a model may not count for it either.
"""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.errors import NotFound
from gatehouse.core.identity import Permission
from gatehouse.core.plans import Plan
from gatehouse.core.ports import Dialect
from gatehouse.pipeline.prompts import prompt_tokens
from gatehouse.pipeline.stages.authorise import authorise_model
from gatehouse.pipeline.stages.route import RouteTable
from gatehouse.wire.http.endpoints import Answered, Asked, Endpoint

_LARGE: Final = 65_536
"""Bytes of body above which decoding would hold up the event loop."""

Exact = Callable[[Call, Plan], Awaitable[int | None]]
"""The exact tokens of a prompt, where every target of the plan can count and does so now."""
Offload = Callable[[Callable[[], Call]], Awaitable[Call]]


class CountingDialect(Dialect, Protocol):
    """A dialect with a body that asks for a count."""

    def decode_count(self, body: bytes) -> Call:
        """Raises InvalidRequest naming the field."""


def counting_endpoints(dialect: CountingDialect, table: RouteTable, exact: Exact, offload: Offload) -> tuple[Endpoint, ...]:
    """The one endpoint."""

    async def count(asked: Asked) -> Answered:
        asked.query("beta")
        body = await asked.read()
        call = await offload(lambda: dialect.decode_count(body)) if len(body) > _LARGE else dialect.decode_count(body)
        authorise_model(asked.principal, call.model, table.canonical)
        plan = table.find(call.model)
        if plan is None:
            raise NotFound(f"There is no model named {call.model[:128]!r} here.", code="model_not_found", param="model")
        tokens = await exact(call, plan)
        how = "estimate" if tokens is None else "exact"
        told = msgspec.json.encode({"input_tokens": prompt_tokens(call) if tokens is None else tokens})
        return Answered(told, headers={"x-gatehouse-count": how})

    return (
        Endpoint(
            method="POST", path="/v1/messages/count_tokens", permission=Permission.CALL_MODELS, handler=count, dialect=dialect,
            summary="the tokens of a prompt; `x-gatehouse-count` says whether exactly or by estimate",
        ),
    )  # fmt: skip
