"""What Dispatch needs beside models and books when it has to cope with failures; whoever builds the stages hands it in."""

from collections.abc import Callable

import msgspec

from gatehouse.core.ports import Spawn
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.forwarding import Forwarding
from gatehouse.pipeline.ladder import Stale
from gatehouse.pipeline.target_health import TargetHealth
from gatehouse.pipeline.target_loads import TargetLoads


class Reliability(msgspec.Struct, frozen=True):
    """Without `spawn`, or without a way to hold money for a second attempt, nothing is hedged."""

    health: TargetHealth
    loads: TargetLoads
    stale: Stale | None = None
    spawn: Spawn | None = None
    hold_again: Callable[[Exchange], bool] | None = None
    forwarding: Forwarding = Forwarding()
    """What targets are told of who asks."""
