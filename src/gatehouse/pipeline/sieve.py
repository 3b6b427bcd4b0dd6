"""The sieve: reads one text that arrives in pieces as if it had come whole.

Text is undecided while it could still become part of a finding; all before that is decided for good. The promise, kept by
a property test: for any cutting into pieces the findings are those of the whole text, and no character of a finding is
ever decided before the finding is known.

Both views of the text are read, as it came and folded; a finding in either counts.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gatehouse.core.normalise import Normaliser
from gatehouse.core.ports import Scanner

_CONTEXT: Final = 8
"""Characters before a piece that a scanner may look at."""
_LARGEST_WINDOW: Final = 32_768
"""Undecided characters at most. Scanners hold back far less; only a flood of invisible characters inside a match gets here."""


class Spot(msgspec.Struct, frozen=True, gc=False):
    """A finding of `rule` in the characters [start, end) of the whole text."""

    rule: str
    start: int
    end: int


class Sieve:
    """One text in one direction. `quiet` rules are reported in `rules` but never make a spot.

    What a scanner raises passes through; a finding outside the text it was given is a ValueError.
    """

    __slots__ = (
        "_before",
        "_folded",
        "_folded_before",
        "_growing",
        "_normaliser",
        "_origins",
        "_quiet",
        "_scanner",
        "_window",
        "decided",
        "rules",
        "spots",
    )

    def __init__(self, scanner: Scanner, normaliser: Normaliser, quiet: frozenset[str] = frozenset()) -> None:
        self._scanner = scanner
        self._normaliser = normaliser
        self._quiet = quiet
        self.decided = 0
        """How many characters of the text are decided."""
        self.spots: list[Spot] = []
        """Decided spots in order, disjoint; whoever acts on them takes them out."""
        self.rules: list[str] = []
        """Every rule that found something, quiet ones included, in order of first finding."""
        self._window = ""
        self._before = ""
        # Found but not final. Kept, because what led to a finding (`password = `) may be decided and gone before it is.
        self._growing: dict[tuple[str, int], Spot] = {}
        # The folded view of the window, None while it is the window itself, and where its characters come from (absolute).
        self._folded: str | None = None
        self._origins: list[int] = []
        self._folded_before = ""

    @property
    def length(self) -> int:
        """Characters fed so far."""
        return self.decided + len(self._window)

    def passes(self, text: str) -> bool:
        """Feed `text` if that decides everything with nothing found, the usual case; else False, and nothing was fed."""
        if self._window:
            return False
        before, folded_before = self._before, self._folded_before
        folded = text if text.isascii() and text.isprintable() else self._normaliser.fold(text)
        if not self._scanner.is_clean(text, before):
            return False
        if folded is text and folded_before is before:
            self._before = self._folded_before = text[-_CONTEXT:] if len(text) >= _CONTEXT else (before + text)[-_CONTEXT:]
        else:
            if not self._scanner.is_clean(folded, folded_before):
                return False
            self._move(before + text, folded_before + folded)
        self.decided += len(text)
        return True

    def feed(self, text: str) -> None:
        """Take the next piece."""
        if not text:
            return
        folded = self._normaliser.fold(text)
        if self._folded is None and folded is not text:
            self._folded = self._window
            self._origins = list(range(self.decided, self.length))
        if self._folded is not None:
            start = self.length
            folded, origins = self._normaliser.align(text)
            self._folded += folded
            self._origins.extend(start + origin for origin in origins)
        self._window += text
        self._decide(last=False)

    def finish(self) -> None:
        """The text has ended: decide what is left."""
        if self._window:
            self._decide(last=True)

    def _decide(self, *, last: bool) -> None:
        window, start = self._window, self.decided
        here = range(start, start + len(window))
        spots, limit = self._read(window, self._before, here, last=last)
        folded = window if self._folded is None else self._folded
        if folded is not window or self._folded_before != self._before:
            origins = here if self._folded is None else self._origins
            more, other = self._read(folded, self._folded_before, origins, last=last)
            spots += more
            limit = min(limit, other)
        if spots or self._growing:
            limit = self._settle([*self._growing.values(), *spots], limit)
        if limit > start:
            self._release(limit)
        if len(self._window) > _LARGEST_WINDOW:
            raise ValueError("too much text between the beginning and the end of a possible match")

    def _read(self, view: str, before: str, origins: Sequence[int], *, last: bool) -> tuple[list[Spot], int]:
        """What one view shows, in characters of the whole text, and up to where it is decided."""
        spots = []
        for finding in self._scanner.scan(view, before):
            if not 0 <= finding.start < finding.end <= len(view):
                raise ValueError("a scanner found something outside the text")
            spots.append(Spot(finding.rule, origins[finding.start], origins[finding.end - 1] + 1))
        hold = 0 if last else self._scanner.hold_back(view, before)
        if not 0 <= hold <= len(view):
            raise ValueError("a scanner held back more than there is")
        return spots, origins[len(view) - hold] if hold else self.length

    def _settle(self, spots: list[Spot], limit: int) -> int:
        """Keep the spots that are final, and lower `limit` before those that may still grow."""
        for spot in reversed(merged(spots)):
            if spot.end <= limit:
                break
            limit = min(limit, spot.start)
        # A finding only grows: the last word on each is the longest.
        self._growing = {(spot.rule, spot.start): spot for spot in sorted(spots, key=_end) if spot.end > limit}
        final = [spot for spot in spots if spot.end <= limit]
        self.spots += merged(spot for spot in final if spot.rule not in self._quiet)
        for spot in sorted(final, key=_order):
            if spot.rule not in self.rules:
                self.rules.append(spot.rule)
        return limit

    def _release(self, limit: int) -> None:
        count = limit - self.decided
        raw = self._before + self._window[:count]
        if self._folded is None:
            self._move(raw, self._folded_before + self._window[:count])
        else:
            # The first character of the folded view that stays: origins rise, so it is where they reach the limit.
            cut = bisect_left(self._origins, limit)
            self._move(raw, self._folded_before + self._folded[:cut])
            self._folded = self._folded[cut:]
            del self._origins[:cut]
        self._window = self._window[count:]
        if not self._window:
            self._folded = None
            self._origins = []
        self.decided = limit

    def _move(self, raw: str, folded: str) -> None:
        self._before = raw[-_CONTEXT:]
        self._folded_before = folded[-_CONTEXT:]
        if self._folded_before == self._before:
            self._folded_before = self._before  # the same object again, so that plain text is read once again


def redacted(text: str, start: int, spots: Iterable[Spot]) -> str:
    """`text`, the part of a longer text that begins at its character `start`, with each spot replaced by its rule's name.

    A spot that began in an earlier part was named there; here its characters only go.
    """
    pieces = []
    at = start
    end = start + len(text)
    for spot in spots:
        if spot.end <= at or spot.start >= end:
            continue
        if spot.start >= start:
            pieces.append(text[at - start : spot.start - start])
            pieces.append(f"[redacted:{spot.rule}]")
        at = spot.end
        if at >= end:
            return "".join(pieces)
    pieces.append(text[at - start :])
    return "".join(pieces)


def merged(spots: Iterable[Spot]) -> list[Spot]:
    """Disjoint spots in order; overlapping ones become one that has the name of the first, of several at once the longest."""
    result: list[Spot] = []
    for spot in sorted(spots, key=_order):
        if result and spot.start < result[-1].end:
            last = result[-1]
            if spot.end > last.end:
                result[-1] = Spot(last.rule, last.start, spot.end)
        else:
            result.append(spot)
    return result


def _order(spot: Spot) -> tuple[int, int, str]:
    return spot.start, -spot.end, spot.rule


def _end(spot: Spot) -> int:
    return spot.end
