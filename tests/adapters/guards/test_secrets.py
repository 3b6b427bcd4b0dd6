"""The secret pack: what it finds and what it leaves alone, and how far back a stream must wait for it."""

import base64
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.adapters.guards._secret_rules import rules
from gatehouse.adapters.guards.secrets import SecretScanner
from gatehouse.core.ports import Scanner
from gatehouse.testing.made_secrets import SecretMaker

RULES = [rule.id for rule in rules()]
OPTIONAL = "password-assignment"
EVERYTHING = SecretScanner(also=[OPTIONAL])
HERE = Path(__file__).resolve()


@pytest.fixture(scope="module")
def scanner() -> SecretScanner:
    return SecretScanner()


@pytest.fixture(scope="module")
def everything() -> SecretScanner:
    return EVERYTHING


def found(scanner: Scanner, text: str) -> set[tuple[str, str]]:
    return {(finding.rule, text[finding.start : finding.end]) for finding in scanner.scan(text)}


def made(seed: int = 0) -> Iterator[tuple[str, str, str]]:
    for rule, secrets in SecretMaker(seed).all().items():
        for lead, secret in secrets:
            yield rule, lead, secret


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_finds_its_secret(everything: SecretScanner, rule: str) -> None:
    """The secret alone is found, exactly, wherever it stands: alone, quoted, assigned, in a sentence, after an escape."""
    for seed in range(3):
        for lead, secret in SecretMaker(seed).all()[rule]:
            for frame in (
                "{}",
                "is {}, ok",
                "KEY='{}'",
                "KEY={}\n",
                '{{"a": "{}"}}',
                "früh: {} später",
                "a\\n{}",
                "a\\u0022{}",
                "q%3D{}",
                "_{}",
            ):
                text = frame.format(lead + secret)
                assert (rule, secret) in found(everything, text), frame


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_leaves_near_misses_alone(everything: SecretScanner, rule: str) -> None:
    """What only begins like a secret is not found by any rule."""
    for seed in range(3):
        for text in SecretMaker(seed).near_misses()[rule]:
            assert found(everything, text) == set(), text
            assert found(everything, f"see {text} there") == set(), text


def test_every_rule_has_its_fixtures() -> None:
    """A rule without a true and a false positive cannot be added."""
    maker = SecretMaker()
    assert set(maker.all()) == set(RULES)
    assert set(maker.near_misses()) == set(RULES)
    assert len(set(RULES)) == len(RULES)


def test_secrets_glued_to_a_word_are_not_found(scanner: SecretScanner) -> None:
    """A letter or digit directly before it makes a prefix part of a word: this is the price of leaving prose alone."""
    secret = SecretMaker().all()["aws-access-key"][0][1]
    assert found(scanner, f"x{secret}") == set()
    assert found(scanner, f"x.{secret}") == {("aws-access-key", secret)}


def test_what_is_glued_to_the_end_goes_too(scanner: SecretScanner) -> None:
    """Letters appended to a secret do not hide it and are part of the finding."""
    secret = SecretMaker().all()["github-token"][0][1]
    assert found(scanner, f"{secret}XYZ") == {("github-token", f"{secret}XYZ")}


def test_one_key_file_two_names(scanner: SecretScanner) -> None:
    """A service account's key is found by both its rules; the more telling one comes first."""
    lead, secret = SecretMaker().all()["gcp-service-account"][0]
    assert [finding.rule for finding in scanner.scan(lead + secret)] == ["gcp-service-account", "private-key"]


def test_a_cut_off_key_block_is_found_as_far_as_it_goes(scanner: SecretScanner) -> None:
    """Without its END line a private key ends where its base64 does; the prose after it stays."""
    block = SecretMaker().pem(lines=4)
    start = "\n".join(block.split("\n")[:4])
    assert found(scanner, f"{start}\n\nAnd so on.") == {("private-key", start)}


