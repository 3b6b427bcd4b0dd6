"""Bounds for the JSON Schemas that callers send with tools and response formats.

A schema is opaque to us but not to what compiles it behind us: engines turn it into a grammar, clients resolve its
references. So it is bounded here, in time linear in its size: bytes, depth, members; references only into itself and
never in a circle; patterns short and without nested repetition. Names of properties are the caller's data (a tool may take
an `api_key`); everywhere else the forbidden names hold.
"""

import re
from typing import Any, Final

import msgspec

from gatehouse.dialects._forbidden import FORBIDDEN, forbidden
from gatehouse.dialects._json import MAX_DEPTH, child, fits, invalid

MAX_SCHEMA_BYTES: Final = 262_144
MAX_MEMBERS: Final = 20_000
"""Objects, arrays and integers in one schema."""
MAX_PATTERN: Final = 1_000
_REFERENCES: Final = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_SPECIAL: Final = FORBIDDEN | _REFERENCES | {"pattern", "patternProperties"}

# What the keys of an object are: keywords of the schema, names of properties, or a value's own.
_KEYWORDS: Final = 0
_NAMES: Final = 1
_OWN: Final = 2
_MEANING: Final = {
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependentRequired"), _NAMES),
    **dict.fromkeys(("const", "default", "enum", "example", "examples"), _OWN),
}
_WORTH_A_LOOK: Final = (dict, list, int)


def check_schema(schema: dict[str, Any], path: str, room: int) -> None:
    """Refuse a schema that is too large, too deep, circular, or that holds a forbidden keyword or a dangerous pattern.

    `room` is an upper bound of its size that the caller knows for nothing (the body's): a small body is not measured.

    Raises:
        InvalidRequest: naming the place under `path`.
    """
    if room > MAX_SCHEMA_BYTES and len(msgspec.json.encode(schema)) > MAX_SCHEMA_BYTES:
        raise invalid(path, f"the schema is larger than {MAX_SCHEMA_BYTES} bytes.")
    members = 0
    referring = False
    pending: list[tuple[Any, int, int]] = [(schema, 0, _KEYWORDS)]
    while pending:
        node, depth, keys = pending.pop()
        if depth > MAX_DEPTH:
            raise invalid(path, f"the schema is nested more than {MAX_DEPTH} levels deep.")
        members += 1
        if type(node) is list:
            for item in node:
                if type(item) in _WORTH_A_LOOK:
                    pending.append((item, depth + 1, keys))  # noqa: PERF401 - a comprehension a node takes twice as long
        elif type(node) is int:
            if not fits(node):
                raise invalid(path, "an integer in the schema does not fit 64 bits.")
        else:
            if keys == _KEYWORDS and not _SPECIAL.isdisjoint(node):
                referring |= _check_keywords(node, schema, path)
            for name, item in node.items():
                if type(item) in _WORTH_A_LOOK:
                    below = keys if keys == _OWN else _KEYWORDS if keys == _NAMES else _MEANING.get(name, _KEYWORDS)
                    pending.append((item, depth + 1, below))
    if members > MAX_MEMBERS:
        raise invalid(path, f"the schema has more than {MAX_MEMBERS} members.")
    if referring:
        _refuse_circles(schema, path)


def _check_keywords(node: dict[str, Any], schema: dict[str, Any], path: str) -> bool:
    """Check the special keywords of one schema object; True when it refers elsewhere."""
    for name in node:
        if name in FORBIDDEN:
            raise forbidden(child(_find(schema, node, path), name))
    patterns = [node.get("pattern"), *(node["patternProperties"] if isinstance(node.get("patternProperties"), dict) else ())]
    for pattern in patterns:
        if isinstance(pattern, str):
            if len(pattern) > MAX_PATTERN:
                raise invalid(_find(schema, node, path), f"a pattern is longer than {MAX_PATTERN} characters.")
            if repeats_repetition(pattern):
                raise invalid(_find(schema, node, path), "a pattern repeats what repeats itself.")
    if _REFERENCES.isdisjoint(node):
        return False
    reference = node.get("$ref", "#")
    if "$dynamicRef" in node or "$recursiveRef" in node or not isinstance(reference, str) or not _LOCAL.fullmatch(reference):
        raise invalid(_find(schema, node, path), 'only references into the schema itself ("#/...") are accepted.')
    return True


