"""Cost tags as a header writes them."""

import pytest

from gatehouse.core.attribution import TAG_NAME, tags_of_header


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"project=apollo", (("project", "apollo"),)),
        (b" project = apollo , team=blue ", (("project", "apollo"), ("team", "blue"))),
        (b"a=b=c", (("a", "b=c"),)),
        (b"a=two words", (("a", "two words"),)),
        (b"", None),
        (b"project", None),
        (b"=x", None),
        (b"a=1,,b=2", None),
        (b"a=\xc3\xa4", None),
        (b"a=1," * 17 + b"a=1", None),
    ],
)
def test_a_header_is_pairs_or_nothing(value: bytes, expected: tuple[tuple[str, str], ...] | None) -> None:
    """Half of a header that cannot be read is not guessed at."""
    assert tags_of_header(value) == expected


@pytest.mark.parametrize("name", ["", "Project", "a b", "-a", "a" * 33, "tag:x", 'x"y'])
def test_names_are_plain(name: str) -> None:
    """Lower case letters, digits and three marks: safe in a query, a column and a shell."""
    assert TAG_NAME.fullmatch(name) is None
