"""What operators do with API keys: create, list, revoke, rotate.

Every verb takes who acts, checks the permission, keeps to that actor's tenant, and writes its audit event in the same
transaction as its change; a refused attempt is audited too. A key's text exists once, in the answer of create or rotate.
"""

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol, get_args

import msgspec

from gatehouse.core.audit import AuditEvent, AuditSink
from gatehouse.core.errors import Forbidden, InvalidRequest, NotFound, Unavailable
from gatehouse.core.grants import delegation_excess
from gatehouse.core.identity import KeyRecord, Permission, Principal, Role
from gatehouse.core.keys import KeyChecker, KeyStore, Position, StoredKey, hint, mint, mint_secret
from gatehouse.core.limits import Budget, Limits, Period
from gatehouse.core.money import format_usd, parse_usd
from gatehouse.core.ports import Clock, Rng

LONGEST_NAME: Final = 128
MOST_MODELS: Final = 1000
LARGEST_LIMIT: Final = 2**53
LARGEST_PAGE: Final = 200
LONGEST_GRACE: Final = 7 * 86_400.0
_LAST_EXPIRY: Final = 253_402_300_799.0  # the end of the year 9999
_MOST_TRIES: Final = 5
_ID: Final = re.compile(r"[0-9A-Za-z]{1,16}")


class KeySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be made, as an operator asked for it; nothing else of a key can be chosen. None is "no bound".

    `models` holds names, or beginnings that end in `*`; an empty tuple is no model at all. `expires_at` is RFC 3339 with
    an offset, or seconds since the epoch.
    """

    name: str
    team: str | None = None
    roles: tuple[str, ...] = (Role.DEVELOPER.value,)
    models: tuple[str, ...] | None = None
    budget_usd: str | None = None
    budget_period: str = "month"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    expires_at: str | float | None = None


class Minted(msgspec.Struct, frozen=True):
    """A key and, this once, its text."""

    stored: StoredKey
    key: str

    def __repr__(self) -> str:
        return f"Minted({self.stored.hint})"


class KeyPage(msgspec.Struct, frozen=True):
    """Keys, newest first; `cursor` asks for the next ones and is None on the last page."""

    keys: tuple[StoredKey, ...]
    cursor: str | None


class Notify(Protocol):
    """Told after the transaction that a key changed, so that every copy forgets it; never raises, never awaits."""

    def __call__(self, key_id: str, *, revoked: bool) -> None:
        """`revoked`: its running calls end too."""
        ...


class KeyAdministration:
    """The verbs. One instance serves the admin port, the console and the command line."""

    def __init__(self, store: KeyStore, checker: KeyChecker, sink: AuditSink, notify: Notify, clock: Clock, rng: Rng) -> None:
        self._store = store
        self._checker = checker
        self._sink = sink
        self._notify = notify
        self._clock = clock
        self._rng = rng

    async def create(self, actor: Principal, spec: KeySpec) -> Minted:
        """Make a key in the actor's tenant.

        Raises:
            Forbidden: the actor may not write keys, or would give away more than it has.
            InvalidRequest: a field of `spec` is at fault; `param` names it.
            Unavailable: the store refuses.
        """
        await self._permit(actor, Permission.KEYS_WRITE, "key.create", "")
        now = self._clock.now()
        for _ in range(_MOST_TRIES):
            key_id, key = mint(self._rng)
            principal = _principal(key_id, actor.tenant, spec, now)
            excess = delegation_excess(actor, principal)
            if excess is not None:
                await self._sink.record((self._event(actor, "key.create", "", "refused", {"beyond": excess}),))
                raise Forbidden("A key cannot be given more than its maker has.", code="delegation_exceeded", param=excess)
            record = KeyRecord(self._checker.digest(key.encode()), principal)
            stored = StoredKey(record, hint(key), now, actor.key_id)
            if await self._store.commit(stored, (self._event(actor, "key.create", key_id, "ok", _described(principal)),)):
                self._notify(key_id, revoked=False)
                return Minted(stored, key)
        raise Unavailable("The key could not be stored. Try again.", code="conflict", retry_after=1.0)

    async def page(self, actor: Principal, cursor: str | None = None, limit: int = 50) -> KeyPage:
        """List the tenant's keys, revoked and expired ones included.

        Raises:
            Forbidden: the actor may not read keys.
            InvalidRequest: no cursor of ours, or a limit outside 1 to 200.
        """
        await self._permit(actor, Permission.KEYS_READ, "key.list", "")
        if not 1 <= limit <= LARGEST_PAGE:
            raise InvalidRequest(f"limit must be between 1 and {LARGEST_PAGE}.", code="invalid_limit", param="limit")
        keys = await self._store.page(actor.tenant, _position(cursor), limit + 1)
        more = len(keys) > limit
        return KeyPage(keys[:limit], _cursor(keys[limit - 1]) if more else None)

    async def get(self, actor: Principal, key_id: str) -> StoredKey:
        """One key of the tenant. Raises Forbidden, or NotFound."""
        await self._permit(actor, Permission.KEYS_READ, "key.read", key_id)
        return await self._get(actor, key_id)

    async def revoke(self, actor: Principal, key_id: str) -> StoredKey:
        """End a key for good; its running calls end too. Revoking twice is revoking once.

        Raises:
            Forbidden, NotFound, Unavailable.
        """
        await self._permit(actor, Permission.KEYS_WRITE, "key.revoke", key_id)

        def revoked(stored: StoredKey) -> StoredKey | None:
            if stored.record.revoked:
                return None
            record = msgspec.structs.replace(
                stored.record, revoked=True, version=stored.record.version + 1, previous=b"", previous_until=0.0
            )
            return msgspec.structs.replace(stored, record=record, revoked_at=self._clock.now())

        stored = await self._change(actor, key_id, "key.revoke", revoked, {})
        self._notify(key_id, revoked=True)
        return stored

    async def rotate(self, actor: Principal, key_id: str, grace: float = 0.0) -> Minted:
        """Give a key a new secret; its id, limits, budget and history stay. The old secret works for `grace` more seconds.

        Raises:
            Forbidden, NotFound, Unavailable.
            InvalidRequest: a grace outside 0 to 7 days, or a revoked key.
        """
        await self._permit(actor, Permission.KEYS_WRITE, "key.rotate", key_id)
        if not 0.0 <= grace <= LONGEST_GRACE:
            raise InvalidRequest(f"grace must be between 0 and {LONGEST_GRACE:.0f} seconds.", code="invalid_grace", param="grace")
        key = mint_secret((await self._get(actor, key_id)).id, self._rng)
        digest = self._checker.digest(key.encode())

        def rotated(stored: StoredKey) -> StoredKey:
            if stored.record.revoked:
                raise InvalidRequest("A revoked key cannot be rotated; make a new one.", code="key_revoked", param="id")
            record = msgspec.structs.replace(
                stored.record,
                digest=digest,
                version=stored.record.version + 1,
                previous=stored.record.digest if grace else b"",
                previous_until=self._clock.now() + grace if grace else 0.0,
            )
            return msgspec.structs.replace(stored, record=record, hint=hint(key))

        stored = await self._change(actor, key_id, "key.rotate", rotated, {"grace_seconds": f"{grace:.0f}"})
        self._notify(key_id, revoked=False)
        return Minted(stored, key)

    async def _change(
        self, actor: Principal, key_id: str, action: str, change: Callable[[StoredKey], StoredKey | None], detail: dict[str, str]
    ) -> StoredKey:
        """Read, change, write under the version that was read; again when somebody else was faster."""
        for _ in range(_MOST_TRIES):
            stored = await self._get(actor, key_id)
            changed = change(stored)
            if changed is None:
                return stored
            event = self._event(actor, action, key_id, "ok", {"name": stored.record.principal.name, **detail})
            if await self._store.commit(changed, (event,)):
                return changed
        raise Unavailable("The key is being changed by somebody else. Try again.", code="conflict", retry_after=1.0)

    async def _get(self, actor: Principal, key_id: str) -> StoredKey:
        # What cannot be an id is not asked for: not every database takes every character.
        stored = await self._store.get(actor.tenant, key_id) if _ID.fullmatch(key_id) else None
        if stored is None:
            raise NotFound("There is no key with this id.", code="key_not_found", param="id")
        return stored

    async def _permit(self, actor: Principal, permission: Permission, action: str, subject: str) -> None:
        if actor.may(permission):
            return
        await self._sink.record((self._event(actor, action, subject, "refused", {"lacks": permission.value}),))
        raise Forbidden(f"This needs the permission {permission.value}, which your role does not have.", code="permission_denied")

    def _event(self, actor: Principal, action: str, subject: str, outcome: str, detail: dict[str, str]) -> AuditEvent:
        return AuditEvent(
            at=self._clock.now(),
            kind="admin",
            action=action,
            actor=actor.key_id,
            tenant=actor.tenant,
            subject=subject,
            outcome=outcome,
            detail={"actor_name": actor.name, **detail},
        )


def system_principal(tenant: str = "default") -> Principal:
    """Who acts when no operator does: the first start, which makes the first administrator's key."""
    return Principal("system", "system", frozenset({Role.ADMIN}), tenant=tenant)


