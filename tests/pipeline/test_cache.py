"""Cache: the same words in the same scope under the same plan are answered once; nothing else ever is."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from gatehouse.adapters.guards.secrets import SecretScanner
from gatehouse.adapters.state.memory_cache import MemoryCache
from gatehouse.core.calls import Call, Message, ResponseFormat, Tool, ToolCall
from gatehouse.core.errors import Blocked, GatehouseError, UpstreamFailed
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk, Event, Events, ToolDelta
from gatehouse.core.identity import Principal, Role
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import CachePolicy, GuardPolicy, Ladder, Plan, Target
from gatehouse.core.usage import Usage
from gatehouse.pipeline.bookkeeping import Commitments
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.runner import Runner, Stage
from gatehouse.pipeline.stages.cache import Cache
from gatehouse.pipeline.stages.guard import Guard
from gatehouse.testing.fakes import FakeClock
from gatehouse.testing.made_secrets import SecretMaker

CALL = Call(model="m", messages=(Message("user", "What is a gate?"),), max_tokens=50)
ANSWER = Answer((Choice(text="A door."),), "id-1", "p-m", 7, Usage(input=5, output=3), raw=b'{"id": "id-1"}', dialect="openai")
ANN = Principal("ann", "Ann", frozenset({Role.DEVELOPER}), tenant="north", team="red")


class Answering:
    """The last stage: answers with events, and counts how often it was asked."""

    name = "dispatch"

    def __init__(self, *events: Event, error: GatehouseError | None = None) -> None:
        self.events = events
        self.error = error
        self.asked = 0
        self.open = 0

    async def admit(self, x: Exchange) -> Events | None:
        self.asked += 1
        return self._stream()

    def settle(self, x: Exchange) -> None:
        assert not self.open

    async def _stream(self) -> AsyncGenerator[Event, None]:
        self.open += 1
        try:
            for event in self.events:
                yield event
            if self.error is not None:
                raise self.error
        finally:
            self.open -= 1


class House:
    """Cache and a target behind it, with whatever stages before."""

    def __init__(self, *events: Event, error: GatehouseError | None = None, before: tuple[Stage, ...] = (), **options: Any) -> None:
        self.clock = FakeClock()
        self.answers = MemoryCache(self.clock)
        self.target = Answering(*(events or (ANSWER,)), error=error)
        self.cache = Cache(self.answers, Commitments(b"k" * 32).of_encoded, **options)
        self.runner = Runner((*before, self.cache, self.target), self.clock)

    async def ask(
        self,
        call: Call = CALL,
        who: Principal = ANN,
        headers: dict[bytes, bytes] | None = None,
        take: int | None = None,
        **plan: Any,
    ) -> tuple[Exchange, list[Event]]:
        """Ask; `take` is how many events the client reads before it leaves."""
        x = Exchange("req", Head("POST", "/", headers or {}), None, None)  # type: ignore[arg-type]
        x.call = call
        x.principal = who
        fields = {"model": "m", "targets": (Target("p/m", "p", "m"),), "digest": b"d1", "cache": CachePolicy("key", 60)}
        x.plan = Plan(**{**fields, **plan})
        out: list[Event] = []

        async def deliver(x: Exchange, events: Events) -> None:
            async for event in events:
                out.append(event)
                if len(out) == take:
                    x.outcome = Outcome.CLIENT
                    return

        await self.runner.carry(x, deliver)
        assert not self.cache._misses
        return x, out


async def test_off_unless_the_route_asks() -> None:
    """Without a cache policy nothing is looked up, kept, or wrapped."""
    house = House()
    for _ in range(2):
        x, out = await house.ask(cache=None)
        assert x.cache == "bypass"
        assert out == [ANSWER]
    assert house.target.asked == 2
    assert len(house.answers) == 0


async def test_the_second_time_it_is_a_hit() -> None:
    """The same call again is answered with the very answer, no usage and no charge, and no target is asked."""
    house = House()
    first, _ = await house.ask()
    assert first.cache == "miss"
    second, out = await house.ask()
    assert second.cache == "hit"
    assert out[0] == ANSWER
    assert (second.usage, second.charge) == (Usage(), 0)
    assert house.target.asked == 1


async def test_a_hit_whose_caller_left_is_not_held() -> None:
    """A call that ends between the look into the cache and the handing over of what was found leaves nothing behind."""
    house = House()
    x, _ = await house.ask()
    house.cache.settle(x)
    left = msgspec.structs.replace(x, request_id="left", outcome=None)
    assert not house.cache.at_once(left)
    left.outcome = Outcome.CLIENT
    house.cache.settle(left)
    assert not house.cache._hits
    assert (await house.ask())[0].cache == "hit"


async def test_a_hit_lives_as_long_as_the_route_says() -> None:
    """After the route's ttl the target is asked again."""
    house = House()
    await house.ask(cache=CachePolicy("key", 60))
    house.clock.advance(60)
    x, _ = await house.ask(cache=CachePolicy("key", 60))
    assert x.cache == "miss"
    assert house.target.asked == 2


