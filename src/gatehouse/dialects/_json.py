"""Strict JSON for request bodies: one meaning for every reader, and faults that say where they are.

Two parsers that disagree about a body are how a guard is passed by (it reads one `model`, the target the other). So
duplicate keys are refused at every depth, as are NUL characters (C readers stop there) and integers that 64 bits do not
hold. Byte-order marks, UTF-16, NaN, lone surrogates and overlong UTF-8 are refused by the decoder itself. Lone surrogates cannot
be written as UTF-8, so no target could receive them.

Depth needs no check of its own here: the decoder is recursive but counts with the interpreter and stops at its limit, and
our own walks over decoded values do not recurse.
"""

import functools
import math
import re
from typing import Any, Final

import msgspec

from gatehouse.core.errors import InvalidRequest

MAX_DEPTH: Final = 64
"""Levels of arrays and objects inside the opaque parts of a request."""
_ECHO: Final = 120
"""Characters of the caller's own words that an error repeats."""
_TOKEN: Final = re.compile(rb'"((?:[^"\\]++|\\.)*+)"(\s*+:)?|[{}]', re.DOTALL)
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")
_TYPES: Final = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_TICKED: Final = re.compile(r"`([a-z |]+)`")
_NUMBER: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|(-?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)', re.DOTALL)


_encode: Final = msgspec.json.Encoder().encode


def echo(text: str) -> str:
    """The caller's own words, short and without control characters."""
    shown = text[:_ECHO] + ("…" if len(text) > _ECHO else "")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


def invalid(param: str, text: str, code: str = "invalid_value") -> InvalidRequest:
    """An InvalidRequest about one field, naming it in words and in `param`."""
    name = echo(param)
    return InvalidRequest(f"{name}: {text}" if name else text, code=code, param=name or None)


def refuse_ambiguity(body: bytes, decoded: Any) -> None:
    """Refuse a body whose keys repeat inside one object, or that holds a NUL character.

    `decoded` is what `body` was decoded to, with nothing left out: a typed value whose structs forbid unknown fields, or
    plain dicts. Exact, and linear: encoding it again gives one colon a key and one a colon in text, so as many as the body
    has unless the decoder dropped a repeated key. Only an escaped colon could make up for that; then, and when an explicit
    null was left out, the longer ways decide.

    Raises:
        InvalidRequest: with the key and its position.
    """
    disguised = False
    if b"\\" in body and b"\\u00" in body:
        nul = _NUL.search(body) if b"\\u0000" in body else None
        if nul is not None:
            raise InvalidRequest(f"Text cannot hold a NUL character (byte {nul.end() - 6}).", code="invalid_json")
        disguised = b"\\u003" in body
    if not disguised:
        colons = body.count(b":")
        if _encode(decoded).count(b":") == colons or msgspec.json.encode(msgspec.json.decode(body)).count(b":") == colons:
            return
    found = duplicate_key(body)
    if found is not None:
        key, position = found
        raise InvalidRequest(f'The key "{echo(key)}" is given twice (byte {position}).', code="duplicate_key", param=echo(key))


def duplicate_key(body: bytes) -> tuple[str, int] | None:
    """The first key that repeats inside one object of a well-formed `body`, with the position of its repetition."""
    enclosing: list[set[bytes]] = []
    keys: set[bytes] = set()
    for token in _TOKEN.finditer(body):
        name = token[1]
        if name is None:
            if token[0] == b"{":
                enclosing.append(keys)
                keys = set()
            elif enclosing:
                keys = enclosing.pop()
        elif token[2] is not None:
            if b"\\" in name:
                name = msgspec.json.decode(b'"%s"' % name, type=str).encode()
            if name in keys:
                return name.decode(), token.start()
            keys.add(name)
    return None


