"""The OpenAPI document of the admin API, made from the table of endpoints so that it cannot drift from what is served."""

import re
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from gatehouse.wire.admin.views import ErrorView


class Described(Protocol):
    """The part of an endpoint that is described."""

    @property
    def method(self) -> str:
        """GET, POST or DELETE."""

    @property
    def path(self) -> str:
        """With {parameters}."""

    @property
    def permission(self) -> str:
        """What it asks for."""

    @property
    def summary(self) -> str:
        """One sentence."""

    @property
    def body(self) -> Any:
        """Its type, or None."""

    @property
    def reply(self) -> Any:
        """Its type, or None."""

    @property
    def status(self) -> int:
        """When all is well."""

    @property
    def query(self) -> dict[str, str]:
        """Parameter to description."""


def describe(endpoints: Sequence[Described], version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    types = [kind for endpoint in endpoints for kind in (endpoint.body, endpoint.reply) if kind is not None]
    schemas, components = msgspec.json.schema_components([*types, ErrorView], ref_template="#/components/schemas/{name}")
    of_type = {id(kind): schema for kind, schema in zip([*types, ErrorView], schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, of_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Gatehouse admin API", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(endpoint: Described, of_type: dict[int, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": endpoint.summary}
    if endpoint.reply is not None:
        good["content"] = {"application/json": {"schema": of_type[id(endpoint.reply)]}}
    error = {"description": "What went wrong.", "content": {"application/json": {"schema": of_type[id(ErrorView)]}}}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": re.sub(r"[^a-z0-9]+", "_", f"{endpoint.method} {endpoint.path}".lower()).strip("_"),
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"\{(\w+)(?::\w+)?\}", endpoint.path)
            ),
            *(
                {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
                for name, text in endpoint.query.items()
            ),
        ],
        "responses": {str(endpoint.status): good, "4XX": error, "5XX": error},
    }
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": of_type[id(endpoint.body)]}}}
    if endpoint.permission == "public":
        operation["security"] = []
    else:
        operation["security"] = [{"bearer": []}, {"x-api-key": []}]
        operation["x-permission"] = str(endpoint.permission)
    return operation
