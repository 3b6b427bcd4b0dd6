"""What operators ask about calls and costs. A question is answered from a ledger that was drained after it was asked."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, get_args

from gatehouse.core.attribution import TAG_GROUP, TAG_NAME
from gatehouse.core.errors import InvalidRequest, NotFound
from gatehouse.core.ledger import Group, LedgerReader, Page, UsageQuery, UsageRow
from gatehouse.core.records import Closed

GROUPS: Final[tuple[Group, ...]] = get_args(Group)
LARGEST_PAGE: Final = 1000
MOST_GROUPS: Final = 12


class Reports:
    """Usage and requests of one tenant at a time; who may ask is decided before. `tags` are those that the policy in force keeps."""

    def __init__(
        self, ledger: LedgerReader, drain: Callable[[], Awaitable[object]], tags: Callable[[], Collection[str]] = frozenset
    ) -> None:
        self._ledger = ledger
        self._drain = drain
        self._tags = tags

    async def usage(
        self, tenant: str, group_by: Sequence[str] = (), start: float | None = None, end: float | None = None
    ) -> list[UsageRow]:
        """Requests, tokens and cost of calls that ended in [start, end), seconds since the epoch.

        `group_by` are any of GROUPS and tags ("tag:<name>"), in any order.

        `requests` counts calls; tokens and cost are those of every attempt, whatever became of it.

        Raises:
            InvalidRequest: a group that is not one, or twice the same, a tag that is not kept and that no call has, or a range that
                ends before it begins.
            Unavailable: the journals or the database cannot be read.
        """
        groups: list[str] = []
        for name in group_by:
            tag = name.removeprefix(TAG_GROUP) if name.startswith(TAG_GROUP) else None
            if name not in GROUPS and (tag is None or TAG_NAME.fullmatch(tag) is None):
                known = ", ".join(GROUPS)
                raise InvalidRequest(f"Usage cannot be grouped by this; the groups are {known} and tag:<name>.", param="group_by")
            if name in groups:
                raise InvalidRequest(f"{name} is named twice.", param="group_by")
            groups.append(name)
        if len(groups) > MOST_GROUPS:
            raise InvalidRequest(f"Usage can be grouped by {MOST_GROUPS} things at a time.", param="group_by")
        if start is not None and end is not None and end < start:
            raise InvalidRequest("The range ends before it begins.", param="to")
        await self._drain()
        rows = await self._ledger.usage(UsageQuery(tenant, tuple(groups), start, end))
        self._check_kept(groups, rows)
        return rows

    def _check_kept(self, groups: list[str], rows: list[UsageRow]) -> None:
        """A tag that was kept once may still be asked for; one that never was is a mistake, and would look like costs of nobody."""
        kept = self._tags()
        for group in groups:
            name = group.removeprefix(TAG_GROUP)
            if group.startswith(TAG_GROUP) and name not in kept and all(row.group.get(group) is None for row in rows):
                known = ", ".join(sorted(kept)) or "none"
                text = f"The tag {name!r} is not kept, and no call here has it; tags.allow in the file has: {known}."
                raise InvalidRequest(text, code="unknown_tag", param="group_by")

    async def request(self, tenant: str, request_id: str) -> list[Closed]:
        """Every attempt of a call in order, its stages with the last one.

        Raises:
            NotFound: the tenant has no call of this id that has ended.
            Unavailable: the journals or the database cannot be read.
        """
        await self._drain()
        attempts = await self._ledger.attempts(tenant, request_id)
        if not attempts:
            raise NotFound("There is no such request, or it has not ended yet.")
        return attempts

    async def requests(self, tenant: str, limit: int = 50, cursor: str | None = None) -> Page:
        """The final rows of the calls that ended last, newest first.

        Raises:
            InvalidRequest: a limit outside 1 to LARGEST_PAGE, or a cursor that is not one.
            Unavailable: the journals or the database cannot be read.
        """
        if not 1 <= limit <= LARGEST_PAGE:
            raise InvalidRequest(f"A page has 1 to {LARGEST_PAGE} requests.", param="limit")
        if cursor is None:
            # Later pages go on where the first one was; what is new meanwhile stands before it.
            await self._drain()
        return await self._ledger.requests(tenant, limit, cursor)
