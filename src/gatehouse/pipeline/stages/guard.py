"""Guard reads what goes in and watches what comes out. It may rewrite the call and the answer, and never lets more through.

What a call only points to is refused, or fetched once everything else has let the call pass (see `pipeline.remote_content`).

Every text that a model will read is read first: as it came and folded, in one pass over all of them together; places are
worked out only when that pass finds something. What no rule can read is named and left to the policy. A guard that cannot
do its work refuses (503), except where the policy only asks it to flag.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import Final

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.errors import Blocked, GatehouseError, InvalidRequest, TooLarge, Unavailable, UpstreamFailed
from gatehouse.core.events import Answer, Chunk, Event, Events
from gatehouse.core.normalise import Normaliser, hidden_spans
from gatehouse.core.plans import GuardPolicy, Plan
from gatehouse.core.ports import Clock, Scanner
from gatehouse.core.single import Single
from gatehouse.pipeline import texts
from gatehouse.pipeline.cuts import cuts
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.margins import Margins, fit, written
from gatehouse.pipeline.remote_content import check_remote_urls
from gatehouse.pipeline.runner import Answered
from gatehouse.pipeline.screen import Action, Found, Screen, answer_texts, plain_answer, rewritten_answer
from gatehouse.pipeline.sieve import Sieve, Spot, merged, redacted
from gatehouse.pipeline.watching import Watching

HIDDEN_TEXT: Final = "hidden-text"
"""The rule of this stage itself: text that a model reads and a person cannot see."""
FAULT_FLAG: Final = "guard:fault"
"""The guard could not do its work and the policy was to flag."""
FETCHED_FLAG: Final = "remote_content"
"""We connected to somewhere for this call."""
_PIECE: Final = 16_384
"""Characters read at a stretch, a quarter of it when they must be folded; between two pieces everybody else has a turn."""
_PER_TEXT: Final = 256
"""What beginning a text costs, in characters of reading."""
_SELECTORS: Final = "\ufe00"
"""Where the characters begin that hide messages in runs: a piece never ends inside one."""

logger = logging.getLogger("gatehouse.pipeline")


class Guard:
    """Applies each plan's GuardPolicy with one rule pack.

    `flag_only` are rules too vague to act on, whatever the policy says. `budget` is how many seconds reading one call or one
    whole answer may take. `fetch` puts what a call points to in the place of its addresses, for plans that want that.
    """

    name = "guard"
    settles_failures_only = True

    def settle(self, x: Exchange) -> None:
        """Nothing is held. What a target said when it refused the request is read like an answer before the caller is told."""
        error = x.error
        if error is not None and isinstance(error, UpstreamFailed) and error.caller_fault:
            self._quoted(x, error)

    def __init__(
        self,
        scanner: Scanner,
        clock: Clock,
        *,
        flag_only: frozenset[str] = frozenset(),
        budget: float = 2.0,
        fetch: Callable[[Call], Awaitable[Call]] | None = None,
    ) -> None:
        self._scanner = scanner
        self._clock = clock
        self._flag_only = flag_only
        self._budget = budget
        self._fetch = fetch
        self._normaliser = Normaliser()

    def policy_version(self, plan: Plan) -> str:
        """What decides about a call of `plan`: its policy's version and the rule pack's, for records and cache keys."""
        return f"{plan.guard.version}/{self._scanner.version}"

    async def admit(self, x: Exchange) -> None:
        """Check, and where the policy says so rewrite, what goes in.

        Raises:
            TooLarge: more text than the policy lets in.
            InvalidRequest: text that is no Unicode; a remote address that the plan does not take, or that cannot be fetched.
            Blocked: content that the policy refuses: `code` is the rule ("unscannable" for what no rule reads), `param` the place.
            Unavailable: the guard could not do its work.
        """
        call, plan = x.call, x.plan
        assert call is not None
        assert plan is not None
        policy = plan.guard
        contents, unread, _ = texts.plain(call)
        if unread:
            _refuse_unscannable(call, unread, policy)
        fetches = bool(unread) and check_remote_urls(call, plan.remote_urls)
        joined = "\n".join(contents)
        if not joined.isascii():
            _check_unicode(call, joined)
        if (len(joined) if joined.isascii() else len(joined.encode())) > policy.max_text_bytes:
            raise TooLarge(f"The text of this call is larger than {policy.max_text_bytes} bytes.", param="messages")
        if policy.input != "off":
            await self._check(x, call, joined, policy.input)
        if fetches:
            # Last: what is refused here is never connected to, and a secret in the address has been found by now.
            await self._put_in_place(x)

    async def _check(self, x: Exchange, call: Call, joined: str, action: Action) -> None:
        try:
            found = await self._reads(joined) if len(joined) > _PIECE else self._shows(joined)
            if found:
                await self._act(x, call, action)
            assert x.call is not None
            for place, text in (*texts.seams(x.call), *cuts(x.call, self._scanner)):
                await self._together(x, place, text, action)
        except GatehouseError:
            raise
        except Exception as fault:
            self._failed(x, fault, action)

    async def _put_in_place(self, x: Exchange) -> None:
        if self._fetch is None:
            raise Unavailable("Remote addresses cannot be fetched here.", code="fetch_unavailable")
        assert x.call is not None
        x.call = await self._fetch(x.call)
        x.counted = None
        x.flag(FETCHED_FLAG)

    def at_once(self, x: Exchange) -> bool:
        """As `admit`, for a short call in which there is nothing to find, or in which nobody looks."""
        joined, pieced = self._simple(x)
        if joined is None or not joined:
            return joined is not None
        try:
            return not self._shows(joined) and not self._pieced(x, pieced=pieced)
        except Exception:
            return False  # `admit` meets the same fault, and knows what the policy makes of it

    def clear(self, calls: Sequence[Exchange]) -> Sequence[Exchange]:
        """Several calls pass at once when all of their texts, read as one, hold nothing; those that do not. See `runner.Many`."""
        simple: list[str] = []
        others: list[Exchange] = []
        try:
            for x in calls:
                joined, pieced = self._simple(x)
                if joined is None or (joined and self._pieced(x, pieced=pieced)):
                    others.append(x)
                elif joined:
                    simple.append(joined)
            if self._shows("\n".join(simple)):
                return calls  # somewhere: each is read by itself
        except Exception:
            return calls  # each meets the same fault
        return others

    def _simple(self, x: Exchange) -> tuple[str | None, bool]:
        """The texts of a call that can be read at once, as one; "" when nobody wants to look, None when it takes more than that.
        And whether `texts.seams` has anything to look at."""
        call, plan = x.call, x.plan
        assert call is not None
        assert plan is not None
        policy = plan.guard
        contents, unread, pieced = texts.plain(call)
        joined = "\n".join(contents)
        if unread or len(joined) > _PIECE or len(joined) > policy.max_text_bytes or not joined.isascii():
            return None, pieced
        return joined if policy.input != "off" else "", pieced

    def _pieced(self, x: Exchange, *, pieced: bool) -> bool:
        """Whether a call has texts that show only when they are put together."""
        call = x.call
        assert call is not None
        return bool((pieced and texts.seams(call)) or (len(call.messages) > 1 and cuts(call, self._scanner)))

    def watch(self, x: Exchange, events: Events) -> Events:
        """Screen what comes out, unless the policy does not look."""
        assert x.plan is not None
        action = x.plan.guard.output
        if action == "off":
            return events
        if type(events) is Single and (event := self._cleared(events.event, action)) is not None:
            return events if event is events.event else Single(event)
        return Watching(events, self._screened(x, events, action))

    # What goes in

    def _shows(self, text: str) -> bool:
        """Whether there is anything to look for in `text`, from one pass over each view."""
        if self._scanner.scan(text):
            return True
        folded = self._normaliser.fold(text)
        return folded is not text and (bool(self._scanner.scan(folded)) or next(hidden_spans(text), None) is not None)

    async def _reads(self, text: str) -> bool:
        """As `_shows`, piece by piece."""
        hidden: list[Spot] = []
        sieve = await self._sifted(text, hidden)
        return bool(sieve.rules or hidden)

    async def _sifted(self, text: str, hidden: list[Spot] | None = None) -> Sieve:
        """`text` read to its end; what is hidden in it is added to `hidden`."""
        sieve = Sieve(self._scanner, self._normaliser, self._flag_only)
        until = self._clock.monotonic() + self._budget
        for start, piece in _pieces(text):
            if not sieve.passes(piece):
                sieve.feed(piece)
            if hidden is not None:
                hidden += [Spot(HIDDEN_TEXT, start + first, start + end) for first, end in hidden_spans(piece)]
            if start + len(piece) < len(text):
                await self._clock.sleep(0)
                if self._clock.monotonic() > until:
                    raise TimeoutError("reading took longer than its budget")
        sieve.finish()
        return sieve

    async def _spots(self, x: Exchange, text: str) -> list[Spot]:
        """What is in one text, flagged; without what is only flagged."""
        hidden: list[Spot] = []
        sieve = await self._sifted(text, hidden)
        for rule in (*sieve.rules, *([HIDDEN_TEXT] if hidden else ())):
            x.flag(f"guard:{rule}")
        return merged(sieve.spots + hidden) if hidden else sieve.spots

    async def _together(self, x: Exchange, place: str, text: str, action: Action) -> None:
        """A text that stands nowhere as it is read here: it cannot be redacted in its place, only refused or flagged."""
        if not (await self._reads(text) if len(text) > _PIECE else self._shows(text)):
            return
        spots = await self._spots(x, text)
        if spots and action != "flag":
            rule = spots[0].rule
            raise Blocked(f"{place}, put together, holds what the rule {rule!r} does not let through.", code=rule, param=place)

    async def _act(self, x: Exchange, call: Call, action: Action) -> None:
        changes = {}
        unbroken = 0
        for place, text in texts.located(call):
            spots = await self._spots(x, text)
            unbroken += len(text) + _PER_TEXT
            if unbroken > _PIECE:
                unbroken = 0
                await self._clock.sleep(0)
            if not spots:
                continue
            if action == "block":
                rule = spots[0].rule
                raise Blocked(f"{place} holds what the rule {rule!r} does not let through.", code=rule, param=place)
            changes[place] = redacted(text, 0, spots)
        if changes and action == "redact":
            x.call = texts.rewritten(call, changes)
            x.counted = None

    # What comes out

    def _quoted(self, x: Exchange, error: UpstreamFailed) -> None:
        action = x.plan.guard.output if x.plan is not None else "off"
        if action == "off":
            return
        try:
            sieve = self._short(error.message)
            rules, found = sieve.rules, bool(sieve.spots)
        except Exception as fault:
            logger.error("call %s: the guard failed: %s", x.request_id, type(fault).__name__)
            x.flag(FAULT_FLAG)
            rules, found = [], True
        for rule in rules:
            x.flag(f"guard:{rule}")
        if found and action != "flag":
            error.message = "The model refused the request, and what it said of it may not leave."
            error.args = (error.message,)

    def _short(self, text: str) -> Sieve:
        """`text`, which comes in one piece, read to its end."""
        sieve = Sieve(self._scanner, self._normaliser, self._flag_only)
        if not sieve.passes(text):
            sieve.feed(text)
        sieve.finish()
        return sieve

    def _with_margins(self, x: Exchange, event: Event, margins: Margins, action: Action) -> Event:
        """`event` with an id and names that may leave. Raises Found."""
        if margins.are_new(event):
            sieve = self._short(written(event))
            for rule in sieve.rules:
                x.flag(f"guard:{rule}")
            if sieve.spots:
                if action == "block":
                    raise Found(sieve.spots[0].rule)
                margins.well = False
        return event if action == "flag" else margins.clean(event)

    async def _screened(self, x: Exchange, events: Events, action: Action) -> AsyncGenerator[Event, None]:
        screen = Screen(self._scanner, self._normaliser, action, self._flag_only)
        margins = Margins(x.request_id)
        try:
            async for event in events:
                if event.opaque and action != "flag":
                    # What nobody could read leaves only as what was read of it.
                    event = msgspec.structs.replace(event, raw=b"", opaque=False)  # noqa: PLW2901
                try:
                    event = self._with_margins(x, event, margins, action)  # noqa: PLW2901
                    ready = screen.take(event) if isinstance(event, Chunk) else await self._screened_answer(x, event, action)
                except Exception as fault:
                    self._stop(x, fault, action)
                    yield event
                    break
                if isinstance(ready, list):
                    for each in ready:
                        yield each
                else:
                    yield ready
            else:
                for each in self._last(x, screen, action):
                    yield each
                return
            async for event in events:  # unread: the guard is broken and the policy is only to flag
                yield event
        finally:
            for rule in screen.rules:
                x.flag(f"guard:{rule}")
            await events.aclose()

    def clear_answers(self, answers: Sequence[Answered]) -> Sequence[Answered]:
        """As `clear`, of whole answers: those that may not leave as they are, or not without being read with care."""
        simple: list[str] = []
        others: list[Answered] = []
        try:
            for each in answers:
                x, answer = each
                assert x.plan is not None
                if x.plan.guard.output == "off":
                    continue
                if answer.opaque or (said := self._brief(answer)) is None:
                    others.append(each)
                else:
                    simple.append(said)
            if simple and self._shows("\n".join(simple)):
                return answers
        except Exception:
            return answers
        return others

    def _cleared(self, answer: Event, action: Action) -> Event | None:
        """A short answer that is whole and holds nothing, as it may leave; None when it has to be read with care."""
        if type(answer) is not Answer or (said := self._brief(answer)) is None:
            return None
        try:
            if self._shows(said):
                return None
        except Exception:
            return None  # whoever reads with care meets the same fault, and knows what the policy makes of it
        return msgspec.structs.replace(answer, raw=b"", opaque=False) if answer.opaque and action != "flag" else answer

    @staticmethod
    def _brief(answer: Answer) -> str | None:
        """Every text of a short answer, its margins too; None for a long one, or one whose margins cannot stand."""
        joined = f"{plain_answer(answer)}\n{written(answer)}"
        return joined if len(joined) <= _PIECE and fit(answer) else None

    def _last(self, x: Exchange, screen: Screen, action: Action) -> list[Chunk]:
        try:
            return screen.finish()
        except Exception as fault:
            self._stop(x, fault, action)
            return []

    async def _screened_answer(self, x: Exchange, answer: Answer, action: Action) -> Answer:
        changes = {}
        for place, text in answer_texts(answer):
            sieve = await self._sifted(text)
            for rule in sieve.rules:
                x.flag(f"guard:{rule}")
            if sieve.spots:
                if action == "block":
                    raise Found(sieve.spots[0].rule)
                changes[place] = redacted(text, 0, sieve.spots)
        return rewritten_answer(answer, changes) if changes and action == "redact" else answer

    def _stop(self, x: Exchange, fault: Exception, action: Action) -> None:
        """Raise what the caller is told; return only when a broken guard is to be flagged and no more."""
        if isinstance(fault, Found):
            message = f"The answer was stopped: it holds what the rule {fault.rule!r} does not let through."
            raise Blocked(message, code=fault.rule) from None
        self._failed(x, fault, action)

    @staticmethod
    def _failed(x: Exchange, fault: Exception, action: Action) -> None:
        # Only the kind of fault: its message may quote what was read.
        logger.error("call %s: the guard failed: %s", x.request_id, type(fault).__name__)
        if action != "flag":
            raise Unavailable(
                "The guard could not check this call.", code="guard_unavailable", retry_after=1.0, detail=type(fault).__name__
            ) from None
        x.flag(FAULT_FLAG)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    size = _PIECE if text.isascii() else _PIECE // 4
    start = 0
    while start < len(text):
        end = start + size
        while end < len(text) and text[end] >= _SELECTORS and end - start < 2 * size:
            end += 1
        yield start, text[start:end]
        start = end


def _refuse_unscannable(call: Call, unread: frozenset[str], policy: GuardPolicy) -> None:
    denied = {kind for kind in unread if policy.unscannable.get(kind, policy.unscannable_default) == "deny"}
    for kind, place in texts.unscannable(call):
        if kind in denied:
            raise Blocked(f"{place}: the policy does not let content of the type {kind!r} pass unread.", code="unscannable", param=place)


def _check_unicode(call: Call, joined: str) -> None:
    try:
        joined.encode()
    except UnicodeEncodeError:
        for place, text in texts.located(call):
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise InvalidRequest(f"{place} holds half a surrogate pair, which is no Unicode text.", param=place) from None
