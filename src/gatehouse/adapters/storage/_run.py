"""How stores reach a database: they hand over a plain function, somebody else owns connections, threads and transactions."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")


class Run(Protocol):
    """Runs plain functions on a connection, each in one transaction."""

    def __call__(self, work: Callable[[Connection], T], /) -> Awaitable[T]:
        """What `work` returned, after the commit; what it raised, after the rollback. Raises Unavailable when there is no database."""
        ...
