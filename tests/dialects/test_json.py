"""Strict JSON: one meaning for every reader. Python's own parser, told to keep every pair, is the reference."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gatehouse.core.errors import InvalidRequest
from gatehouse.dialects._json import duplicate_key, echo, explain, path_to, plain, refuse_ambiguity

scalars = st.sampled_from(["1", "-0.5", "true", "null", '""', '":"', '"a:b"', '"\\u003a"', '"{"', '"}"', '"\\""', '"\\\\"', '"\\\\u003a"'])
keys = st.sampled_from(['"a"', '"b"', '"\\u0061"', '"a\\""', '"\\\\"', '":"', '"\\u003a"', '""', '"é"', '"\\u00e9"', '"{"'])
gaps = st.sampled_from(["", " ", "\n\t"])


@st.composite
def members(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(keys, gaps, gaps, inner), max_size=4))
    return "{" + ",".join(f"{key}{before}:{after}{value}" for key, before, after, value in pairs) + "}"


def arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")


documents = st.recursive(scalars, lambda inner: members(inner) | arrays(inner), max_leaves=12)


def reference(text: str) -> bool:
    """Whether some object of `text` has a key twice, by Python's own parser."""
    found = False

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        found = found or len(dict(pairs)) != len(pairs)
        return dict(pairs)

    json.loads(text, object_pairs_hook=look)
    return found


def ambiguous(body: bytes) -> bool:
    try:
        refuse_ambiguity(body, msgspec.json.decode(body))
    except InvalidRequest as error:
        assert error.code == "duplicate_key"
        return True
    return False


@given(documents)
@settings(max_examples=600, deadline=None)
@example('{"a":"\\u003a","a":1}')
@example('{"a":":","b":"\\u003a\\u003a","a":1}')
@example('{"\\u0061":1,"a":2}')
@example('{"a":{"b":1},"c":{"b":1}}')
@example('[{"a":1},{"a":1,"b":{"c":1,"c":2}}]')
def test_repeated_keys_are_found_exactly(text: str) -> None:
    """At any depth, however they are spelled, and never where there are none: text full of colons and braces included."""
    assert ambiguous(text.encode()) is reference(text)


@given(documents)
@settings(max_examples=300, deadline=None)
def test_the_exact_scan_agrees_with_the_count(text: str) -> None:
    """The long way alone gives the same verdict; it decides when an escape could disguise a colon."""
    assert (duplicate_key(text.encode()) is not None) is reference(text)


def test_a_repeated_key_is_named_with_its_position() -> None:
    """Bytes, as the caller sent them."""
    with pytest.raises(InvalidRequest, match=r'The key "model" is given twice \(byte 12\)') as caught:
        refuse_ambiguity(b'{"model":1, "mod\\u0065l":2}', {"model": 2})
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (b'{"a":"\\u0000"}', True),
        (b'{"a":"x\\\\\\u0000"}', True),
        (b'{"a":"x\\\\u0000"}', False),
        (b'{"a":"\\\\\\\\u0000"}', False),
        (b'{"\\u0000":1}', True),
        (b'{"a":"\\u00001"}', True),
        (b'{"a":"u0000"}', False),
    ],
)
def test_nul_characters_are_refused_and_only_they(body: bytes, refused: bool) -> None:
    """An escaped backslash before `u0000` is no escape."""
    if refused:
        with pytest.raises(InvalidRequest, match="NUL"):
            refuse_ambiguity(body, msgspec.json.decode(body))
    else:
        refuse_ambiguity(body, msgspec.json.decode(body))


@given(st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_broken_bytes_are_explained(body: bytes) -> None:
    """Whatever is no JSON object raises one typed refusal."""
    try:
        value = plain(body)
    except InvalidRequest as error:
        assert error.code in {"invalid_json", "invalid_value"}
    else:
        assert isinstance(value, dict)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a":1e999}', "A number is out of range (byte 5)."),
        (b'{"a":"1e999","b":[-1e400]}', "A number is out of range (byte 18)."),
        (b'{"a":1,"b":%s}' % (b"9" * 5000), "A number is out of range (byte 11)."),
        (b"[1]", "The body is not a JSON object."),
        (b'{"a":1', "The body is not valid JSON: it ends too early, or its last text is broken (byte 6)."),
        (b'{"a":"\xff"}', "The body is not valid UTF-8 (byte 6)."),
        (b"[" * 100_000, "The body is nested too deeply (more than 64 levels)."),
    ],
    ids=lambda value: str(value)[:30],
)
def test_faults_say_where(body: bytes, message: str) -> None:
    """Position in bytes, or what is wrong as a whole."""
    with pytest.raises(InvalidRequest) as caught:
        plain(body)
    assert caught.value.message == message


def test_field_paths_are_told_in_plain_words() -> None:
    """Types are named as JSON names them."""

    class Inner(msgspec.Struct, forbid_unknown_fields=True):
        b: list[int | None]

    class Outer(msgspec.Struct):
        a: Inner

    for body, message, param in [
        (b'{"a":{"b":[1,"x"]}}', "a.b[1]: expected integer or null, got string.", "a.b[1]"),
        (b'{"a":{"b":[],"c":1}}', "a.c: unknown field.", "a.c"),
        (b'{"a":{}}', "a.b: this field is required.", "a.b"),
    ]:
        with pytest.raises(msgspec.ValidationError) as caught:
            msgspec.json.decode(body, type=Outer)
        error = explain(caught.value, body)
        assert (error.message, error.param) == (message, param)


@given(st.text())
@settings(deadline=None)
def test_echoes_are_short_and_printable(text: str) -> None:
    """What a caller wrote comes back on one line."""
    shown = echo(text)
    assert shown.isprintable()
    assert len(shown) <= 120 * 10 + 1


def test_paths_cost_nothing_before_they_are_asked_for() -> None:
    """A key of a megabyte above many members: found at once, where paths built on the way would be gigabytes."""
    wanted: list[int] = []
    assert path_to(wanted, {"k" * 1_000_000: [{} for _ in range(20_000)], "b": [0, {"c": wanted}]}, "top") == "top.b[1].c"


@given(documents)
@settings(deadline=None)
def test_a_path_leads_back_to_its_object(text: str) -> None:
    """Every object of a document is found where Python's own indexing finds it."""
    root = json.loads(text)
    assume(isinstance(root, dict | list))
    assert path_to(root, root, "start") == "start"
