"""Base64 in a text, read once more as what it says: `echo $KEY | base64` is how secrets get past whoever reads only the words.

A run may begin anywhere in its group of four, so each of the four ways to cut it is decoded; of what comes out only stretches that are
text are read. Nothing is decoded twice. Time is linear in the run.
"""

from binascii import a2b_base64
from collections.abc import Iterator
from typing import Final

SHORTEST: Final = 40
"""Characters from which a run is decoded: 30 bytes, about the shortest secret."""
_CLASS: Final = "[0-9A-Za-z+/_\\-]"
HINT: Final = f"{_CLASS}{{{SHORTEST}}}"
"""Tells, in the one pass over a text, whether there is a run at all."""
RUN: Final = f"{_CLASS}{{{SHORTEST},}}(?:\\r?\\n{_CLASS}{{16,}})*(?:\\r?\\n{_CLASS}{{2,15}}={{1,2}}|={{0,2}})"
"""A run; it may be broken into lines, as base64 tools do."""
TEXT: Final = "[\\t\\n\\r -~]{16,}"
"""What is read of the decoded bytes."""
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def decoded(run: bytes) -> Iterator[bytes]:
    """The bytes that `run` may stand for, one for each way to cut it into fours."""
    plain = run.translate(_STANDARD, b"\r\n=")
    for start in range(4):
        size = len(plain) - start
        # Two or three characters at the end are one or two bytes; one alone is nothing.
        left = size % 4
        piece = plain[start : start + size - left] + (plain[start + size - left :].ljust(4, b"=") if left > 1 else b"")
        if piece:
            yield a2b_base64(piece)
