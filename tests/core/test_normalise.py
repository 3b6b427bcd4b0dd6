"""The canonical view: what is invisible or looks alike hides nothing, pieces fold like the whole, and offsets lead back."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.core.normalise import Features, Normaliser, features, hidden_spans

NORMALISER = Normaliser()
ANY_TEXT = st.text(st.characters(), max_size=60) | st.text("AКа\u200b\u0301éﬁ①ﷺ\ufe0f\U000e0041\u202e\x00\n\ud800", max_size=30)


@pytest.mark.parametrize("text", ["", "plain text", "with\ttabs\nand lines\r\n", "x" * 5000 + "\n", "~!@#$%^&*()_+{}|:<>?"])
def test_plain_ascii_is_itself(text: str) -> None:
    """Plain ASCII is not copied: the very object comes back."""
    assert NORMALISER.fold(text) is text


@pytest.mark.parametrize("text", ["请总结以下段落", "한국어 문장", "שלום", "Привет, мир и небо"[8:9], "🔑🚀"])
def test_other_scripts_are_left_alone(text: str) -> None:
    """Text that neither hides nor imitates anything comes back as the same object."""
    assert NORMALISER.fold(text) is text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("A\u200bK\u2060I\ufeffA", "AKIA"),  # zero width
        ("A\u00adKIA", "AKIA"),  # soft hyphen
        ("A\U000e0041KIA\U000e007f", "AKIA"),  # tag characters
        ("A\ufe0fK\U000e0100IA", "AKIA"),  # variation selectors
        ("\u202eAKIA\u202c", "AKIA"),  # bidi controls
        ("A\x00K\x1bI\x7fA", "AKIA"),  # ASCII controls
        ("A\u0085K\u009fIA", "AKIA"),  # C1 controls
        ("A\u034fK\u0301I\u20ddA", "AKIA"),  # joiners and marks
        ("A\u115fK\u3164IA", "AKIA"),  # fillers
        ("АКІА", "AKIA"),  # Cyrillic
        ("ΑΚΙΑ", "AKIA"),  # Greek
        ("ＡＫＩＡ", "AKIA"),  # full width
        ("𝐀𝑲𝙸𝔸", "AKIA"),  # mathematical
        ("ÀKÏÅ", "AKIA"),  # accents
        ("A\u0300KI\u0308A\u030a", "AKIA"),  # the same, taken apart
        ("ᴀᴋɪᴀ", "akia"),  # small capitals
        ("ѕk‑рrоj—", "sk-proj-"),
        ("ﬁle №①…", "file No1..."),
        ("a\u00a0b\u2003c\u2028d", "a b c\nd"),
    ],
)
def test_folds(text: str, canonical: str) -> None:
    """What cannot be seen goes, what looks like an ASCII letter becomes it."""
    assert NORMALISER.fold(text) == canonical


@settings(deadline=None)
@given(ANY_TEXT)
def test_folding_twice_changes_nothing(text: str) -> None:
    """The canonical view of a canonical view is itself, whatever the text, lone surrogates included."""
    folded = NORMALISER.fold(text)
    assert NORMALISER.fold(folded) == folded


@settings(deadline=None)
@given(ANY_TEXT)
def test_composed_or_not_is_the_same(text: str) -> None:
    """A text and its decomposed form have one canonical view (Hangul, which folds to itself, aside)."""
    if not any("\uac00" <= character <= "\ud7ff" for character in text):
        assert NORMALISER.fold(unicodedata.normalize("NFD", text)) == NORMALISER.fold(text)


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=5))
def test_pieces_fold_like_the_whole(pieces: list[str]) -> None:
    """The fold of a text is the sum of the folds of its pieces, so a stream reads what a whole text would."""
    assert "".join(map(NORMALISER.fold, pieces)) == NORMALISER.fold("".join(pieces))


@settings(deadline=None)
@given(ANY_TEXT)
def test_offsets_lead_back(text: str) -> None:
    """Each canonical character knows the character it came from; origins never fall, and a fold is at most 18 times as long."""
    folded, origins = NORMALISER.align(text)
    assert folded == NORMALISER.fold(text)
    assert len(origins) == len(folded) <= 18 * len(text)
    assert origins == sorted(origins)
    for index, character in enumerate(text):
        assert "".join(folded[at] for at, origin in enumerate(origins) if origin == index) == NORMALISER.fold(character)


def test_every_character_there_is() -> None:
    """Folding all of Unicode raises nowhere, leaves ASCII as it is and forgets what it need not keep."""
    normaliser = Normaliser()
    everything = "".join(map(chr, range(0x110000)))
    folded = normaliser.fold(everything)
    assert normaliser.fold(folded) == folded
    printable = "".join(map(chr, range(0x20, 0x7F)))
    assert normaliser.fold(printable) is printable
    assert normaliser.fold("АКІА") == "AKIA"


def test_features_count_what_nobody_sees() -> None:
    """Invisible characters, bidi controls and tag characters are counted apart; plain text has none."""
    assert features("plain\n") == Features()
    assert features("für mich") == Features()
    assert features("a\x00b\u200b\ufe0f\u202e\u2066\u200f\U000e0041") == Features(invisibles=3, bidi=3, tags=1)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("plain", []),
        ("👩‍🚀 ❤️ हिन्दी עברית\u200f", []),  # joiners, selectors and marks where they belong
        ("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", []),  # the flag of England
        ("hi\U000e0069\U000e0067\U000e006e", [(2, 5)]),
        ("\U0001f3f4\U000e0069\U000e0067\U000e007f", [(1, 4)]),  # a flag that is none
        ("x\ufe00\ufe01\ufe0f\U000e0100y\U000e0041", [(1, 5), (6, 7)]),
        ("❤️❤️❤️", []),
    ],
)
def test_hidden_messages(text: str, spans: list[tuple[int, int]]) -> None:
    """Tag characters and runs of variation selectors carry messages; what languages, flags and emoji need does not count."""
    assert list(hidden_spans(text)) == spans