async def test_a_stream_is_collected_and_answers_both_ways() -> None:
    """What came as a stream is kept whole and answers the same words asked without streaming, tools and usage included."""
    house = House(
        Chunk((ChoiceDelta(begins=True),), id="c", model="p-m", created=7),
        Chunk((ChoiceDelta(text="A "),), id="c"),
        Chunk((ChoiceDelta(text="door."),), id="c"),
        Chunk((ChoiceDelta(tools=(ToolDelta(0, "t1", "open"),)),)),
        Chunk((ChoiceDelta(tools=(ToolDelta(0, arguments="{}"),), finish="tool_calls"),)),
        Chunk(usage=Usage(input=5, output=3)),
    )
    streaming = msgspec.structs.replace(CALL, stream=True, include_usage=True)
    x, out = await house.ask(streaming)
    assert out == list(house.target.events)
    x, out = await house.ask()
    assert x.cache == "hit"
    choice = Choice(0, "A door.", tools=(ToolCall("t1", "open", "{}"),), finish="tool_calls")
    assert out == [Answer((choice,), "c", "p-m", 7, Usage(input=5, output=3))]


@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_answers_that_did_not_end_by_themselves_are_not_kept(finish: Any) -> None:
    """A truncated or filtered choice, alone or beside a good one, is not worth keeping."""
    for choices in ((Choice(text="A", finish=finish),), (Choice(0, "A"), Choice(1, "B", finish=finish)), ()):
        house = House(Answer(choices))
        await house.ask()
        x, _ = await house.ask()
        assert x.cache == "miss"


async def test_calls_that_did_not_complete_are_not_kept() -> None:
    """A target that breaks off, a client that leaves and a stream that a guard stops leave nothing behind."""
    pieces = (Chunk((ChoiceDelta(text="A "),)), Chunk((ChoiceDelta(text="door.", finish="stop"),)))
    broken = House(*pieces, error=UpstreamFailed("gone", code="upstream_broken"))
    with pytest.raises(UpstreamFailed):
        await broken.ask()
    left = House(*pieces)
    await left.ask(take=2)
    assert (await left.ask())[0].cache == "miss"
    stopped = House(*pieces, before=(Stopper(),))
    with pytest.raises(Blocked):
        await stopped.ask()
    for house in (broken, stopped):
        assert len(house.answers) == 0
        assert house.target.open == 0


class Stopper:
    """A stage that stops every answer at its end."""

    name = "stopper"

    async def admit(self, x: Exchange) -> None:
        return None

    def watch(self, x: Exchange, events: Events) -> Events:
        return self._stop(events)

    async def _stop(self, events: Events) -> AsyncGenerator[Event, None]:
        try:
            async for event in events:
                yield event
            raise Blocked("no")
        finally:
            await events.aclose()

    def settle(self, x: Exchange) -> None:
        """Nothing."""


BEN = msgspec.structs.replace(ANN, key_id="ben", name="Ben")
CARL = msgspec.structs.replace(ANN, key_id="carl", team="blue")
DORA = msgspec.structs.replace(ANN, key_id="dora", tenant="south")
EVE = msgspec.structs.replace(ANN, key_id="eve", team=None)
FAY = msgspec.structs.replace(ANN, key_id="fay", team=None)


@pytest.mark.parametrize(
    ("scope", "one", "other", "shared"),
    [
        ("key", ANN, ANN, True),
        ("key", ANN, BEN, False),
        ("team", ANN, BEN, True),
        ("team", ANN, CARL, False),
        ("team", ANN, DORA, False),
        ("team", ANN, EVE, False),
        ("team", EVE, FAY, False),
        ("team", EVE, EVE, True),
        ("tenant", ANN, CARL, True),
        ("tenant", ANN, EVE, True),
        ("tenant", ANN, DORA, False),
        ("key", ANN, msgspec.structs.replace(ANN, tenant="south"), False),
        ("team", msgspec.structs.replace(ANN, team="x"), msgspec.structs.replace(EVE, key_id="x"), False),
    ],
)
async def test_nothing_crosses_a_scope(scope: Any, one: Principal, other: Principal, shared: bool) -> None:
    """Scenario 56, pain 34: the same prompt of another tenant never hits, whatever the scope; team and key keep apart what they say,
    and a key without a team is on its own."""
    house = House()
    await house.ask(who=one, cache=CachePolicy(scope, 60))
    x, _ = await house.ask(who=other, cache=CachePolicy(scope, 60))
    assert x.cache == ("hit" if shared else "miss")


