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
from gatehouse.dialects._json import MAX_DEPTH, child, fits, invalid, path_to

MAX_SCHEMA_BYTES: Final = 262_144
MAX_MEMBERS: Final = 50_000
"""Objects, arrays and integers in all schemas of a request."""
MAX_PATTERNS: Final = 16_000
"""Characters of all regular expressions in them."""
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
_NOTHING: Final[dict[str, int]] = {}
_BELOW: Final = {_KEYWORDS: (_MEANING, _KEYWORDS), _NAMES: (_NOTHING, _KEYWORDS), _OWN: (_NOTHING, _OWN)}
"""For each kind of keys: what the objects below certain of them hold, and below all others."""
_WORTH_A_LOOK: Final = (dict, list, int)


class SchemaBounds:
    """The bounds of all schemas of one request."""

    __slots__ = ("_members", "_patterns", "_room")

    def __init__(self, room: int) -> None:
        """`room` is an upper bound of any schema's size that the caller knows for nothing (the body's)."""
        self._room = room
        self._members = 0
        self._patterns = 0

    def check(self, schema: dict[str, Any], path: str) -> None:
        """Refuse a schema that is too large, too deep or circular, or that holds a forbidden keyword or a dangerous pattern.

        Raises:
            InvalidRequest: naming the place under `path`.
        """
        if self._room > MAX_SCHEMA_BYTES and len(msgspec.json.encode(schema)) > MAX_SCHEMA_BYTES:
            raise invalid(path, f"the schema is larger than {MAX_SCHEMA_BYTES} bytes.")
        if self._walk(schema, path):
            _refuse_circles(schema, path)

    def _walk(self, schema: dict[str, Any], path: str) -> bool:
        """Look at everything in the schema once; True when it holds references."""
        referring = False
        pending: list[tuple[Any, int, int]] = [(schema, 0, _KEYWORDS)]
        while pending:
            node, depth, keys = pending.pop()
            self._members += 1
            if type(node) is dict:
                if keys == _KEYWORDS and not _SPECIAL.isdisjoint(node):
                    referring |= self._check_keywords(node, schema, path)
                meaning, otherwise = _BELOW[keys]
                for name, item in node.items():
                    if type(item) in _WORTH_A_LOOK:
                        pending.append((item, depth + 1, meaning.get(name, otherwise)))
            elif type(node) is list:
                for item in node:
                    if type(item) in _WORTH_A_LOOK:
                        pending.append((item, depth + 1, keys))  # noqa: PERF401 - a comprehension a node takes twice as long
            elif not fits(node):
                raise invalid(path_to(node, schema, path), "the integer does not fit 64 bits.")
            if depth > MAX_DEPTH:
                raise invalid(path, f"the schema is nested more than {MAX_DEPTH} levels deep.")
        if self._members > MAX_MEMBERS:
            raise invalid(path, f"the schemas have more than {MAX_MEMBERS} members.")
        return referring

    def _check_keywords(self, node: dict[str, Any], schema: dict[str, Any], path: str) -> bool:
        """Check the special keywords of one schema object; True when it refers elsewhere."""
        for name in node:
            if name in FORBIDDEN:
                raise forbidden(child(path_to(node, schema, path), name))
        named = node.get("patternProperties")
        for pattern in (node.get("pattern"), *(named if isinstance(named, dict) else ())):
            if isinstance(pattern, str):
                self._patterns += len(pattern)
                if self._patterns > MAX_PATTERNS:
                    raise invalid(path, f"the schemas hold more than {MAX_PATTERNS} characters of patterns.")
                if repeats_repetition(pattern):
                    raise invalid(path_to(node, schema, path), "a pattern repeats what repeats itself.")
        if _REFERENCES.isdisjoint(node):
            return False
        reference = node.get("$ref", "#")
        if "$dynamicRef" in node or "$recursiveRef" in node or not isinstance(reference, str) or not _LOCAL.fullmatch(reference):
            raise invalid(path_to(node, schema, path), 'only references into the schema itself ("#/...") are accepted.')
        return True


_LOCAL: Final = re.compile(r"#(/.*)?", re.DOTALL)


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
        |(?P<one>\\.|\[\^?\]?(?:[^\]\\]|\\.)*+\]|[^()|*+?{[])|(?P<stray>[*+?{])""",
    re.VERBOSE | re.DOTALL,
)
_QUANTIFIER: Final = re.compile(r"(?P<endless>[*+]|\{\d*,\})[?+]?|\?\??|\{\d+(?:,\d*)?\}\??")
_GROUP_REPEATED: Final = re.compile(r"\)(?:[*+]|\{\d*,\})")


def repeats_repetition(pattern: str) -> bool:
    """Whether a group that repeats without end can be filled by an inner repetition alone, as in `(a+)+` or `(x*|y)*`.

    Such patterns take exponential time in engines that backtrack. A group with something fixed in each alternative, as in
    `(\\.[0-9]+)*`, is fine. Linear in the pattern; what is no pattern is left to who compiles it.
    """
    if not _GROUP_REPEATED.search(pattern):
        return False
    groups: list[_Group] = [_Group()]
    at = 0
    while at < len(pattern):
        atom = _ATOM.match(pattern, at)
        if atom is None:
            return False
        at = atom.end()
        if atom["stray"]:
            continue
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
