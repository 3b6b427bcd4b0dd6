"""Sealing: what was sealed opens with the same key and the same words about it, and with nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.adapters.vault.sealing import Sealer

KEY = b"k" * 32
ABOUT = ("resp_1", "north")


@given(st.binary(max_size=200), st.lists(st.text(max_size=10), max_size=4))
@settings(max_examples=50, deadline=None)
def test_it_opens_as_it_was(content: bytes, about: list[str]) -> None:
    """Whatever the content and the words."""
    sealer = Sealer(KEY)
    assert sealer.unseal(sealer.seal(content, about), about) == content


def test_the_same_content_is_never_sealed_alike() -> None:
    """Nobody can tell that two people said the same."""
    sealer = Sealer(KEY)
    assert sealer.seal(b"yes", ABOUT) != sealer.seal(b"yes", ABOUT)


@pytest.mark.parametrize("about", [("resp_2", "north"), ("resp_1", "south"), ("resp_1",), ("resp_1", "north", ""), ("resp_1north", ""), ()])
def test_other_words_do_not_open_it(about: tuple[str, ...]) -> None:
    """Not even those that are the same when put together."""
    sealed = Sealer(KEY).seal(b"yes", ABOUT)
    with pytest.raises(ValueError, match="not what was sealed"):
        Sealer(KEY).unseal(sealed, about)


def test_no_changed_byte_opens() -> None:
    """Version, nonce, content and tag are all held."""
    sealed = Sealer(KEY).seal(b"yes", ABOUT)
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(ValueError, match="sealed"):
            Sealer(KEY).unseal(bytes(changed), ABOUT)
    for end in range(len(sealed)):
        with pytest.raises(ValueError, match="sealed"):
            Sealer(KEY).unseal(sealed[:end], ABOUT)


def test_the_key_is_one_and_stays_hidden() -> None:
    """A short key is refused; another key opens nothing; none is printed."""
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(b"short")
    with pytest.raises(ValueError, match="not what was sealed"):
        Sealer(b"x" * 32).unseal(Sealer(KEY).seal(b"yes", ABOUT), ABOUT)
    assert repr(Sealer(KEY)) == "Sealer(***)"
