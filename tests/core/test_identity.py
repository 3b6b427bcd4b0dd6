"""Principals and the permission table."""

import pytest

from gatehouse.core.identity import GRANTS, KeyRecord, Permission, Principal, Role

TABLE = {
    Role.ADMIN: {"keys:read", "keys:write", "usage:read", "requests:read", "audit:read", "config:read"},
    Role.DEVELOPER: {"models:call"},
    Role.VIEWER: {"keys:read", "usage:read", "requests:read", "config:read"},
    Role.AUDITOR: {"keys:read", "usage:read", "requests:read", "config:read", "audit:read"},
}


def test_the_permission_table() -> None:
    """What each role may, written out a second time on purpose: a change must be made twice."""
    assert {role: {str(p) for p in granted} for role, granted in GRANTS.items()} == TABLE


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("permission", list(Permission))
def test_may_follows_the_table(role: Role, permission: Permission) -> None:
    """A principal may exactly what one of its roles may."""
    principal = Principal("k", "n", frozenset({role}))
    assert principal.may(permission) == (permission in TABLE[role])


def test_an_empty_identity_cannot_be_built() -> None:
    """CVE-2026-59822: a failed key fell through to an empty identity. Here there is none to fall to."""
    with pytest.raises(ValueError, match="needs an id"):
        Principal("", "n", frozenset({Role.DEVELOPER}))
    with pytest.raises(ValueError, match="at least one role"):
        Principal("k", "n", frozenset())


def test_a_key_record_does_not_show_its_digest() -> None:
    """Digests stay out of logs."""
    record = KeyRecord(b"\x01\x02secret", Principal("abc", "n", frozenset({Role.VIEWER})))
    assert "secret" not in repr(record)
    assert "abc" in repr(record)
