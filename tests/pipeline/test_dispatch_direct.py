"""Dispatch without tasks: what was begun comes to something exactly once, whoever fails, refuses or leaves, and nothing is left of it."""

import gc
import logging
import weakref
from collections.abc import Sequence

import msgspec
import pytest

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError, Internal, Unavailable, UpstreamFailed
from gatehouse.core.events import Answer, Choice, Event, Events
from gatehouse.core.money import Money
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Plan, Target
from gatehouse.core.ports import Attempt, Refused, Told
from gatehouse.core.single import Single
from gatehouse.core.usage import Usage
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.runner import Runner
from gatehouse.testing.fakes import settle_loop
from gatehouse.testing.storage_contract import opened_record
from tests.pipeline.dispatching import ASKED, Bench, FakeBooks, failed, target
from tests.pipeline.laning import Asking, HandTurn

WHOLE = Answer(choices=(Choice(text="hello"),), usage=Usage(input=7, output=2))
WANTED = msgspec.structs.replace(ASKED, stream=False)


class Question:
    """What was asked of the model. Implements `core.ports.Asked`."""

    def __init__(self, attempt: Attempt, told: Told) -> None:
        self.attempt = attempt
        self.told = told
        self.abandoned = 0

    def abandon(self) -> None:
        self.abandoned += 1


class Talking:
    """A model that can be asked without waiting; what it is asked later it answers with `answers`, each an event or a failure."""

    def __init__(self, *answers: Event | Exception) -> None:
        self.questions: list[Question] = []
        self.answers = list(answers)
        self.busy = False
        self.speechless: UpstreamFailed | None = None

    def ask(self, call: Call, target: Target, attempt: Attempt, told: Told) -> Question | None:
        if self.speechless is not None:
            raise self.speechless
        if self.busy:
            return None
        self.questions.append(Question(attempt, told))
        return self.questions[-1]

    async def answer(self, call: Call, target: Target, attempt: Attempt) -> Events:
        attempt.sent = True
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Single(answer)

    async def ping(self) -> str:
        return ""

    async def close(self) -> None:
        """Nothing is held."""


class PostedBooks(FakeBooks):
    """Books whose records leave at the end of a turn that the test ends with `write`."""

    def __init__(self, log: list[str]) -> None:
        super().__init__(log)
        self.posted: list[tuple[str, Refused]] = []

    def opened_all(self, calls: Sequence[tuple[Exchange, Target]], refused: Refused) -> list[tuple[Exchange, Exception]]:
        left = super().opened_all(calls, refused)
        failed = [x for x, _ in left]
        self.posted += [(x.request_id, refused) for x, _ in calls if x not in failed]
        return left

    def not_opened(self, x: Exchange) -> None:
        x.attempts -= 1
        x.opened = False
        x.target = None
        self.log.append("not opened")

    def write(self, error: GatehouseError | None = None) -> None:
        """The turn is over; with `error` the disk refuses."""
        posted, self.posted = self.posted, []
        for request_id, refused in posted:
            if error is not None:
                refused(opened_record(request_id), error)


class Table:
    """Dispatch alone in its runner, and a model that it asks without waiting."""

    def __init__(self, *answers: Event | Exception, other: Talking | None = None) -> None:
        self.model = Talking(*answers)
        models = {"lab": self.model} if other is None else {"lab": self.model, "other": other}
        self.bench = Bench(**models)
        self.bench.models.update(models)  # type: ignore[arg-type]
        self.books = self.bench.dispatch.books = PostedBooks(self.bench.log)

    def begin(self, plan: Plan | None = None, call: Call = WANTED) -> tuple[Exchange, Asking]:
        """Begin a call, of one target unless a plan says otherwise."""
        x = self.bench.exchange(plan or Plan("assistant", (target("lab"),)), call)
        asker = Asking(self.bench.runner, x, [])
        self.bench.runner.begin(x, asker)
        return x, asker

    def tell(self, event: Event | None, fault: Exception | None = None) -> None:
        """The model has something to say to the first question that nobody gave up."""
        self.model.questions.pop(0).told(event, fault)

    def clean(self) -> bool:
        return self.bench.clean() and self.bench.runner.running == set() and self.bench.clock.pending <= 1


async def test_answered() -> None:
    """Opened before anything leaves, counted when it is there, and settled without a task."""
    table = Table()
    x, asker = table.begin()
    assert (table.bench.log, table.bench.dispatch.running, x.opened) == (["opened lab/m"], 1, True)
    assert asker.answers == []
    table.tell(WHOLE)
    assert (asker.answers, asker.told, asker.tasks) == ([WHOLE], [None], [])
    assert (x.outcome, x.usage, x.charge, x.attempts) == (Outcome.COMPLETED, Usage(input=7, output=2), Money(27), 1)
    assert x.first_event >= 0
    assert table.clean()


