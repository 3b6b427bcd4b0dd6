"""`/v1/responses/{id}`: reading, deleting and cancelling a response, and what was said to the model in its turn.

Whose a response is decides `Turns`; for everybody else it is not there.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gatehouse.core.errors import InvalidRequest, NotFound
from gatehouse.core.identity import Permission
from gatehouse.core.responses import Ended
from gatehouse.dialects.openai.responses import ResponsesDialect, write_items
from gatehouse.pipeline.turns import Turns
from gatehouse.wire.http.endpoints import Answered, Asked, Endpoint

_PAGE: Final = 20
_LARGEST_PAGE: Final = 100
_PREFIX: Final = "resp_"


def response_endpoints(turns: Turns, dialect: ResponsesDialect) -> tuple[Endpoint, ...]:
    """What can be asked about a response by its id."""

    async def read(asked: Asked) -> Answered:
        if asked.query("stream").get("stream", "false") != "false":
            raise InvalidRequest(
                "A response that has ended is not streamed again; read it whole.", code="unsupported_field", param="stream"
            )
        return Answered((await turns.find(asked.principal, asked.id)).response)

    async def remove(asked: Asked) -> Answered:
        asked.query()
        await turns.remove(asked.principal, asked.id)
        return Answered(msgspec.json.encode({"id": asked.id, "object": "response", "deleted": True}))

    async def cancel(asked: Asked) -> Answered:
        asked.query()
        ended = await turns.cancel(asked.principal, asked.id)
        return Answered(msgspec.json.encode(_cancelled(asked.id, ended)))

    async def inputs(asked: Asked) -> Answered:
        wanted = asked.query("limit", "order", "after")
        said = await turns.find(asked.principal, asked.id)
        return Answered(msgspec.json.encode(_page(write_items(said.inputs, asked.id.removeprefix(_PREFIX)), wanted)))

    may = Permission.CALL_MODELS
    return (
        Endpoint(
            method="GET", path="/v1/responses/{id}", permission=may, handler=read, dialect=dialect,
            summary="a response that was kept",
        ),
        Endpoint(
            method="DELETE", path="/v1/responses/{id}", permission=may, handler=remove, dialect=dialect,
            summary="delete a response that was kept",
        ),
        Endpoint(
            method="POST", path="/v1/responses/{id}/cancel", permission=may, handler=cancel, dialect=dialect,
            summary="end the running call that makes a response",
        ),
        Endpoint(
            method="GET", path="/v1/responses/{id}/input_items", permission=may, handler=inputs, dialect=dialect,
            summary="what was said to the model in the turn of a response that was kept",
        ),
    )  # fmt: skip


def _cancelled(name: str, ended: Ended) -> dict[str, Any]:
    """What is known of a response whose call was ended: whoever read its stream has what it had said."""
    return {
        "id": name, "object": "response", "created_at": ended.created_at, "status": "cancelled", "error": None, "incomplete_details": None,
        "model": ended.model, "output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    }  # fmt: skip


def _page(items: Sequence[dict[str, Any]], wanted: dict[str, str]) -> dict[str, Any]:
    """One page of the list: newest first unless `order` is asc, at most `limit`, those behind the id `after`."""
    order, limit, after = wanted.get("order", "desc"), wanted.get("limit", str(_PAGE)), wanted.get("after")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order: must be asc or desc.", code="invalid_query", param="order")
    if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= _LARGEST_PAGE):
        raise InvalidRequest(f"limit: must be a number from 1 to {_LARGEST_PAGE}.", code="invalid_query", param="limit")
    rest = list(items) if order == "asc" else list(reversed(items))
    if after is not None:
        at = next((index for index, item in enumerate(rest) if item["id"] == after), None)
        if at is None:
            raise NotFound(f"after: this response has no item {after[:128]!r}.", code="item_not_found", param="after")
        rest = rest[at + 1 :]
    page = rest[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": len(rest) > len(page),
    }
