"""The admin application: a table of endpoints, each with the permission it asks for, served by Starlette.

An endpoint without a permission cannot be declared by accident: it must be PUBLIC in so many words. The caller is
identified by the same function as on the data port, the path is what the router matched, and bodies are typed.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gatehouse.core.errors import (
    Forbidden,
    GatehouseError,
    Internal,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from gatehouse.core.identity import Permission, Principal
from gatehouse.core.ports import Rng
from gatehouse.wire.admin.openapi import describe
from gatehouse.wire.admin.views import ErrorBody, ErrorView
from gatehouse.wire.credentials import offered

logger = logging.getLogger("gatehouse.admin")

MAX_BODY: Final = 256 * 1024
PUBLIC: Final = "public"

STATUS: Final[tuple[tuple[type[GatehouseError], int], ...]] = (
    (TooLarge, 413),
    (InvalidRequest, 400),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (LimitExceeded, 429),
    (Unavailable, 503),
)


class Asked(msgspec.Struct, frozen=True):
    """What a handler gets: who asks, the typed body if any, path and query parameters."""

    principal: Principal | None
    body: Any
    path: dict[str, str]
    query: dict[str, str]


class Plain(msgspec.Struct, frozen=True):
    """A reply that is not JSON."""

    content: bytes
    media_type: str
    status: int = 200


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. `query` maps a parameter to its description; anything else in the query is refused."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    permission: Permission | Literal["public"]
    summary: str
    handler: Callable[[Asked], Awaitable[Any]]
    body: Any = None
    reply: Any = None
    status: int = 200
    query: dict[str, str] = {}


Identify = Callable[[tuple[bytes, ...]], Awaitable[Principal]]
"""The data port's own function: the distinct credentials offered -> a principal, or Unauthenticated."""

Refused = Callable[[Principal, str, str], Awaitable[None]]
"""Remembers that somebody asked for what their role does not grant: who, the permission, the method and path."""


def build_app(endpoints: Sequence[Endpoint], identify: Identify, refused: Refused, rng: Rng, version: str) -> Starlette:
    """The application. `/admin/openapi.json` describes exactly these endpoints."""
    document = msgspec.json.encode(describe(endpoints, version))

    async def openapi(_asked: Asked) -> Plain:
        return Plain(document, "application/json")

    table = (
        *endpoints,
        Endpoint(method="GET", path="/admin/openapi.json", permission=PUBLIC, summary="This API as an OpenAPI document.", handler=openapi),
    )
    routes = [Route(endpoint.path, _serve(endpoint, identify, refused, rng), methods=[endpoint.method]) for endpoint in table]

    async def unrouted(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = "There is nothing at this path." if error.status_code == 404 else "This path does not take that method."
        return _error_response(NotFound(message, code="unknown_path"), error.status_code, _request_id(rng))

    return Starlette(routes=routes, exception_handlers={HTTPException: unrouted})


def _serve(endpoint: Endpoint, identify: Identify, refused: Refused, rng: Rng) -> Callable[[Request], Awaitable[Response]]:
    decoder = msgspec.json.Decoder(endpoint.body) if endpoint.body is not None else None

    async def serve(request: Request) -> Response:
        request_id = _request_id(rng)
        try:
            principal = await _authorised(request, endpoint, identify, refused)
            query = _query(request, endpoint)
            body = decoder.decode(await _body(request)) if decoder is not None else None
            reply = await endpoint.handler(Asked(principal, body, dict(request.path_params), query))
        except msgspec.ValidationError as error:
            return _error_response(InvalidRequest(str(error)[:400], code="invalid_body"), 400, request_id)
        except msgspec.DecodeError as error:
            return _error_response(InvalidRequest(f"The body is not JSON: {error}"[:400], code="invalid_json"), 400, request_id)
        except GatehouseError as error:
            return _error_response(error, next((code for kind, code in STATUS if isinstance(error, kind)), 500), request_id)
        except Exception:
            logger.exception("admin call %s failed", request_id)
            return _error_response(Internal("Something went wrong on our side."), 500, request_id)
        if isinstance(reply, Plain):
            return Response(reply.content, reply.status, _headers(request_id), reply.media_type)
        if reply is None:
            return Response(status_code=204, headers=_headers(request_id))
        return Response(msgspec.json.encode(reply), endpoint.status, _headers(request_id), "application/json")

    return serve


async def _authorised(request: Request, endpoint: Endpoint, identify: Identify, refused: Refused) -> Principal | None:
    if endpoint.permission == PUBLIC:
        return None
    principal = await identify(credentials(request.headers.raw))
    if not principal.may(Permission(endpoint.permission)):
        await refused(principal, str(endpoint.permission), f"{endpoint.method} {endpoint.path}")
        raise Forbidden(f"This needs the permission {endpoint.permission}, which your role does not have.", code="permission_denied")
    return principal


def credentials(headers: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, ...]:
    """The distinct keys offered."""
    return offered(
        (value for name, value in headers if name.lower() == b"authorization"),
        (value for name, value in headers if name.lower() == b"x-api-key"),
    )


def _query(request: Request, endpoint: Endpoint) -> dict[str, str]:
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in endpoint.query or name in query:
            raise InvalidRequest(f"Unknown or repeated query parameter {name[:64]!r}.", code="unknown_parameter", param=name[:64])
        query[name] = value
    return query


async def _body(request: Request) -> bytes:
    taken = bytearray()
    async for piece in request.stream():
        taken += piece
        if len(taken) > MAX_BODY:
            raise TooLarge(f"The body is larger than {MAX_BODY} bytes.")
    return bytes(taken)


def _request_id(rng: Rng) -> str:
    return f"adm_{rng.token(12).hex()}"


def _headers(request_id: str) -> dict[str, str]:
    return {"x-gatehouse-request-id": request_id, "cache-control": "no-store", "x-content-type-options": "nosniff"}


def _error_response(error: GatehouseError, status: int, request_id: str) -> Response:
    body = ErrorView(error=ErrorBody(type=error.kind, code=error.code, message=error.message, param=error.param, request_id=request_id))
    headers = _headers(request_id)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after)))
    return Response(msgspec.json.encode(body), status, headers, "application/json")
