"""YAML read for a person's file: plain values, and the line each of them stands on, so that an error can point at it.

Stricter than YAML where YAML surprises: duplicate keys, aliases (which can blow a small file up) and tags are refused.
`${NAME}` in a string is replaced from the given environment; `$${` is a literal `${`.

YAML reads the bare words yes, no, on and off as true and false, 010 as eight and 1:30 as ninety, whatever was meant. `as_meant` knows
what is expected where: a bare word that a place offers is that word, bare figures are text where text is expected, and what can be
taken in two ways is refused.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml
from msgspec import inspect

Lines = dict[str, int]
"""Path ("$.models[0].name") to line, from 1."""

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\$\{")

Written = dict[str, str]
"""Path to what was written there, where that is not the value: bare words, figures and dates, and text with variables in it."""

_NUMBER: Final = re.compile(r"[-+]?(0|[1-9][0-9_]*)?(\.[0-9_]*)?([eE][-+]?[0-9]+)?")
"""A number as people write it. YAML has others, whose value surprises."""

_PLAIN: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "timestamp"))


class YamlError(Exception):
    """The text cannot be taken; `line` is where."""

    def __init__(self, line: int, words: str) -> None:
        super().__init__(words)
        self.line = line


def read_yaml(text: str, environ: Mapping[str, str]) -> tuple[Any, Lines, Written]:
    """Values, lines, and what was written. An empty text is an empty mapping.

    Raises:
        YamlError: not YAML, or YAML of a kind that is refused here.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise YamlError(mark.line + 1 if mark else 1, f"not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    except RecursionError:
        raise YamlError(1, "nested too deeply") from None
    reader = _Reader(environ)
    return ({} if root is None else reader.value(root, "$")), reader.lines, reader.written


def as_meant(value: Any, kind: inspect.Type, lines: Lines, written: Written, path: str = "$") -> Any:
    """`value` as a place of type `kind` means it. What does not belong there at all is left for who converts it to say.

    Raises:
        YamlError: it can be taken in two ways, or is none of the words that the place offers.
    """
    kinds = _kinds(kind)
    if isinstance(value, dict):
        return _members(value, kinds, lines, written, path)
    if isinstance(value, list):
        item = next((kind.item_type for kind in kinds if isinstance(kind, inspect.ListType)), inspect.AnyType())
        return [as_meant(each, item, lines, written, f"{path}[{index}]") for index, each in enumerate(value)]
    if value is None:
        return None
    try:
        return _scalar(value, kinds, written.get(path))
    except ValueError as error:
        raise YamlError(lines.get(path, 1), f"{path.removeprefix('$.')}: {error}") from None


def _kinds(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    """Without what only tells people of it; of a union, each."""
    if isinstance(kind, inspect.Metadata):
        return _kinds(kind.type)
    return tuple(each for part in kind.types for each in _kinds(part)) if isinstance(kind, inspect.UnionType) else (kind,)


def _members(value: dict[str, Any], kinds: Iterable[inspect.Type], lines: Lines, written: Written, path: str) -> dict[str, Any]:
    known: dict[str, inspect.Type] = {}
    other: inspect.Type = inspect.AnyType()
    for kind in kinds:
        if isinstance(kind, inspect.StructType):
            known = {field.encode_name: field.type for field in kind.fields}
        elif isinstance(kind, inspect.DictType):
            other = kind.value_type
    return {name: as_meant(each, known.get(name, other), lines, written, f"{path}.{name}") for name, each in value.items()}


def _scalar(value: Any, kinds: tuple[inspect.Type, ...], as_written: str | None) -> Any:
    """Raises ValueError."""
    takes = {type(kind) for kind in kinds}
    words = [str(word) for kind in kinds for word in _offered(kind)]
    said = str(value) if as_written is None else as_written
    if isinstance(value, bool):
        value = _truth(value, takes, words, said)
    elif not isinstance(value, str):
        value = _figures(value, takes, said)
    elif inspect.BoolType in takes and not takes & _TEXTS:
        raise ValueError("true or false (or yes, no, on, off) is expected, without quotes; a variable is always text")
    if words and value not in words:
        raise ValueError(f"{said[:40]!r} is none of {', '.join(words)}")
    return value


def _truth(value: bool, takes: set[type[inspect.Type]], words: list[str], said: str) -> Any:
    if words:
        return said.lower()
    if takes & _TEXTS and inspect.BoolType not in takes:
        raise ValueError(f"{said} without quotes is {str(value).lower()} to YAML; if it is meant as text, put it in quotes")
    return value


def _figures(value: Any, takes: set[type[inspect.Type]], said: str) -> Any:
    if takes & _TEXTS:
        return said
    if takes & _NUMBERS and not _NUMBER.fullmatch(said):
        raise ValueError(f"{said} is {value} to YAML; write a plain decimal number")
    return value


_TEXTS: Final = {inspect.StrType, inspect.CustomType}
_NUMBERS: Final = {inspect.IntType, inspect.FloatType}


def _offered(kind: inspect.Type) -> tuple[Any, ...]:
    """The words that may stand in a place."""
    if isinstance(kind, inspect.LiteralType):
        return tuple(kind.values)
    return tuple(member.value for member in kind.cls) if isinstance(kind, inspect.EnumType) else ()


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self.lines: Lines = {"$": 1}
        self.written: Written = {}
        self._environ = environ
        self._constructor = yaml.SafeLoader("")
        self._seen: set[int] = set()

    def value(self, node: yaml.Node, path: str) -> Any:
        line = self.lines[path] = node.start_mark.line + 1
        if id(node) in self._seen:
            raise YamlError(line, "aliases are not supported; write the value out")
        self._seen.add(id(node))
        if node.tag not in _PLAIN:
            raise YamlError(line, "tags are not supported")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
        try:
            value = self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError):
            raise YamlError(line, f"not a value: {str(node.value)[:40]!r}; put it in quotes") from None
        if value is not None and (not isinstance(value, str) or "${" in value):
            self.written[path] = str(node.value)
        return self._expanded(value, line) if isinstance(value, str) else value

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in made:
                raise YamlError(line, f"{key!r} is given twice")
            made[key] = self.value(value_node, f"{path}.{key}")
            self.lines[f"{path}.{key}"] = line
        return made

    def _expanded(self, value: str, line: int) -> str:
        def put(match: re.Match[str]) -> str:
            name = match[1]
            if name is None:
                return "${"
            if name not in self._environ:
                raise YamlError(line, f"the environment has no {name}")
            return self._environ[name]

        return _VARIABLE.sub(put, value)
