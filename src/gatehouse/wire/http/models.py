"""`/v1/models`: what the caller's key may ask for, in the words of who asks.

A model that the key has no grant for and one that does not exist answer alike: which names there are is not told to those
without the grant.
"""

from typing import Any, Final

import msgspec

from gatehouse.core.errors import InvalidRequest, NotFound
from gatehouse.core.grants import grants_call
from gatehouse.core.identity import Permission, Principal
from gatehouse.core.plans import Plan
from gatehouse.pipeline.stages.route import RouteTable
from gatehouse.wire.http.endpoints import Answered, Asked, Endpoint

_ANTHROPIC: Final = b"anthropic-version"
_OWNER: Final = "gatehouse"
_EPOCH: Final = "1970-01-01T00:00:00Z"
"""Anthropic's own word for a release date that is unknown."""
_PAGE: Final = 20
_LARGEST_PAGE: Final = 1000


def model_endpoints(table: RouteTable) -> tuple[Endpoint, ...]:
    """The list and the look-up, over the plans in force."""

    async def every(asked: Asked) -> Answered:
        plans = _granted(table, asked.principal)
        if _ANTHROPIC in asked.head.headers:
            return Answered(msgspec.json.encode(_page(plans, asked.query("limit", "after_id", "before_id"))))
        asked.query()
        return Answered(msgspec.json.encode({"object": "list", "data": [_openai(plan) for plan in plans]}))

    async def one(asked: Asked) -> Answered:
        plan = _shown(table, asked.principal, asked.id)
        if plan is None:
            raise NotFound(f"There is no model named {asked.id[:128]!r} here.", code="model_not_found", param="model")
        asked.query()
        write = _anthropic if _ANTHROPIC in asked.head.headers else _openai
        return Answered(msgspec.json.encode(write(plan)))

    return (
        Endpoint(
            method="GET", path="/v1/models", permission=Permission.CALL_MODELS, handler=every,
            summary="the models this key may ask for; in Anthropic's shape for a request with `anthropic-version`",
        ),
        Endpoint(
            method="GET", path="/v1/models/{id:path}", permission=Permission.CALL_MODELS, handler=one, summary="one of them",
        ),
    )  # fmt: skip


def _granted(table: RouteTable, principal: Principal) -> list[Plan]:
    return [plan for name in table.models if (plan := _shown(table, principal, name)) is not None]


def _shown(table: RouteTable, principal: Principal, name: str) -> Plan | None:
    """The plan that `name` stands for, under that name, when the caller may ask for it so."""
    plan = table.find(name)
    if plan is None or not grants_call(principal.models, name, plan.model):
        return None
    return plan if plan.model == name else msgspec.structs.replace(plan, model=name)


def _openai(plan: Plan) -> dict[str, Any]:
    """The four members OpenAI has, and what a program must know to fit its prompts; unknown figures are null."""
    windows = [target.context_window for target in plan.targets]
    window = None if None in windows else min(size for size in windows if size is not None)
    return {
        "id": plan.model,
        "object": "model",
        "created": 0,
        "owned_by": _OWNER,
        "context_window": window,
        "max_output_tokens": plan.max_output_tokens,
        "operations": sorted({operation for target in plan.targets for operation in target.operations}),
    }


def _anthropic(plan: Plan) -> dict[str, Any]:
    return {"type": "model", "id": plan.model, "display_name": plan.model, "created_at": _EPOCH}


def _page(plans: list[Plan], query: dict[str, str]) -> dict[str, Any]:
    """One page of Anthropic's list: `limit` models after `after_id`, or before `before_id`."""
    size = _size(query.get("limit", str(_PAGE)))
    if "after_id" in query and "before_id" in query:
        raise InvalidRequest("Page with after_id or before_id, not both.", code="invalid_query", param="before_id")
    start, end = 0, len(plans)
    if "after_id" in query:
        start = _place(plans, "after_id", query["after_id"]) + 1
    if "before_id" in query:
        end = _place(plans, "before_id", query["before_id"])
    shown = plans[max(start, end - size) : end] if "before_id" in query else plans[start : min(end, start + size)]
    return {
        "data": [_anthropic(plan) for plan in shown],
        "first_id": shown[0].model if shown else None,
        "last_id": shown[-1].model if shown else None,
        "has_more": len(shown) < end - start,
    }


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= _LARGEST_PAGE):
        raise InvalidRequest(f"limit is a number from 1 to {_LARGEST_PAGE}.", code="invalid_query", param="limit")
    return int(text)


def _place(plans: list[Plan], param: str, name: str) -> int:
    for index, plan in enumerate(plans):
        if plan.model == name:
            return index
    raise InvalidRequest(f"{param}: there is no model named {name[:128]!r} to go on from.", code="invalid_query", param=param)
