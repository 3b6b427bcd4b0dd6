"""What a call used, and what that costs.

What a call used is what its target says. Where it does not say, or the call ends before it could, the tokens so far are
counted here: an answer that was cut off is paid for once, and an attempt that failed before it answered is not paid for.
"""

from typing import Final

import msgspec

from gatehouse.core.events import Answer, Chunk, Event, Events
from gatehouse.core.limits import Dimension
from gatehouse.core.money import ZERO, Money
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Target
from gatehouse.core.ports import Tally
from gatehouse.core.usage import Usage, added
from gatehouse.pipeline.attempt import Run
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.prompts import CHARACTERS_A_TOKEN, prompt_tokens

MOST_TOKENS: Final = 10_000_000
"""More tokens in or out of one choice than any model can take: such a count is not believed."""
OVER_HOLD: Final = "over_hold"
_STARTED: Final = Chunk()
_MONEY: Final = Dimension.MONEY
_TOKENS: Final = Dimension.TOKENS
"""Looking up a member of an enumeration costs more than the comparison."""


class Counting:
    """Sets `x.usage` and `x.charge` as a target's answer comes, or ends before it could."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    async def stream(self, x: Exchange, run: Run, events: Events) -> Events:
        """`events`, counted as they pass. Yields once what nobody reads, so that its end runs whenever it is closed."""
        try:
            yield _STARTED
            async for event in events:
                if type(event) is Chunk:
                    for delta in event.choices:
                        size = len(delta.text) + len(delta.reasoning) + len(delta.refusal)
                        if delta.tools:
                            size += sum(len(tool.arguments) + len(tool.name or "") for tool in delta.tools)
                        if size:
                            run.pieces += 1
                            run.characters += size
                    if event.usage is not None:
                        event = self._believe(x, run, event)  # noqa: PLW2901 - without the usage that cannot be true
                else:
                    event = self.whole(x, run, event)  # noqa: PLW2901 - likewise
                yield event
        finally:
            try:
                await events.aclose()
            finally:
                self.account(x, run)

    def whole(self, x: Exchange, run: Run, event: Event) -> Event:
        """Count an answer in one piece; as it may go on."""
        assert isinstance(event, Answer)
        answer, usage, target = event, event.usage, run.target
        if (
            usage is not None
            and 0 < (tokens := usage.honest_total) <= MOST_TOKENS
            and run.begun
            and not run.counted
            and x.lost is None
            and target is not None
        ):
            # As of nearly every answer: what the target says can be true, and it is all there is to pay for.
            run.usage = usage
            run.pieces = run.characters = 0
            self._charge(x, run, usage)
            run.counted = True
            self._compare(x, target, x.charge, tokens)
            return event
        if usage is None or not usage.total:
            _count(run, answer)
        if usage is not None:
            event = self._believe(x, run, event)
            if event.usage is None and usage.total:
                _count(run, answer)  # what the target says cannot be true, and nobody has counted yet
        # The last event of its stream: what it cost is known before it is written out.
        self.account(x, run)
        return event

    def _believe(self, x: Exchange, run: Run, event: Event) -> Event:
        """Take the target's word for what it used, unless it cannot be true."""
        usage = event.usage
        assert usage is not None
        into, out = usage.input_total, usage.output_total
        most = MOST_TOKENS
        if out > most and x.call is not None:
            most *= x.call.choices
        if into > MOST_TOKENS or out > most or usage.has_negative:
            x.flag("absurd_usage")
            return msgspec.structs.replace(event, usage=None, raw=b"")
        if not (into or out) and run.pieces:
            # Some servers send zeros for "not counted".
            return event
        run.usage = usage
        run.pieces = run.characters = 0
        self._charge(x, run, usage)
        return event

    def _charge(self, x: Exchange, run: Run, usage: Usage) -> None:
        target = run.target
        price = None if target is None else target.price
        x.usage = usage
        x.charge = price.charge(usage) if price is not None else ZERO
        if x.lost is not None:
            x.usage = added(usage, x.lost.usage)
            x.charge = Money(x.charge + x.lost.charge)

    def account(self, x: Exchange, run: Run) -> None:
        """Once a call, when nothing more will come of it: fill in what the target did not say, compare with what was held."""
        if run.counted or run.target is None:
            return
        run.counted = True
        if run.begun:
            if run.usage is None or run.pieces:
                self._estimate(x, run)
        elif x.outcome in {Outcome.CLIENT, Outcome.REVOKED} and run.attempt is not None and run.attempt.sent:
            # The caller left while the target was reading the prompt: that much was asked for and done.
            self._estimate(x, run)
        self._compare(x, run.target, x.charge, x.usage.total)

    def _estimate(self, x: Exchange, run: Run) -> None:
        call = x.call
        assert call is not None
        usage = run.usage
        if usage is None:
            usage = read_prompt(x)
        output = max(run.pieces, -(-run.characters // CHARACTERS_A_TOKEN))
        if call.max_tokens is not None:
            output = min(output, max(0, call.choices * call.max_tokens - usage.output_total))
        self._charge(x, run, msgspec.structs.replace(usage, output=usage.output + output))
        x.flag("estimated_usage")

    def _compare(self, x: Exchange, target: Target, charge: Money, tokens: int) -> None:
        amounts = x.holds.amounts
        for index, meter in enumerate(x.holds.meters):  # zip() costs more than the rest of this
            dimension, amount = meter.dimension, amounts[index]
            if (dimension is _MONEY and charge > amount) or (dimension is _TOKENS and tokens > amount):
                x.flag(OVER_HOLD)
                self._tally.count("gatehouse_over_hold_total", (target.id,))
                return


def _count(run: Run, answer: Answer) -> None:
    for choice in answer.choices:
        size = len(choice.text or "") + len(choice.reasoning or "") + len(choice.refusal or "")
        if choice.tools:
            size += sum(len(tool.arguments) + len(tool.name) for tool in choice.tools)
        if size:
            run.pieces += 1
            run.characters += size


def read_prompt(x: Exchange) -> Usage:
    """What the target has read: as Limit had it counted, else the estimate."""
    assert x.call is not None
    return Usage(input=prompt_tokens(x.call) if x.counted is None else x.counted)
