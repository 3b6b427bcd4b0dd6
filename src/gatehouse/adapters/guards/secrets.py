"""The rule pack for secrets on google-re2: one linear pass says whether anything is there, spans are worked out only on a hit.

Texts are matched as UTF-8 bytes with byte classes: every rule is ASCII, so an index in the bytes is one step from an index
in the text, and a text that is ASCII itself (the usual one) needs no step.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec
import re2

from gatehouse.adapters.guards import _encoded
from gatehouse.adapters.guards._secret_rules import VERSION, Rule, rules

_BOUNDARY: Final = "(?:[^0-9A-Za-z]|\\\\[nrtbf]|\\\\u[0-9A-Fa-f]{4}|%[0-9A-Fa-f]{2})"
"""What may stand directly before a secret: no letter or digit, unless it belongs to an escape."""
_WIDTHS: Final = (1, 2, 3, 6)
"""Lengths of a boundary."""
_LONGEST_LEAD: Final = 64
"""Bytes of lead looked for inside another secret."""
_MEMORY: Final = 32 << 20
"""Bytes of automaton at most; what the pack uses in practice is under one percent of it."""


class SecretFinding(msgspec.Struct, frozen=True, gc=False):
    """A secret in `text[start:end]`, found by `rule`. Never holds the secret."""

    rule: str
    start: int
    end: int


class _Matcher:
    """One rule, compiled. Nothing is captured: RE2 finds whole matches with its automaton, but groups a hundred times slower."""

    __slots__ = ("_lead", "_pattern", "_secret", "_widths")

    def __init__(self, rule: Rule) -> None:
        boundary = _boundary(rule)
        self._pattern = _compiled(boundary + rule.whole.pattern)
        self._secret = _compiled(rule.secret.pattern)
        self._lead = None if rule.lead is None else _compiled(rule.lead.pattern)
        self._widths = _WIDTHS if boundary else (0,)

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Byte spans of the secrets alone, without boundary and lead."""
        at = 0
        while (match := self._pattern.search(data, at)) is not None:
            start, end = match.span()
            yield self._begin(data, start, end), end
            # The end of one secret may hold the lead of the next (`password=a.password = b`).
            at = end if self._lead is None else max(start + 1, end - _LONGEST_LEAD)

    def _begin(self, data: bytes, start: int, end: int) -> int:
        for width in self._widths:
            at = start + width
            if self._lead is not None:
                lead = self._lead.match(data, at)
                if lead is None:
                    continue
                at = lead.end()
            if self._secret.fullmatch(data, at, end) is not None:
                return at
        return start  # not reached: a match is a boundary, a lead and a secret


