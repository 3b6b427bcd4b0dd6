"""The sieve: for any cutting into pieces the findings are those of the whole, and nothing of one is let go before it is known."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatehouse.adapters.guards.secrets import SecretScanner
from gatehouse.core.normalise import Normaliser
from gatehouse.core.ports import Finding
from gatehouse.pipeline.sieve import Sieve, Spot, merged, redacted
from gatehouse.testing.made_secrets import SecretMaker

SCANNER = SecretScanner(also=["password-assignment"])
NORMALISER = Normaliser()
MAKER = SecretMaker(3)
SECRETS = [lead + secret for secrets in MAKER.all().values() for lead, secret in secrets if len(secret) < 600]
MISSES = [miss for misses in MAKER.near_misses().values() for miss in misses]
INVISIBLE = "\u200b\u00ad\ufe0f\U000e0041\x00\u0301"


@st.composite
def smuggled(draw: st.DrawFn) -> str:
    """A secret with something invisible in it, letters that look alike, or an end cut off."""
    secret = draw(st.sampled_from(SECRETS))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(secret)))
        secret = secret[:at] + draw(st.text(INVISIBLE, min_size=1, max_size=3)) + secret[at:]
    if draw(st.booleans()):
        secret = secret.translate(str.maketrans("AKIosxpy", "АКІоѕхру"))
    return secret[: draw(st.integers(1, len(secret)))] if draw(st.booleans()) else secret


PROSE = st.sampled_from(
    ["The key is ", "\n", ".", "-", "_", "x", "é", "…", "\\n", " 'sk-' or ", "ключ", "👩‍🚀", "\\u003d", "s", " A", "ﬁ", "—----"]
)
TEXTS = st.lists(st.one_of(PROSE, PROSE, smuggled(), st.sampled_from(MISSES)), max_size=8).map("".join)


@st.composite
def cut_texts(draw: st.DrawFn) -> list[str]:
    """A text in pieces, mostly small ones as models send them."""
    text = draw(TEXTS)
    pieces = []
    while text:
        size = draw(st.one_of(st.integers(1, 6), st.integers(1, 40), st.just(len(text))))
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def reference(text: str) -> list[Spot]:
    """What both views of the whole text show, by the scanner and the normaliser alone."""
    spots = [Spot(finding.rule, finding.start, finding.end) for finding in SCANNER.scan(text)]
    folded, origins = NORMALISER.align(text)
    spots += [Spot(finding.rule, origins[finding.start], origins[finding.end - 1] + 1) for finding in SCANNER.scan(folded)]
    return merged(spots)


def sieve(quiet: frozenset[str] = frozenset()) -> Sieve:
    return Sieve(SCANNER, NORMALISER, quiet)


@settings(max_examples=400, deadline=None)
@given(cut_texts())
@example(["x", "\u200bsk", "-", "a" * 45])
@example(["xs", "k-" + "a" * 45, "-sk-" + "b" * 45])
@example(["\\", "nnpm_" + "a" * 40])
def test_any_cutting_finds_what_the_whole_shows(pieces: list[str]) -> None:
    """Scenario 55: split anywhere, with zero-width characters or look-alikes inside, the findings are those of the whole text;
    at no moment is a character of one decided while the finding is not."""
    whole = reference("".join(pieces))
    split = sieve()
    for piece in pieces:
        before = split.length
        if split.passes(piece):
            assert split.decided == before + len(piece)
        else:
            assert split.length == before
            split.feed(piece)
        for spot in whole:
            assert spot in split.spots or split.decided <= spot.start
    split.finish()
    assert split.spots == whole, ascii(pieces)
    assert split.decided == split.length == len("".join(pieces))


@settings(max_examples=200, deadline=None)
@given(cut_texts())
def test_parts_redact_like_the_whole(pieces: list[str]) -> None:
    """Redacting piece by piece gives the redacted whole."""
    text = "".join(pieces)
    spots = reference(text)
    parts = []
    at = 0
    for piece in pieces:
        parts.append(redacted(piece, at, spots))
        at += len(piece)
    assert "".join(parts) == redacted(text, 0, spots)
    assert redacted(text, 0, spots).count("[redacted:") == len(spots)


def test_plain_text_is_decided_at_once() -> None:
    """Ordinary pieces pass one by one; only the beginning of something waits, and only until it is something else."""
    words = sieve()
    assert all(words.passes(piece) for piece in ["The", " gates", " of", " the", " hou", "se", ".\n", " Été", " 结束", "."])
    assert not words.passes(" s")
    words.feed(" s")
    assert words.length - words.decided <= 2
    assert not words.passes("ome")
    words.feed("ome")
    assert words.decided == words.length
    assert words.passes(" more")


def test_quiet_rules_are_told_and_nothing_more() -> None:
    """A quiet rule is named in `rules` once its finding is decided and never makes a spot; others do both."""
    npm = MAKER.all()["npm-token"][0][1]
    both = sieve(frozenset({"password-assignment"}))
    both.feed(f"password: {MAKER.chars('abcdef', 12)}, {npm} ")
    both.finish()
    assert both.rules == ["password-assignment", "npm-token"]
    assert [spot.rule for spot in both.spots] == ["npm-token"]


def test_overlapping_findings_become_one() -> None:
    """Where rules overlap one spot covers all of it, named for what begins first and, of those, is longest."""
    spots = [Spot("b", 4, 9), Spot("a", 0, 5), Spot("c", 0, 7), Spot("d", 9, 10)]
    assert merged(spots) == [Spot("c", 0, 9), Spot("d", 9, 10)]


class Broken:
    """A scanner that returns garbage."""

    version = "broken"

    def __init__(self, findings: Sequence[Finding] = (), hold: int = 0) -> None:
        self.findings = tuple(findings)
        self.hold = hold

    def scan(self, text: str, before: str = "") -> tuple[Finding, ...]:
        return self.findings

    def hold_back(self, text: str, before: str = "") -> int:
        return self.hold

    def is_clean(self, text: str, before: str = "") -> bool:
        return False


@pytest.mark.parametrize(
    "scanner", [Broken([Spot("r", 0, 99)]), Broken([Spot("r", -1, 2)]), Broken([Spot("r", 2, 2)]), Broken(hold=99), Broken(hold=-1)]
)
def test_garbage_from_a_scanner_is_a_fault(scanner: Broken) -> None:
    """Scenario 54: a finding outside the text or an impossible hold is an error, never a wrong redaction."""
    with pytest.raises(ValueError, match="a scanner"):
        Sieve(scanner, NORMALISER).feed("four")


def test_a_flood_of_invisible_characters_is_a_fault() -> None:
    """Waiting is bounded also when the folded view does not grow: a match stretched over a flood of nothing is refused."""
    flooded = sieve()
    flooded.feed("AK")
    for _ in range(32):
        flooded.feed("\u200b" * 1000)
    with pytest.raises(ValueError, match="too much text"):
        flooded.feed("\u200b" * 1000)
