"""The book of a worker: local when it can be, one question when it must be, never more than it was lent."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import pytest

from gatehouse.control.lease_office import LocalOffice, Office
from gatehouse.core.errors import Unavailable
from gatehouse.core.limits import Dimension, Draw, Granted, Hold, Holds, Meter
from gatehouse.pipeline.lease_book import AHEAD, Account, LeaseBook, Refusal
from gatehouse.testing.fakes import FakeClock, FakeLeaseStore, FakeSpawn, LaggedOffice, settle_loop

PLENTY = 10**9


def meters(
    requests: int = PLENTY, tokens: int = PLENTY, slots: int = PLENTY, money: int = PLENTY, subject: str = "key:a"
) -> tuple[Meter, ...]:
    """Requests, tokens, slots and money of one subject."""
    return (
        Meter(f"{subject}:requests", Dimension.REQUESTS, requests),
        Meter(f"{subject}:tokens", Dimension.TOKENS, tokens),
        Meter(f"{subject}:slots", Dimension.SLOTS, slots),
        Meter(f"{subject}:money:total:all", Dimension.MONEY, money),
    )


class World:
    """One office and as many workers as a test wants."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeLeaseStore()
        self.office = Office(self.store, self.clock)
        self.spawn = FakeSpawn()

    def worker(self, name: str = "w1") -> tuple[LeaseBook, LaggedOffice]:
        """A book and its line to the office."""
        line = LaggedOffice(LocalOffice(self.office, name))
        return LeaseBook(line, self.clock, self.spawn), line

    def live(self) -> dict[str, int]:
        """What the office has out, by the meter's last word but the period."""
        return {state.meter.split(":")[2]: state.live for state in self.office.statement()}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Ends with no task running and none failed."""
    world = World()
    yield world
    await world.spawn.close()
    assert world.spawn.errors == []


async def held(book: LeaseBook, account: Account, *needs: int) -> Holds:
    """A hold that must succeed."""
    answer = await book.hold(account, needs)
    assert not isinstance(answer, Refusal), answer
    return answer


async def refused(book: LeaseBook, account: Account, *needs: int) -> Refusal:
    """A hold that must be refused."""
    answer = await book.hold(account, needs)
    assert isinstance(answer, Refusal), answer
    return answer


# -- asking the office --------------------------------------------------------------------------------------------


async def test_the_steady_state_needs_no_question(world: World) -> None:
    """A thousand calls one after the other ask a few times, since each slice is larger than the one before."""
    book, line = world.worker()
    account = book.open(meters())
    for _ in range(1000):
        book.settle(await held(book, account, 1, 100, 1, 50), 80, 20)
    assert line.asked <= 20


async def test_calls_in_line_share_a_question(world: World) -> None:
    """A hundred calls that come at once ask twice: the first for itself, then one for all."""
    book, line = world.worker()
    account = book.open(meters())
    await asyncio.gather(*(held(book, account, 1, 100, 1, 50) for _ in range(100)))
    assert line.asked <= 3


async def test_first_come_first_served(world: World) -> None:
    """Calls are answered in the order in which they came; nobody overtakes the line, however little they need."""
    book, line = world.worker()
    line.prompt = False
    account = book.open(meters(money=1000)[3:])
    order: list[int] = []

    async def call(number: int, need: int) -> None:
        await held(book, account, need)
        order.append(number)

    tasks = [asyncio.ensure_future(call(number, need)) for number, need in enumerate((300, 10, 300, 10))]
    await settle_loop()
    assert book.take(account, (1,)) is None
    while await line.deliver():
        await settle_loop()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3]


async def test_a_call_that_is_too_large_stops_nobody(world: World) -> None:
    """It is refused; smaller ones behind it are served."""
    book, _ = world.worker()
    account = book.open(meters(money=1000)[3:])
    answers = await asyncio.gather(*(book.hold(account, (need,)) for need in (200, 900, 300, 900, 200)))
    assert [isinstance(answer, Refusal) for answer in answers] == [False, True, False, True, False]


async def test_a_storm_of_refusals_asks_little(world: World) -> None:
    """All calls in line that need more than is left are refused by one answer."""
    book, line = world.worker()
    account = book.open(meters(requests=5)[:1])
    answers = await asyncio.gather(*(book.hold(account, (1,)) for _ in range(500)))
    assert sum(isinstance(answer, Refusal) for answer in answers) == 495
    assert line.asked <= 7


async def test_a_refusal_says_what_and_when(world: World) -> None:
    """The meter, the whole need of the call, what is left and when to come back; nothing of the others is kept."""
    book, _ = world.worker()
    account = book.open(meters(tokens=1000))
    await held(book, account, 1, 400, 1, 50)
    refusal = await refused(book, account, 1, 700, 1, 50)
    assert (refusal.meter.id, refusal.need, refusal.remaining) == ("key:a:tokens", 700, 600)
    assert refusal.retry_after == pytest.approx(62, abs=1)
    book.shut()
    assert world.live() == {"requests": 1, "tokens": 400, "slots": 1, "money": 50}


async def test_accounts_on_one_meter_share_its_pool(world: World) -> None:
    """What one key's calls left of the team's money serves the other key."""
    book, line = world.worker()
    team = meters(subject="team:t")[3:]
    one, two = book.open((*meters(subject="key:a")[3:], *team)), book.open((*meters(subject="key:b")[3:], *team))
    await held(book, one, 10, 10)
    before = len(line.draws)
    await held(book, two, 10, 10)
    assert [draw.meter.id for draws in line.draws[before:] for draw in draws] == ["key:b:money:total:all"]


async def test_two_accounts_in_line_for_one_meter_are_both_served(world: World) -> None:
    """Their questions are on the way at the same time; what is set aside for one is not the other's."""
    book, line = world.worker()
    line.prompt = False
    team = meters(subject="team:t")
    accounts = [book.open((*meters(subject=f"key:{name}"), *team)) for name in "abc"]
    tasks = [asyncio.ensure_future(held(book, account, 1, 9, 1, 9, 1, 9, 1, 9)) for account in accounts for _ in range(5)]
    await settle_loop()
    while await line.deliver():
        await settle_loop()
    for holds in await asyncio.gather(*tasks):
        book.release(holds)
    book.shut()
    await line.deliver_all()
    assert set(world.live().values()) == {0}


