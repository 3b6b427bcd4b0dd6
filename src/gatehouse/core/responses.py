"""Responses that are kept so that they can be read again and continued: whose they are, what is kept of them, and the ports.

Contents are opaque to whoever keeps them and encrypted at rest. A response belongs to the key (or the team) that asked for it;
for everybody else it is not there, which is also all that they are told.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from gatehouse.core.calls import Message
from gatehouse.core.identity import Principal

Scope = Literal["key", "team"]


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """Whose a response is: all keys of a tenant that share a scope."""

    tenant: str
    scope: str


def owner_of(principal: Principal, scope: Scope) -> Owner:
    """The owner that `principal` is. A key without a team shares with nobody under the scope team."""
    if scope == "team" and principal.team is not None:
        return Owner(principal.tenant, f"team:{principal.team}")
    return Owner(principal.tenant, f"key:{principal.key_id}")


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """One response as it is handed to its store. Times are seconds since the epoch; `content` is a `Said`, encoded."""

    id: str
    owner: Owner
    created_at: float
    expires_at: float
    content: bytes

    def __repr__(self) -> str:
        return f"Kept({self.id!r})"


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """A response whose running call was ended: what model was asked, and when it began (seconds since the epoch)."""

    model: str
    created_at: int


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What a response holds: the whole conversation up to it, its own answer last, and the object its caller got."""

    messages: tuple[Message, ...]
    begins: int
    """The first message of the response's own turn."""
    response: bytes

    @property
    def inputs(self) -> tuple[Message, ...]:
        """What was said to the model in this turn."""
        return self.messages[self.begins : -1]


class ResponseStore(Protocol):
    """Where responses are kept. What has expired is not there any more. Each method raises Unavailable when nobody can tell."""

    async def keep(self, kept: Kept) -> None:
        """It is found from now on, by every process and after a crash. An id that is kept already stays as it is."""

    async def find(self, owner: Owner, response_id: str) -> Kept | None:
        """The response of that id, if it is `owner`'s."""

    async def remove(self, owner: Owner, response_id: str) -> bool:
        """Delete it; False when there was nothing of `owner`'s."""


class Sealing(Protocol):
    """Encryption at rest under a key of this installation."""

    def seal(self, content: bytes, about: Sequence[str]) -> bytes:
        """`content`, so that only `unseal` with the same words `about` it opens it."""

    def unseal(self, sealed: bytes, about: Sequence[str]) -> bytes:
        """What was sealed. Raises ValueError when it, or what it is about, is not what was sealed."""