async def test_scopes_share_nothing_with_each_other() -> None:
    """An entry of one scope is none of another, even for the same caller and with equal names."""
    house = House()
    same = Principal("x", "X", frozenset({Role.DEVELOPER}), tenant="x", team="x")
    for scope in ("key", "team", "tenant"):
        x, _ = await house.ask(who=same, cache=CachePolicy(scope, 60))
        assert x.cache == "miss"


@pytest.mark.parametrize("plan", [{"digest": b"d2"}, {"model": "other"}, {"guard": GuardPolicy(version="2")}])
async def test_plan_and_policy_are_part_of_the_key(plan: dict[str, Any]) -> None:
    """Scenario 56: a changed plan (targets, model version), name or guard policy never meets an older answer."""
    house = House()
    await house.ask()
    x, _ = await house.ask(**plan)
    assert x.cache == "miss"


@pytest.mark.parametrize(
    "change",
    [
        {"messages": (Message("user", "What is a gate"),)},
        {"messages": (Message("system", "What is a gate?"),)},
        {"messages": (Message("user", "What is a gate?"), Message("user", ""))},
        {"messages": (Message("user", "What is a gate?", name="n"),)},
        {"max_tokens": 51},
        {"temperature": 0.0},
        {"top_p": 0.0},
        {"seed": 1},
        {"n": 2},
        {"stop": ("x",)},
        {"tools": (Tool("t"),)},
        {"response_format": ResponseFormat("json_object")},
        {"logprobs": True},
        {"user": "u"},
        {"metadata": {"a": "b"}},
        {"extra": {"top_k": 1}},
        {"reasoning_effort": "low"},
        {"operation": "completion"},
    ],
)
async def test_every_other_word_is_another_call(change: dict[str, Any]) -> None:
    """Whatever is sent to the target is part of the key; only whether it streams is not."""
    house = House()
    await house.ask()
    x, _ = await house.ask(msgspec.structs.replace(CALL, **change))
    assert x.cache == "miss"
    x, _ = await house.ask(msgspec.structs.replace(CALL, stream=True, include_usage=True))
    assert x.cache == "hit"


@pytest.mark.parametrize(
    ("wish", "cache", "kept"),
    [
        (b"no-store", "bypass", False),
        (b"No-Store, max-age=0", "bypass", False),
        (b"no-cache", "miss", True),
        (b"max-age=0", "miss", True),
        (b"private, NO-CACHE", "miss", True),
        (b"max-age=60", "hit", True),
        (b"", "hit", True),
    ],
)
async def test_the_caller_may_decline(wish: bytes, cache: str, kept: bool) -> None:
    """`no-cache` asks for a fresh answer, which is kept; `no-store` for one that is not."""
    house = House()
    await house.ask()
    house.target.events = (msgspec.structs.replace(ANSWER, id="fresh"),)
    x, out = await house.ask(headers={b"cache-control": wish})
    assert x.cache == cache
    assert out == ([ANSWER] if cache == "hit" else list(house.target.events))
    _, later = await house.ask()
    assert later == ([ANSWER] if cache == "hit" or not kept else list(house.target.events))


async def test_a_stream_longer_than_the_bound_is_not_collected() -> None:
    """Collecting stops where an answer grows too long to keep; the client gets all of it."""
    pieces = [Chunk((ChoiceDelta(text="x" * 60),)) for _ in range(3)]
    house = House(*pieces, longest_answer=150)
    _, out = await house.ask()
    assert out == pieces
    assert len(house.answers) == 0