# -- what comes back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "money", "left"),
    [
        (0, 0, {"requests": 1, "tokens": 0, "slots": 0, "money": 0}),
        (30, 20, {"requests": 1, "tokens": 30, "slots": 0, "money": 20}),
        (100, 50, {"requests": 1, "tokens": 100, "slots": 0, "money": 50}),
        (120, 70, {"requests": 1, "tokens": 120, "slots": 0, "money": 70}),
    ],
    ids=["blocked or cached", "less than held", "exactly", "more than held"],
)
async def test_a_settled_call_leaves_what_it_used(world: World, tokens: int, money: int, left: dict[str, int]) -> None:
    """The request stays counted, the slot is free, tokens and money are trued up, beyond the hold if need be."""
    book, _ = world.worker()
    account = book.open(meters())
    book.settle(await held(book, account, 1, 100, 1, 50), tokens, money)
    book.shut()
    assert world.live() == left


async def test_a_charge_above_its_hold_is_covered_by_what_lies_here(world: World) -> None:
    """Only what no lease covers is reported."""
    book, _ = world.worker()
    account = book.open(meters(money=1000)[3:])
    holds = await held(book, account, 10)
    lent = world.live()["money"]
    assert lent == 90
    book.settle(holds, 0, 60)
    assert world.live()["money"] == lent
    book.settle(await held(book, account, 10), 0, 500)
    assert (world.live()["money"], [state.over for state in world.office.statement()]) == (560, [470])


