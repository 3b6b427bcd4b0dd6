"""Active health: providers are asked how they are beside the calls, where the operator wants that.

A provider that does not answer takes its targets out before a caller meets them, and keeps them out without a call being spent as
a probe; one that answers again lets the probes begin. Each process asks for itself, at moments of its own.
"""

import logging
from collections.abc import Mapping

import msgspec

from gatehouse.core.plans import Target
from gatehouse.core.ports import Clock, Model, Rng, Spawn, Task
from gatehouse.pipeline.target_health import TargetHealth

logger = logging.getLogger("gatehouse.targets")

SPREAD = 0.2
"""An interval is so much more or less, by chance."""


class Check(msgspec.Struct, frozen=True):
    """Ask every `interval` seconds; after so many `failures` in a row leave `targets` alone."""

    interval: float
    failures: int
    targets: tuple[Target, ...]


class HealthChecks:
    """One task for each provider that is checked. `models` is by provider name and may change between questions."""

    def __init__(self, models: Mapping[str, Model], health: TargetHealth, clock: Clock, rng: Rng, spawn: Spawn) -> None:
        self._models = models
        self._health = health
        self._clock = clock
        self._rng = rng
        self._spawn = spawn
        self._checks: dict[str, Check] = {}
        self._tasks: dict[str, Task] = {}

    def want(self, checks: dict[str, Check]) -> None:
        """Check these providers from now on, and no others."""
        for name in [name for name, check in self._checks.items() if checks.get(name) != check]:
            self._tasks.pop(name).cancel()
        for name in [name for name in checks if name not in self._tasks]:
            self._tasks[name] = self._spawn(self._watch(name, checks[name]), name=f"health-{name}")
        self._checks = checks

    def stop(self) -> None:
        """Ask nobody any more."""
        self.want({})

    async def _watch(self, name: str, check: Check) -> None:
        bad = 0
        while True:
            await self._clock.sleep(check.interval * (1.0 - SPREAD + 2.0 * SPREAD * self._rng.random()))
            model = self._models.get(name)
            if model is None:
                continue
            try:
                problem = await model.ping()
            except Exception as error:
                problem = type(error).__name__
            bad = bad + 1 if problem else 0
            if bad == check.failures:
                logger.warning("provider %s fails its health check: %s", name, problem)
            if not problem or bad >= check.failures:
                for target in check.targets:
                    # Till after the next question, whenever that comes.
                    self._health.pinged(target, well=not problem, seconds=2.0 * check.interval)