class SecretScanner:
    """Finds credentials. Implements `gatehouse.core.ports.Scanner`; stateless, one instance serves every call.

    `also` names rules that are off by default, `without` rules to leave out.

    Raises:
        ValueError: a name that is no rule's, or no rule left.
    """

    def __init__(self, also: Iterable[str] = (), without: Iterable[str] = ()) -> None:
        pack = rules()
        wanted, unwanted = frozenset(also), frozenset(without)
        if unknown := (wanted | unwanted) - {rule.id for rule in pack}:
            raise ValueError(f"no such rule: {', '.join(sorted(unknown))}")
        self.rules = tuple(rule for rule in pack if (rule.default or rule.id in wanted) and rule.id not in unwanted)
        """Those in force, in order of precedence."""
        if not self.rules:
            raise ValueError("a scanner needs at least one rule")
        self.flag_only = frozenset(rule.id for rule in self.rules if rule.flag_only)
        """Rules too vague to act on: whoever acts on findings only records these."""
        self.version = _version(self.rules)
        self._matchers = tuple(_Matcher(rule) for rule in self.rules)
        tiers = sorted({rule.longest for rule in self.rules})
        self._tiers = tuple((longest, _starts(rule for rule in self.rules if rule.longest == longest)) for longest in tiers)
        self._any_start = _starts(self.rules)
        hints = [_boundary(rule) + (rule.hint or rule.whole.hint) for rule in self.rules]
        # What is encoded comes after the rules: its number is theirs.
        hints.append(_encoded.HINT)
        self._hints = _compiled_set(hints)
        self._match: Callable[[bytes], Sequence[int] | None] = getattr(getattr(self._hints, "_set", None), "Match", self._hints.Match)
        """What the set itself asks for bytes: each text costs the detour through its wrapper."""
        self._hints_and_start = _compiled_set([*hints, self._any_start.pattern.decode()])
        self._run = _compiled(_encoded.RUN)
        self._text = _compiled(_encoded.TEXT)

    def scan(self, text: str, before: str = "") -> tuple[SecretFinding, ...]:
        """Every secret in `text`, in order of start; overlapping ones of different rules included."""
        prefix = before or "\n"
        try:
            data = (prefix + text).encode()
        except UnicodeEncodeError:
            data = _bytes(prefix + text)
        hits = self._match(data)
        if not hits:
            return ()
        skipped = len(prefix) if prefix.isascii() else len(_bytes(prefix))
        spans: list[tuple[int, int, int]] = []
        for hit in hits:
            if hit == len(self._matchers):
                spans.extend(self._in_runs(data, skipped))
            else:
                spans.extend((start, -end, hit) for start, end in self._matchers[hit].spans(data) if start >= skipped)
        if not spans:
            return ()
        spans.sort()
        place = _Place(data, skipped, ascii_only=len(data) - skipped == len(text))
        found = []
        for start, negative_end, hit in spans:
            at = place.of(start)
            found.append(SecretFinding(self.rules[hit].id, at, at - negative_end - start))
        return tuple(found)

    def _in_runs(self, data: bytes, skipped: int) -> Iterator[tuple[int, int, int]]:
        """Runs of base64 that hold a secret once decoded, as (start, -end, rule)."""
        at = skipped
        while (run := self._run.search(data, at)) is not None:
            start, at = run.span()
            found = {hit for piece in _encoded.decoded(data[start:at]) for hit in self._in_piece(piece)}
            yield from [(start, -at, hit) for hit in found]

    def _in_piece(self, piece: bytes) -> Iterator[int]:
        """The rules that find something in decoded bytes, as far as these are text."""
        at = 0
        while (text := self._text.search(piece, at)) is not None:
            start, at = text.span()
            said = b"\n" + piece[start:at]
            for hit in self._hints.Match(said) or ():
                if hit < len(self._matchers) and next(self._matchers[hit].spans(said), None) is not None:
                    yield hit

    def hold_back(self, text: str, before: str = "") -> int:
        """How many characters at the end of `text` could still become part of a secret; at most the longest rule's `longest`."""
        shortest, longest = self._tiers[0][0], self._tiers[-1][0]
        # One boundary more, so that the first character that may be held has one.
        data = _bytes((before or "\n") + text if len(text) <= longest else text[-longest - _WIDTHS[-1] :])
        match = self._any_start.search(data)
        if match is None:
            return 0
        hold: int = len(data) - match.start()
        if hold > shortest:
            hold = 0
            for bound, start in self._tiers:
                if (match := start.search(data[-bound - _WIDTHS[-1] :])) is not None:
                    hold = max(hold, min(match.end() - match.start(), bound))
        return min(hold, len(text))

    def is_clean(self, text: str, before: str = "") -> bool:
        """Whether `text` holds no secret and ends with no beginning of one. May say False where `scan` then finds nothing."""
        return self._hints_and_start.Match(_bytes((before or "\n") + text)) is None


class _Place:
    """Turns byte indices, asked in rising order, into indices of characters, in one pass."""

    __slots__ = ("_ascii_only", "_byte", "_character", "_data", "_skipped")

    def __init__(self, data: bytes, skipped: int, *, ascii_only: bool) -> None:
        self._data = data
        self._skipped = self._byte = skipped
        self._character = 0
        self._ascii_only = ascii_only

    def of(self, at: int) -> int:
        """The character that begins at byte `at`."""
        if self._ascii_only:
            return at - self._skipped
        self._character += len(self._data[self._byte : at].decode("utf-8", "surrogatepass"))
        self._byte = at
        return self._character


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")  # lone surrogates: not ours to refuse, and no rule has any


def _starts(pack: Iterable[Rule]) -> "re2._Regexp":
    """What could still become a match of one of the rules, at the end of a text."""
    alternatives = [_boundary(rule) + rule.whole.start for rule in pack]
    return _compiled(f"(?:{'|'.join(alternatives)})\\z")


def _boundary(rule: Rule) -> str:
    return "" if rule.anywhere else _BOUNDARY


def _lead(rule: Rule) -> str:
    return _boundary(rule) + ("" if rule.lead is None else rule.lead.pattern)


def _options() -> "re2.Options":
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.longest_match = True
    options.log_errors = False
    options.max_mem = _MEMORY
    return options


def _compiled(pattern: str) -> "re2._Regexp":
    return re2.compile(pattern.encode("ascii"), _options())


def _compiled_set(patterns: list[str]) -> "re2.Set":
    compiled = re2.Set.SearchSet(_options())
    for pattern in patterns:
        compiled.Add(pattern.encode("ascii"))
    compiled.Compile()
    return compiled


def _version(pack: tuple[Rule, ...]) -> str:
    """Names exactly what is looked for: the pack's version and a fingerprint of the rules in force."""
    fingerprint = hashlib.blake2b(digest_size=4)
    for rule in pack:
        fingerprint.update(f"{rule.id}\0{_lead(rule)}\0{rule.secret.pattern}\0".encode())
    return f"secrets-{VERSION}-{fingerprint.hexdigest()}"