@pytest.mark.parametrize("why", ["stream", "two targets", "strict audit", "nothing free", "measured"])
async def test_what_has_to_be_awaited(why: str) -> None:
    """Nothing is done before a task takes over: one attempt, opened once."""
    table = Table(WHOLE, WHOLE)
    plans: dict[str, Plan] = {
        "two targets": Plan("assistant", (target("lab"), msgspec.structs.replace(target("lab"), id="lab/other"))),
        "strict audit": Plan("assistant", (target("lab"),), strict_audit=True),
        "measured": Plan("assistant", (target("lab"),), policy="latency"),
    }
    table.model.busy = why == "nothing free"
    call = ASKED if why == "stream" else WANTED
    x, asker = table.begin(plans.get(why), call)
    assert table.bench.log == []
    assert await asker.carried() is None
    assert (len([line for line in table.bench.log if line.startswith("opened")]), x.attempts) == (1, 1)
    assert table.model.questions == []
    assert table.clean()


async def test_failed_and_answered_by_another() -> None:
    """The failure is in the books, the fallback is a second attempt, and the call is charged once."""
    other = Talking(WHOLE)
    table = Table(other=other)
    x, asker = table.begin(Plan("assistant", (target("lab"),), fallbacks=((target("other"),),)))
    other.busy = True
    table.tell(None, failed("upstream_unreachable"))
    assert await asker.carried() is None
    assert table.bench.log == ["opened lab/m", "failed upstream_unreachable", "opened other/m"]
    assert (x.attempts, x.charge, x.outcome) == (2, Money(27), Outcome.COMPLETED)
    assert table.clean()


async def test_no_words_for_the_call_and_answered_by_another() -> None:
    """A target that cannot be asked this at all is passed over for the next, as one that failed; it was asked nothing."""
    error = failed("upstream_rejected", sent=False)
    other = Talking(WHOLE)
    table = Table(error, other=other)
    table.model.speechless = error
    x, asker = table.begin(Plan("assistant", (target("lab"),), fallbacks=((target("other"),),)))
    assert await asker.carried() is None
    assert (asker.events, x.charge, x.outcome) == ([WHOLE], Money(27), Outcome.COMPLETED)
    assert x.target is not None
    assert x.target.id == "other/m"
    assert table.clean()


async def test_failed_and_nobody_else() -> None:
    """Who asked is told of the failure, and nothing is charged."""
    table = Table()
    x, asker = table.begin(Plan("assistant", (target("lab"),), retries=0))
    table.tell(None, failed("upstream_invalid"))
    error = await asker.carried()
    assert isinstance(error, UpstreamFailed)
    assert (error.code, x.charge, x.outcome) == ("upstream_invalid", 0, Outcome.FAILED)
    assert table.clean()


async def test_never_read_and_asked_again() -> None:
    """The attempt is the same one: opened once, and charged once."""
    table = Table(WHOLE)
    x, asker = table.begin()
    table.tell(None)
    assert await asker.carried() is None
    assert (table.bench.log, x.attempts, x.charge, x.outcome) == (["opened lab/m"], 1, Money(27), Outcome.COMPLETED)
    assert table.clean()


@pytest.mark.parametrize("written", [True, False], ids=["refused at once", "refused at the end of the turn"])
async def test_the_journal_refuses(written: bool) -> None:
    """What cannot be recorded is not asked: the question is given up before it leaves, no attempt was made, and the caller is told."""
    table = Table(WHOLE)
    table.books.broken = written
    x, asker = table.begin()
    (question,) = table.model.questions
    if written:
        (error,) = asker.told
    else:
        table.books.write(Unavailable("The journal cannot be written."))
        raised = await asker.carried()
        assert isinstance(raised, GatehouseError)
        error = raised
    assert isinstance(error, Unavailable)
    assert (question.abandoned, question.attempt.sent) == (1, False)
    assert (x.attempts, x.opened, x.target, x.charge, x.outcome) == (0, False, None, 0, Outcome.REFUSED)
    assert len(table.model.answers) == 1
    assert table.clean()