async def test_old_entries_are_guarded_again() -> None:
    """Scenario 56: what was kept while the guard looked away is watched when a stricter rule pack answers from the cache: a poisoned
    entry does not leave."""
    secret = SecretMaker(5).all()["npm-token"][0][1]
    house = House(Answer((Choice(text=f"Take {secret}."),)))
    lenient = GuardPolicy(output="off")
    x, out = await house.ask(guard=lenient)
    assert x.cache == "miss"
    guarded = Runner((Guard(SecretScanner(), house.clock), house.cache, house.target), house.clock)
    house.runner = guarded
    x, out = await house.ask(guard=GuardPolicy(output="redact"))
    assert x.cache == "hit"
    assert isinstance(out[0], Answer)
    assert out[0].choices[0].text == "Take [redacted:npm-token]."
    with pytest.raises(Blocked):
        await house.ask(guard=GuardPolicy(output="block"))
    assert house.target.asked == 1


async def test_a_redacted_call_is_kept_as_it_was_sent() -> None:
    """Guard rewrites before Cache looks: two calls that differ only in their secrets are the same call and share one answer."""
    house = House(before=(Guard(SecretScanner(), FakeClock()),))
    for seed, cache in ((1, "miss"), (2, "hit")):
        secret = SecretMaker(seed).all()["npm-token"][0][1]
        x, _ = await house.ask(Call(model="m", messages=(Message("user", f"Is {secret} valid?"),)), guard=GuardPolicy(input="redact"))
        assert x.cache == cache


class Degrading(Answering):
    """A last stage whose targets are all out: it answers with what the cache has though its time is over, or fails."""

    def __init__(self, cache: Cache) -> None:
        super().__init__(error=UpstreamFailed("no", code="upstream_unreachable"))
        self.cache = cache
        self.out = False

    async def admit(self, x: Exchange) -> Events | None:
        if self.out and (answer := self.cache.stale(x)) is not None:
            x.cache = "stale"
            self.events, self.error = (answer,), None
        elif not self.out:
            self.events, self.error = (ANSWER,), None
        else:
            self.events, self.error = (), UpstreamFailed("no", code="upstream_unreachable")
        return await super().admit(x)


async def test_a_stale_answer_is_for_who_asks_the_ladder_and_does_not_become_fresh() -> None:
    """Within `stale` seconds after its time the answer can be had; having been used it is not kept anew; then it is gone."""
    house = House()
    last = Degrading(house.cache)
    house.target = last
    house.runner = Runner((house.cache, last), house.clock)
    ladder: dict[str, Any] = {"cache": CachePolicy("key", 60.0), "ladder": Ladder(stale=100.0)}
    await house.ask(**ladder)
    last.out = True
    house.clock.advance(61)
    x, events = await house.ask(**ladder)
    assert (x.cache, events) == ("stale", [ANSWER])
    assert house.cache.stale(x) is None, "settled"
    with pytest.raises(UpstreamFailed):
        await house.ask(headers={b"cache-control": b"no-cache"}, **ladder)
    with pytest.raises(UpstreamFailed):
        await house.ask(who=msgspec.structs.replace(ANN, key_id="bob"), **ladder)
    house.clock.advance(100)
    with pytest.raises(UpstreamFailed):
        await house.ask(**ladder)


async def test_without_a_ladder_nothing_is_kept_beyond_its_time() -> None:
    """A route that does not ask for stale answers has none."""
    house = House()
    await house.ask(cache=CachePolicy("key", 60.0))
    house.clock.advance(61)
    assert len(house.answers) == 1
    x, _ = await house.ask(cache=CachePolicy("key", 60.0))
    assert x.cache == "miss"


async def test_what_changes_about_a_caller_or_a_plan_is_seen_at_once() -> None:
    """A key that is moved to another team, and a plan or a policy that changes, meet no answer of before, and find theirs again."""
    house = House()
    await house.ask(cache=CachePolicy("team", 60))
    moved = msgspec.structs.replace(ANN, team="elsewhere")
    assert (await house.ask(who=moved, cache=CachePolicy("team", 60)))[0].cache == "miss"
    assert (await house.ask(cache=CachePolicy("team", 60), digest=b"d2"))[0].cache == "miss"
    assert (await house.ask(cache=CachePolicy("key", 60)))[0].cache == "miss"
    assert (await house.ask(cache=CachePolicy("team", 60)))[0].cache == "hit"


async def test_the_commitment_is_to_the_call_as_it_is_sent() -> None:
    """What tells a call from others is what its records prove it with; not so of a stream, another call with the same answer."""
    house = House()
    x, _ = await house.ask()
    assert Commitments(b"k" * 32).proves(CALL, x.commitment)
    streaming, _ = await house.ask(msgspec.structs.replace(CALL, stream=True))
    assert streaming.cache == "hit"
    assert streaming.commitment == b""
