"""The host of one embedded engine: a process of its own, so that a crash in native code takes no other model with it.

Workers connect over a Unix socket. More calls at a time than the engine has slots would collapse it. Each worker's turnstile
lets through no more than that, in an order that is fair; the line here is the backstop where several workers' calls meet:
first come, first served, bounded, and left at once by who is cancelled.

An engine says a token for each of its slots at about the same time, each in a thread of its own. The first of them leaves at
once and the others together a moment later: on the way from the engine to a caller what costs is not a token but being woken.
What one choice said meanwhile is one piece, with the tokens so far, so that a stream that is cut off is booked exactly.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol, cast

import msgspec

from gatehouse.core.calls import Call, Message, TextPart
from gatehouse.core.engine_messages import (
    AnyEngineMessage,
    Ask,
    Cancel,
    Count,
    Counted,
    Done,
    EngineMessage,
    EngineRefused,
    Failed,
    Hello,
    Pieces,
    Ping,
    Whole,
)
from gatehouse.core.events import Answer, Chunk
from gatehouse.core.frames import FrameCutter, framed
from gatehouse.core.ports import Clock, Timer
from gatehouse.core.usage import Usage
from gatehouse.processes.pieces import says, together

logger = logging.getLogger("gatehouse.engine")

QUEUE_FACTOR: Final = 32
"""Calls that may wait for each slot."""
PACE: Final = 0.005
"""Seconds between two messages to the workers while an engine is talking: less than anybody sees, more than a step of a small model."""
COUNTERS: Final = 2
"""Threads that count: one long prompt does not keep the short ones waiting."""
MOST_COUNTS: Final = 64
"""Counts that may wait; a worker goes on without one."""
_WORTH_COUNTING: Final = 32
"""Bytes of text for each token of the context, beyond which a prompt is not counted: it will not fit, and counting would take long."""
_FIRST_GUESS: Final = 1.0
"""Seconds a call is taken to need before one has been seen."""


class Engine(Protocol):
    """What a host needs of an engine. `run` and `count` block; `run` is called by at most `slots` threads at a time, `count` by others
    meanwhile."""

    name: str
    slots: int
    context: int

    def run(self, call: Call, on_event: Callable[[Chunk | Answer], bool]) -> None:
        """Answer a call of one choice; the callback returning True stops it. Raises EngineRefused."""

    def count(self, call: Call) -> int:
        """Exact tokens of the prompt. Raises EngineRefused."""


class EngineHost:
    """Serves an engine, or tells everybody why it cannot."""

    def __init__(self, engine: Engine | None, problem: str, clock: Clock) -> None:
        self._engine = engine
        self._problem = problem
        self._clock = clock
        slots = engine.slots if engine is not None else 1
        self._slots = slots
        self._free = slots
        self._line: deque[_Job] = deque()
        self._threads = ThreadPoolExecutor(slots + 1, "engine")
        self._heard = _Heard(clock, self._ran)
        self._counters = ThreadPoolExecutor(COUNTERS, "counter")
        self._counting = 0
        self._server: asyncio.AbstractServer | None = None
        self._typical = _FIRST_GUESS

    @property
    def hello(self) -> Hello:
        """What a worker is told first."""
        engine = self._engine
        if engine is None:
            return Hello("", 0, 0, self._problem)
        return Hello(engine.name, engine.context, engine.slots)

    async def start(self, path: Path) -> None:
        """Accept workers on the socket at `path`."""
        path.unlink(missing_ok=True)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Guest(self), path)
        path.chmod(0o600)

    async def close(self) -> None:
        """Take no more calls."""
        if self._server is not None:
            self._server.close()

    # -- from workers ----------------------------------------------------------------------------------------------

    def ask(self, guest: "_Guest", ask: Ask) -> None:
        """A call: into the line, or refused at once."""
        job = _Job(guest, ask, self._clock.monotonic())
        engine = self._engine
        if engine is None:
            job.fail(EngineRefused("engine_unavailable", "The embedded model could not be loaded."))
            return
        if job.call.choices > self._slots:
            job.fail(EngineRefused("invalid_request", f"The embedded model gives at most {self._slots} choices.", caller_fault=True))
            return
        if len(self._line) >= self._slots * QUEUE_FACTOR:
            wait = self._typical * len(self._line) / self._slots
            job.guest.send(Failed(ask.number, "upstream_overloaded", "The embedded model is busy; too many calls wait.", max(1.0, wait)))
            return
        guest.jobs[ask.number] = job
        if _characters(job.call) > engine.context:
            # Only a prompt that may not fit is counted, and before it takes anybody's place in the line.
            asyncio.get_running_loop().run_in_executor(self._threads, self._count, engine, job).add_done_callback(
                lambda counted: self._counted(job, counted.result())
            )
        else:
            self._enqueue(job)

    def count(self, guest: "_Guest", asked: Count) -> None:
        """Count a prompt in a thread of its own, whatever the slots do."""
        engine, call = self._engine, asked.call
        if engine is None:
            guest.send(Failed(asked.number, "engine_unavailable", "The embedded model could not be loaded."))
        elif _bytes_in_all(call) > _WORTH_COUNTING * engine.context * max(1, len(call.inputs)):
            guest.send(Failed(asked.number, "context_length_exceeded", "The prompt is too long to be counted.", caller_fault=True))
        elif self._counting >= MOST_COUNTS:
            guest.send(Failed(asked.number, "upstream_overloaded", "Too many prompts wait to be counted."))
        else:
            self._counting += 1
            work = guest.counts[asked.number] = asyncio.get_running_loop().run_in_executor(self._counters, engine.count, call)
            work.add_done_callback(lambda done: self._tell(guest, asked.number, done))

    def _tell(self, guest: "_Guest", number: int, done: "asyncio.Future[int]") -> None:
        self._counting -= 1
        guest.counts.pop(number, None)
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            guest.send(Counted(number, done.result()))
        elif isinstance(error, EngineRefused):
            guest.send(Failed(number, error.code, error.message, caller_fault=error.caller_fault))
        else:
            logger.error("counting failed", exc_info=error)
            guest.send(Failed(number, "engine_failed", "The prompt could not be counted."))

    def _count(self, engine: Engine, job: "_Job") -> EngineRefused | None:
        call = job.call
        try:
            # Each input is read by itself.
            alone = [msgspec.structs.replace(call, inputs=(each,)) for each in call.inputs] or [call]
            tokens = max(engine.count(each) for each in alone)
        except EngineRefused as error:
            return error
        if tokens >= engine.context:
            words = f"The prompt has {tokens} tokens and the model's context holds {engine.context}."
            return EngineRefused("context_length_exceeded", words, caller_fault=True)
        return None

    def _counted(self, job: "_Job", problem: EngineRefused | None) -> None:
        if job.cancelled.is_set():
            return
        if problem is not None:
            job.fail(problem)
        else:
            self._enqueue(job)

    def _enqueue(self, job: "_Job") -> None:
        self._line.append(job)
        self._serve()
        if self._line and self._line[-1] is job:
            job.timer = self._clock.call_later(job.patience, self._too_late, job)

    def _too_late(self, job: "_Job") -> None:
        if job in self._line:
            self._line.remove(job)
            job.guest.send(Failed(job.number, "upstream_overloaded", "The embedded model is busy.", max(1.0, self._typical)))
            job.over()

    def cancel(self, job: "_Job") -> None:
        """Nobody waits for it: out of the line at once, or no token more."""
        job.cancelled.set()
        if job in self._line:
            self._line.remove(job)
        job.over()
        self._serve()

    # -- the line --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while self._line and self._line[0].call.choices <= self._free:
            job = self._line.popleft()
            if job.timer is not None:
                job.timer.cancel()
            self._free -= job.call.choices
            job.begun = self._clock.monotonic()
            for choice in range(job.call.choices):
                self._threads.submit(self._run, job, choice)

    def _run(self, job: "_Job", choice: int) -> None:
        """In a thread of the engine. Never raises: what went wrong is told with the end."""
        try:
            self._answer(job, choice)
        except Exception as error:
            self._heard.end(job, error)
        else:
            self._heard.end(job, None)

    def _answer(self, job: "_Job", choice: int) -> None:
        assert self._engine is not None
        call = job.call
        if call.choices > 1:
            # The choices of a completion are numbered prompt by prompt.
            prompt, number = divmod(choice, call.n)
            inputs = (call.inputs[prompt],) if call.inputs else ()
            call = msgspec.structs.replace(call, n=1, inputs=inputs, seed=None if call.seed is None else call.seed + number)
        self._engine.run(call, lambda event: self._hear(job, choice, event))

    def _hear(self, job: "_Job", choice: int, event: Chunk | Answer) -> bool:
        """In a thread of the engine; True stops it."""
        if job.cancelled.is_set():
            return True
        if type(event) is Chunk and not event.choices and event.usage is None:
            # The prompt is still being read.
            return False
        self._heard.add(job, choice, event)
        return False

    def _ran(self, job: "_Job", error: Exception | None) -> None:
        self._free += 1
        job.ended(error)
        if error is not None and not isinstance(error, EngineRefused):
            logger.error("the engine failed", exc_info=error)
        if not job.left:
            took = self._clock.monotonic() - job.begun
            self._typical += (took - self._typical) / 8
        self._serve()


class _Heard:
    """What the engine's threads said and no worker was told yet.

    A thread only appends, and wakes the loop when the loop is not going to look by itself. `ended` is told of the end of each choice,
    after all that it said was sent.
    """

    def __init__(self, clock: Clock, ended: "Callable[[_Job, Exception | None], None]") -> None:
        self._clock = clock
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._said: deque[tuple[_Job, int, Chunk | Answer]] = deque()
        self._ends: deque[tuple[_Job, Exception | None]] = deque()
        self._looking = False
        """The loop will look, now or when PACE is over."""

    def add(self, job: "_Job", choice: int, event: Chunk | Answer) -> None:
        """From any thread."""
        self._said.append((job, choice, event))
        # After a whole answer comes its end, and that wakes the loop.
        if not self._looking and type(event) is Chunk:
            self._looking = True
            self._loop.call_soon_threadsafe(self._look)

    def end(self, job: "_Job", error: Exception | None) -> None:
        """From the thread that said everything before; nobody has to wait for it."""
        self._ends.append((job, error))
        self._loop.call_soon_threadsafe(self.send)

    def _look(self) -> None:
        if not self._said:
            self._looking = False
            if not self._said:
                return
            # Somebody said something just before, and thought that the loop was going to look.
            self._looking = True
        self.send()
        self._clock.call_later(PACE, self._look)

    def send(self) -> None:
        """Tell the workers all that was said, each of them in one write, and what ended."""
        # Whoever has ended before this moment has said everything before it.
        ends = [self._ends.popleft() for _ in range(len(self._ends))]
        said = self._said
        jobs: dict[_Job, None] = {}
        while said:
            job, choice, event = said.popleft()
            job.take(choice, event)
            jobs[job] = None
        letters: dict[_Guest, list[EngineMessage]] = {}
        for job in jobs:
            chunks = job.taken()
            if chunks:
                letters.setdefault(job.guest, []).append(Pieces(job.number, chunks))
        for guest, messages in letters.items():
            guest.send(*messages)
        for job, error in ends:
            self._ended(job, error)


class _Job:
    """A call in this host. All but `cancelled` belongs to the loop."""

    def __init__(self, guest: "_Guest", ask: Ask, now: float) -> None:
        self.guest = guest
        self.number = ask.number
        self.call = ask.call
        self.patience = ask.patience
        self.begun = now
        self.left = ask.call.choices
        self.timer: Timer | None = None
        self.cancelled = threading.Event()
        self._waiting: list[Chunk] = []
        self._answers: dict[int, Answer] = {}
        self._inputs: dict[int, int] = {}
        """Tokens of each prompt."""
        self._output = 0
        self._finished: set[int] = set()
        self._told = False
        """The prompt's tokens, with the first piece."""
        self._spoken = 0
        """Pieces with something in them, which the engine says token by token."""
        self._failed = False
        self._id = ""
        self._created = 0

    def take(self, choice: int, event: Chunk | Answer) -> None:
        """What the engine said for one choice."""
        if not self._id:
            self._id, self._created = event.id, event.created
        if event.usage is not None:
            self._inputs[choice // self.call.n] = event.usage.input
            self._output += event.usage.output
        if isinstance(event, Answer):
            self._answers[choice] = event
        elif event.choices or event.interim:
            if event.interim and not self._told and len(self.call.inputs) <= 1:
                # Once: every choice has read the same prompt.
                self._told = True
            elif event.usage is not None:
                event = msgspec.structs.replace(event, usage=None, interim=False)
            if event.choices and event.choices[-1].finish is not None:
                self._finished.add(choice)
            if self.call.choices > 1:
                # The choices of one answer are runs of their own in the engine.
                choices = tuple(msgspec.structs.replace(each, index=choice) for each in event.choices)
                event = msgspec.structs.replace(event, choices=choices, id=self._id, created=self._created)
            self._waiting.append(event)

    def taken(self) -> tuple[Chunk, ...]:
        """What was taken since the last time, as far as anybody wants it."""
        chunks, self._waiting = self._waiting, []
        if self.cancelled.is_set() or self._failed:
            return ()
        self._spoken += sum(says(chunk) for chunk in chunks)
        if len(chunks) == 1 or not self._told:
            # Who was told nothing of the prompt counts the pieces.
            return tuple(chunks)
        made = together(chunks)
        if len(made) < len(chunks):
            usage = Usage(input=sum(self._inputs.values()), output=self._spoken)
            made[-1] = msgspec.structs.replace(made[-1], usage=usage, interim=True)
        return tuple(made)

    def ended(self, error: Exception | None) -> None:
        """One choice is complete, or failed."""
        self.left -= 1
        if self.cancelled.is_set() or self._failed:
            return
        if error is not None:
            self._failed = True
            known = error if isinstance(error, EngineRefused) else EngineRefused("engine_failed", "The embedded model failed.")
            self.fail(known)
        elif not self.left:
            self._complete()

    def _complete(self) -> None:
        usage = Usage(input=sum(self._inputs.values()), output=self._output)
        if self.call.stream:
            if len(self._finished) < self.call.choices:
                self.fail(EngineRefused("upstream_broken", "The embedded model broke off its answer."))
                return
            last = Chunk(usage=usage, id=self._id, created=self._created)
            self.guest.send(Pieces(self.number, (last,)), Done(self.number))
        else:
            parts = [self._answers[choice] for choice in sorted(self._answers)]
            choices = tuple(msgspec.structs.replace(each, index=index) for index, part in enumerate(parts) for each in part.choices)
            self.guest.send(Whole(self.number, msgspec.structs.replace(parts[0], choices=choices, usage=usage)))
        self.over()

    def fail(self, error: EngineRefused) -> None:
        """Say why there is no answer."""
        self.guest.send(Failed(self.number, error.code, error.message, caller_fault=error.caller_fault))
        self.over()

    def over(self) -> None:
        """Nothing more is said of it."""
        self.guest.jobs.pop(self.number, None)
        if self.timer is not None:
            self.timer.cancel()


class _Guest(asyncio.Protocol):
    """A worker's connection."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._cutter = FrameCutter()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(AnyEngineMessage)
        self.jobs: dict[int, _Job] = {}
        self.counts: dict[int, asyncio.Future[int]] = {}
        self._loop = asyncio.get_running_loop()
        self._out: list[EngineMessage] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A worker is here."""
        self._transport = cast("asyncio.Transport", transport)
        self.send(self._host.hello)

    def data_received(self, data: bytes) -> None:
        """What the worker asks."""
        try:
            messages = [self._decoder.decode(payload) for payload in self._cutter.feed(data)]
        except (ValueError, msgspec.DecodeError):
            logger.exception("what a worker sent cannot be read")
            assert self._transport is not None
            self._transport.close()
            return
        for message in messages:
            match message:
                case Ask():
                    self._host.ask(self, message)
                case Count():
                    self._host.count(self, message)
                case Cancel(number=number):
                    self._cancel(number)
                case Ping():
                    self.send(self._host.hello)
                case _:
                    logger.error("a worker sent what only hosts send: %s", type(message).__name__)

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker is gone, and so is everybody who waited."""
        self._transport = None
        for number in (*self.jobs, *self.counts):
            self._cancel(number)

    def _cancel(self, number: int) -> None:
        if (job := self.jobs.get(number)) is not None:
            self._host.cancel(job)
        elif (count := self.counts.get(number)) is not None:
            count.cancel()

    def send(self, *messages: EngineMessage) -> None:
        """Write messages, in one write with all others of this turn; a no-op when the worker is gone."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += messages

    def _flush(self) -> None:
        messages, self._out = self._out, []
        if self._transport is not None:
            encode = self._encoder.encode
            self._transport.write(b"".join([framed(encode(message)) for message in messages]))


def _characters(call: Call) -> int:
    """Bytes of text: no tokenizer makes more tokens of it than that, give or take the template's."""
    return sum(_length(message) for message in call.messages) + max((_size(each) for each in call.inputs), default=0)


def _bytes_in_all(call: Call) -> int:
    """As `_characters`, of several inputs together."""
    return sum(_length(message) for message in call.messages) + sum(_size(each) for each in call.inputs)


def _size(piece: str | tuple[int, ...]) -> int:
    return 16 + (len(piece.encode("utf-8", "surrogatepass")) if isinstance(piece, str) else len(piece))


def _length(message: Message) -> int:
    content = message.content
    if isinstance(content, str):
        return 16 + len(content.encode("utf-8", "surrogatepass"))
    return 16 + sum(len(part.text.encode("utf-8", "surrogatepass")) for part in content or () if isinstance(part, TextPart))
