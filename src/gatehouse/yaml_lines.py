"""YAML read for a person's file: plain values, and the line each of them stands on, so that an error can point at it.

Stricter than YAML where YAML surprises: duplicate keys, aliases (which can blow a small file up) and tags are refused.
`${NAME}` in a string is replaced from the given environment; `$${` is a literal `${`.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml

Lines = dict[str, int]
"""Path ("$.models[0].name") to line, from 1."""

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\$\{")

_PLAIN: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "timestamp"))


class YamlError(Exception):
    """The text cannot be taken; `line` is where."""

    def __init__(self, line: int, words: str) -> None:
        super().__init__(words)
        self.line = line


def read_yaml(text: str, environ: Mapping[str, str]) -> tuple[Any, Lines]:
    """Values and lines. An empty text is an empty mapping.

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
    return ({} if root is None else reader.value(root, "$")), reader.lines


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self.lines: Lines = {"$": 1}
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