def test_findings_come_in_order_and_in_characters(scanner: SecretScanner) -> None:
    """Positions count characters, not bytes, whatever stands before; they rise."""
    aws = SecretMaker().all()["aws-access-key"][0][1]
    npm = SecretMaker().all()["npm-token"][0][1]
    text = f"ключ 🔑 {npm} und {aws} 🔑 {aws}"
    spans = [(finding.start, finding.end) for finding in scanner.scan(text)]
    assert spans == sorted(spans)
    assert [text[start:end] for start, end in spans] == [npm, aws, aws]


def test_text_before_is_context_and_not_searched(scanner: SecretScanner) -> None:
    """`before` decides whether a word begins here; what it holds is not found again and positions do not count it."""
    secret = SecretMaker().all()["npm-token"][0][1]
    assert scanner.scan(secret, "letters") == ()
    (finding,) = scanner.scan(secret, "é ")
    assert (finding.start, finding.end) == (0, len(secret))
    assert scanner.scan(" and no more", secret[-8:]) == ()


def test_lone_surrogates_are_no_fault(scanner: SecretScanner) -> None:
    """Half a surrogate pair beside a secret neither raises nor hides it."""
    secret = SecretMaker().all()["npm-token"][0][1]
    assert found(scanner, f"\ud83d {secret} \udc00") == {("npm-token", secret)}


@pytest.mark.parametrize(("rule", "lead", "secret"), list(made()))
def test_every_beginning_is_held_back(everything: SecretScanner, rule: str, lead: str, secret: str) -> None:
    """From its first character on a growing secret is held from its beginning, up to what its rule allows."""
    whole = lead + secret
    longest = next(each.longest for each in rules() if each.id == rule)
    start = len(whole) - len(secret)
    for end in range(start + 1, len(whole) + 1):
        text = f"see {whole[:end]}"
        assert everything.hold_back(text) >= min(end - start, longest), text
        assert not everything.is_clean(text)


@pytest.mark.parametrize(
    "text", ["", "words", "The end.", "été", "已经结束", "ends with a digit 7", "a = b + c;", '{"a": [1, 2]}', "class", "x-ray"]
)
def test_most_text_is_not_held_back(scanner: SecretScanner, text: str) -> None:
    """Ordinary text, also when it ends in the middle of a sentence, waits for nothing."""
    assert scanner.hold_back(text) == 0
    assert scanner.is_clean(text)
    assert scanner.scan(text) == ()


def test_holding_back_is_bounded(scanner: SecretScanner) -> None:
    """A stream waits for no more than the rule's longest; what grows beyond it is taken for something else and let go."""
    for start, longest in ((" sk" + "-", 512), (" ey" + "J", 8192), (SecretMaker().pem(lines=2).rsplit("\n", 2)[0], 8192)):
        held = [scanner.hold_back(start + "a" * length) for length in range(0, longest + 200, 50)]
        assert held[1] >= 50
        assert max(held) <= longest
        assert held[-1] == 0


@settings(deadline=None)
@given(st.text(max_size=60), st.text(alphabet="AIKSgh_-xob.eyJ\n\\ é\U0001f511" + "09az", max_size=80))
def test_clean_means_clean(before: str, text: str) -> None:
    """Whatever the text: when it is said to be clean nothing is found and nothing is held; positions are inside the text."""
    scanner = EVERYTHING
    findings = scanner.scan(text, before)
    hold = scanner.hold_back(text, before)
    assert all(0 <= finding.start < finding.end <= len(text) for finding in findings)
    assert 0 <= hold <= len(text)
    if scanner.is_clean(text, before):
        assert not findings
        assert hold == 0


