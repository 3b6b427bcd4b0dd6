"""The table of the admin API: what there is, who may use it, and how core's values are shown."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from gatehouse.control.audit import AuditAdministration
from gatehouse.control.keys import KeyAdministration, KeySpec, Minted
from gatehouse.control.reports import Reports
from gatehouse.core.attribution import Attribution
from gatehouse.core.audit import AuditRow
from gatehouse.core.errors import InvalidRequest
from gatehouse.core.identity import Permission, Principal
from gatehouse.core.keys import StoredKey
from gatehouse.core.leases import MeterState
from gatehouse.core.money import format_usd
from gatehouse.core.plans import Plan
from gatehouse.core.records import Closed
from gatehouse.core.targets import TargetState
from gatehouse.wire.admin.app import PUBLIC, Asked, Endpoint, Plain
from gatehouse.wire.admin.models import model_view
from gatehouse.wire.admin.targets import target_report
from gatehouse.wire.admin.views import (
    AttemptView,
    AuditPage,
    AuditView,
    BudgetBody,
    CheckpointView,
    CreatedKey,
    Health,
    KeyPage,
    KeyView,
    LimitsBody,
    MeterReport,
    MeterView,
    ModelList,
    NewKey,
    RequestPage,
    RequestView,
    RotateBody,
    StageView,
    TargetReport,
    UsageReport,
)


class Services(msgspec.Struct, frozen=True):
    """What the endpoints stand on."""

    keys: KeyAdministration
    reports: Reports
    audit: AuditAdministration
    statement: Callable[[], tuple[MeterState, ...]]
    plans: Callable[[], tuple[str, tuple[Plan, ...]]]
    """The version of the configuration in force, and its plans."""
    targets: Callable[[], Awaitable[Mapping[str, tuple[TargetState, ...]]]]
    """What each worker says of its targets now."""
    metrics: Callable[[], Awaitable[bytes]]
    readiness: Callable[[], tuple[bool, dict[str, str]]]
    version: str


def endpoints(services: Services) -> tuple[Endpoint, ...]:
    """Every endpoint; the OpenAPI document and the reference are made from this."""
    return (*_health(services), *_keys(services), *_models(services), *_reports(services), *_audit(services))


def _health(services: Services) -> tuple[Endpoint, ...]:
    async def live(_asked: Asked) -> Health:
        return Health(status="ok", version=services.version)

    async def ready(_asked: Asked) -> Plain:
        serving, degraded = services.readiness()
        body = Health(status="ok" if serving else "unavailable", version=services.version, degraded=degraded)
        return Plain(msgspec.json.encode(body), "application/json", 200 if serving else 503)

    async def metrics(_asked: Asked) -> Plain:
        return Plain(await services.metrics(), "text/plain; version=0.0.4; charset=utf-8")

    return (
        Endpoint(method="GET", path="/livez", permission=PUBLIC, summary="Whether this process runs.", handler=live, reply=Health),
        Endpoint(method="GET", path="/readyz", permission=PUBLIC, summary="Whether calls can be served.", handler=ready, reply=Health),
        Endpoint(method="GET", path="/metrics", permission=PUBLIC, summary="Metrics of all processes for Prometheus.", handler=metrics),
    )


def _keys(services: Services) -> tuple[Endpoint, ...]:
    async def create(asked: Asked) -> CreatedKey:
        return _created(await services.keys.create(_actor(asked), _spec(asked.body)))

    async def page(asked: Asked) -> KeyPage:
        found = await services.keys.page(_actor(asked), asked.query.get("cursor"), _limit(asked, 50))
        return KeyPage(data=[KeyView(**_key(stored)) for stored in found.keys], cursor=found.cursor)

    async def get(asked: Asked) -> KeyView:
        return KeyView(**_key(await services.keys.get(_actor(asked), asked.path["id"])))

    async def revoke(asked: Asked) -> KeyView:
        return KeyView(**_key(await services.keys.revoke(_actor(asked), asked.path["id"])))

    async def rotate(asked: Asked) -> CreatedKey:
        return _created(await services.keys.rotate(_actor(asked), asked.path["id"], asked.body.grace_seconds))

    path, one = "/admin/v1/keys", "/admin/v1/keys/{id}"
    read, write = Permission.KEYS_READ, Permission.KEYS_WRITE
    return (
        Endpoint(
            method="POST", path=path, permission=write, summary="Make a key.", handler=create, body=NewKey, reply=CreatedKey, status=201
        ),
        Endpoint(method="GET", path=path, permission=read, summary="List keys, newest first.", handler=page, reply=KeyPage, query=_PAGE),
        Endpoint(method="GET", path=one, permission=read, summary="One key.", handler=get, reply=KeyView),
        Endpoint(
            method="DELETE", path=one, permission=write, summary="Revoke a key; its running calls end.", handler=revoke, reply=KeyView
        ),
        Endpoint(
            method="POST",
            path=one + "/rotate",
            permission=write,
            summary="Give a key a new secret.",
            handler=rotate,
            body=RotateBody,
            reply=CreatedKey,
        ),
    )


def _models(services: Services) -> tuple[Endpoint, ...]:
    async def models(_asked: Asked) -> ModelList:
        version, plans = services.plans()
        return ModelList(policy=version, data=[model_view(plan) for plan in plans])

    async def targets(_asked: Asked) -> TargetReport:
        told = await services.targets()
        return target_report(services.plans()[1], told)

    return (
        Endpoint(
            method="GET",
            path="/admin/v1/targets",
            permission=Permission.CONFIG_READ,
            summary="Targets as the workers see them: left alone or not, why, and until when.",
            handler=targets,
            reply=TargetReport,
        ),
        Endpoint(
            method="GET",
            path="/admin/v1/models",
            permission=Permission.CONFIG_READ,
            summary="What callers may ask for: targets, prices, context and capabilities, as they are in force.",
            handler=models,
            reply=ModelList,
        ),
    )


def _reports(services: Services) -> tuple[Endpoint, ...]:
    async def usage(asked: Asked) -> UsageReport:
        groups = tuple(name for name in asked.query.get("group_by", "").split(",") if name)
        rows = await services.reports.usage(_actor(asked).tenant, groups, _moment(asked, "from"), _moment(asked, "to"))
        return UsageReport(
            rows=[
                {
                    **row.group,
                    "requests": row.requests,
                    "input_tokens": row.input_tokens,
                    "output_tokens": row.output_tokens,
                    "cost_usd": row.cost_usd,
                }
                for row in rows
            ]
        )

    async def page(asked: Asked) -> RequestPage:
        found = await services.reports.requests(_actor(asked).tenant, _limit(asked, 50), asked.query.get("cursor"))
        return RequestPage(data=[_request([row]) for row in found.rows], cursor=found.next_cursor)

    async def one(asked: Asked) -> RequestView:
        return _request(await services.reports.request(_actor(asked).tenant, asked.path["id"]))

    async def meters(_asked: Asked) -> MeterReport:
        return MeterReport(data=[_meter(state) for state in services.statement()])

    return (
        Endpoint(
            method="GET",
            path="/admin/v1/usage",
            permission=Permission.USAGE_READ,
            summary="What was used and what it cost.",
            handler=usage,
            reply=UsageReport,
            query={
                "group_by": "any of key, model, team, target, day, outcome, user and tag:<name>, joined by commas",
                "from": "from this time on: a date, RFC 3339, or seconds since the epoch",
                "to": "before this time",
            },
        ),
        Endpoint(
            method="GET",
            path="/admin/v1/requests",
            permission=Permission.REQUESTS_READ,
            summary="Calls that ended, newest first.",
            handler=page,
            reply=RequestPage,
            query=_PAGE,
        ),
        Endpoint(
            method="GET",
            path="/admin/v1/requests/{id}",
            permission=Permission.REQUESTS_READ,
            summary="One call with its attempts and stages.",
            handler=one,
            reply=RequestView,
        ),
        Endpoint(
            method="GET",
            path="/admin/v1/meters",
            permission=Permission.USAGE_READ,
            summary="Meters as the lease office sees them: cap, spent, live, in doubt.",
            handler=meters,
            reply=MeterReport,
        ),
    )


def _audit(services: Services) -> tuple[Endpoint, ...]:
    async def page(asked: Asked) -> AuditPage:
        found = await services.audit.page(_actor(asked), asked.query.get("cursor"), _limit(asked, 100))
        return AuditPage(data=[_audit_row(row) for row in found.rows], cursor=found.cursor)

    async def checkpoint(asked: Asked) -> CheckpointView:
        return CheckpointView(note=await services.audit.checkpoint(_actor(asked)))

    return (
        Endpoint(
            method="GET",
            path="/admin/v1/audit",
            permission=Permission.AUDIT_READ,
            summary="Audit events, newest first.",
            handler=page,
            reply=AuditPage,
            query=_PAGE,
        ),
        Endpoint(
            method="GET",
            path="/admin/v1/audit/checkpoint",
            permission=Permission.AUDIT_READ,
            summary="Sign the audit log as it stands.",
            handler=checkpoint,
            reply=CheckpointView,
        ),
    )


_PAGE = {"limit": "how many at most", "cursor": "where the last page ended"}


def _actor(asked: Asked) -> Principal:
    assert asked.principal is not None
    return asked.principal


def _limit(asked: Asked, otherwise: int) -> int:
    text = asked.query.get("limit")
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise InvalidRequest("limit must be a whole number.", code="invalid_limit", param="limit")
    return int(text)


def _moment(asked: Asked, name: str) -> float | None:
    """A date (midnight UTC), an RFC 3339 time with offset, or seconds since the epoch."""
    text = asked.query.get(name)
    if text is None:
        return None
    try:
        if len(text) > 40:
            raise ValueError
        if text.replace(".", "", 1).isdigit():
            return float(text)
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"{name} must be a date, an RFC 3339 time, or seconds since the epoch.", code="invalid_time", param=name
        ) from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _spec(body: NewKey) -> KeySpec:
    limits = body.limits or LimitsBody()
    return KeySpec(
        name=body.name,
        team=body.team,
        roles=tuple(body.roles),
        models=None if body.models is None else tuple(body.models),
        budget_usd=body.budget.usd if body.budget else None,
        budget_period=body.budget.period if body.budget else "month",
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrency=limits.concurrency,
        expires_at=body.expires_at,
    )


def _created(minted: Minted) -> CreatedKey:
    return CreatedKey(**_key(minted.stored), key=minted.key)


def _key(stored: StoredKey) -> dict[str, Any]:
    principal = stored.record.principal
    limits = principal.limits
    return {
        "id": stored.id,
        "name": principal.name,
        "hint": stored.hint,
        "team": principal.team,
        "roles": sorted(principal.roles),
        "models": None if principal.models is None else sorted(principal.models),
        "budget": None if limits.budget is None else BudgetBody(usd=format_usd(limits.budget.usd), period=limits.budget.period),
        "limits": LimitsBody(
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            concurrency=limits.concurrency,
        ),
        "expires_at": principal.expires_at,
        "revoked": stored.record.revoked,
        "revoked_at": stored.revoked_at,
        "created_at": stored.created_at,
        "created_by": stored.created_by,
    }


def _request(rows: list[Closed]) -> RequestView:
    last = rows[-1]
    attribution = last.attribution or Attribution()
    return RequestView(
        id=last.request_id,
        key_id=last.key_id,
        team=last.team,
        operation=last.operation,
        traffic=last.traffic,
        policy=last.policy,
        tags=dict(attribution.tags),
        user=attribution.end_user or None,
        trace_id=attribution.trace or None,
        peer=attribution.peer or None,
        attempts=[_attempt(row) for row in rows],
    )


def _attempt(row: Closed) -> AttemptView:
    return AttemptView(
        attempt=row.attempt,
        at=row.at,
        model=row.model,
        target=row.target,
        outcome=row.outcome,
        error=row.error,
        usage={bucket: getattr(row.usage, bucket) for bucket in row.usage.__struct_fields__},
        cost_usd=format_usd(row.charge),
        price=row.price,
        cache=row.cache,
        flags=list(row.flags),
        duration_us=row.duration_us,
        first_event_us=row.first_event_us,
        final=row.final,
        stages=[StageView(stage=stage.stage, start_us=stage.start, took_us=stage.took) for stage in row.stages],
    )


def _meter(state: MeterState) -> MeterView:
    fields: dict[str, Any] = {field: getattr(state, field) for field in ("meter", "cap", "spent", "live", "in_doubt", "over", "balanced")}
    return MeterView(dimension=state.dimension.value, **fields)


def _audit_row(row: AuditRow) -> AuditView:
    return AuditView(
        seq=row.seq,
        at=row.at / 1_000_000,
        kind=row.kind,
        action=row.action,
        actor=row.actor,
        tenant=row.tenant,
        subject=row.subject,
        outcome=row.outcome,
        detail=msgspec.json.decode(row.detail, type=dict[str, str]),
        commitment=row.commitment.hex(),
        leaf=row.leaf.hex(),
    )
