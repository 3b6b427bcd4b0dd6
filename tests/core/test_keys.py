"""API keys: their format, their check, and what is never shown."""

import hmac
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.identity import KeyRecord, Permission, Principal, Role
from gatehouse.core.keys import (
    BOOTSTRAP_ID,
    KEY_LENGTH,
    KeyChecker,
    bootstrap_principal,
    hint,
    mask_keys,
    mint,
    mint_secret,
    parse,
)
from gatehouse.testing.fakes import FakeRng

PEPPER = bytes(range(32))
ALPHABET = string.digits + string.ascii_letters


class AllBits:
    """Chance that always says 0xff: the largest numbers that can be drawn."""

    def random(self) -> float:
        return 0.0

    def token(self, size: int) -> bytes:
        return b"\xff" * size


def record_of(key: str, checker: KeyChecker, **changes: object) -> KeyRecord:
    principal = Principal(parse(key.encode()) or "x", "k", frozenset({Role.DEVELOPER}), expires_at=changes.pop("expires_at", None))  # type: ignore[arg-type]
    return KeyRecord(checker.digest(key.encode()), principal, **changes)  # type: ignore[arg-type]


def test_a_minted_key_has_the_published_form() -> None:
    """gh_live_, eight characters of id, an underscore, thirty of secret, six of CRC32: what secret scanners look for."""
    key_id, key = mint(FakeRng(1))
    assert len(key) == KEY_LENGTH == 53
    assert key.startswith(f"gh_live_{key_id}_")
    assert set(key.removeprefix("gh_live_").replace("_", "")) <= set(ALPHABET)
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
    check = 0
    for letter in key[-6:]:
        check = check * 62 + digits.index(letter)
    assert check == zlib.crc32(key[:-6].encode())


@given(st.integers(0, 2**32))
def test_what_is_minted_parses(seed: int) -> None:
    """Every minted key gives its id back; a new secret for an id as well."""
    key_id, key = mint(FakeRng(seed))
    assert parse(key.encode()) == key_id
    assert parse(mint_secret(key_id, FakeRng(seed + 1)).encode()) == key_id


def test_the_largest_numbers_still_give_a_key() -> None:
    """No draw is out of range."""
    key_id, key = mint(AllBits())
    assert parse(key.encode()) == key_id


@given(st.data())
def test_one_changed_character_is_noticed_without_a_look_up(data: st.DataObject) -> None:
    """A CRC of 32 bits catches every single mistyped character."""
    _, key = mint(FakeRng(data.draw(st.integers(0, 1000))))
    at = data.draw(st.integers(0, KEY_LENGTH - 1))
    other = data.draw(st.sampled_from(ALPHABET + "_-' ").filter(lambda letter: letter != key[at]))
    assert parse((key[:at] + other + key[at + 1 :]).encode()) is None


@given(st.binary(max_size=80))
def test_parsing_survives_anything(raw: bytes) -> None:
    """Arbitrary bytes are no key and raise nothing."""
    assert parse(raw) is None


def test_the_id_is_only_ever_base62() -> None:
    """Even with a right checksum, nothing but letters and digits can become an id: it goes into look-ups."""
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
    start = "gh_live_' OR 1=1_" + "A" * 30
    check, number = "", zlib.crc32(start.encode())
    for _ in range(6):
        number, digit = divmod(number, 62)
        check = digits[digit] + check
    assert len(start + check) == KEY_LENGTH
    assert parse((start + check).encode()) is None


def test_only_the_right_key_is_accepted() -> None:
    """The truth table of a check: right, wrong, unknown, revoked, expired, and expiring at this very moment."""
    checker = KeyChecker(PEPPER)
    _, key = mint(FakeRng(1))
    _, other = mint(FakeRng(2))
    digest = checker.digest(key.encode())
    assert checker.accepts(record_of(key, checker), digest, 100.0)
    assert not checker.accepts(record_of(other, checker), digest, 100.0)
    assert not checker.accepts(None, digest, 100.0)
    assert not checker.accepts(record_of(key, checker, revoked=True), digest, 100.0)
    assert not checker.accepts(record_of(key, checker, expires_at=99.0), digest, 100.0)
    assert not checker.accepts(record_of(key, checker, expires_at=100.0), digest, 100.0)
    assert checker.accepts(record_of(key, checker, expires_at=100.1), digest, 100.0)


