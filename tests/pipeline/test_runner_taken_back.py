"""What is prepared for a call leaves only for a call that is wanted and recorded."""

from gatehouse.core.outcome import Outcome
from gatehouse.pipeline.exchange import Exchange
from tests.pipeline.laning import Lane, Prompt, Target, exchange, only


async def test_ended_on_its_way_down_it_is_taken_back_in_its_turn() -> None:
    """What was prepared for a call that nobody wants any more, and that stands in no journal, is taken back before the turn sends."""
    it: Lane
    log: list[str] = []

    def prepare(call: Exchange) -> None:
        assert it.turn is not None
        it.turn.send(lambda data: log.append(f"{call.request_id} {'sent' if call in it.runner.running else 'not sent'}"), b"")

    x, y = exchange("x"), exchange("y")
    ending = Prompt("b", log, only(x, lambda x: x.end(Outcome.CLIENT)))
    it = Lane(log, Prompt("a", log), ending, Target(log, start=prepare))
    (left, _) = it.begin(x, y)
    it.end_turn()
    assert it.of(x) == [
        "admit a",
        "admit b",
        "start target",
        *[f"settle client {name}" for name in ("target", "b", "a")],
        "ended",
        "not sent",
    ]
    assert it.of(y)[-1] == "sent"
    assert left.told == [None]
    assert it.runner.running == {y}