async def test_tokens_come_back_under_the_stamp_of_their_grant(world: World) -> None:
    """A call of 20 s frees what it did not use, at the office, for others and at once at the next tick."""
    book, _ = world.worker()
    account = book.open(meters(tokens=1000)[1:2])
    holds = await held(book, account, 900)
    world.clock.advance(20)
    book.settle(holds, 100, 0)
    book.tick()
    assert world.live() == {"tokens": 100}


async def test_what_comes_back_is_home_before_the_next_question(world: World) -> None:
    """Unused tokens need not wait for the tick when this worker itself is short of them."""
    book, _ = world.worker()
    account = book.open(meters(tokens=1000)[1:2])
    holds = await held(book, account, 900)
    world.clock.advance(20)
    book.settle(holds, 100, 0)
    await held(book, account, 900)


async def test_tokens_of_a_very_long_call_free_nothing(world: World) -> None:
    """Its grant's minute is over; what is counted now belongs to others."""
    book, _ = world.worker()
    account = book.open(meters(tokens=1000)[1:2])
    holds = await held(book, account, 900)
    world.clock.advance(100)
    book.settle(await held(book, account, 700), 700, 0)
    book.settle(holds, 100, 0)
    book.tick()
    book.shut()
    assert world.live() == {"tokens": 700}


async def test_tokens_of_an_older_grant_are_not_renewed(world: World) -> None:
    """They go back to the office under their own stamp; handed out again from here they would be used after they ceased to count."""
    book, _ = world.worker()
    account = book.open(meters(tokens=100_000)[1:2])
    old = await held(book, account, 900)
    world.clock.advance(20)
    await held(book, account, 10)
    before = account.pools[0].balance
    book.settle(old, 0, 0)
    assert (before > 0, account.pools[0].balance) == (True, before)
    book.tick()
    book.shut()
    assert world.live() == {"tokens": 10}


async def test_grants_of_two_moments_do_not_mix(world: World) -> None:
    """Two accounts draw on one window: what the first grant left goes home when the second comes."""
    book, line = world.worker()
    team = meters(subject="team:t", tokens=100_000)[1:2]
    one, two = book.open(team), book.open(team)
    line.prompt = False
    world.clock.advance(0.7)
    calls = [asyncio.ensure_future(held(book, account, 10)) for account in (one, two)]
    await settle_loop()
    await line.deliver()
    await settle_loop()
    world.clock.advance(0.5)
    await line.deliver()
    (first,), (second,) = await asyncio.gather(*calls)
    assert second.stamp == first.stamp + 1
    taken: list[Hold] = []
    while (more := book.take(one, (1,))) is not None:
        taken += more
    assert (len(taken), {hold.stamp for hold in taken}) == (80, {second.stamp})
    book.shut()
    await line.deliver_all()
    assert world.live() == {"tokens": 20 + len(taken)}


async def test_near_the_cap_each_hold_is_its_own_lease(world: World) -> None:
    """Exactly what is needed is lent, and whatever comes back goes home without waiting for a tick."""
    book, _ = world.worker()
    other, _ = world.worker("w2")
    small = meters(slots=2, money=100)[2:]
    account, theirs = book.open(small), other.open(small)
    holds = await held(book, account, 1, 60)
    assert (await refused(other, theirs, 1, 50)).remaining == 40
    book.settle(holds, 0, 10)
    assert world.live() == {"slots": 0, "money": 10}
    await held(other, theirs, 1, 90)


async def test_a_released_hold_was_never_there(world: World) -> None:
    """A call that was cancelled before it was admitted does not even count as a request."""
    book, _ = world.worker()
    account = book.open(meters())
    book.release(await held(book, account, 1, 100, 1, 50))
    book.shut()
    assert set(world.live().values()) == {0}


# -- time ---------------------------------------------------------------------------------------------------------


async def test_a_windows_lease_is_not_used_after_its_time(world: World) -> None:
    """Requests and tokens are drawn anew after a second; money and slots are not."""
    book, line = world.worker()
    account = book.open(meters())
    await held(book, account, 1, 100, 1, 50)
    world.clock.advance(1.0)
    await held(book, account, 1, 100, 1, 50)
    assert [draw.meter.dimension for draw in line.draws[1]] == [Dimension.REQUESTS, Dimension.TOKENS]


