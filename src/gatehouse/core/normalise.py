"""The canonical view of a text: what a rule must also read, so that invisible or look-alike characters hide nothing from it.

Guards read a text twice, as it came and folded; what either view shows counts, and offsets lead back from the folded
view to the text itself. Folding is done character by character on purpose: the fold of a text that arrives in pieces is
the sum of the folds of its pieces, whatever the pieces are.

A fold drops what has no width of its own (format, tag and control characters, variation selectors, bidi controls, combining
marks, fillers), takes the compatibility form of NFKC (full-width, mathematical and ligature letters) and replaces letters
that look like ASCII ones by them. It is for reading only: nothing folded is ever sent anywhere.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

import msgspec

_LOOKALIKES: Final = (
    # Cyrillic
    ("АВЕКМНОРСТУХЅІЈӀҮԌԚԜ", "ABEKMHOPCTYXSIJIYGQW"),
    ("аеорсухѕіјһԁԛԝӏкв", "aeopcyxsijhdqwlkb"),
    # Greek
    ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹϜ", "ABEZHIKMNOPTYXCF"),
    ("αινορυϲκ", "aivopuck"),
    # Armenian
    ("ՍՏՕսօհոցԼ", "USOuohngL"),
    # Latin beyond ASCII
    ("ıȷɑɡɩʟøØłŁđĐħĦɪƖǀ", "ijagiloOlLdDhHiIl"),
    ("ᴀʙᴄᴅᴇꜰɢʜᴊᴋᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghjkmnoprstuvwyz"),
    # punctuation that secrets, headers and markup are made of
    ("‐‒–—―−⁃ˍ‘’‚′“”„″∶ː꞉⁄∕⧸", "-------_''''\"\"\"\":::///"),
    ("\u2028\u2029\u2800", "\n\n "),
)
_FILLERS: Final = frozenset("\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters by category that nobody can see."""
_CONTROLS: Final = bytes(code for code in (*range(0x20), 0x7F) if code not in b"\t\n\r")
_LARGEST_TABLE: Final = 20_000
"""Characters a table remembers: all that one language needs, a bound for a text made of every character there is."""

_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u115f\u1160\u180e\u200b-\u200d\u2060-\u2064\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
_BIDI: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_TAG: Final = re.compile("[\U000e0000-\U000e007f]")
_FLAGS: Final = "|".join(
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in region) + "\U000e007f" for region in ("gbeng", "gbsct", "gbwls")
)
_SUSPECT: Final = re.compile("[\ufe00-\ufe0f\U000e0000-\U000e01ef]")
_HIDDEN: Final = re.compile(f"(?:{_FLAGS})|([\U000e0000-\U000e007f]+|[\ufe00-\ufe0f\U000e0100-\U000e01ef]{{3,}})")


class Features(msgspec.Struct, frozen=True, gc=False):
    """How many characters of a text nobody sees: `tags` of the tag block, `bidi` controls, and other `invisibles`."""

    invisibles: int = 0
    bidi: int = 0
    tags: int = 0


class _Table(dict[int, str]):
    """What each character folds to, worked out when first met."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self._begin()

    def __missing__(self, code: int) -> str:
        if len(self) >= _LARGEST_TABLE:
            self._begin()
        folded = self[code] = _fold(chr(code), self)
        return folded

    def _begin(self) -> None:
        # Forgetting it all once in a while is cheaper than never learning again after one text with every character.
        self.clear()
        for odd, plain in _LOOKALIKES:
            self.update(zip(map(ord, odd), plain, strict=True))


class Normaliser:
    """Folds texts. Holds only what it has worked out about single characters; one instance serves every call.

    Time is linear in the text (plain ASCII: a few nanoseconds a character) and a fold is at most 18 times as long.
    """

    __slots__ = ("_table",)

    def __init__(self) -> None:
        self._table = _Table()

    def fold(self, text: str) -> str:
        """The canonical view; `text` itself (the same object) when folding changes nothing."""
        if text.isascii():
            encoded = text.encode()
            if encoded.translate(None, _CONTROLS) == encoded:
                return text
        folded = text.translate(self._table)
        return text if folded == text else folded

    def align(self, text: str) -> tuple[str, list[int]]:
        """The canonical view and, for each of its characters, the index in `text` of the character it came from."""
        table = self._table
        pieces = []
        origins: list[int] = []
        for index, character in enumerate(text):
            folded = table[ord(character)]
            pieces.append(folded)
            if len(folded) == 1:
                origins.append(index)
            else:
                origins.extend([index] * len(folded))
        return "".join(pieces), origins


def features(text: str) -> Features:
    """Count what nobody sees in `text`, in linear time."""
    if text.isascii() and _is_clean(text):
        return Features()
    return Features(invisibles=_count(_INVISIBLE, text), bidi=_count(_BIDI, text), tags=_count(_TAG, text))


def hidden_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where `text` carries a message that a model reads and a person cannot see.

    That is tag characters outside the three flags that are spelled with them, and runs of three and more variation
    selectors. Single invisible characters are part of many languages and of emoji; they are folded away, not reported.
    """
    if text.isascii() or _SUSPECT.search(text) is None:
        return
    for match in _HIDDEN.finditer(text):
        if match.group(1) is not None:
            yield match.span()


def _is_clean(text: str) -> bool:
    """Whether ASCII `text` has no control characters but tab, newline and carriage return."""
    encoded = text.encode("ascii")
    return len(encoded.translate(None, _CONTROLS)) == len(encoded)


def _count(pattern: "re.Pattern[str]", text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))


def _fold(character: str, known: dict[int, str]) -> str:
    """What one character that is not in the table of look-alikes folds to."""
    code = ord(character)
    if code < 0x80:
        return "" if code in _CONTROLS else character
    if 0x4E00 <= code <= 0x9FFF or 0xAC00 <= code <= 0xD7A3 or 0xD800 <= code <= 0xDFFF:
        return character  # ideographs and Hangul stand for themselves; a lone surrogate is somebody else's to refuse
    if unicodedata.category(character) in {"Cc", "Cf", "Mn", "Me"} or character in _FILLERS or 0xE0000 <= code <= 0xE0FFF:
        return ""
    # Taken apart, so that a letter with marks folds like the letter followed by those marks; marks themselves are dropped.
    pieces = unicodedata.normalize("NFKD", character)
    return character if pieces == character else "".join(known[ord(piece)] for piece in pieces)
