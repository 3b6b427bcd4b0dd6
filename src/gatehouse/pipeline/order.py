"""The product on one screen: what happens to one call, in this order.

admit downwards, watch the stream, settle back up. Identify sees head and peer only, so nobody unauthenticated makes us
parse; limits are held before guards spend work; a cached answer is guarded again because Guard stands before Cache.
"""

from gatehouse.pipeline.runner import Stage
from gatehouse.pipeline.stages.authorise import Authorise
from gatehouse.pipeline.stages.cache import Cache
from gatehouse.pipeline.stages.dispatch import Dispatch
from gatehouse.pipeline.stages.guard import Guard
from gatehouse.pipeline.stages.identify import Identify
from gatehouse.pipeline.stages.limit import Limit
from gatehouse.pipeline.stages.read import Read
from gatehouse.pipeline.stages.record import Record
from gatehouse.pipeline.stages.route import Route

ORDER: tuple[type[Stage], ...] = (
    Record,  #    opens the trace; last to settle: ledger, audit, metrics
    Identify,  #  key -> Principal, from the head alone
    Read,  #      the body, under this caller's bounds; decoded by the dialect
    Authorise,  # the role may call models; the key may call this one
    Route,  #     name -> frozen Plan of eligible targets
    Limit,  #     requests, tokens, concurrency and money are held
    Guard,  #     what goes in is checked; what comes out is watched
    Cache,  #     an identical call may be answered here
    Dispatch,  #  pick a target, fall back before the first byte, count what comes
)


def in_order(*stages: Stage) -> tuple[Stage, ...]:
    """The built stages, proven to be exactly ORDER: a stage left out or moved is a start-up error, not a hole in the policy."""
    if tuple(type(stage) for stage in stages) != ORDER:
        raise ValueError(f"stages must be built in order: {[stage.__name__ for stage in ORDER]}")
    return stages
