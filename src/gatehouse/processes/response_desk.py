"""The steward's desk for kept responses: what workers ask about them, and what it answers."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from gatehouse.core.errors import GatehouseError
from gatehouse.core.responses import Ended, Owner, ResponseStore
from gatehouse.processes.protocol import CancelResponse, FindResponse, KeepResponse, Link, RemoveResponse, ResponseSaid

logger = logging.getLogger("gatehouse.steward")

CANCEL_SECONDS: Final = 2.0
"""How long workers have to say whether a call runs with them."""

Question = KeepResponse | FindResponse | RemoveResponse | CancelResponse


class ResponseDesk:
    """Answers workers. `cancel` ends a call in whichever worker it runs."""

    def __init__(self, store: ResponseStore, cancel: Callable[[Owner, str], Awaitable[Ended | None]]) -> None:
        self._store = store
        self._cancel = cancel

    async def answer(self, link: Link, question: Question) -> None:
        """Send the answer. What cannot be done is told as a problem, never as an absence."""
        try:
            link.send(await self._said(question))
        except Exception as error:
            detail = error.detail if isinstance(error, GatehouseError) else ""
            logger.error("a response could not be looked after: %s", detail or type(error).__name__)
            link.send(ResponseSaid(question.number, problem=type(error).__name__))

    async def _said(self, question: Question) -> ResponseSaid:
        match question:
            case KeepResponse(number=number, kept=kept):
                await self._store.keep(kept)
                return ResponseSaid(number, done=True)
            case FindResponse(number=number, owner=owner, response_id=name):
                return ResponseSaid(number, await self._store.find(owner, name))
            case RemoveResponse(number=number, owner=owner, response_id=name):
                return ResponseSaid(number, done=await self._store.remove(owner, name))
            case CancelResponse(number=number, owner=owner, response_id=name):
                return ResponseSaid(number, ended=await self._cancel(owner, name))
