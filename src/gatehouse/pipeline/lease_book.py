"""A worker's book of leases: what it drew from the lease office and may hand to calls without asking again.

In the steady state a hold is arithmetic on local balances. A pool that is used asks for more before it is empty or its time is over, as
long as its meter has plenty. When a balance is short all the same, the calls that need it wait in line while one question for all of them
is on its way. Nothing here can exceed a limit: the book only hands out what the office
lent it, and amounts of a window only as long as the office allows.

Near a cap, where slices would strand amounts with one worker, the office lends exactly what is needed; the pool is then
*tight* and whatever comes back goes straight home.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gatehouse.core.errors import Unavailable
from gatehouse.core.limits import Dimension, Draw, Granted, Holds, Meter, Unused
from gatehouse.core.ports import Clock, LeaseOffice, Spawn

logger = logging.getLogger("gatehouse.limits")

_REQUESTS: Final = Dimension.REQUESTS
_TOKENS: Final = Dimension.TOKENS
_MONEY: Final = Dimension.MONEY
_SLOTS: Final = Dimension.SLOTS
FOREVER: Final = float("inf")
AHEAD: Final = 8
"""A pool asks for as much as this many calls like the present one, or as was drawn from it lately, beyond what it needs."""
BACKLOG: Final = 64
"""Calls in line whose needs are added to one question."""
EARLY: Final = 8
"""A pool in use asks for more when what is left lasts for less than this part of a second, or twice this part of its time is left."""
PLENTY: Final = 4
"""Nothing is asked for early from a meter that has less than so many times as much left: others may need it more."""
PATIENCE: Final = 2
"""How often a window's grant may be over before it arrives; then the office is too slow to be of use."""


class Pool:
    """What this worker has of one meter and nobody holds."""

    __slots__ = (
        "active",
        "asked",
        "balance",
        "enough",
        "expires",
        "low",
        "meter",
        "rate",
        "remaining",
        "renew",
        "stamp",
        "taken",
        "tight",
        "users",
        "window",
    )

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.window = meter.dimension is _REQUESTS or meter.dimension is _TOKENS
        self.balance = 0
        self.expires = 0.0 if self.window else FOREVER
        self.stamp = 0
        self.remaining = 0
        """What the meter had left beyond all leases when the office last said so."""
        self.tight = False
        self.enough = 0
        """More is asked for when the balance falls below this,"""
        self.renew = FOREVER
        """or at this moment;"""
        self.asked = False
        """that is so now."""
        self.taken = 0
        """Handed out since the last tick."""
        self.rate = 0
        """Handed out in the second before the last tick."""
        self.low = 0
        """The least that `balance` has been since the last tick: nobody needed that much."""
        self.active = False
        self.users = 0

    @property
    def lately(self) -> int:
        """What is handed out in a second."""
        return max(self.taken, self.rate)

    def lower(self, amount: int) -> None:
        """So much is not here any more; nor can the next tick give it back, which goes by `low`."""
        self.balance -= amount
        self.low = min(self.low, self.balance)


class Account:
    """The meters of one caller, drawn from together, and the calls in line for them."""

    __slots__ = ("busy", "pools", "waiting")

    def __init__(self, pools: tuple[Pool, ...]) -> None:
        self.pools = pools
        self.waiting: deque[_Waiter] = deque()
        self.busy = False


class Refusal(msgspec.Struct, frozen=True):
    """A meter has too little. `remaining` is what it still has for this call's worker; `retry_after` None: not by waiting."""

    meter: Meter
    need: int
    remaining: int
    retry_after: float | None


class _Waiter:
    __slots__ = ("future", "needs")

    def __init__(self, needs: tuple[int, ...], future: "asyncio.Future[Holds | Refusal]") -> None:
        self.needs = needs
        self.future = future


class _Part(msgspec.Struct):
    """What is set aside of one pool while the office is asked for the rest."""

    pool: Pool
    amount: int
    stamp: int
    expires: float


