"""Reports: what is asked is checked, and the answer is drained first."""

import pytest

from gatehouse.control.reports import LARGEST_PAGE, Reports
from gatehouse.core.errors import InvalidRequest, NotFound, Unavailable
from gatehouse.core.ledger import Page, UsageQuery, UsageRow
from gatehouse.core.records import Closed
from gatehouse.testing.storage_contract import closed_record


class Ledger:
    """One call of the tenant red. What is asked is written down, with the drain."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.rows = [UsageRow({"key": "k"}, 1, 2, 3, 15_000)]

    async def drain(self) -> int:
        self.asked.append("drain")
        return 0

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        self.asked.append(query)
        return self.rows

    async def attempts(self, tenant: str, request_id: str) -> list[Closed]:
        self.asked.append((tenant, request_id))
        return [closed_record()] if (tenant, request_id) == ("red", "req_1") else []

    async def requests(self, tenant: str, limit: int, cursor: str | None) -> Page:
        self.asked.append((tenant, limit, cursor))
        return Page((closed_record(),), "next")


@pytest.fixture
def ledger() -> Ledger:
    """Nothing asked yet."""
    return Ledger()


@pytest.fixture
def reports(ledger: Ledger) -> Reports:
    """On the ledger."""
    return Reports(ledger, ledger.drain)


async def test_usage_is_drained_first_and_exact(reports: Reports, ledger: Ledger) -> None:
    """Groups and range reach the ledger as they were asked for; money is a decimal string."""
    (row,) = await reports.usage("red", ["key", "day"], 1.0, 2.0)
    assert ledger.asked == ["drain", UsageQuery("red", ("key", "day"), 1.0, 2.0)]
    assert row.cost_usd == "0.0000015"


@pytest.mark.parametrize(
    ("groups", "start", "end", "param"),
    [(["colour"], None, None, "group_by"), (["key", "key"], None, None, "group_by"), ([], 2.0, 1.0, "to")],
)
async def test_a_question_that_makes_no_sense_is_refused(
    reports: Reports, ledger: Ledger, groups: list[str], start: float | None, end: float | None, param: str
) -> None:
    """With the field at fault, before anything is drained; what was sent is not echoed."""
    with pytest.raises(InvalidRequest) as refused:
        await reports.usage("red", groups, start, end)
    assert refused.value.param == param
    assert "colour" not in refused.value.message
    assert ledger.asked == []


async def test_a_tag_that_is_not_kept_is_refused_unless_calls_have_it(ledger: Ledger) -> None:
    """Else all costs would look like nobody's. What was kept under an earlier policy can still be asked for."""
    reports = Reports(ledger, ledger.drain, lambda: ["project", "stage"])
    with pytest.raises(InvalidRequest, match=r"'nope' is not kept.*: project, stage") as refused:
        await reports.usage("red", ["tag:project", "tag:nope"])
    assert (refused.value.code, refused.value.param) == ("unknown_tag", "group_by")
    assert await reports.usage("red", ["tag:project"])
    ledger.rows = [UsageRow({"tag:nope": None}, 1, 2, 3, 4), UsageRow({"tag:nope": "x"}, 1, 2, 3, 4)]
    assert await reports.usage("red", ["tag:nope"]) == ledger.rows
    with pytest.raises(InvalidRequest, match=": none"):
        await Reports(ledger, ledger.drain).usage("red", ["tag:other"])


async def test_a_request_has_its_attempts_or_is_not_found(reports: Reports, ledger: Ledger) -> None:
    """Another tenant's request is not found either."""
    assert await reports.request("red", "req_1") == [closed_record()]
    assert ledger.asked[0] == "drain"
    for tenant, request_id in (("red", "req_2"), ("green", "req_1")):
        with pytest.raises(NotFound):
            await reports.request(tenant, request_id)


async def test_lists_page(reports: Reports, ledger: Ledger) -> None:
    """The first page is drained for, later ones go on where it was; sizes are bounded."""
    page = await reports.requests("red", 10)
    await reports.requests("red", 10, page.next_cursor)
    assert ledger.asked == ["drain", ("red", 10, None), ("red", 10, "next")]
    for limit in (0, -1, LARGEST_PAGE + 1):
        with pytest.raises(InvalidRequest):
            await reports.requests("red", limit)


async def test_a_drain_that_fails_is_told(ledger: Ledger) -> None:
    """An answer that may lack calls is worse than none."""

    async def broken() -> None:
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        await Reports(ledger, broken).usage("red")
    assert ledger.asked == []