async def test_a_grant_that_comes_too_late_is_not_used(world: World) -> None:
    """Its time runs from the question. After two such answers the call is told that limits cannot be checked, and all goes back."""
    book, line = world.worker()
    line.prompt = False
    account = book.open(meters())
    call = asyncio.ensure_future(book.hold(account, (1, 100, 1, 50)))
    for _ in range(2):
        await settle_loop()
        world.clock.advance(1.5)
        await line.deliver_all()
    with pytest.raises(Unavailable):
        await call
    book.tick()
    book.tick()
    await line.deliver_all()
    assert set(world.live().values()) == {0}


async def test_ticks_return_what_lies_idle(world: World) -> None:
    """Within two ticks of its last call a worker has nothing left that others could use."""
    book, line = world.worker()
    account = book.open(meters())
    for _ in range(50):
        book.settle(await held(book, account, 1, 100, 1, 50), 80, 20)
    for _ in range(3):
        world.clock.advance(1)
        book.tick()
    assert world.live() == {"requests": 50, "tokens": 4000, "slots": 0, "money": 1000}
    line.draws.clear()
    book.tick()
    assert line.waiting == 0


async def test_a_busy_pool_gives_back_half_of_what_it_did_not_need(world: World) -> None:
    """A balance that never fell below some amount in a second shrinks, without starving the calls that go on."""
    book, _ = world.worker()
    account = book.open(meters(money=10**6)[3:])
    holds = [await held(book, account, 100) for _ in range(300)]
    for hold in holds:
        book.settle(hold, 0, 0)
    before = world.live()["money"]
    for _ in range(12):
        book.tick()
        book.settle(await held(book, account, 100), 0, 0)
    assert world.live()["money"] < before // 50


# -- trouble ------------------------------------------------------------------------------------------------------


async def test_without_the_office_what_is_here_still_serves(world: World) -> None:
    """Security scenario 45: beyond the local balance it is a 503, never an unlimited call and never the caller's fault."""
    book, line = world.worker()
    account = book.open(meters(money=1000)[3:])
    await held(book, account, 10)
    line.gone = True
    for _ in range(8):
        await held(book, account, 10)
    with pytest.raises(Unavailable) as failure:
        await held(book, account, 10)
    assert failure.value.retry_after == 1.0
    line.gone = False
    await held(book, account, 10)