async def test_the_journal_refuses_one_of_a_turn() -> None:
    """The others of its turn are asked and answered; nothing of it is left."""
    table, turn = Table(), HandTurn()
    table.bench.runner = Runner((table.bench.dispatch,), table.bench.clock, turn)
    asked = [table.begin() for _ in range(3)]
    for number, (x, _) in enumerate(asked):
        x.request_id = f"req_{number}"
    turn.end()
    (_, refused), *_ = table.books.posted
    refused(opened_record("req_1"), Unavailable("The journal cannot be written."))
    turn.end()
    assert [question.abandoned for question in table.model.questions] == [0, 1, 0]
    assert isinstance(await asked[1][1].carried(), Unavailable)
    del table.model.questions[1]
    for _ in range(2):
        table.tell(WHOLE)
    turn.end()
    assert [x.outcome for x, _ in asked] == [Outcome.COMPLETED, Outcome.REFUSED, Outcome.COMPLETED]
    assert [x.attempts for x, _ in asked] == [1, 0, 1]
    assert table.clean()


class Refusing(FakeBooks):
    """Books that tell at once that a record cannot be written, as the journal does where there are no turns."""

    def opened_all(self, calls: Sequence[tuple[Exchange, Target]], refused: Refused) -> list[tuple[Exchange, Exception]]:
        left = super().opened_all(calls, refused)
        for x, _ in calls:
            refused(opened_record(x.request_id), Unavailable("The journal cannot be written."))
        return left


async def test_the_journal_refuses_where_there_are_no_turns() -> None:
    """A call that then cannot be carried on is settled and told once, and nothing is left of it."""
    table = Table()
    table.bench.dispatch.books = Refusing(table.bench.log)
    x = table.bench.exchange(Plan("assistant", (target("lab"),)), WANTED)
    asker = Asking(table.bench.runner, x, [])
    asker.wait = lambda: 1 // 0  # type: ignore[method-assign, assignment]
    table.bench.runner.begin(x, asker)
    assert ([type(error) for error in asker.told], x.outcome) == ([Internal], Outcome.FAILED)
    assert [question.abandoned for question in table.model.questions] == [1]
    assert table.clean()


async def test_the_journal_refuses_a_call_that_was_ended() -> None:
    """It is told nothing more, and settles once."""
    table = Table()
    x, asker = table.begin()
    x.end(Outcome.CLIENT)
    table.books.write(Unavailable("The journal cannot be written."))
    await settle_loop()
    assert (asker.told, asker.tasks, x.outcome, x.charge) == ([None], [], Outcome.CLIENT, 0)
    assert table.clean()


@pytest.mark.parametrize(("sent", "charge"), [(False, 0), (True, 6)])
@pytest.mark.parametrize("outcome", [Outcome.CLIENT, Outcome.REVOKED])
async def test_ended_while_the_target_thinks(sent: bool, charge: int, outcome: Outcome) -> None:
    """The question is given up; the prompt is charged when it had left, and nothing when it had not."""
    table = Table()
    x, asker = table.begin()
    (question,) = table.model.questions
    question.attempt.sent = sent
    x.end(outcome)
    await settle_loop()
    assert (question.abandoned, x.charge, asker.told) == (1, charge, [None])
    question.told(WHOLE, None)
    assert (x.charge, asker.told) == (charge, [None])
    assert table.clean()


async def test_a_deadline() -> None:
    """The call's own time is up: told as a timeout, the question given up, nothing charged."""
    table = Table()
    x, asker = table.begin()
    (question,) = table.model.questions
    question.attempt.sent = True
    table.bench.clock.advance(target("lab").deadlines.total + 1)
    await settle_loop()
    (error,) = asker.told
    assert isinstance(error, UpstreamFailed)
    assert (error.code, x.outcome, x.charge, question.abandoned) == ("upstream_timeout", Outcome.DEADLINE, 0, 1)
    assert table.clean()


@pytest.mark.parametrize("breaks", ["counting", "a fault of the model's"])
async def test_a_fault_over_an_answer_is_one_calls(breaks: str) -> None:
    """Whoever tells of several answers goes on to the next: the fault is the call's, which hears of it at once."""
    table = Table()
    x, asker = table.begin()
    if breaks == "counting":
        table.tell(msgspec.structs.replace(WHOLE, usage="all of it"))
    else:
        table.tell(None, ZeroDivisionError("secret"))
    error = await asker.carried()
    assert isinstance(error, Internal)
    assert "secret" not in error.message
    assert x.outcome is Outcome.FAILED
    assert table.clean()


async def test_a_fault_of_a_question_holds_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that breaks over one call's question: its call fails, and what was raised keeps no call of the turn for the collector."""
    table = Table()
    monkeypatch.setattr(table.model, "ask", lambda *words: 1 // 0)
    logging.disable()
    gc.collect()
    gc.disable()
    try:
        x, asker = table.begin()
        assert [type(error) for error in asker.told] == [Internal]
        assert table.bench.clean()
        held = weakref.ref(asker)
        del x, asker
        assert held() is None
        assert gc.collect() == 0
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
