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
from gatehouse.core.plans import Capability, Passthrough, Plan, Target
from gatehouse.core.usage import Price
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.stages.route import MOST_MADE, Route, RouteTable, needed

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


ADVICE: Any = {
    "store": False,
    "service_tier": "auto",
    "safety_identifier": "ann",
    "prompt_cache_key": "chapter-1",
    "prompt_cache_retention": "in_memory",
    "verbosity": "low",
    "modalities": ["text"],
}


@pytest.mark.parametrize("field", ADVICE)
async def test_what_only_advises_is_taken_by_every_model(field: str) -> None:
    """What says no more than what happens anyway needs no place in the model's list; in a chat, where applications send it."""
    await routed(Plan("m", (ABLE,)), call(extra={field: ADVICE[field]}))
    bare = Target("p/bare", "p", "bare", price=FREE, operations=frozenset({"completion"}))
    with pytest.raises(InvalidRequest, match=field):
        await routed(Plan("m", (bare,)), Call(model="m", operation="completion", inputs=("x",), extra={field: ADVICE[field]}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("store", True),
        ("store", 0),
        ("service_tier", "flex"),
        ("service_tier", ["auto"]),
        ("safety_identifier", {"name": "ann"}),
        ("safety_identifier", "x" * 513),
        ("prompt_cache_key", 7),
        ("prompt_cache_retention", "24h"),
        ("verbosity", "shout"),
        ("modalities", ["text", "audio"]),
        ("modalities", ("text",)),
    ],
)
async def test_the_same_fields_with_a_wish_are_refused(field: str, value: Any) -> None:
    """Unless the model lists them: what changes what is done is never ignored."""
    with pytest.raises(InvalidRequest, match=f"{field}: model 'm'") as caught:
        await routed(Plan("m", (ABLE,)), call(extra={field: value}))
    assert (caught.value.code, caught.value.param) == ("unsupported_value", field)
    await routed(Plan("m", (ABLE,), extra_fields=frozenset({field})), call(extra={field: value}))


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


class Maker:
    """Makes plans of unlisted models, and remembers for which."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Plan | None:
        self.asked.append(name)
        return Plan(name, (ABLE,), label="p/*")


async def test_a_model_of_an_open_provider_needs_no_listing() -> None:
    """Its plan is made once and kept until the configuration changes; what no pattern covers is not even asked for."""
    make = Maker()
    listed = Plan("p/listed", (PLAIN,))
    table = RouteTable((listed,), make)
    table.replace((listed,), (Passthrough("p", frozenset({"gpt-*", "o3"})),))
    for _ in range(2):
        for name in ("p/gpt-5", "p/o3"):
            plan = await table.unlisted(name)
            assert plan is not None
            assert plan.model == name
    assert make.asked == ["p/gpt-5", "p/o3"]
    for name in ("p/o3-mini", "q/gpt-5", "gpt-5", "p/gpt-5/../x", "p/gpt-5?x", "p/gpt-5\n", "p/gpt- 5", "p/" + "gpt-" + "x" * 200):
        assert await table.unlisted(name) is None
    assert len(make.asked) == 2
    x = Exchange("r", Head("POST", "/", {}), None, None)  # type: ignore[arg-type]
    x.call = call(model="p/listed")
    await Route(table).admit(x)
    assert x.plan is not None
    assert x.plan.targets == (PLAIN,), "what is listed is not made up"
    table.replace((listed,))
    assert await table.unlisted("p/gpt-5") is None
    assert table.models == ("p/listed",)


async def test_made_plans_are_bounded() -> None:
    """Callers choose the names, so only so many are kept; the oldest goes."""
    make = Maker()
    table = RouteTable((), make)
    table.replace((), (Passthrough("p", frozenset({"*"})),))
    for number in range(MOST_MADE + 1):
        await table.unlisted(f"p/m{number}")
    await table.unlisted(f"p/m{MOST_MADE}")
    assert len(make.asked) == MOST_MADE + 1
    await table.unlisted("p/m0")
    assert make.asked[-1] == "p/m0"


@pytest.mark.parametrize("name", ["p/a/../b", "p/..", "p/.a", "p//a", "p/a/", "p/a b", "p/a%2e", "p/\u00e4", "p/", "p", "/a", "p/a#"])
def test_no_name_climbs_out_of_a_path(name: str) -> None:
    """A model's name may become a step of a target's path: it is plain, and each of its steps begins with a letter or digit."""
    assert not Passthrough("p", frozenset({"*"})).covers(name)
