"""Answers as bytes: no value becomes a header, a status line or a second answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.wire.http import response


def test_a_whole_answer_is_one_piece() -> None:
    """Status line, fields, length, body."""
    said = response.whole(404, b"x-a: b\r\n", b"{}")
    assert said == b"HTTP/1.1 404 Not Found\r\nx-a: b\r\ncontent-length: 2\r\n\r\n{}"


def test_an_answer_to_head_has_the_length_without_the_body() -> None:
    """As RFC 9110 wants it."""
    assert response.whole(200, b"", b"abc", bodiless=True) == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"


def test_frames_become_one_chunk() -> None:
    """Their sizes add up, in hexadecimal."""
    assert response.chunk([b"a" * 10, b"b" * 10]) == b"14\r\n" + b"a" * 10 + b"b" * 10 + b"\r\n"


def test_the_date_is_in_the_only_format_left() -> None:
    """IMF-fixdate."""
    assert response.date_line(1_767_268_800.0) == b"date: Thu, 01 Jan 2026 12:00:00 GMT\r\n"


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=20), max_size=5))
@pytest.mark.parametrize("value", ["plain", "a\r\nset-cookie: x", "a\nb", "\r", "nul\0", "naïve", "名前"])
def test_scenario_60_no_value_ends_its_line(value: str, more: dict[str, str]) -> None:
    """Whatever a stage or the configuration puts into a field, the lines are as many as the fields, and ASCII."""
    fields = {"x-a": value, **more}
    said = response.field_lines(fields)
    assert said.isascii()
    assert said.count(b"\r") == said.count(b"\n") == said.count(b"\r\n") == len(fields)
    assert b"\0" not in said