def test_rules_by_name() -> None:
    """Rules can be switched off and optional ones on, by names that exist; the version tells what is looked for."""
    plain = SecretScanner()
    assert OPTIONAL not in {rule.id for rule in plain.rules}
    assert plain.flag_only == frozenset()
    more = SecretScanner(also=[OPTIONAL])
    assert more.flag_only == {OPTIONAL}
    less = SecretScanner(without=["jwt"])
    token = SecretMaker().all()["jwt"][0][1]
    assert found(plain, token)
    assert not found(less, token)
    assert less.hold_back(" ey" + "Jabc") == 0
    assert len({plain.version, more.version, less.version}) == 3
    assert plain.version == SecretScanner().version
    for names in ({"also": ["nope"]}, {"without": ["nope"]}, {"without": RULES}):
        with pytest.raises(ValueError, match=r"nope|one rule"):
            SecretScanner(**names)


def test_the_automaton_stays_small(scanner: SecretScanner) -> None:
    """Text made to visit every state is matched in one pass and finds what is in it: the memory bound is never what decides."""
    maker = SecretMaker(7)
    pieces = [lead + secret for secrets in maker.all().values() for lead, secret in secrets]
    pieces += [piece[: len(piece) // 2] for piece in pieces] + [miss for misses in maker.near_misses().values() for miss in misses]
    text = " ".join(pieces * 40)
    rules_found = {finding.rule for finding in scanner.scan(text)}
    assert rules_found == set(RULES) - {OPTIONAL}
    assert not scanner.is_clean(text)


def test_no_secret_stands_in_this_repository(scanner: SecretScanner) -> None:
    """Sources, tests and documents hold nothing that this very pack would stop."""
    root = HERE.parents[3]
    places = []
    for folder in ("src", "tests", "docs", "deploy"):
        for path in (root / folder).rglob("*"):
            if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".txt", ".html", ".js", ".sh"}:
                text = path.read_text(encoding="utf-8", errors="replace")
                places += [
                    f"{path.relative_to(root)}:{text.count(chr(10), 0, finding.start) + 1}: {finding.rule}"
                    for finding in scanner.scan(text)
                ]
    assert places == []


def test_a_finding_never_shows_the_secret(scanner: SecretScanner) -> None:
    """What is logged of a finding has its rule and its place, nothing of the text."""
    secret = SecretMaker().all()["npm-token"][0][1]
    (finding,) = scanner.scan(secret)
    assert not re.search(secret[4:12], repr(finding))


@pytest.mark.parametrize("lead", ["", "x", "xy", "xyz"])
@pytest.mark.parametrize("form", ["standard", "urlsafe", "lines", "unpadded"])
def test_base64_is_read_once_more(form: str, lead: str) -> None:
    """A secret inside a run of base64, wherever it stands in its group of four, with either alphabet and broken into lines: the run is
    the finding."""
    secret = SecretMaker(3).all()["github-token"][0][1]
    said = f'{lead}{{"t": "{secret}", "note": "{"?>" * 30}"}}'.encode()
    run = (base64.urlsafe_b64encode if form == "urlsafe" else base64.encodebytes if form == "lines" else base64.b64encode)(said).decode()
    run = run.rstrip("=") if form == "unpadded" else run.strip()
    text = f"see {run} there"
    (finding,) = SecretScanner().scan(text)
    assert finding.rule == "github-token"
    assert finding.start == text.index(run)
    # A last line that is short and not padded might as well be the next word.
    assert run.startswith(text[finding.start : finding.end])
    assert finding.end - finding.start >= len(run) - (16 if form == "lines" else 0)


def test_base64_without_a_secret_is_nothing() -> None:
    """Random bytes, pictures, prose, a digest, base64 in base64 and a run that is no base64 at all."""
    chance = random.Random(3)
    twice = base64.b64encode(base64.b64encode(SecretMaker(3).all()["github-token"][0][1].encode()))
    runs = [base64.b64encode(chance.randbytes(size)) for size in range(30, 3000, 7)]
    runs += [base64.b64encode(b"Just a sentence that somebody has encoded, nothing else. " * 3), twice, b"a" * 41, b"A-_/+" * 30]
    for run in runs:
        assert SecretScanner().scan(run.decode()) == ()