async def test_all_in_line_hear_that_the_office_is_gone(world: World) -> None:
    """Each gets its own error; what was set aside is here again."""
    book, line = world.worker()
    account = book.open(meters(money=1000)[3:])
    await held(book, account, 10)
    line.gone = True
    answers = await asyncio.gather(*(book.hold(account, (100,)) for _ in range(10)), return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert len({id(answer) for answer in answers}) == 10
    assert book.take(account, (80,)) is not None


async def test_a_caller_that_leaves_the_line_takes_nothing(world: World) -> None:
    """Cancelled before the answer: those behind are served, and nothing stays held."""
    book, line = world.worker()
    line.prompt = False
    account = book.open(meters())
    first = asyncio.ensure_future(book.hold(account, (1, 100, 1, 50)))
    second = asyncio.ensure_future(book.hold(account, (1, 100, 1, 50)))
    await settle_loop()
    first.cancel()
    await settle_loop()
    while await line.deliver():
        await settle_loop()
    holds = await second
    assert not isinstance(holds, Refusal)
    book.release(holds)
    book.shut()
    await line.deliver_all()
    assert (first.cancelled(), set(world.live().values())) == (True, {0})


async def test_a_cancel_in_the_turn_of_the_answer_undoes_the_hold(world: World) -> None:
    """The answer is there but the caller never sees it: nothing may stay held for a call that does not run."""
    book, line = world.worker()
    line.prompt = False
    account = book.open(meters())
    call = asyncio.ensure_future(book.hold(account, (1, 100, 1, 50)))
    await settle_loop()
    waiter = account.waiting[0]
    await line.deliver()
    while not waiter.future.done():
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    book.shut()
    await line.deliver_all()
    assert set(world.live().values()) == {0}


async def test_a_fault_in_the_office_leaves_nobody_waiting() -> None:
    """Whatever it raises, every call in line gets an answer."""

    class Broken(LaggedOffice):
        async def acquire(self, draws: tuple[Draw, ...]) -> Granted:
            raise ZeroDivisionError

    world = World()
    book = LeaseBook(Broken(LocalOffice(world.office, "w1")), world.clock, world.spawn)
    account = book.open(meters())
    answers = await asyncio.gather(*(book.hold(account, (1, 1, 1, 1)) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 3
    assert [type(error) for error in world.spawn.errors] == [ZeroDivisionError]


# -- accounts come and go -----------------------------------------------------------------------------------------


async def test_a_closed_account_is_forgotten(world: World) -> None:
    """Its balances go home at the next tick, its running calls settle later, and then nothing is left of it."""
    book, _ = world.worker()
    account = book.open(meters())
    holds = await held(book, account, 1, 100, 1, 50)
    book.close(account)
    for _ in range(3):
        world.clock.advance(1)
        book.tick()
    assert world.live() == {"requests": 1, "tokens": 100, "slots": 1, "money": 50}
    book.settle(holds, 40, 20)
    for _ in range(3):
        book.tick()
    assert world.live() == {"requests": 1, "tokens": 40, "slots": 0, "money": 20}
    assert (book._pools, book._active) == ({}, {})


async def test_a_new_cap_is_asked_for(world: World) -> None:
    """An account opened on a meter with another cap tells the office so."""
    book, line = world.worker()
    book.open(meters(money=100)[3:])
    account = book.open(meters(money=500)[3:])
    await held(book, account, 400)
    assert line.draws[-1][0].meter.cap == 500


# -- several workers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_burst_on_a_small_budget_overspends_nothing(world: World, workers: int) -> None:
    """Security scenario 39, gateways' pain 20: a thousand calls at once, a budget for forty of them."""
    books = [world.worker(f"w{number}") for number in range(workers)]
    accounts = [book.open(meters(money=40 * 25)[3:]) for book, _ in books]

    async def call(number: int) -> bool:
        book = books[number % workers][0]
        answer = await book.hold(accounts[number % workers], (25,))
        if isinstance(answer, Refusal):
            return False
        await settle_loop(number % 3)
        book.settle(answer, 0, 25)
        return True

    answers = await asyncio.gather(*(call(number) for number in range(1000)))
    assert 40 - workers <= sum(answers) <= 40
    for number in range(1000):
        for book, _ in books:
            book.tick()
        if not await call(number):
            break
    assert world.live()["money"] == 1000


async def test_two_workers_share_a_small_cap_without_starving(world: World) -> None:
    """Both get calls through in every minute, together exactly the limit, and no slice lies idle while the other is refused."""
    books = [world.worker(name)[0] for name in ("w1", "w2")]
    accounts = [book.open(meters(requests=10, slots=2)[0:4:2]) for book in books]
    passed = [0, 0]
    for step in range(130):
        for number, book in enumerate(books if step % 2 else books[::-1]):
            worker = number if step % 2 else 1 - number
            answer = await book.hold(accounts[worker], (1, 1))
            if not isinstance(answer, Refusal):
                passed[worker] += 1
                book.settle(answer, 0, 0)
        world.clock.advance(1)
        for book in books:
            book.tick()
    assert sum(passed) == 30
    assert min(passed) >= 10


async def test_a_worker_that_shuts_keeps_nothing(world: World) -> None:
    """What no call holds goes home at once; calls that still run settle as ever."""
    book, _ = world.worker()
    account = book.open(meters())
    holds = await held(book, account, 1, 100, 1, 50)
    book.shut()
    assert world.live() == {"requests": 1, "tokens": 100, "slots": 1, "money": 50}
    book.settle(holds, 0, 0)
    book.shut()
    assert world.live() == {"requests": 1, "tokens": 0, "slots": 0, "money": 0}


# -- asking early -------------------------------------------------------------------------------------------------

NEEDS = (1, 100, 1, 50)


async def busy(world: World, book: LeaseBook, account: Account, calls: int = 100) -> None:
    """A second of calls, so that the book knows how many there are, and what it was last lent stands at its beginning."""
    for _ in range(calls):
        book.settle(await held(book, account, *NEEDS), 100, 50)
    world.clock.advance(1.0)
    book.tick()
    book.settle(await held(book, account, *NEEDS), 100, 50)


async def test_a_pool_in_use_asks_before_its_time_is_over(world: World) -> None:
    """Over many seconds of steady calls nobody waits: whatever is asked for is asked beside them, and never more is out than was lent."""
    book, line = world.worker()
    account = book.open(meters())
    await busy(world, book, account)
    before = line.asked
    for number in range(1, 501):
        world.clock.advance(0.01)
        holds = book.take(account, NEEDS)
        assert holds is not None, number
        book.settle(holds, 100, 50)
        await settle_loop()
        if number % 100 == 0:
            book.tick()
    assert 5 <= line.asked - before <= 40
    assert sum(pool.balance for pool in account.pools if pool.window) <= sum(
        live for name, live in world.live().items() if name in {"requests", "tokens"}
    )


async def test_a_pool_in_use_asks_before_it_is_empty(world: World) -> None:
    """Money that is nearly spent is asked for while there is some: calls go on, and the line stays empty."""
    book, line = world.worker()
    line.prompt = False
    account = book.open(meters()[3:])
    (pool,) = account.pools
    pool.balance, pool.rate, pool.remaining, pool.enough = 1000, 8000, PLENTY, 1000
    assert book.take(account, (50,)) is not None
    await settle_loop()
    assert (pool.asked, line.asked) == (True, 1)
    assert book.take(account, (50,)) is not None
    await settle_loop()
    assert line.asked == 1
    await line.deliver()
    await settle_loop()
    assert (pool.asked, pool.balance) == (False, 900 + 8000)


@pytest.mark.parametrize("why", ["little is left", "tight", "idle", "slots"])
async def test_nothing_is_asked_for_early(world: World, why: str) -> None:
    """Where others may need it, where what comes back goes home at once, and for who hardly calls; slots come back by themselves."""
    book, line = world.worker()
    account = book.open(meters()[2:3] if why == "slots" else meters()[3:])
    (pool,) = account.pools
    pool.balance, pool.rate, pool.remaining = 1000, 8000, PLENTY
    match why:
        case "little is left":
            pool.remaining = 31_999
        case "tight":
            pool.tight = True
        case "idle":
            pool.rate = 400
        case _:
            pass
    pool.taken = pool.rate
    book.tick()
    pool.enough = 0 if why == "slots" else 1000
    pool.balance = max(pool.balance, 100)
    assert book.take(account, (50,)) is not None
    await settle_loop()
    assert (pool.asked, line.asked) == (False, 0)


async def test_what_was_asked_for_early_and_comes_to_a_worker_that_stops(world: World) -> None:
    """It goes straight back: nothing stays out but what was spent, until that is in the ledger."""
    book, line = world.worker()
    account = book.open(meters()[3:])
    holds = await held(book, account, 50)
    (pool,) = account.pools
    pool.rate, pool.enough = 8000, 10**6
    line.prompt = False
    more = book.take(account, (50,))
    assert more is not None
    await settle_loop()
    assert pool.asked
    book.settle(holds, 0, 50)
    book.settle(more, 0, 50)
    book.shut()
    while await line.deliver():
        await settle_loop()
    assert (pool.asked, pool.balance, world.live()) == (False, 0, {"money": 100})


async def test_what_was_asked_for_early_and_comes_too_late_goes_back(world: World) -> None:
    """Its time is over: nobody could use it, and it counts against nobody's window."""
    book, line = world.worker()
    account = book.open(meters()[:1])
    book.settle(await held(book, account, 1), 0, 0)
    (pool,) = account.pools
    pool.rate, pool.enough, pool.remaining = 8000, 10**6, PLENTY
    before = world.live()["requests"]
    line.prompt = False
    assert book.take(account, (1,)) is not None
    await settle_loop()
    world.clock.advance(1.5)
    while await line.deliver():
        await settle_loop()
    assert (pool.asked, pool.balance < 8000, world.live()["requests"]) == (False, True, before)


async def test_an_office_that_is_away_when_asked_early(world: World) -> None:
    """Nobody is told as long as there is something left; then who needs it is. Once it is back, all goes on."""
    book, line = world.worker()
    account = book.open(meters()[3:])
    (pool,) = account.pools
    pool.balance, pool.rate, pool.remaining, pool.enough = 120, 8000, PLENTY, 1000
    line.gone = True
    for _ in range(2):
        assert book.take(account, (50,)) is not None
        await settle_loop()
        assert not pool.asked
    with pytest.raises(Unavailable):
        await book.hold(account, (50,))
    line.gone = False
    await held(book, account, 50)
    assert pool.balance >= AHEAD * 50


async def test_an_office_that_is_away_is_not_asked_early_by_every_call(world: World) -> None:
    """Once, and then not before somebody was answered: what is asked for early is never worth a storm."""
    book, line = world.worker()
    asked: list[tuple[Draw, ...]] = []

    async def away(draws: tuple[Draw, ...]) -> Granted:
        asked.append(draws)
        raise Unavailable("Limits cannot be checked at the moment.", code="steward_unavailable")

    account = book.open(meters()[3:])
    (pool,) = account.pools
    pool.balance, pool.rate, pool.remaining, pool.enough = 1000, 8000, PLENTY, 1000
    acquire, line.acquire = line.acquire, away  # type: ignore[method-assign]
    for _ in range(10):
        assert book.take(account, (50,)) is not None
        await settle_loop()
    assert len(asked) == 1
    line.acquire = acquire  # type: ignore[method-assign]
    await held(book, account, 900)
    assert pool.remaining > 8000


async def test_a_refusal_to_an_early_question_is_believed(world: World) -> None:
    """Others have taken what there was: nobody asks early again while the meter has that little."""
    book, line = world.worker()
    cap = 100_000
    other, _ = world.worker("w2")
    account = book.open(meters(money=cap)[3:])
    (pool,) = account.pools
    await held(book, account, 1000)
    theirs = await held(other, other.open(meters(money=cap)[3:]), cap - world.live()["money"])
    assert theirs.amounts[0] > 50_000
    pool.rate, pool.remaining, pool.enough = 8000, PLENTY, 10**6
    before = line.asked
    for _ in range(10):
        assert book.take(account, (50,)) is not None
        await settle_loop()
    assert (line.asked - before, pool.remaining) == (1, 0)


@pytest.mark.parametrize(("index", "need"), [(0, 10), (1, 10), (3, 10)])
async def test_an_early_grant_is_nobodys_refusal(world: World, index: int, need: int) -> None:
    """A call needs nearly all that is left, and a part of that is on its way here already: it is held, not refused."""
    book, line = world.worker()
    cap = 10_000
    account = book.open(meters(requests=cap, tokens=cap, money=cap)[index : index + 1])
    (pool,) = account.pools
    for second in range(3):
        for _ in range(100):
            await held(book, account, need)
            world.clock.advance(0.002)
        await settle_loop()
        if second < 2:
            world.clock.advance(0.8)
            book.tick()
    line.prompt = False
    calls = 300
    while not pool.asked:
        assert book.take(account, (need,)) is not None
        calls += 1
    await settle_loop()
    large = asyncio.create_task(book.hold(account, (cap - calls * need - 50,)))
    await settle_loop()
    while await line.deliver():
        await settle_loop()
    assert not isinstance(await large, Refusal)


# -- what is lent is used, or comes back ----------------------------------------------------------------------------


async def test_steady_calls_below_a_limit_are_never_refused(world: World) -> None:
    """For minutes at nine tenths of it: what is asked for early, or comes back, counts once."""
    book, _ = world.worker()
    account = book.open(meters(requests=6000)[:1])
    for number in range(90 * 130):
        await held(book, account, 1)
        world.clock.advance(1 / 90)
        if number % 6 == 5:
            await settle_loop(2)
        if number % 90 == 89:
            book.tick()


async def test_tokens_that_were_held_and_not_used_do_not_count(world: World) -> None:
    """Calls that hold ten times what they use, each for a while: of the limit only that is gone, and what runs."""
    book, _ = world.worker()
    account = book.open(meters(tokens=60_000)[1:2])
    running: deque[Holds] = deque()
    for number in range(5 * 130):
        running.append(await held(book, account, 1000))
        world.clock.advance(0.2)
        if len(running) > 15:
            book.settle(running.popleft(), 100, 0)
        if number % 5 == 4:
            book.tick()
            await settle_loop()
    assert sum(live for name, live in world.live().items() if name == "tokens") < 52_000


@pytest.mark.parametrize(("index", "need", "cap"), [(2, 1, 20), (3, 100, 2000)])
async def test_a_recall_and_the_tick_after_it_give_back_nothing_twice(world: World, index: int, need: int, cap: int) -> None:
    """What running calls hold stays lent: another worker cannot be lent it as well."""
    book, _ = world.worker()
    other, _ = world.worker("w2")
    wanted = meters(slots=cap, money=cap)[index : index + 1]
    account = book.open(wanted)
    running = 0
    for _ in range(2):
        await held(book, account, need)
        running += need
    book.tick()
    await held(book, account, need)
    running += need
    book.recall([wanted[0].id])
    book.tick()
    (pool,) = account.pools
    assert (pool.balance, sum(world.live().values())) == (0, running)
    theirs = other.open(wanted)
    while not isinstance(await other.hold(theirs, (need,)), Refusal):
        running += need
    assert running == cap


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("early", [True, False])
async def test_a_meter_that_is_asked_for_while_nobody_uses_it(world: World, early: bool, begun: bool) -> None:
    """Its account is closed, and opened anew, before the office answers, or is even asked: what comes is found again, and goes home."""
    book, line = world.worker()
    wanted = meters(money=100_000)[3:]
    account = book.open(wanted)
    (pool,) = account.pools
    spent = 0
    for _ in range(100):
        book.settle(await held(book, account, 10), 0, 10)
        spent += 10
        world.clock.advance(0.005)
    line.prompt = False
    waiting: list[asyncio.Task[Holds | Refusal]] = []
    if early:
        while not pool.asked:
            holds = book.take(account, (10,))
            assert holds is not None
            book.settle(holds, 0, 10)
            spent += 10
    else:
        rest = book.take(account, (pool.balance,))
        assert rest is not None
        book.settle(rest, 0, rest.amounts[0])
        spent += rest.amounts[0]
        waiting.append(asyncio.create_task(book.hold(account, (10,))))
        await asyncio.sleep(0)
    if begun:
        await settle_loop()
    book.close(account)
    for _ in range(3):
        world.clock.advance(1)
        book.tick()
    again = book.open(wanted)
    waiting.append(asyncio.create_task(book.hold(again, (10,))))
    await settle_loop()
    while await line.deliver():
        await settle_loop()
    for task in waiting:
        answer = await task
        assert not isinstance(answer, Refusal)
        book.settle(answer, 0, 10)
        spent += 10
    line.prompt = True
    await line.deliver_all()
    book.close(again)
    for _ in range(3):
        world.clock.advance(1)
        book.tick()
        await line.deliver_all()
    book.shut()
    await line.deliver_all()
    assert sum(world.live().values()) == spent
