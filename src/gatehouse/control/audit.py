"""What operators do with the audit log: read it, have it verified, take a signed checkpoint away. Each of these is audited."""

from typing import Final

import msgspec

from gatehouse.core.audit import AuditEvent, AuditLog, AuditRow, VerifyReport
from gatehouse.core.errors import Forbidden, InvalidRequest
from gatehouse.core.identity import Permission, Principal
from gatehouse.core.ports import Clock

LARGEST_PAGE: Final = 1000


class AuditPage(msgspec.Struct, frozen=True):
    """Events, newest first; `cursor` asks for the older ones and is None when there are none."""

    rows: tuple[AuditRow, ...]
    cursor: str | None


class AuditAdministration:
    """The verbs. Verification and checkpoints concern the log of the whole installation, pages only the actor's tenant."""

    def __init__(self, log: AuditLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def page(self, actor: Principal, cursor: str | None = None, limit: int = 100) -> AuditPage:
        """Read events. That they were read becomes an event itself; newest first, a reader never runs after its own tail.

        Raises:
            Forbidden: the actor may not read the log.
            InvalidRequest: no cursor of ours, or a limit outside 1 to 1000.
        """
        await self._permit(actor, "audit.read")
        if not 1 <= limit <= LARGEST_PAGE:
            raise InvalidRequest(f"limit must be between 1 and {LARGEST_PAGE}.", code="invalid_limit", param="limit")
        rows = await self._log.page(actor.tenant, _before(cursor), limit + 1)
        await self._tell(actor, "audit.read", "ok", {"cursor": cursor or "", "limit": str(limit)})
        return AuditPage(rows[:limit], str(rows[limit - 1].seq) if len(rows) > limit else None)

    async def verify(self, actor: Principal, extends: str | None = None) -> VerifyReport:
        """Check the whole log, and that it leads to the signed checkpoint `extends`.

        Raises:
            Forbidden: the actor may not read the log.
            InvalidRequest: `extends` is not a checkpoint signed by this installation.
        """
        await self._permit(actor, "audit.verify")
        try:
            report = await self._log.verify(extends)
        except ValueError as error:
            raise InvalidRequest(f"This checkpoint cannot be used: {error}.", code="invalid_checkpoint", param="checkpoint") from None
        detail = {"size": str(report.size), "root": report.root, "signed": str(report.signed)}
        if report.first_bad is not None:
            detail["first_bad"] = str(report.first_bad)
        await self._tell(actor, "audit.verify", "ok" if report.ok else "failed", detail)
        return report

    async def checkpoint(self, actor: Principal) -> str:
        """A signed note over the log as it stands, to be kept where nobody of us can change it.

        Raises:
            Forbidden: the actor may not read the log.
        """
        await self._permit(actor, "audit.checkpoint")
        await self._tell(actor, "audit.checkpoint", "ok", {})
        return await self._log.checkpoint(self._clock.now())

    async def _permit(self, actor: Principal, action: str) -> None:
        if not actor.may(Permission.AUDIT_READ):
            await self._tell(actor, action, "refused", {"lacks": Permission.AUDIT_READ.value})
            raise Forbidden(
                f"This needs the permission {Permission.AUDIT_READ.value}, which your role does not have.", code="permission_denied"
            )

    async def _tell(self, actor: Principal, action: str, outcome: str, detail: dict[str, str]) -> None:
        event = AuditEvent(
            at=self._clock.now(),
            kind="admin",
            action=action,
            actor=actor.key_id,
            tenant=actor.tenant,
            subject="audit",
            outcome=outcome,
            detail={"actor_name": actor.name, **detail},
        )
        await self._log.record((event,))


def _before(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise InvalidRequest("This cursor is not one of ours.", code="invalid_cursor", param="cursor")
    return int(cursor)
