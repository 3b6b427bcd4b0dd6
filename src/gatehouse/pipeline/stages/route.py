"""Route resolves the name a caller asked for to a frozen Plan: the targets that can do what this call needs.

A target that cannot honour a part of the call is left out; nothing is silently ignored. Names are resolved before the
caller's words reach any label or record.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from gatehouse.core.advice import ADVICE, advises
from gatehouse.core.calls import AudioPart, Call, FilePart, ImagePart, Operation
from gatehouse.core.errors import InvalidRequest, NotFound, Unavailable
from gatehouse.core.plans import Capability, Passthrough, Plan, Target
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.runner import nothing_held

_PARTS: Final = {ImagePart: Capability.IMAGES, AudioPart: Capability.AUDIO, FilePart: Capability.FILES}
_ARTICLES: Final[dict[Operation, str]] = {"chat": "a chat", "completion": "a completion", "embedding": "an embedding"}

_FIELDS: Final = (
    ("logprobs", Capability.LOGPROBS),
    ("logit_bias", Capability.LOGIT_BIAS),
    ("top_k", Capability.TOP_K),
    ("frequency_penalty", Capability.PENALTIES),
    ("presence_penalty", Capability.PENALTIES),
)
"""Fields that ask for something unless they are None, zero, false or empty."""


FindPlan = Callable[[str], Awaitable[Plan | None]]
"""Makes the plan of a model that is not listed, where the configuration in force lets it be asked for. Raises Unavailable."""

MOST_MADE: Final = 1024
"""Plans of unlisted models that are kept; who asks for more of them waits for each."""


class RouteTable:
    """Plans by name; replaced as a whole when the configuration changes, so a running call keeps the plan it began with."""

    def __init__(self, plans: tuple[Plan, ...] = (), make: FindPlan | None = None) -> None:
        self.plans: dict[str, Plan] = {}
        """By name and alias; for looking only."""
        self._make = make
        self._made: dict[str, Plan] = {}
        self._passthroughs: tuple[Passthrough, ...] = ()
        self.replace(plans)

    def replace(self, plans: tuple[Plan, ...], passthroughs: tuple[Passthrough, ...] = ()) -> None:
        """Swap every plan at once."""
        self.plans = {name: plan for plan in plans for name in (plan.model, *plan.aliases)}
        self._passthroughs = passthroughs
        self._made = {}

    async def unlisted(self, model: str) -> Plan | None:
        """The plan of a model that is not listed, when a provider lets its models be asked for by name. Raises Unavailable."""
        if self._make is None or not any(passthrough.covers(model) for passthrough in self._passthroughs):
            return None
        made = self._made
        plan = made.get(model)
        if plan is None:
            plan = await self._make(model)
            if plan is not None and made is self._made:
                # Else the configuration has changed meanwhile: this call keeps what it was told, the next one asks again.
                if len(made) >= MOST_MADE:
                    del made[next(iter(made))]
                made[model] = plan
        return plan

    def find(self, model: str) -> Plan | None:
        """The plan of a model's name or alias, or None."""
        return self.plans.get(model)

    def at_hand(self, model: str) -> Plan | None:
        """As `find`, and plans of unlisted models that were made before."""
        return self.plans.get(model) or self._made.get(model)

    def canonical(self, model: str) -> str:
        """The model's own name, for its name or any alias; a name that is not here stays as it is."""
        plan = self.plans.get(model)
        return model if plan is None else plan.model

    @property
    def models(self) -> tuple[str, ...]:
        """Every name that can be asked for, in the order of the file, each model's aliases behind it."""
        return tuple(self.plans)


class Route:
    """Sets `x.plan`, with the targets narrowed to those that can serve this call."""

    name = "route"
    settle = nothing_held

    def __init__(self, table: RouteTable) -> None:
        self._table = table

    async def admit(self, x: Exchange) -> None:
        """Resolve the model's name.

        Raises:
            NotFound: no such model.
            InvalidRequest: a field the model does not list, or a need no target of it can meet.
            Unavailable: the price of every eligible target is unknown and the operator said to block.
        """
        call = x.call
        assert call is not None
        plan = self._table.at_hand(call.model) or await self._table.unlisted(call.model)
        if plan is None:
            raise NotFound(f"There is no model named {call.model[:128]!r} here.", code="model_not_found", param="model")
        self._take(x, call, plan)

    def clear(self, calls: Sequence[Exchange]) -> Sequence[Exchange]:
        """Those that name a model by its own name and need nothing that not every target has."""
        plans = self._table.plans
        suiting: Plan | None = None
        doing: Operation = "chat"
        others = []
        for x in calls:
            call = x.call
            assert call is not None
            plan = plans.get(call.model)
            if plan is None or call.extra or call.model != plan.model or needed(call):
                others.append(x)
            elif (plan is suiting and call.operation == doing) or _all_suit(plan, call.operation):
                suiting, doing = plan, call.operation
                x.plan = plan
            else:
                others.append(x)
        return others

    def at_once(self, x: Exchange) -> bool:
        """As `admit`, for a model whose plan is at hand."""
        call = x.call
        assert call is not None
        plan = self._table.plans.get(call.model) or self._table.at_hand(call.model)
        if plan is None:
            return False  # no such model, or one whose plan has to be made
        self._take(x, call, plan)
        return True

    @staticmethod
    def _take(x: Exchange, call: Call, plan: Plan) -> None:
        if call.extra and not plan.extra_fields.issuperset(call.extra):
            _refuse_unlisted(call, plan)
        if call.model != plan.model:
            # Asked for by an alias: from here on there is one name, in records, cache and metrics too.
            call = x.call = msgspec.structs.replace(call, model=plan.model)
        needs = needed(call)
        if needs or not _all_suit(plan, call.operation):
            plan = _narrow(plan, call.operation, needs)
        x.plan = plan


