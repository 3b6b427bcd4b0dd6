"""Messages between the stewards of one process: what `state: memory://` has. A server alone has nobody to tell."""

import asyncio
from collections.abc import Callable

from gatehouse.core.ports import LARGEST_BROADCAST


class MemoryHub:
    """Where those meet who hear each other."""

    def __init__(self) -> None:
        self.members: list[MemoryBroadcast] = []


class MemoryBroadcast:
    """Implements `Broadcast`; without a hub it is alone."""

    problem = ""

    def __init__(self, hub: MemoryHub | None = None) -> None:
        self._hub = hub or MemoryHub()
        self._hear: Callable[[bytes], None] | None = None

    def listen(self, hear: Callable[[bytes], None]) -> None:
        """See `Broadcast`."""
        self._hear = hear
        self._hub.members.append(self)

    def send(self, message: bytes) -> None:
        """See `Broadcast`. Heard in a later turn of the loop, as from anywhere else."""
        if self not in self._hub.members or not 0 < len(message) <= LARGEST_BROADCAST:
            return
        for other in self._hub.members:
            if other is not self:
                asyncio.get_running_loop().call_soon(other._take, message)

    async def close(self) -> None:
        """See `Broadcast`."""
        self._hear = None
        if self in self._hub.members:
            self._hub.members.remove(self)

    def _take(self, message: bytes) -> None:
        if self._hear is not None:
            self._hear(message)
