"""Several keys for one provider: calls go round among the good ones.

A key that is refused as such (401) is left aside for every model, one that may not use a model (403) for that model, and one
that has used up its rate there (429) until the provider said it may come back. Keys are known by their place in the
configuration only; nothing here has seen one.
"""

import asyncio
import logging
from collections.abc import Iterator
from typing import Final

from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.ports import Tally

logger = logging.getLogger("gatehouse.providers")

REFUSED_SECONDS: Final = 300.0
"""How long a refused key is left aside before one call tries it again: somebody may have mended it at the provider."""
REST_SECONDS: Final = 1.0
"""How long a key rests after a 429 that does not say for how long."""


class KeyRing:
    """Whose turn it is among `size` keys. Time is the running loop's. `tally`, once given, counts what providers say of keys."""

    def __init__(self, label: str, size: int) -> None:
        self._label = label
        self._size = size
        self._next = 0
        self.tally: Tally | None = None
        self._refused: dict[tuple[int, str], float] = {}
        """When to try a refused key again, by key and model; model "" is all of them."""
        self._resting: dict[tuple[int, str], float] = {}
        """When a key may come back to a model."""

    def turns(self, model: str) -> Iterator[int]:
        """The keys to try for a call of `model`, each once, the one whose turn it is first.

        When all are refused, the one that has been aside longest is given alone: what it is told now is what the call is told.

        Raises:
            UpstreamFailed: every key that is not refused rests (upstream_overloaded, with the shortest wait).
        """
        now = asyncio.get_running_loop().time()
        first, self._next = self._next, (self._next + 1) % self._size
        order = [(first + step) % self._size for step in range(self._size)]
        if not self._refused and not self._resting:
            return iter(order)
        good = [key for key in order if self._aside_until(key, model) <= now]
        awake = [key for key in good if self._resting.get((key, model), 0.0) <= now]
        if awake:
            return iter(awake)
        if good:
            wait = min(self._resting[key, model] for key in good) - now
            raise UpstreamFailed(
                "The model is overloaded.",
                code="upstream_overloaded",
                retry_after=wait,
                detail=f"{self._label}: all {len(good)} usable keys rest",
                sent=False,
            )
        return iter([min(order, key=lambda key: self._aside_until(key, model))])

    def learn(self, key: int, model: str, error: UpstreamFailed, *, status: int) -> bool:
        """Take note of how `key` fared; True when another key may fare better."""
        now = asyncio.get_running_loop().time()
        if error.code == "upstream_auth":
            scope = model if status == 403 else ""
            if (key, scope) not in self._refused:
                logger.warning("%s: key %d was refused (%d) and is left aside", self._label, key + 1, status)
            self._refused[key, scope] = now + REFUSED_SECONDS
            self._count(key, "refused")
            return True
        if status == 429 and error.code == "upstream_overloaded":
            self._resting[key, model] = now + (REST_SECONDS if error.retry_after is None else error.retry_after)
            self._count(key, "limited")
            return True
        return False

    def well(self, key: int, model: str) -> None:
        """`key` was accepted."""
        if self._refused:
            self._refused.pop((key, model), None)
            self._refused.pop((key, ""), None)
        if self._resting:
            self._resting.pop((key, model), None)

    def _count(self, key: int, said: str) -> None:
        if self.tally is not None:
            self.tally.count("gatehouse_provider_keys_aside_total", (self._label, str(key + 1), said))

    def _aside_until(self, key: int, model: str) -> float:
        return max(self._refused.get((key, ""), 0.0), self._refused.get((key, model), 0.0))
