"""The verbs on the audit log: who may, what is refused, and that looking is itself written down."""

from collections.abc import Sequence

import pytest

from gatehouse.control.audit import AuditAdministration
from gatehouse.core.audit import AuditEvent, AuditRow, Problem, VerifyReport, columns_of
from gatehouse.core.errors import Forbidden, InvalidRequest
from gatehouse.core.identity import Principal, Role
from gatehouse.testing.fakes import FakeClock
from gatehouse.testing.key_store import FakeAuditSink

ADMIN = Principal("adminkey", "Ada", frozenset({Role.ADMIN}))


class FakeLog(FakeAuditSink):
    """A log whose events are a list."""

    def __init__(self) -> None:
        super().__init__()
        self.report = VerifyReport(3, "ab" * 32, 2, 1, ())

    async def page(self, tenant: str, before: int | None, limit: int) -> tuple[AuditRow, ...]:
        rows = [AuditRow(*columns_of(seq, event), b"l" * 32) for seq, event in enumerate(self.events)]
        return tuple(row for row in reversed(rows) if row.tenant == tenant and (before is None or row.seq < before))[:limit]

    async def checkpoint(self, at: float) -> str:
        return f"note over {len(self.events)} at {at:.0f}"

    async def verify(self, extends: str | None = None) -> VerifyReport:
        if extends == "nonsense":
            raise ValueError("not a signed note")
        return self.report


def house(events: Sequence[AuditEvent] = ()) -> tuple[FakeLog, AuditAdministration]:
    log = FakeLog()
    log.events.extend(events)
    return log, AuditAdministration(log, FakeClock())


def some(count: int) -> list[AuditEvent]:
    return [AuditEvent(float(number), "call", "chat", "k", "default", f"req_{number}", "completed") for number in range(count)]


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.VIEWER])
@pytest.mark.parametrize("verb", ["page", "verify", "checkpoint"])
async def test_only_administrators_touch_the_log(role: Role, verb: str) -> None:
    """Everybody else is refused, and the attempt stands in the log."""
    log, audit = house(some(2))
    actor = Principal("someone1", "Sue", frozenset({role}))
    with pytest.raises(Forbidden, match="audit:read"):
        await getattr(audit, verb)(actor)
    assert (log.events[-1].actor, log.events[-1].outcome) == ("someone1", "refused")


async def test_pages_walk_to_the_beginning_and_end() -> None:
    """Newest first; that each page is an event of its own never makes the walk longer."""
    log, audit = house(some(7))
    seen: list[int] = []
    cursor: str | None = None
    for _ in range(10):
        page = await audit.page(ADMIN, cursor, 3)
        seen.extend(row.seq for row in page.rows)
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == [6, 5, 4, 3, 2, 1, 0]
    assert [event.action for event in log.events[7:]] == ["audit.read"] * 3


async def test_a_tenants_administrator_reads_its_own_events_only() -> None:
    """Other tenants' events are not in any page."""
    _, audit = house(some(3))
    stranger = Principal("stranger", "Sam", frozenset({Role.ADMIN}), tenant="acme")
    assert (await audit.page(stranger)).rows == ()


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.0", "٣", "9" * 19])
async def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    """It never reaches the store."""
    _, audit = house()
    with pytest.raises(InvalidRequest, match="cursor"):
        await audit.page(ADMIN, cursor)


@pytest.mark.parametrize("limit", [0, 1001])
async def test_a_page_has_bounds(limit: int) -> None:
    """One to a thousand events."""
    _, audit = house()
    with pytest.raises(InvalidRequest, match="limit"):
        await audit.page(ADMIN, None, limit)


async def test_verification_and_its_verdict_are_written_down() -> None:
    """A good one as ok, a bad one as failed with the first bad event; nonsense is the caller's mistake."""
    log, audit = house()
    assert (await audit.verify(ADMIN)).ok
    assert (log.events[-1].action, log.events[-1].outcome) == ("audit.verify", "ok")
    log.report = VerifyReport(3, "ab" * 32, 0, 0, (Problem("edited", 2, "event 2 ..."),))
    assert not (await audit.verify(ADMIN, "note")).ok
    assert (log.events[-1].outcome, log.events[-1].detail["first_bad"]) == ("failed", "2")
    with pytest.raises(InvalidRequest, match="not a signed note"):
        await audit.verify(ADMIN, "nonsense")


async def test_a_checkpoint_covers_the_event_of_its_own_taking() -> None:
    """Written down first, signed then."""
    log, audit = house(some(2))
    assert (await audit.checkpoint(ADMIN)).startswith("note over 3 at ")
    assert log.events[-1].action == "audit.checkpoint"
