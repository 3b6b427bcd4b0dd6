"""What the admin API takes and gives, as types: bodies are validated against them and the OpenAPI document is made from them."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class _View(msgspec.Struct, frozen=True, kw_only=True):
    pass


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class BudgetBody(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most so many USD in each day or month (UTC), or in all."""

    usd: Annotated[str, Meta(description="decimal string", examples=["1.00"])]
    period: Literal["day", "month", "total"] = "month"


class LimitsBody(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the key may use at a time; left out means unlimited."""

    requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=1)] | None = None
    concurrency: Annotated[int, Meta(ge=1)] | None = None


class NewKey(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be made."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    team: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    roles: Annotated[list[Literal["admin", "developer", "viewer", "auditor"]], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["developer"]
    )
    models: Annotated[list[str], Meta(max_length=1000)] | None = None
    budget: BudgetBody | None = None
    limits: LimitsBody | None = None
    expires_at: Annotated[str | float, Meta(description="RFC 3339 or seconds since the epoch")] | None = None


class KeyView(_View, frozen=True, kw_only=True):
    """A key without its secret; `hint` is what may be shown of it. Times are seconds since the epoch."""

    id: str
    name: str
    hint: str
    team: str | None
    roles: list[str]
    models: list[str] | None
    budget: BudgetBody | None
    limits: LimitsBody
    expires_at: float | None
    revoked: bool
    revoked_at: float | None
    created_at: float
    created_by: str


class CreatedKey(KeyView, frozen=True, kw_only=True):
    """A new key, or one with a new secret; `key` is shown this once."""

    key: str


class RotateBody(_Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the old secret goes on working."""

    grace_seconds: Annotated[float, Meta(ge=0, le=604800)] = 0.0


class KeyPage(_View, frozen=True, kw_only=True):
    """Some keys; ask again with `cursor` for the next ones."""

    data: list[KeyView]
    cursor: str | None = None


class UsageReport(_View, frozen=True, kw_only=True):
    """Usage by the asked groups: each row has their fields, requests, input_tokens, output_tokens and cost_usd (decimal)."""

    rows: list[dict[str, str | int | None]]


class StageView(_View, frozen=True, kw_only=True):
    """When a stage's admit began, in microseconds from the start of the call, and how long it took."""

    stage: str
    start_us: int
    took_us: int


class AttemptView(_View, frozen=True, kw_only=True):
    """One attempt at a target, or the end of a call that had none."""

    attempt: int
    at: float
    model: str
    target: str
    outcome: str
    error: str
    usage: dict[str, int]
    cost_usd: str
    price: str
    cache: str
    flags: list[str]
    duration_us: int
    first_event_us: int
    final: bool
    stages: list[StageView]


class RequestView(_View, frozen=True, kw_only=True):
    """One call with everything that is remembered of it: tags, end user, W3C trace id and address as far as policy keeps them."""

    id: str
    key_id: str
    team: str | None
    operation: str
    traffic: str
    policy: str
    tags: dict[str, str]
    user: str | None
    trace_id: str | None
    peer: str | None
    attempts: list[AttemptView]


class RequestPage(_View, frozen=True, kw_only=True):
    """Calls, newest first."""

    data: list[RequestView]
    cursor: str | None = None


class AuditView(_View, frozen=True, kw_only=True):
    """One line of the audit log; `leaf` is its hash in the Merkle tree."""

    seq: int
    at: float
    kind: str
    action: str
    actor: str
    tenant: str
    subject: str
    outcome: str
    detail: dict[str, str]
    commitment: Annotated[str, Meta(description="hexadecimal")]
    leaf: Annotated[str, Meta(description="hexadecimal")]


class AuditPage(_View, frozen=True, kw_only=True):
    """Audit events, newest first."""

    data: list[AuditView]
    cursor: str | None = None


class CheckpointView(_View, frozen=True, kw_only=True):
    """The newest signed checkpoint of the audit log, as a C2SP signed note."""

    note: str


class Health(_View, frozen=True, kw_only=True):
    """`degraded` names parts that do not work as they should."""

    status: Literal["ok", "unavailable"]
    version: str
    degraded: dict[str, str] = {}


class MeterView(_View, frozen=True, kw_only=True):
    """A meter with a cap: cap >= spent + live + in_doubt, unless a charge passed its hold."""

    meter: str
    dimension: str
    cap: int | None
    spent: int
    live: int
    in_doubt: int
    over: int
    balanced: bool


class MeterReport(_View, frozen=True, kw_only=True):
    """Meters as the lease office sees them now."""

    data: list[MeterView]


class PriceView(_View, frozen=True, kw_only=True):
    """USD per million tokens as decimal strings, and the snapshot's id as it stands in ledger rows."""

    snapshot: str
    input: str
    cached_input: str
    cache_write: str
    output: str
    reasoning: str
    audio_input: str
    audio_output: str


class TargetView(_View, frozen=True, kw_only=True):
    """One place that may answer. `price` null means unknown; `context_window` and `max_output_tokens` are tokens, null when not said."""

    id: str
    provider: str
    model: str
    weight: int
    price: PriceView | None
    context_window: int | None
    max_output_tokens: int | None
    capabilities: list[str]
    region: str | None


class CacheView(_View, frozen=True, kw_only=True):
    """Who shares cached answers, and for how many seconds."""

    scope: str
    ttl: float


class ModelView(_View, frozen=True, kw_only=True):
    """A name that callers may ask for. `fallbacks` are groups of targets that are tried in order before the first byte."""

    name: str
    aliases: list[str]
    targets: list[TargetView]
    fallbacks: list[list[TargetView]]
    max_output_tokens: Annotated[int, Meta(description="of a call that names none")]
    cache: CacheView | None
    guard_input: str
    guard_output: str
    strict_audit: bool


class ModelList(_View, frozen=True, kw_only=True):
    """The models of the configuration in force, which has the version `policy`."""

    policy: str
    data: list[ModelView]


class TargetWorkerView(_View, frozen=True, kw_only=True):
    """A target as one worker sees it. `running` and `work_tokens` are counted where the model's policy looks at them."""

    worker: str
    state: Annotated[str, Meta(description="closed, open, half_open, resting or quarantined")]
    reason: Annotated[str, Meta(description="the code of the error that put it out; ping for a health check")]
    asked_again_in: Annotated[float, Meta(description="seconds")]
    running: int
    work_tokens: int
    first_event_seconds: float | None
    own: Annotated[bool, Meta(description="false: another worker found it out")]


class TargetStateView(_View, frozen=True, kw_only=True):
    """A target with the models that may ask it. `state` is the worst that a worker sees; workers with nothing to say are not listed."""

    id: str
    models: list[str]
    state: str
    reason: str
    asked_again_in: float
    workers: list[TargetWorkerView]


class TargetReport(_View, frozen=True, kw_only=True):
    """Every target of the configuration in force."""

    data: list[TargetStateView]


class ErrorBody(_View, frozen=True, kw_only=True):
    """What went wrong."""

    type: str
    code: str
    message: str
    param: str | None
    request_id: str


class ErrorView(_View, frozen=True, kw_only=True):
    """Every error looks like this."""

    error: ErrorBody