def test_a_rotated_key_is_good_until_its_grace_ends() -> None:
    """The previous secret works before `previous_until` and not from then on; without one it never does."""
    checker = KeyChecker(PEPPER)
    key_id, old = mint(FakeRng(1))
    new = mint_secret(key_id, FakeRng(2))
    old_digest, new_digest = checker.digest(old.encode()), checker.digest(new.encode())
    rotated = record_of(new, checker, previous=old_digest, previous_until=200.0)
    assert checker.accepts(rotated, new_digest, 100.0)
    assert checker.accepts(rotated, old_digest, 199.0)
    assert not checker.accepts(rotated, old_digest, 200.0)
    assert checker.accepts(rotated, new_digest, 200.0)
    assert not checker.accepts(record_of(new, checker), old_digest, 100.0)
    assert not checker.accepts(record_of(new, checker, previous=old_digest, previous_until=200.0, revoked=True), old_digest, 100.0)


@given(st.binary(min_size=32, max_size=64), st.binary(max_size=200))
def test_the_digest_is_hmac_sha256(pepper: bytes, key: bytes) -> None:
    """Whatever is done for speed, the stored value is RFC 2104's for every pepper and key, and asking twice changes nothing."""
    checker = KeyChecker(pepper)
    assert checker.digest(key) == checker.digest(key) == hmac.digest(pepper, key, "sha256")


def test_another_pepper_makes_another_digest() -> None:
    """A digest is worth nothing under another root key, and is no plain hash of the key."""
    _, key = mint(FakeRng(1))
    assert KeyChecker(PEPPER).digest(key.encode()) != KeyChecker(b"o" * 32).digest(key.encode())
    for pepper in (b"", b"s" * 31, b"l" * 65):
        with pytest.raises(ValueError, match="32 to 64 bytes"):
            KeyChecker(pepper)


def test_the_bootstrap_key_is_known_by_its_digest() -> None:
    """The checker holds a digest only; without a bootstrap key no digest passes, not even the one it compares with instead."""
    plain = KeyChecker(PEPPER)
    text = "correct horse battery staple!"
    digest = plain.bootstrap_digest(text)
    assert KeyChecker(PEPPER, digest).is_bootstrap(digest)
    assert not KeyChecker(PEPPER, digest).is_bootstrap(plain.digest(b"something else entirely, really"))
    assert not plain.is_bootstrap(digest)
    assert not plain.is_bootstrap(plain.digest(b"nobody's key"))
    assert text not in repr(KeyChecker(PEPPER, digest))


@pytest.mark.parametrize("text", ["", "x" * 23, " leading-space-0123456789", "line\nbreak-0123456789abc", "0123456789abcdef" * 40])
def test_a_poor_bootstrap_key_is_refused(text: str) -> None:
    """Too short, or such that no header could carry it: spaces outside, control characters, too long."""
    with pytest.raises(ValueError, match="bootstrap key") as refused:
        KeyChecker(PEPPER).bootstrap_digest(text)
    assert not text or text not in str(refused.value)


def test_the_bootstrap_principal_administers_and_calls_models() -> None:
    """GATEHOUSE_BOOTSTRAP_KEY is an administrator key that may also call models; its id can be no minted key's."""
    principal = bootstrap_principal()
    assert all(principal.may(permission) for permission in Permission)
    assert principal.models is None
    assert parse(BOOTSTRAP_ID.encode()) is None


def test_what_is_shown_of_a_key_holds_no_secret() -> None:
    """The hint keeps id and last four characters; masking leaves the id only, wherever the key stands in a text."""
    key_id, key = mint(FakeRng(3))
    assert hint(key) == f"gh_live_{key_id}_…{key[-4:]}"
    masked = mask_keys(f"Authorization: Bearer {key}, and again {key}")
    assert key[17:] not in masked
    assert masked == f"Authorization: Bearer gh_live_{key_id}_***, and again gh_live_{key_id}_***"
