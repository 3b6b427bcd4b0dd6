"""Who calls, and what each role may do: the one permission table of data plane, admin, console and command line."""

import enum
from typing import Final

import msgspec

from gatehouse.core.limits import Limits


class Role(enum.StrEnum):
    """viewer reads, auditor reads the audit log too, developer calls models, admin administers (and calls models only when it is a
    developer too)."""

    ADMIN = "admin"
    DEVELOPER = "developer"
    VIEWER = "viewer"
    AUDITOR = "auditor"


class Permission(enum.StrEnum):
    """What a route or command asks for."""

    CALL_MODELS = "models:call"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    USAGE_READ = "usage:read"
    REQUESTS_READ = "requests:read"
    AUDIT_READ = "audit:read"
    CONFIG_READ = "config:read"


_READS: Final = frozenset({Permission.KEYS_READ, Permission.USAGE_READ, Permission.REQUESTS_READ, Permission.CONFIG_READ})

GRANTS: Final[dict[Role, frozenset[Permission]]] = {
    Role.ADMIN: frozenset(Permission) - {Permission.CALL_MODELS},
    Role.DEVELOPER: frozenset({Permission.CALL_MODELS}),
    # How much was used, and how things stand. Who did what, and who was refused what, is for those who answer for it.
    Role.VIEWER: _READS,
    Role.AUDITOR: _READS | {Permission.AUDIT_READ},
}


class Principal(msgspec.Struct, frozen=True):
    """An authenticated caller. There is no anonymous one: an empty identity cannot be built.

    `models` None means every model; otherwise the names it may ask for. `expires_at` is seconds since the epoch.
    """

    key_id: str
    name: str
    roles: frozenset[Role]
    tenant: str = "default"
    team: str | None = None
    models: frozenset[str] | None = None
    limits: Limits = Limits()
    expires_at: float | None = None

    def __post_init__(self) -> None:
        if not self.key_id or not self.roles:
            raise ValueError("a principal needs an id and at least one role")

    def may(self, permission: Permission) -> bool:
        """Whether one of the roles grants `permission`."""
        for role in self.roles:  # noqa: SIM110 - every call asks, and any() with a generator costs four times as much
            if permission in GRANTS[role]:
                return True
        return False


class KeyRecord(msgspec.Struct, frozen=True):
    """What is stored of a key: never the key, only the HMAC-SHA256 of it under the pepper. `version` rises with each change.

    A rotated key keeps its id, and so its limits, budget and history; `previous` is the digest of the secret before, good
    until `previous_until` (seconds since the epoch).
    """

    digest: bytes
    principal: Principal
    revoked: bool = False
    version: int = 1
    previous: bytes = b""
    previous_until: float = 0.0

    def __repr__(self) -> str:
        return f"KeyRecord(id={self.principal.key_id!r}, revoked={self.revoked})"
