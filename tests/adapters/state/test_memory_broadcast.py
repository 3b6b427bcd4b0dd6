"""Messages inside one process: the port's contract."""

from collections import defaultdict

from gatehouse.adapters.state.memory_broadcast import MemoryBroadcast, MemoryHub
from gatehouse.core.ports import Broadcast
from gatehouse.testing.broadcast_contract import BroadcastContract


class TestMemoryBroadcast(BroadcastContract):
    """The contract."""

    def setup_method(self) -> None:
        self._hubs: defaultdict[str, MemoryHub] = defaultdict(MemoryHub)

    def build(self, installation: str) -> Broadcast:
        return MemoryBroadcast(self._hubs[installation])


async def test_alone() -> None:
    """Without a hub there is nobody, and nothing is wrong with that."""
    one, two = MemoryBroadcast(), MemoryBroadcast()
    heard: list[bytes] = []
    two.listen(heard.append)
    one.listen(heard.append)
    one.send(b"hello")
    assert (heard, one.problem) == ([], "")