def plain(body: bytes) -> dict[str, Any]:
    """Decode an object of any shape.

    Raises:
        InvalidRequest: not a JSON object.
    """
    try:
        value = msgspec.json.decode(body)
    except (ValueError, RecursionError) as fault:
        raise explain(fault, body) from None
    if not isinstance(value, dict):
        raise _not_an_object()
    return value


def explain(fault: Exception, body: bytes) -> InvalidRequest:
    """What a decoder's fault means to the caller: position for broken JSON, the field's path for a wrong value."""
    if isinstance(fault, RecursionError):
        return InvalidRequest(f"The body is nested too deeply (more than {MAX_DEPTH} levels).", code="invalid_json")
    if isinstance(fault, UnicodeDecodeError):
        return InvalidRequest(f"The body is not valid UTF-8 (byte {_broken_text(body)}).", code="invalid_json")
    text = str(fault)
    if isinstance(fault, msgspec.ValidationError):
        if "out of range" in text:
            return InvalidRequest(f"A number is out of range (byte {_large_number(body)}).", code="invalid_value")
        return _explain_value(text)
    if text.startswith("JSON is malformed: "):
        return InvalidRequest(f"The body is not valid JSON: {text[19:]}.", code="invalid_json")
    end = f"it ends too early, or its last text is broken (byte {len(body)})"
    return InvalidRequest(f"The body is not valid JSON: {end}.", code="invalid_json")


def _not_an_object() -> InvalidRequest:
    return InvalidRequest("The body is not a JSON object.", code="invalid_json")


def _broken_text(body: bytes) -> int:
    try:
        body.decode()
    except UnicodeDecodeError as fault:
        return fault.start
    return 0


def _explain_value(text: str) -> InvalidRequest:
    """Turn "Expected `str`, got `int` - at `$.messages[0].content`" into a field and a sentence."""
    what, at, where = text.rpartition(" - at ")
    if not at:
        what, where = text, ""
    within_key = where.startswith("`key` in ")
    path = where.removeprefix("`key` in ").strip("`").removeprefix("$").removeprefix(".")
    for start, code, words in (
        ("Object contains unknown field `", "unknown_field", "unknown field."),
        ("Object missing required field `", "missing_field", "this field is required."),
    ):
        if what.startswith(start):
            return invalid(child(path, what[len(start) : -1]), words, code)
    if not path:
        return _not_an_object()
    if within_key:
        what = f"the key is not valid: {what}"
    said = _TICKED.sub(lambda match: " or ".join(_TYPES.get(name, name) for name in match[1].split(" | ")), what)
    return invalid(path, f"{said[:1].lower()}{echo(said[1:])}.")


def child(path: str, name: str | int) -> str:
    """The path of a member: `a.b` or `a[0]`."""
    if isinstance(name, int):
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else name


def path_to(wanted: Any, root: Any, start: str = "") -> str:
    """Where `wanted` is inside `root`, below the path `start`. Linear, because paths are not built before it is found."""
    trail: list[tuple[Any, int, str | int]] = [(root, -1, start)]
    for at, (node, _, _) in enumerate(trail):  # grows while it is walked
        if node is wanted:
            steps = []
            while at > 0:
                _, at, name = trail[at]  # noqa: PLW2901 - climbs to the root
                steps.append(name)
            return functools.reduce(child, reversed(steps), start)
        if isinstance(node, dict):
            trail += [(item, at, name) for name, item in node.items()]
        elif isinstance(node, list):
            trail += [(item, at, index) for index, item in enumerate(node)]
    return start


def _large_number(body: bytes) -> int:
    """Where the first number stands that 64 bits cannot hold; the end of `body` when there is none."""
    for token in _NUMBER.finditer(body):
        text = token[1]
        if text is None:
            continue
        whole = text.lstrip(b"-").isdigit()
        if (whole and (len(text) > 20 or not fits(int(text)))) or (not whole and math.isinf(float(text))):
            return token.start()
    return len(body)


def fits(number: int) -> bool:
    """Whether 64 bits can hold `number`, signed or not."""
    return -(2**63) <= number < 2**64
