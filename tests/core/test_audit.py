"""The audit event: its bytes are fixed for ever, and nothing in it can break a line or hide."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.audit import LONGEST_TEXT, AuditEvent, canonical_detail, columns_of, leaf_data, printable, storable
from gatehouse.core.merkle import leaf_hash

EVENT = AuditEvent(
    1_767_268_800.25, "call", "chat", "ab12cd34", "default", "req_1", "completed", {"model": "assistant", "cost_usd": "0.1"}, b"\x01\xff"
)
anything = st.text(st.characters(exclude_categories=()))


def test_the_bytes_of_a_leaf_never_change() -> None:
    """A golden leaf: if this test fails, no log written before can be verified any more."""
    data = leaf_data(columns_of(7, EVENT))
    assert data == (
        b'["gatehouse-audit/1",7,1767268800250000,"call","chat","ab12cd34","default","req_1","completed",'
        b'"{\\"cost_usd\\":\\"0.1\\",\\"model\\":\\"assistant\\"}","01ff"]'
    )
    assert leaf_hash(data).hex() == "51e3400f221dab69ac51c9db6f2bcaacac2e7ce1a6b6a406ce81d03afb996e59"


@given(anything, anything, st.dictionaries(anything, anything, max_size=3), st.binary(max_size=40))
def test_any_json_encoder_makes_the_same_leaf(subject: str, actor: str, detail: dict[str, str], commitment: bytes) -> None:
    """An auditor without our code: the array of the columns through Python's own json gives the same bytes."""
    columns = columns_of(3, AuditEvent(1.5, "call", "chat", actor, "default", subject, "failed", detail, commitment))
    array = ["gatehouse-audit/1", *columns[:9], columns[9].hex()]
    assert leaf_data(columns) == json.dumps(array, ensure_ascii=False, separators=(",", ":")).encode()


@given(anything, st.dictionaries(anything, anything, max_size=3))
def test_every_stored_text_is_one_printable_line(text: str, detail: dict[str, str]) -> None:
    """Line breaks, control and escape sequences, bidirectional marks, tags and lone surrogates are all spelled out."""
    columns = columns_of(0, AuditEvent(0.0, "call", text, text, text, text, text, detail))
    assert all(part.isprintable() for part in columns if isinstance(part, str))
    assert all(value.isprintable() for value in json.loads(columns[8]).values())


@given(anything)
def test_printable_text_stays_as_it_is(text: str) -> None:
    """What needs no escaping is not touched, and escaping twice is escaping once."""
    if text.isprintable():
        assert printable(text) is text
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\n", "a\\x0ab\\x0d\\x0a"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb\u200b\u2028", "a\\u202eb\\u200b\\u2028"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("é – 漢字 | = 100%", "é – 漢字 | = 100%"),
    ],
)
def test_scenario_60_what_could_forge_a_line_is_spelled_out(text: str, shown: str) -> None:
    """Log injection: newline, ANSI and C1 sequences, right-to-left overrides, invisible and tag characters."""
    assert printable(text) == shown


def test_long_text_is_cut_and_says_so() -> None:
    """A megabyte of user agent does not become a megabyte of log."""
    assert storable("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT
    assert storable("x" * (LONGEST_TEXT + 5)) == "x" * LONGEST_TEXT + "…(+5)"
    columns = columns_of(0, AuditEvent(0.0, "call", "chat", "a", "t", "x" * 5000, "failed", {"agent": "y" * 5000}))
    assert len(columns[6]) < 1100
    assert len(json.loads(columns[8])["agent"]) < 1100


@given(st.dictionaries(anything, anything, max_size=4))
def test_detail_is_canonical(detail: dict[str, str]) -> None:
    """The order in which a detail was built does not matter; the text is a JSON object of strings."""
    backwards = dict(reversed(detail.items()))
    if len({storable(key) for key in detail}) == len(detail):
        assert canonical_detail(detail) == canonical_detail(backwards)
    assert msgspec.json.decode(canonical_detail(detail), type=dict[str, str]).keys() == {storable(key) for key in detail}