def _refuse_unlisted(call: Call, plan: Plan) -> None:
    """Raises InvalidRequest for a field that the model does not list, unless all it does in a chat is advise."""
    for field, value in call.extra.items():
        if field in plan.extra_fields or (call.operation == "chat" and advises(field, value)):
            continue
        if call.operation == "chat" and field in ADVICE:
            text = f"{field}: model {plan.model!r} does not accept this value; leave the field out."
            raise InvalidRequest(text, code="unsupported_value", param=field)
        text = f"Unknown field {field[:64]!r}: model {plan.model!r} does not accept it."
        raise InvalidRequest(text, code="unknown_field", param=field[:64])


def needed(call: Call) -> frozenset[Capability]:
    """What a target must be able to do for this call beside its operation.

    Streaming is not in it, since a whole answer can be replayed as a stream.
    """
    needs: set[Capability] = set()
    for message in call.messages:
        if type(message.content) is tuple:
            needs.update(_PARTS[type(part)] for part in message.content if type(part) in _PARTS)
    if call.tools or call.tool_choice is not None:
        needs.update(_needed_tools(call))
    if call.response_format is not None and call.response_format.kind != "text":
        needs.add(Capability.JSON_SCHEMA if call.response_format.kind == "json_schema" else Capability.JSON_OBJECT)
    if call.n > 1:
        needs.add(Capability.CHOICES)
    if call.logprobs or call.logit_bias or call.top_k or call.frequency_penalty or call.presence_penalty:
        needs.update([capability for field, capability in _FIELDS if getattr(call, field)])
    if call.seed is not None:
        needs.add(Capability.SEED)
    if call.suffix:
        needs.add(Capability.INFILL)
    return frozenset(needs)


def _needed_tools(call: Call) -> set[Capability]:
    needs = {Capability.TOOLS}
    if call.tool_choice is not None and call.tool_choice.mode == "required":
        needs.add(Capability.TOOL_CHOICE)
    if call.parallel_tool_calls is False:
        needs.add(Capability.SINGLE_TOOL)
    return needs


def _all_suit(plan: Plan, operation: Operation) -> bool:
    """Whether every target does `operation` at a known price: then there is nothing to narrow for a call without needs."""
    for group in (plan.targets, *plan.fallbacks) if plan.fallbacks else (plan.targets,):
        for target in group:  # all() with a generator costs a microsecond of every call
            if target.price is None or operation not in target.operations:
                return False
    return True


def _narrow(plan: Plan, operation: Operation, needs: frozenset[Capability]) -> Plan:
    doing = [target for target in plan.everywhere if operation in target.operations]
    if not doing:
        known = ", ".join(sorted({each for target in plan.everywhere for each in target.operations}))
        raise InvalidRequest(
            f"Model {plan.model!r} does not do this: it takes {known} requests, and this is {_ARTICLES[operation]} request.",
            code="unsupported_operation",
            param="model",
        )

    def keep(group: tuple[Target, ...]) -> tuple[Target, ...]:
        return tuple(target for target in group if target in doing and target.capabilities >= needs and target.price is not None)

    groups = [kept for group in (plan.targets, *plan.fallbacks) if (kept := keep(group))]
    if groups:
        return msgspec.structs.replace(plan, targets=groups[0], fallbacks=tuple(groups[1:]))
    able = [target for target in doing if target.capabilities >= needs]
    if not able:
        best = max(doing, key=lambda target: len(target.capabilities & needs))
        lacking = ", ".join(sorted(needs - best.capabilities))
        raise InvalidRequest(f"Model {plan.model!r} cannot do what this call needs: {lacking}.", code="unsupported_capability")
    raise Unavailable(
        f"No price is known for model {plan.model!r}, and this gateway does not run unpriced calls.",
        code="price_unknown",
        detail=f"targets without a price: {', '.join(target.id for target in able)}; set targets[].price or prices.on_unknown",
    )