class LeaseBook:
    """Serves every call of a worker. All methods run on the worker's loop."""

    def __init__(self, office: LeaseOffice, clock: Clock, spawn: Spawn) -> None:
        self._office = office
        self._monotonic = clock.monotonic
        self._spawn = spawn
        self._pools: dict[str, Pool] = {}
        self._active: dict[str, Pool] = {}
        self._unused: dict[tuple[str, int], int] = {}
        self._over = False
        """The worker stops: what comes now goes straight back."""

    # -- accounts ----------------------------------------------------------------------------------------------

    def open(self, meters: Sequence[Meter]) -> Account:
        """An account over `meters`; pools are shared with other accounts on the same meter. Close it when it is no longer used."""
        pools = []
        for meter in meters:
            pool = self._pools.get(meter.id)
            if pool is None:
                pool = self._pools[meter.id] = Pool(meter)
            pool.meter = meter
            pools.append(pool)
        self._keep(pools)
        return Account(tuple(pools))

    def close(self, account: Account) -> None:
        """Nothing new will be held on it; calls in line and running are served to their end."""
        self._let_go(account.pools)

    # -- a call ------------------------------------------------------------------------------------------------

    def take(self, account: Account, needs: tuple[int, ...]) -> Holds | None:
        """Hold `needs`, one for each of the account's meters, if that can be done here and now and nobody is in line."""
        return None if account.waiting else self.draw(account.pools, needs)

    def take_each(self, account: Account, needs: Sequence[tuple[int, ...]]) -> list[Holds] | None:
        """As `take`, for several calls of one account: all of them or none."""
        together = self.take(account, tuple(map(sum, zip(*needs, strict=True))))
        if together is None:
            return None
        meters, stamps = together.meters, together.stamps
        return [Holds(meters, need, stamps) for need in needs]

    def draw(self, pools: tuple[Pool, ...], needs: tuple[int, ...]) -> Holds | None:
        """As `take`, whoever is in line."""
        # One pass, undone in the rare case: this runs for every call.
        now = self._monotonic()
        for index, (pool, need) in enumerate(zip(pools, needs, strict=False)):
            balance = pool.balance - need
            if balance < 0 or pool.expires <= now:
                for taken, amount in zip(pools[:index], needs, strict=False):
                    taken.balance += amount
                    taken.taken -= amount
                return None
            pool.balance = balance
            if (balance < pool.enough or now > pool.renew) and not pool.asked:
                self._ask_early(pool, need)
            if balance < pool.low:  # noqa: PLR1730 - min() costs three times as much
                pool.low = balance
            pool.taken += need
        return Holds(tuple([pool.meter for pool in pools]), needs, tuple([pool.stamp for pool in pools]))

    async def hold(self, account: Account, needs: tuple[int, ...]) -> Holds | Refusal:
        """Hold `needs`, asking the office when it has to. Callers on one account are served in the order in which they came.

        Raises:
            Unavailable: the office cannot be asked and what is here does not suffice.
        """
        holds = self.take(account, needs)
        if holds is not None:
            return holds
        waiter = _Waiter(needs, asyncio.get_running_loop().create_future())
        account.waiting.append(waiter)
        if not account.busy:
            account.busy = True
            self._keep(account.pools)
            self._spawn(self._serve(account), name="leases")
        try:
            return await waiter.future
        except asyncio.CancelledError:
            # The answer may have come in the same turn of the loop as the cancel: then the hold is ours to undo.
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                answer = waiter.future.result()
                if not isinstance(answer, Refusal):
                    self.release(answer)
            raise

    def settle_each(self, ended: Sequence[tuple[Holds, int, int]]) -> None:
        """As `settle`, for several calls that used no more than they held. What befalls some of them does not touch the others."""
        alike: list[list[tuple[Holds, int, int]]] = []
        held: Holds | None = None
        for each in ended:
            holds = each[0]
            if held is None or holds.stamps != held.stamps or holds.meters != held.meters:
                held = holds
                alike.append([])
            alike[-1].append(each)
        for some in alike:
            all_holds, tokens, money = zip(*some, strict=True)
            amounts = tuple(map(sum, zip(*[holds.amounts for holds in all_holds], strict=True)))
            try:
                self.settle(Holds(all_holds[0].meters, amounts, all_holds[0].stamps), sum(tokens), sum(money))
            except Exception:
                logger.exception("what some calls held could not be given back")

    def settle(self, holds: Holds, tokens: int, money: int) -> None:
        """A call has ended: true its holds up to what it used. Its request stays counted, its slot comes back.

        `tokens` and `money` (units of 10^-10 USD) are all that it used, over every attempt; more than was held is booked too.
        """
        home = False
        pools = self._pools
        now = self._monotonic()
        for meter, back, stamp in zip(holds.meters, holds.amounts, holds.stamps, strict=True):
            dimension = meter.dimension
            if dimension is _REQUESTS:
                continue
            if dimension is _TOKENS:
                back -= tokens  # noqa: PLW2901 - what is left of it
            elif dimension is _MONEY:
                back -= money  # noqa: PLW2901 - likewise
            pool = pools.get(meter.id)
            if (
                back > 0
                and pool is not None
                and pool.active
                and not pool.tight
                and (not pool.window or (pool.stamp == stamp and pool.expires > now))
            ):
                pool.balance += back  # what `_put_back` does with nearly every hold
            elif back and self._put_back(pool or self._revive(meter), back, stamp):
                home = True
        if home:
            self._flush()

    def release(self, holds: Holds) -> None:
        """The call never began: everything comes back, its request too."""
        for hold in holds:
            self._put_back(self._pools.get(hold.meter.id) or self._revive(hold.meter), hold.amount, hold.stamp)
        self._flush()

    # -- once a second -----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Give back what others could use: windows that are over, idle balances, half of what nobody needed this second."""
        now = self._monotonic()
        for pool in tuple(self._active.values()):
            balance = pool.balance
            if pool.window:
                back = balance if pool.expires <= now else 0
            elif not pool.taken or not pool.users:
                back = balance
            else:
                back = pool.low // 2
            if back:
                self._retire(pool, back)
            pool.rate = pool.taken
            pool.taken = 0
            pool.low = pool.balance
            pool.enough = _enough(pool)
            if not pool.balance and not pool.rate:
                self._rest(pool)
        self._flush()

    def recall(self, meters: Iterable[str]) -> None:
        """Another worker needs what lies idle here: all of it goes home now."""
        for name in meters:
            pool = self._pools.get(name)
            if pool is not None and pool.balance > 0:
                self._retire(pool, pool.balance)
        self._flush()

    def shut(self) -> None:
        """The worker stops: give back everything that no call holds."""
        self._over = True
        for pool in tuple(self._active.values()):
            if pool.balance:
                self._retire(pool, pool.balance)
        self._flush()

    # -- inside: balances --------------------------------------------------------------------------------------

    def _put_back(self, pool: Pool, amount: int, stamp: int) -> bool:
        """Return `amount` of a hold to its pool, or charge what was used above the hold. True: it has to go home now."""
        if amount <= 0:
            if amount:
                self._exceed(pool, -amount)
            return False
        if pool.tight or (pool.window and (pool.stamp != stamp or pool.expires <= self._monotonic())):
            self._send_home(pool, amount, stamp)
            return pool.tight
        pool.balance += amount
        if not pool.active:
            self._activate(pool)
        return False

    def _exceed(self, pool: Pool, amount: int) -> None:
        """More was used than was held. What lies here covers it first: that is lent to us anyway."""
        if pool.window:
            self._office.report_over(pool.meter.id, amount)
            return
        covered = min(pool.balance, amount)
        pool.lower(covered)
        if amount > covered:
            self._office.report_over(pool.meter.id, amount - covered)

    def _retire(self, pool: Pool, amount: int) -> None:
        pool.lower(amount)
        self._send_home(pool, amount, pool.stamp)

    def _send_home(self, pool: Pool, amount: int, stamp: int) -> None:
        """With the next `_flush`."""
        key = (pool.meter.id, stamp)
        self._unused[key] = self._unused.get(key, 0) + amount

    def _flush(self) -> None:
        if self._unused:
            unused, self._unused = self._unused, {}
            self._office.give_back([Unused(meter, amount, stamp) for (meter, stamp), amount in unused.items()])

    def _activate(self, pool: Pool) -> None:
        pool.active = True
        self._active[pool.meter.id] = pool

    @staticmethod
    def _keep(pools: Sequence[Pool]) -> None:
        """They are used, or about to be asked for: what is lent to a pool that is forgotten would lie where nobody looks."""
        for pool in pools:
            pool.users += 1

    def _let_go(self, pools: Sequence[Pool]) -> None:
        for pool in pools:
            pool.users -= 1
            self._activate(pool)

    def _rest(self, pool: Pool) -> None:
        """Out of every tick's way until something comes back or is drawn; forgotten when no account uses it."""
        pool.active = False
        self._active.pop(pool.meter.id, None)
        if not pool.users and self._pools.get(pool.meter.id) is pool:
            del self._pools[pool.meter.id]

    def _revive(self, meter: Meter) -> Pool:
        """A call outlived its account: what it brings back passes through."""
        pool = self._pools[meter.id] = Pool(meter)
        self._activate(pool)
        return pool

    # -- inside: the line --------------------------------------------------------------------------------------

    async def _serve(self, account: Account) -> None:
        """Answer every call in line, one question at a time, then end. Its pools are kept until then."""
        late = 0
        problem: Unavailable | None = None
        try:
            while account.waiting:
                waiter = account.waiting[0]
                if waiter.future.done():
                    account.waiting.popleft()
                    continue
                holds = self.draw(account.pools, waiter.needs)
                if holds is not None:
                    account.waiting.popleft()
                    waiter.future.set_result(holds)
                    continue
                if late >= PATIENCE:
                    problem = Unavailable("Limits cannot be checked in time.", code="limits_unavailable", retry_after=1.0)
                    return
                late = 0 if await self._ask(account, waiter) else late + 1
        except Unavailable as error:
            problem = error
        finally:
            account.busy = False
            self._let_go(account.pools)
            for waiter in account.waiting:
                if not waiter.future.done():
                    waiter.future.set_exception(_unavailable(problem))
            account.waiting.clear()

    async def _ask(self, account: Account, waiter: _Waiter) -> bool:
        """One question for the first in line, with room for the others. False: what came was of no use any more."""
        asked = self._monotonic()
        parts, draws, drawn = self._set_aside(account, waiter, asked)
        cohort = len(account.waiting)
        self._flush()
        try:
            granted = await self._office.acquire(tuple(draws))
        except BaseException:
            self._restore(parts)
            raise
        if granted.refused is not None:
            self._restore(parts)
            self._refuse(account, granted, drawn, cohort)
            return True
        for draw, index, amount, remaining in zip(draws, drawn, granted.amounts, granted.remaining, strict=True):
            self._credit(parts[index], draw, amount, granted, asked)
            parts[index].pool.remaining = remaining
        if any(part.expires <= self._monotonic() for part in parts):
            self._restore(parts)
            return False
        account.waiting.popleft()
        if waiter.future.done():
            self._restore(parts)
        else:
            for part in parts:
                part.pool.taken += part.amount
            meters, amounts, stamps = zip(*((part.pool.meter, part.amount, part.stamp) for part in parts), strict=True)
            waiter.future.set_result(Holds(meters, amounts, stamps))
        return True

    def _set_aside(self, account: Account, waiter: _Waiter, now: float) -> tuple[list[_Part], list[Draw], list[int]]:
        """Keep what is here for the first in line, so that nobody takes it meanwhile, and list what is missing."""
        parts: list[_Part] = []
        draws: list[Draw] = []
        drawn: list[int] = []
        for index, (pool, need) in enumerate(zip(account.pools, waiter.needs, strict=True)):
            have = min(pool.balance, need)
            if pool.window and (have < need or pool.expires <= now):
                # Two grants of a window do not mix: the older one is over sooner.
                if pool.balance:
                    self._retire(pool, pool.balance)
                have = 0
            pool.lower(have)
            parts.append(_Part(pool, have, pool.stamp, pool.expires))
            if have < need:
                short = need - have
                line = sum(account.waiting[place].needs[index] for place in range(1, min(len(account.waiting), BACKLOG)))
                draws.append(Draw(pool.meter, short, short + line + max(AHEAD * need, pool.lately)))
                drawn.append(index)
        return parts, draws, drawn

    def _credit(self, part: _Part, draw: Draw, amount: int, granted: Granted, asked: float) -> None:
        pool = part.pool
        part.amount += draw.need
        self._grant(pool, amount - draw.need, granted, asked)
        if pool.window:
            part.stamp, part.expires = pool.stamp, pool.expires
        pool.tight = amount == draw.need

    def _grant(self, pool: Pool, amount: int, granted: Granted, asked: float) -> None:
        """`amount` is the pool's to hand out."""
        if pool.window:
            if pool.balance:
                # Of a grant that this one takes the place of: two of a window do not mix.
                self._retire(pool, pool.balance)
            pool.stamp = granted.stamp
            pool.expires = asked + granted.lifetime
            pool.renew = pool.expires - 2 * granted.lifetime / EARLY
        pool.balance += amount
        pool.enough = _enough(pool)
        self._activate(pool)

    def _ask_early(self, pool: Pool, need: int) -> None:
        """The pool will be empty, or its time over, before long: whoever comes then is not to wait for the office."""
        want = pool.lately
        if pool.tight or want <= AHEAD * need or pool.remaining < PLENTY * want:
            return
        pool.asked = True
        self._keep((pool,))
        self._spawn(self._replenish(pool, want), name="leases")

    async def _replenish(self, pool: Pool, want: int) -> None:
        """Have the pool, which is kept until then, lent `want` more."""
        asked = self._monotonic()
        try:
            granted = await self._office.acquire((Draw(pool.meter, 1, want),))
        except Unavailable:
            pool.remaining = 0  # whoever needs it is told; until somebody was answered, nobody asks early again
            return
        finally:
            pool.asked = False
            self._let_go((pool,))
        (pool.remaining,) = granted.remaining
        if granted.refused is not None:
            return
        (amount,) = granted.amounts
        until = asked + granted.lifetime if pool.window else FOREVER
        if self._over or until <= self._monotonic() or until < pool.expires:
            self._send_home(pool, amount, granted.stamp)  # nobody could use it, or what came meanwhile is good for longer
        else:
            self._grant(pool, amount, granted, asked)
        self._flush()

    def _restore(self, parts: Sequence[_Part]) -> None:
        home = False
        for part in parts:
            home |= self._put_back(part.pool, part.amount, part.stamp)
        if home:
            self._flush()

    def _refuse(self, account: Account, granted: Granted, drawn: Sequence[int], cohort: int) -> None:
        """Tell the first in line, and everybody behind who was there when the office was asked and needs more than is left."""
        assert granted.refused is not None
        index = drawn[granted.refused]
        pool = account.pools[index]
        for at, left in zip(drawn, granted.remaining, strict=True):
            account.pools[at].remaining = left
        left = granted.remaining[granted.refused] + pool.balance
        fits: list[_Waiter] = []
        for _ in range(cohort):
            waiter = account.waiting.popleft()
            if waiter.future.done():
                continue
            # What was asked for early may have come meanwhile, and then the first in line fits too: it asks again.
            if waiter.needs[index] > left:
                waiter.future.set_result(Refusal(pool.meter, waiter.needs[index], left, granted.retry_after))
            else:
                fits.append(waiter)
        account.waiting.extendleft(reversed(fits))


def _enough(pool: Pool) -> int:
    """What lasts for a moment as long as a question takes. Slots come back: of them there is enough while there is any."""
    return 0 if pool.meter.dimension is _SLOTS else pool.lately // EARLY


def _unavailable(cause: Unavailable | None) -> Unavailable:
    """One for each call: an exception that is raised in several tasks collects all their tracebacks."""
    if cause is None:
        return Unavailable("Limits cannot be checked at the moment.", code="limits_unavailable", retry_after=1.0)
    return Unavailable(cause.message, code=cause.code, retry_after=cause.retry_after, detail=cause.detail)
