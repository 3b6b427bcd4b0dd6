"""JSON Schemas as Gemini takes them (`responseJsonSchema`, `parametersJsonSchema`).

The API reads any JSON Schema but honours a subset and ignores the rest. A schema sent with `strict` is a promise to the
caller, so there a constraint that would be ignored is refused; without it a schema is a wish and passes whole. Two
spellings are rewritten into ones that are honoured: `const` as an `enum` of one, and what stands beside a `$ref` as an `anyOf`.
"""

from typing import Any, Final

from gatehouse.dialects._failures import inexpressible

_HONOURED: Final = frozenset(
    {
        "$anchor",
        "$defs",
        "$id",
        "$ref",
        "additionalProperties",
        "anyOf",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maximum",
        "minItems",
        "minimum",
        "oneOf",
        "prefixItems",
        "properties",
        "propertyOrdering",
        "required",
        "title",
        "type",
    }
)
_REMARKS: Final = frozenset({"$comment", "$schema", "default", "deprecated", "example", "examples", "readOnly", "writeOnly"})
"""They constrain nothing, so nothing is lost when they are ignored."""
_MANY: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_ONE: Final = frozenset({"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"})
_NAMED: Final = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})


def schema_for(schema: dict[str, Any], path: str, *, strict: bool) -> dict[str, Any]:
    """`schema` in the spelling that is honoured. Its depth was bounded when it was read.

    Raises:
        UpstreamFailed: it is strict and holds a constraint that would be ignored.
    """
    return _rewrite(schema, path, strict)


def _rewrite(node: dict[str, Any], path: str, strict: bool) -> dict[str, Any]:
    rewritten: dict[str, Any] = {}
    for name, value in node.items():
        if name == "const" and "enum" not in node and isinstance(value, str | int | float) and not isinstance(value, bool):
            rewritten["enum"] = [value]
            continue
        if strict:
            _refuse_ignored(name, value, path)
        if name in _NAMED and isinstance(value, dict):
            rewritten[name] = {key: _below(item, path, strict) for key, item in value.items()}
        elif name in _MANY and isinstance(value, list):
            rewritten[name] = [_below(item, path, strict) for item in value]
        elif name in _ONE:
            rewritten[name] = _below(value, path, strict)
        else:
            rewritten[name] = value
    if "$ref" in rewritten and "anyOf" not in rewritten and any(not name.startswith("$") for name in rewritten):
        rewritten["anyOf"] = [{"$ref": rewritten.pop("$ref")}]
    return rewritten


def _below(value: Any, path: str, strict: bool) -> Any:
    return _rewrite(value, path, strict) if isinstance(value, dict) else value


def _refuse_ignored(name: str, value: Any, path: str) -> None:
    if name not in _HONOURED and name not in _REMARKS:
        raise inexpressible(path, f"this model cannot be held to the schema keyword {name[:64]!r}; leave it out, or set strict to false.")
    if name == "enum" and isinstance(value, list) and any(item is None or isinstance(item, bool | list | dict) for item in value):
        raise inexpressible(path, "this model can be held to an enum of strings and numbers only; set strict to false.")