_LOCAL: Final = re.compile(r"#(/.*)?", re.DOTALL)


def _find(schema: dict[str, Any], wanted: Any, path: str) -> str:
    """The path of an object inside the schema; only walked to write an error."""
    pending: list[tuple[str, Any]] = [(path, schema)]
    while pending:
        at, node = pending.pop()
        if node is wanted:
            return at
        if isinstance(node, dict):
            pending.extend((child(at, name), item) for name, item in node.items())
        elif isinstance(node, list):
            pending.extend((child(at, index), item) for index, item in enumerate(node))
    return path


def _refuse_circles(schema: dict[str, Any], path: str) -> None:
    """Depth first over members and references: meeting an object that is still open is a circle."""
    done: set[int] = set()
    opened: set[int] = set()
    pending: list[tuple[Any, bool]] = [(schema, False)]
    while pending:
        node, leaving = pending.pop()
        key = id(node)
        if leaving:
            opened.discard(key)
            done.add(key)
            continue
        if key in opened:
            raise invalid(path, "references run in a circle; recursive schemas are not accepted.")
        if key in done:
            continue
        opened.add(key)
        pending.append((node, True))
        children = node.values() if type(node) is dict else node
        pending.extend((item, False) for item in children if type(item) is dict or type(item) is list)
        if type(node) is dict and isinstance(node.get("$ref"), str):
            target = _resolve(schema, node["$ref"])
            if target is not None:
                pending.append((target, False))


def _resolve(schema: dict[str, Any], reference: str) -> Any:
    """The object or array a local reference points to; None when there is none."""
    node: Any = schema
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if type(node) is dict and name in node:
            node = node[name]
        elif type(node) is list and name.isascii() and name.isdecimal() and len(name) < 6 and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node if type(node) is dict or type(node) is list else None


_ATOM: Final = re.compile(
    r"""(?P<open>\((?:\?(?:[:=!]|<[=!]|P?<\w*>))?)|(?P<close>\))|(?P<or>\|)
        |(?:\\.|\[\^?\]?(?:[^\]\\]|\\.)*\]|[^()|*+?{])""",
    re.VERBOSE | re.DOTALL,
)
_QUANTIFIER: Final = re.compile(r"(?P<endless>[*+]|\{\d*,\})[?+]?|\?\??|\{\d+(?:,\d*)?\}\??")


def repeats_repetition(pattern: str) -> bool:
    """Whether a group that repeats without end can be filled by an inner repetition alone, as in `(a+)+` or `(x*|y)*`.

    Such patterns take exponential time in engines that backtrack. A group with something fixed in each alternative, as in
    `(\\.[0-9]+)*`, is fine. Linear in the pattern; what cannot be read as a pattern is left to who compiles it.
    """
    groups: list[_Group] = [_Group()]
    at = 0
    while at < len(pattern):
        atom = _ATOM.match(pattern, at)
        if atom is None:
            at += 1
            continue
        at = atom.end()
        group = groups[-1]
        if atom["open"]:
            groups.append(_Group())
            continue
        if atom["or"]:
            group.next_branch()
            continue
        inner = _Group()
        if atom["close"]:
            if len(groups) == 1:
                continue
            inner = groups.pop()
            inner.next_branch()
            group = groups[-1]
        quantifier = _QUANTIFIER.match(pattern, at)
        if quantifier is not None:
            at = quantifier.end()
        endless = quantifier is not None and quantifier["endless"] is not None
        if endless and inner.fillable:
            return True
        group.endless |= endless or inner.fillable
        group.fixed |= quantifier is None and not inner.fillable
    return False


class _Group:
    """What is known of a group while it is read: whether the branch has something fixed, something endless."""

    __slots__ = ("endless", "fillable", "fixed")

    def __init__(self) -> None:
        self.fixed = False
        self.endless = False
        self.fillable = False
        """A branch so far consists of repetition with nothing fixed beside it."""

    def next_branch(self) -> None:
        self.fillable |= self.endless and not self.fixed
        self.fixed = self.endless = False
