"""Route: names become plans; what a target cannot honour is never silently ignored."""

from typing import Any

import pytest

from gatehouse.core.calls import (
    AudioPart,
    Call,
    FilePart,
    ImagePart,
    Message,
    Part,
    ResponseFormat,
    TextPart,
    Tool,
)
from gatehouse.core.errors import InvalidRequest, NotFound, Unavailable
from gatehouse.core.plans import Capability, Plan, Target
from gatehouse.core.usage import Price
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.stages.route import Route, RouteTable, needed

FREE = Price("free", 0, 0, 0, 0, 0, 0, 0)
ABLE = Target("p/able", "p", "able", price=FREE)
PLAIN = Target("p/plain", "p", "plain", price=FREE, capabilities=frozenset({Capability.STREAM}))
UNPRICED = Target("p/unpriced", "p", "unpriced", price=None)


def call(**fields: Any) -> Call:
    return Call(**{"model": "m", "messages": (Message("user", "hi"),), **fields})


async def routed(plan: Plan, what: Call) -> Plan:
    x = Exchange("r", Head("POST", "/", {}), None, None)  # type: ignore[arg-type]
    x.call = what
    await Route(RouteTable((plan,))).admit(x)
    assert x.plan is not None
    return x.plan


async def test_a_plain_call_gets_the_very_plan() -> None:
    """No copy is made when nothing has to be narrowed."""
    plan = Plan("m", (ABLE, PLAIN))
    assert await routed(plan, call()) is plan


async def test_a_model_is_asked_for_what_it_does() -> None:
    """Targets of another operation are left out, fallbacks too; where none is left the refusal says what the model takes."""
    both = Target("p/both", "p", "both", price=FREE, operations=frozenset({"chat", "completion"}))
    embeds = Target("p/embeds", "p", "embeds", price=FREE, operations=frozenset({"embedding"}))
    plan = Plan("m", (ABLE, both), fallbacks=((embeds,),))
    assert (await routed(plan, call())).everywhere == (ABLE, both)
    assert (await routed(plan, Call(model="m", operation="completion", inputs=("x",)))).everywhere == (both,)
    assert (await routed(plan, Call(model="m", operation="embedding", inputs=("x",)))).everywhere == (embeds,)
    with pytest.raises(InvalidRequest, match="it takes chat requests, and this is an embedding request") as caught:
        await routed(Plan("m", (ABLE,)), Call(model="m", operation="embedding", inputs=("x",)))
    assert caught.value.code == "unsupported_operation"


async def test_a_suffix_needs_a_target_that_fills_in() -> None:
    """A target without the capability is not asked to guess what stands between."""
    plain = Target("p/plain", "p", "plain", price=FREE, operations=frozenset({"completion"}), capabilities=frozenset({Capability.STREAM}))
    with pytest.raises(InvalidRequest, match="infill"):
        await routed(Plan("m", (plain,)), Call(model="m", operation="completion", inputs=("x",), suffix="y"))


async def test_an_unknown_model() -> None:
    """404 that names it."""
    with pytest.raises(NotFound, match="'nope'"):
        await routed(Plan("m", (ABLE,)), call(model="nope"))


async def test_an_alias_is_the_model_under_its_own_name() -> None:
    """The same plan, and from there on the call has the model's own name: one name in records, cache keys and metrics."""
    plan = Plan("m", (ABLE,), aliases=("fast", "quick"))
    table = RouteTable((plan,))
    assert table.models == ("m", "fast", "quick")
    assert (table.canonical("quick"), table.canonical("m"), table.canonical("nope")) == ("m", "m", "nope")
    x = Exchange("r", Head("POST", "/", {}), None, None)  # type: ignore[arg-type]
    x.call = call(model="fast")
    await Route(table).admit(x)
    assert x.plan is plan
    assert x.call == call()


async def test_extra_fields() -> None:
    """A field the model does not list is refused by name, one that it lists passes."""
    with pytest.raises(InvalidRequest, match="'top_k'") as caught:
        await routed(Plan("m", (ABLE,), extra_fields=frozenset({"min_p"})), call(extra={"top_k": 1}))
    assert caught.value.param == "top_k"
    await routed(Plan("m", (ABLE,), extra_fields=frozenset({"top_k"})), call(extra={"top_k": 1}))


def parts(*content: Part) -> dict[str, Any]:
    return {"messages": (Message("user", content),)}


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, set()),
        (parts(TextPart("x")), set()),
        (parts(ImagePart("data:,")), {Capability.IMAGES}),
        (parts(AudioPart("", "wav")), {Capability.AUDIO}),
        (parts(FilePart("x")), {Capability.FILES}),
        ({"tools": (Tool("t"),)}, {Capability.TOOLS}),
        ({"response_format": ResponseFormat("text")}, set()),
        ({"response_format": ResponseFormat("json_object")}, {Capability.JSON_OBJECT}),
        ({"response_format": ResponseFormat("json_schema", name="n", schema={})}, {Capability.JSON_SCHEMA}),
        ({"n": 2}, {Capability.CHOICES}),
        ({"logprobs": True}, {Capability.LOGPROBS}),
        ({"seed": 0}, {Capability.SEED}),
        ({"logit_bias": {"1": 1.0}}, {Capability.LOGIT_BIAS}),
        ({"stream": True}, set()),
    ],
)
async def test_needs(fields: dict[str, Any], needs: set[Capability]) -> None:
    """What each part of a call asks of a target; a target without it is left out, and without any left the call is refused."""
    assert needed(call(**fields)) == needs
    plan = await routed(Plan("m", (PLAIN, ABLE)), call(**fields))
    assert plan.targets == ((ABLE,) if needs else (PLAIN, ABLE))
    if needs:
        with pytest.raises(InvalidRequest, match=next(iter(needs))):
            await routed(Plan("m", (PLAIN,)), call(**fields))


async def test_a_fallback_moves_up() -> None:
    """When the first group cannot serve the call, the next one that can is first."""
    plan = await routed(Plan("m", (PLAIN,), fallbacks=((ABLE,),)), call(n=2))
    assert plan.targets == (ABLE,)
    assert plan.fallbacks == ()


async def test_unknown_price_blocks() -> None:
    """A target without a price is not used; when it was the only one the operator is told what to set, the caller that it is not theirs."""
    assert (await routed(Plan("m", (UNPRICED, ABLE)), call())).targets == (ABLE,)
    with pytest.raises(Unavailable) as caught:
        await routed(Plan("m", (UNPRICED,)), call())
    assert caught.value.code == "price_unknown"
    assert "targets[].price" in caught.value.detail