def _principal(key_id: str, tenant: str, spec: KeySpec, now: float) -> Principal:
    return Principal(
        key_id=key_id,
        name=_word(spec.name, "name"),
        roles=_roles(spec.roles),
        tenant=tenant,
        team=None if spec.team is None else _word(spec.team, "team"),
        models=_models(spec.models),
        limits=Limits(
            requests_per_minute=_count(spec.requests_per_minute, "limits.requests_per_minute"),
            tokens_per_minute=_count(spec.tokens_per_minute, "limits.tokens_per_minute"),
            concurrency=_count(spec.concurrency, "limits.concurrency"),
            budget=_budget(spec.budget_usd, spec.budget_period),
        ),
        expires_at=_expiry(spec.expires_at, now),
    )


def _described(principal: Principal) -> dict[str, str]:
    """What the audit log keeps of a new key: all that it may do."""
    limits = principal.limits
    said: dict[str, object] = {
        "name": principal.name,
        "team": principal.team,
        "roles": ",".join(sorted(principal.roles)),
        "models": None if principal.models is None else ",".join(sorted(principal.models)),
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrency": limits.concurrency,
        "budget": limits.budget and f"{format_usd(limits.budget.usd)} USD per {limits.budget.period}",
        "expires_at": principal.expires_at,
    }
    return {field: str(value) for field, value in said.items() if value is not None}


def _invalid(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {message}", code="invalid_field", param=param)


def _word(text: str, param: str) -> str:
    if not text or text != text.strip() or len(text) > LONGEST_NAME or not text.isprintable():
        raise _invalid(param, f"1 to {LONGEST_NAME} printable characters without outer spaces are expected.")
    return text


def _roles(roles: tuple[str, ...]) -> frozenset[Role]:
    try:
        known = frozenset(Role(role) for role in roles)
    except ValueError:
        known = frozenset()
    if not known:
        raise _invalid("roles", f"one or more of {', '.join(Role)} are expected.")
    return known


def _models(models: tuple[str, ...] | None) -> frozenset[str] | None:
    if models is None:
        return None
    if len(models) > MOST_MODELS:
        raise _invalid("models", f"at most {MOST_MODELS} names are expected.")
    for at, model in enumerate(models):
        if "*" in _word(model, f"models[{at}]")[:-1]:
            raise _invalid(f"models[{at}]", "`*` may stand at the end only.")
    return frozenset(models)


def _count(number: int | None, param: str) -> int | None:
    if number is not None and (isinstance(number, bool) or not 1 <= number <= LARGEST_LIMIT):
        raise _invalid(param, "a whole number of at least 1 is expected.")
    return number


def _budget(usd: str | None, period: str) -> Budget | None:
    if usd is None:
        return None
    for known in get_args(Period):
        if period == known:
            try:
                return Budget(parse_usd(usd), known)
            except ValueError as error:
                raise _invalid("budget.usd", f"{error}.") from None
    raise _invalid("budget.period", f"one of {', '.join(get_args(Period))} is expected.")


def _expiry(moment: str | float | None, now: float) -> float | None:
    if moment is None:
        return None
    if isinstance(moment, str):
        try:
            at = datetime.fromisoformat(moment)
        except ValueError:
            raise _invalid("expires_at", "RFC 3339 (2027-01-31T12:00:00Z) or seconds since the epoch are expected.") from None
        if at.tzinfo is None:
            raise _invalid("expires_at", "the time needs an offset, such as Z or +01:00.")
        moment = at.timestamp()
    if isinstance(moment, bool) or not math.isfinite(moment) or not now < moment <= _LAST_EXPIRY:
        raise _invalid("expires_at", "a moment in the future is expected.")
    return float(moment)


def _cursor(stored: StoredKey) -> str:
    return f"{stored.created_at!r}_{stored.id}"


def _position(cursor: str | None) -> Position | None:
    if cursor is None:
        return None
    at, separator, key_id = cursor.partition("_")
    try:
        created_at = float(at)
    except ValueError:
        separator = ""
        created_at = math.nan
    if not separator or not _ID.fullmatch(key_id) or not 0 <= created_at <= _LAST_EXPIRY:
        raise InvalidRequest("This cursor is not one of ours.", code="invalid_cursor", param="cursor")
    return created_at, key_id
