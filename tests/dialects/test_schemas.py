"""Bounds of callers' JSON Schemas: what is legitimate passes, what could hurt whoever compiles it does not."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.core.errors import InvalidRequest
from gatehouse.dialects._forbidden import FORBIDDEN, refuse_forbidden
from gatehouse.dialects._schemas import MAX_SCHEMA_BYTES, SchemaBounds, repeats_repetition
from tests.dialects.openai.strategies import json_values


def check(schema: dict[str, Any], room: int = 1_000_000) -> None:
    SchemaBounds(room).check(schema, "s")


def refuse(schema: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        check(schema)
    return caught.value


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"api_key": {"type": "string"}, "base_url": {"properties": {"chat_template": {}}}}},
        {"properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}}},
        {"default": {"api_base": "x"}, "enum": [{"extra_body": 1}], "const": {"pattern": "(a+)+"}, "examples": [[{"user_config": {}}]]},
        {"$defs": {"point": {"type": "object"}}, "properties": {"a": {"$ref": "#/$defs/point"}, "b": {"$ref": "#/$defs/point"}}},
        {"definitions": {"a/b~c": {}}, "items": {"$ref": "#/definitions/a~1b~0c"}},
        {"anyOf": [{"type": "null"}, {"$ref": "#/anyOf/0"}]},
        {"items": {"$ref": "#/nowhere"}},
        {"pattern": r"^\d+(\.\d+)*$"},
        {"patternProperties": {"^x-": {"type": "string"}}},
        nested(60),
    ],
    ids=lambda schema: str(schema)[:60],
)
def test_legitimate_schemas_pass(schema: dict[str, Any]) -> None:
    """Names of properties and plain values are the caller's data; shared definitions are not recursion."""
    check(schema)


@pytest.mark.parametrize(
    ("schema", "param", "words"),
    [
        ({"api_base": "http://x"}, "s.api_base", "may not set"),
        ({"properties": {"a": {"anyOf": [{"chat_template": "x"}]}}}, "s.properties.a.anyOf[0].chat_template", "may not set"),
        ({"$ref": "#"}, "s", "circle"),
        ({"properties": {"child": {"$ref": "#"}}}, "s", "circle"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"items": {"$ref": "#/$defs/a"}}}}, "s", "circle"),
        ({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "s", "circle"),
        ({"items": {"$ref": "http://evil.example/schema.json"}}, "s.items", "references"),
        ({"items": {"$ref": "#anchor"}}, "s.items", "references"),
        ({"items": {"$ref": 5}}, "s.items", "references"),
        ({"items": {"$dynamicRef": "#a"}}, "s.items", "references"),
        ({"properties": {"a": {"pattern": "^(a+)+$"}}}, "s.properties.a", "repeats"),
        ({"patternProperties": {"(x*)*": {}}}, "s", "repeats"),
        ({"allOf": [{"pattern": "a" * 4_000} for _ in range(5)]}, "s", "patterns"),
        ({"maximum": 10**30}, "s.maximum", "64 bits"),
        (nested(70), "s", "levels deep"),
        ({"description": "x" * MAX_SCHEMA_BYTES}, "s", "larger"),
        ({"enum": [[]] * 60_000}, "s", "members"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_dangerous_schemas_are_refused(schema: dict[str, Any], param: str, words: str) -> None:
    """By place and reason."""
    error = refuse(schema)
    assert error.param == param
    assert words in error.message


def test_bounds_hold_for_all_schemas_of_a_request() -> None:
    """A hundred tools cannot do together what one may not."""
    bounds = SchemaBounds(1_000_000)
    with pytest.raises(InvalidRequest):  # noqa: PT012 - somewhere on the way
        for _ in range(100):
            bounds.check({"pattern": "a" * 1_000}, "s")


@pytest.mark.parametrize(
    "pattern", ["(a+)+", "(x*|y)*", "([a-z]+)*", "(.*)*", "((a+))+", r"(\w+\s?)*", "(a+){2,}", "(?<n>a*)+", r"([^\]]+)*"]
)
def test_repeated_repetition_is_seen(pattern: str) -> None:
    """Shapes that take exponential time in a backtracking engine."""
    assert repeats_repetition(pattern)


@pytest.mark.parametrize(
    "pattern", ["(a|b)*", "(?:a+b)+", "[(a+)+]", r"\(a+\)+", "(a+){3}", r"(\.[0-9]+)*", "(a?)*", "()*", ")*", "[(a+)+", "((((", "a**"]
)
def test_harmless_and_broken_patterns_pass(pattern: str) -> None:
    """Something fixed in each round, bounded counts, and what is no pattern at all."""
    assert not repeats_repetition(pattern)


@given(st.text(st.sampled_from("ab()[]|*+?{},2\\^$.-"), max_size=40))
@settings(deadline=None)
def test_reading_a_pattern_never_fails(pattern: str) -> None:
    """Any text gives a verdict."""
    assert repeats_repetition(pattern) in {True, False}


@given(st.dictionaries(st.sampled_from(["properties", "$defs", "items", "anyOf", "$ref", "pattern", "enum", "#"]), json_values))
@settings(deadline=None)
def test_any_object_gives_a_verdict(schema: dict[str, Any]) -> None:
    """A schema passes or is refused; nothing else is raised."""
    try:
        check(schema)
    except InvalidRequest as error:
        assert error.param is not None


@given(json_values, st.sampled_from(sorted(FORBIDDEN)), st.lists(st.integers(0, 1), max_size=6))
@settings(deadline=None)
def test_forbidden_names_are_found_at_any_depth(value: Any, name: str, wrapping: list[int]) -> None:
    """Inside lists and objects alike."""
    hidden: Any = {name: value}
    for kind in wrapping:
        hidden = [hidden, 1] if kind else {"a": 1, "b": hidden}
    with pytest.raises(InvalidRequest) as caught:
        refuse_forbidden(hidden)
    assert caught.value.code == "forbidden_field"
    assert str(caught.value.param).endswith(name)
