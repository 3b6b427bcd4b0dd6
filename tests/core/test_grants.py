"""What a key may ask for and hand on."""

import msgspec
import pytest

from gatehouse.core.grants import delegation_excess, grants_call, grants_model
from gatehouse.core.identity import Principal, Role
from gatehouse.core.limits import Budget, Limits
from gatehouse.core.money import Money


@pytest.mark.parametrize(
    ("models", "name", "granted"),
    [
        (None, "anything", True),
        (frozenset(), "anything", False),
        (frozenset({"tiny"}), "tiny", True),
        (frozenset({"tiny"}), "tiny-2", False),
        (frozenset({"tiny"}), "TINY", False),
        (frozenset({"tiny"}), "", False),
        (frozenset({"gpt-*"}), "gpt-5", True),
        (frozenset({"gpt-*"}), "gpt-", True),
        (frozenset({"gpt-*"}), "gpt", False),
        (frozenset({"gpt-*"}), "my-gpt-5", False),
        (frozenset({"*"}), "anything", True),
        (frozenset({"", "a"}), "b", False),
    ],
)
def test_a_grant_covers_names_and_beginnings(models: frozenset[str] | None, name: str, granted: bool) -> None:
    """Exact names, beginnings that end in a star, None for all; an empty set is nothing, never everything."""
    assert grants_model(models, name) is granted


DEVELOPER = Principal(
    "owner",
    "owner",
    frozenset({Role.DEVELOPER}),
    team="red",
    models=frozenset({"tiny", "gpt-*"}),
    limits=Limits(60, 1000, 4, Budget(Money(100), "day")),
    expires_at=1000.0,
)
WITHIN = msgspec.structs.replace(DEVELOPER, key_id="new")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        (None, {}),
        (None, {"models": frozenset({"gpt-5", "gpt-5*", "tiny"}), "expires_at": 999.0}),
        ("roles", {"roles": frozenset({Role.DEVELOPER, Role.ADMIN})}),
        ("roles", {"roles": frozenset({Role.VIEWER})}),
        ("team", {"team": "blue"}),
        ("team", {"team": None}),
        ("models", {"models": None}),
        ("models", {"models": frozenset({"*"})}),
        ("models", {"models": frozenset({"gp*"})}),
        ("models", {"models": frozenset({"tiny", "other"})}),
        ("expires_at", {"expires_at": None}),
        ("expires_at", {"expires_at": 1000.5}),
        ("tenant", {"tenant": "acme"}),
    ],
)
def test_nobody_hands_on_more_than_they_have(field: str | None, changes: dict[str, object]) -> None:
    """Each field in turn: the first one that goes beyond the maker's own is named."""
    assert delegation_excess(DEVELOPER, msgspec.structs.replace(WITHIN, **changes)) == field


@pytest.mark.parametrize(
    ("field", "limits"),
    [
        (None, Limits(60, 1000, 4, Budget(Money(100), "day"))),
        (None, Limits(1, 1, 1, Budget(Money(0), "day"))),
        ("limits.requests_per_minute", Limits(61, 1000, 4, Budget(Money(100), "day"))),
        ("limits.tokens_per_minute", Limits(60, None, 4, Budget(Money(100), "day"))),
        ("limits.concurrency", Limits(60, 1000, 5, Budget(Money(100), "day"))),
        ("budget", Limits(60, 1000, 4, None)),
        ("budget", Limits(60, 1000, 4, Budget(Money(101), "day"))),
        ("budget", Limits(60, 1000, 4, Budget(Money(1), "month"))),
    ],
)
def test_limits_are_handed_on_within_ones_own(field: str | None, limits: Limits) -> None:
    """No limit, a higher one, or a budget of another period would be more than the maker has."""
    assert delegation_excess(DEVELOPER, msgspec.structs.replace(WITHIN, limits=limits)) == field


def test_an_administrator_may_make_any_key_of_its_tenant() -> None:
    """Roles and models beyond its own are fine, another tenant is not."""
    admin = Principal("a", "a", frozenset({Role.ADMIN}), models=frozenset({"tiny"}))
    everything = Principal("n", "n", frozenset(Role))
    assert delegation_excess(admin, everything) is None
    assert delegation_excess(admin, msgspec.structs.replace(everything, tenant="acme")) == "tenant"
    without = Principal("o", "o", frozenset({Role.DEVELOPER}))
    assert delegation_excess(without, msgspec.structs.replace(without, key_id="p")) is None


@pytest.mark.parametrize(
    ("models", "asked", "granted"),
    [
        (None, "fast", True),
        (frozenset({"assistant"}), "fast", True),
        (frozenset({"assi*"}), "fast", True),
        (frozenset({"fast"}), "fast", True),
        (frozenset({"fast"}), "assistant", False),
        (frozenset({"fa*"}), "fast", False),
        (frozenset({"fast"}), "quick", False),
        (frozenset[str](), "fast", False),
    ],
)
def test_an_alias_is_granted_by_the_models_name_or_letter_for_letter(models: frozenset[str] | None, asked: str, granted: bool) -> None:
    """`fast` is an alias of `assistant`: a pattern that happens to fit an alias grants nothing, so a new alias widens no old key."""
    assert grants_call(models, asked, "assistant") is granted
