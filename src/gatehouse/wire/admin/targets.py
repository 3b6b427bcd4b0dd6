"""How targets are shown: what each worker sees of them, and the worst of it."""

from collections.abc import Mapping, Sequence
from typing import Final

from gatehouse.core.plans import Plan
from gatehouse.core.targets import TargetState
from gatehouse.wire.admin.views import TargetReport, TargetStateView, TargetWorkerView

_WORST_FIRST: Final = ("quarantined", "open", "resting", "half_open", "closed")


def target_report(plans: Sequence[Plan], told: Mapping[str, tuple[TargetState, ...]]) -> TargetReport:
    """Targets in the order of the plans; `told` is what each worker says."""
    models: dict[str, list[str]] = {}
    for plan in plans:
        for target in plan.everywhere:
            names = models.setdefault(target.id, [])
            if plan.model not in names:
                names.append(plan.model)
    return TargetReport(data=[_view(name, asking, told) for name, asking in models.items()])


def _view(name: str, models: list[str], told: Mapping[str, tuple[TargetState, ...]]) -> TargetStateView:
    seen = [(worker, state) for worker, states in sorted(told.items()) for state in states if state.target == name]
    worst = min((state for _, state in seen), key=lambda state: _WORST_FIRST.index(state.condition), default=TargetState(name))
    return TargetStateView(
        id=name,
        models=models,
        state=worst.condition,
        reason=worst.reason,
        asked_again_in=round(worst.seconds, 3),
        workers=[
            TargetWorkerView(
                worker=worker,
                state=state.condition,
                reason=state.reason,
                asked_again_in=round(state.seconds, 3),
                running=state.running,
                work_tokens=state.work,
                first_event_seconds=None if state.first_event < 0 else state.first_event,
                own=state.own,
            )
            for worker, state in seen
        ],
    )
