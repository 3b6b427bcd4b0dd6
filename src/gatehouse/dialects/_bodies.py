"""Reading a request's body under a shape, with the top-level fields that the shape does not know set apart."""

from typing import Any, TypeVar

import msgspec

from gatehouse.dialects._forbidden import refuse_forbidden
from gatehouse.dialects._json import explain, invalid, plain, refuse_ambiguity

T = TypeVar("T", bound=msgspec.Struct)


def read_body(body: bytes, shape: type[T]) -> tuple[T, dict[str, Any]]:
    """The body under `shape`, and what else stands at its top level: what Route then admits or refuses.

    Raises:
        InvalidRequest: naming the field, or the position where the body is not what JSON should be.
    """
    try:
        request = msgspec.json.decode(body, type=shape)
    except (ValueError, RecursionError) as fault:
        if not is_unknown_field(fault):
            raise explain(fault, body) from None
        return read_with_extra(body, shape, fault)
    refuse_ambiguity(body, request)
    return request, {}


def is_unknown_field(fault: Exception) -> bool:
    """Whether a field that no shape knows is all that a decoder found so far."""
    return isinstance(fault, msgspec.ValidationError) and str(fault).startswith("Object contains unknown field")


def read_with_extra(body: bytes, shape: type[T], fault: Exception) -> tuple[T, dict[str, Any]]:
    """The longer way, for a body with top-level fields we do not know."""
    value = plain(body)
    known = frozenset(field.encode_name for field in msgspec.structs.fields(shape))
    extra = {name: item for name, item in value.items() if name not in known}
    if not extra:
        raise explain(fault, body)
    refuse_ambiguity(body, value)
    refuse_forbidden(extra)
    extra = {name: item for name, item in extra.items() if item is not None}
    for name in extra:
        if len(name) > 64 or not name.isprintable():
            raise invalid(name, "unknown field.", "unknown_field")
    try:
        return msgspec.convert({name: item for name, item in value.items() if name in known}, shape), extra
    except (ValueError, RecursionError) as narrower:
        raise explain(narrower, body) from None
