"""The ports: what deciding code asks of the world. Each has at most six methods and one contract suite in `gatehouse.testing`.

Time, chance and tasks are ports too, so that a seeded simulator can run the real code.
"""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Literal, Protocol, runtime_checkable

from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer, Event, Events
from gatehouse.core.identity import KeyRecord
from gatehouse.core.limits import Draw, Granted, Unused
from gatehouse.core.plans import Deadlines, Target
from gatehouse.core.records import Record

LARGEST_BROADCAST: Final = 256 * 1024
"""Bytes of a message to other servers."""


class Timer(Protocol):
    """A pending callback."""

    def cancel(self) -> None:
        """Make sure it does not fire; a no-op when it has."""


class Task(Protocol):
    """A running piece of work."""

    def cancel(self) -> Any:
        """Ask it to stop."""


class Clock(Protocol):
    """Time. `now` is for records, `monotonic` for durations: only the latter never jumps."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""

    def call_later(self, seconds: float, callback: Any, *args: Any) -> Timer:
        """Call back once after `seconds`."""


class Rng(Protocol):
    """Chance: `random` for choices, `token` for secrets and ids."""

    def random(self) -> float:
        """Uniform in [0, 1)."""

    def token(self, size: int) -> bytes:
        """`size` unpredictable bytes."""


class Spawn(Protocol):
    """Start a task whose reference is kept until it ends and whose exception is logged."""

    def __call__(self, work: Coroutine[Any, Any, Any], *, name: str) -> Task:
        """The started task."""
        ...


class Body(Protocol):
    """A request's body that has not been read yet."""

    def at_hand(self, limit: int) -> bytes | None:
        """All of it, when nothing stands against reading it now; None when `read` has to wait or to refuse."""

    async def read(self, limit: int) -> bytes:
        """All of it.

        Raises:
            TooLarge: as soon as more than `limit` bytes are announced or arrive.
            Timeout: the sender was idle for too long.
        """


class StreamWriter(Protocol):
    """Writes one streamed answer: formats differ in what a frame must know of the frames before it."""

    def event(self, event: Event, cost: str | None) -> bytes:
        """The frames for one event, possibly none (usage nobody asked for); `cost` in USD goes with the usage."""

    def end(self) -> bytes:
        """What a finished stream ends with; a broken one never does."""

    def error(self, error: GatehouseError) -> bytes:
        """The frames that end a broken stream, which may have had no event yet."""


class Dialect(Protocol):
    """A wire format inbound: bytes to core and back. Pure; one instance serves every call."""

    name: str

    def decode_request(self, body: bytes) -> Call:
        """Raises InvalidRequest naming the field."""

    def encode_answer(self, answer: Answer, call: Call) -> bytes:
        """A whole body. `answer.raw` passes as it came when it is this dialect's."""

    def open_stream(self, call: Call, request_id: str) -> StreamWriter:
        """What writes the streamed answer to `call`."""

    def encode_error(self, error: GatehouseError, request_id: str) -> tuple[int, bytes]:
        """Status and body."""


class Attempt(Protocol):
    """What a model is told beside the call."""

    request_id: str
    tenant: str
    deadlines: Deadlines
    sent: bool
    """Set by the model when bytes of the request may have left: a call that is cut off before that costs nothing."""

    traceparent: str
    """W3C trace context for the target, or "" when it is told none."""

    def vacated(self) -> None:
        """Called by a model with slots when it has done its work, though the answer may not have been taken yet."""


class Model(Protocol):
    """Something that answers calls: a remote provider or an embedded engine."""

    async def answer(self, call: Call, target: Target, attempt: Attempt) -> Events:
        """Send the call to `target.model` and return its events once the target has begun to answer well.

        Raises:
            UpstreamFailed: before the first event here, after it from the iterator.
        """

    async def ping(self) -> str:
        """ "" when well, else what is wrong."""

    async def close(self) -> None:
        """Give back every connection and process."""


Told = Callable[[Event | None, Exception | None], None]
"""Hears once what came of a question: the whole answer, or why there is none; neither when the question was certainly never read."""


class Asked(Protocol):
    """A question that was put, until its asker was told what came of it."""

    def abandon(self) -> None:
        """Nobody waits for it any more: stop at once, and tell nothing."""


@runtime_checkable
class Direct(Protocol):
    """The optional ability of a model to be asked by who does not wait: no task stands by while the target thinks."""

    def ask(self, call: Call, target: Target, attempt: Attempt, told: Told) -> Asked | None:
        """Put a call that is not streamed; it leaves at the end of this turn of the loop.

        None, with nothing done, when something has to be waited for first.
        """
        ...


@runtime_checkable
class Slotted(Protocol):
    """The optional ability of a model to say how many choices it can make at a time: it is not given more. It says `vacated`."""

    @property
    def slots(self) -> int | None:
        """How many; None while it is not known, and then nobody is made to wait."""


@runtime_checkable
class TokenCounter(Protocol):
    """The optional ability of a model to count exactly."""

    async def count_tokens(self, call: Call) -> int | None:
        """Tokens of the prompt as the model would see it, template included; what its usage will say.

        None when that cannot be told now or not soon: a call waits for this, and is never refused for the lack of it.
        """


class KeyDirectory(Protocol):
    """Keys by id, from a copy that is told of every change within two seconds."""

    async def find(self, key_id: str) -> KeyRecord | None:
        """The record, revoked ones included; None when unknown. Raises Unavailable when nobody can tell."""


class LeaseOffice(Protocol):
    """The one authority on meters. In this process for the library, over the steward's socket in a worker."""

    async def acquire(self, draws: tuple[Draw, ...]) -> Granted:
        """All or nothing. Raises Unavailable when it cannot be asked."""

    def give_back(self, unused: Iterable[Unused]) -> None:
        """Return what was leased and not used; never awaits, never raises."""

    def report_over(self, meter_id: str, amount: int) -> None:
        """A charge passed its hold by `amount`: counted even beyond the cap."""


class Receiver(Protocol):
    """Who has received something."""

    def take_in(self) -> None:
        """Look at it, if that has not been done yet."""


class Turn(Protocol):
    """One turn of the event loop, from its first callback until everything that was ready has run.

    Many calls move in one turn. What they write to the journal leaves together at its end, and then what they send: one write
    for all, and whoever is at the other end of the sockets is woken once.
    """

    def before(self, work: Callable[[], object]) -> None:
        """Run `work` at the end of this turn, before anything is sent."""

    def later(self, work: Callable[[], object]) -> None:
        """Run `work` at the end of the next turn, which follows at once."""

    def asked(self, receiver: Receiver) -> None:
        """A caller's connection has received something: call its `take_in` at the end of this turn or, when that belongs to what
        targets have answered, of the next."""

    def answered(self, receiver: Receiver) -> None:
        """The same of a target's connection."""

    def last(self, work: Callable[[], object]) -> None:
        """As `before`, when everything that `before` was asked for is done: `work` comes once for all that it led to."""

    def send(self, write: Callable[[bytes], object], data: bytes) -> None:
        """Call `write(data)` at the end of this turn, in the order of asking."""

    def end(self) -> None:
        """End it now: for who has to send at once, and never before what is recorded of it."""


Refused = Callable[[Record, GatehouseError], object]
"""Hears that a posted record could not be written, and why."""


class Journal(Protocol):
    """Append-only memory of one process; what is appended survives the process at once."""

    def append(self, record: Record) -> None:
        """Write the record; it survives `kill -9` of this process when this returns. Raises Unavailable when the disk refuses."""

    def post_all(self, records: Sequence[Record], refused: Refused) -> None:
        """As `append`, of several, with all others of this turn of the loop at its end: whatever is sent by the turn leaves after it.

        Never raises: `refused` is called for each that cannot be written. Where there are no turns, all of that happens at once.
        """

    async def sync(self) -> None:
        """Return when everything appended so far is on disk (grouped fsync)."""


class Finding(Protocol):
    """What a rule found: `rule` id and the span in the text scanned."""

    @property
    def rule(self) -> str:
        """The rule's id, from a closed set."""

    @property
    def start(self) -> int:
        """The first character of it."""

    @property
    def end(self) -> int:
        """The character after it."""


class Scanner(Protocol):
    """A rule pack over text, in time linear in the text.

    `before` is what stands before `text`, its last eight characters at least when there are as many: a rule may look at it
    (is this the start of a word?), but nothing in it is found again.
    """

    version: str

    def scan(self, text: str, before: str = "") -> tuple[Finding, ...]:
        """Every finding in `text`, in order of start; empty for clean text."""

    def hold_back(self, text: str, before: str = "") -> int:
        """How many characters at the end of `text` could still become part of a finding when more text follows."""

    def is_clean(self, text: str, before: str = "") -> bool:
        """True when `scan` would find nothing and `hold_back` would say 0: the one question a stream asks an event."""


class Fetcher(Protocol):
    """Gets what a call points to, from the public net only."""

    async def fetch(self, url: str, kind: Literal["image", "file"]) -> str:
        """The content at `url` as a data: URL; its type is known by its own first bytes.

        Raises:
            UrlRefused: the address may not be gone to, or gave nothing fit.
            Unavailable: too much is being fetched already.
        """
        ...


class AnswerCache(Protocol):
    """Whole answers under an opaque key; bounded in bytes."""

    def get(self, key: bytes) -> Answer | None:
        """The answer, unless it has expired or was evicted."""

    def get_stale(self, key: bytes) -> Answer | None:
        """The answer though its time may be over, as long as it is kept."""

    def put(self, key: bytes, answer: Answer, ttl: float, stale: float = 0.0) -> None:
        """Keep it for `ttl` seconds, and for `stale` more for who asks for that, or until space is needed; a too large one is not kept."""


class Number(Protocol):
    """A counter or gauge, to be added to in place: a function call for each would cost every call more than what it does."""

    value: int


class Broadcast(Protocol):
    """Small messages to every other server of an installation.

    Nothing is kept and any of them may be lost; they come from whoever has the means to send one. So nothing that must arrive goes
    here, and nothing that comes is believed without a look.
    """

    @property
    def problem(self) -> str:
        """ "" while others can be told and heard, else why not, without a secret."""

    def listen(self, hear: Callable[[bytes], None]) -> None:
        """Begin, and wait for nobody: what others send goes to `hear` in the order each sent it; never what this one sent."""

    def send(self, message: bytes) -> None:
        """To all who listen now; never awaits, never raises. What is larger than LARGEST_BROADCAST, or empty, goes to nobody."""

    async def close(self) -> None:
        """Hear and send nothing any more; a second close is a no-op."""


class Tally(Protocol):
    """Counters and histograms with labels from closed sets."""

    def count(self, name: str, labels: tuple[str, ...] = (), amount: int = 1) -> None:
        """Add to a counter."""

    def observe(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Add to a histogram."""

    def gauge(self, name: str, labels: tuple[str, ...], change: int) -> None:
        """Move a gauge up or down."""

    def counter(self, name: str, labels: tuple[str, ...] = ()) -> Number:
        """One counter or gauge itself: for who counts often and knows the labels beforehand."""

    def histogram(self, name: str, labels: tuple[str, ...]) -> Callable[[float], None]:
        """What adds to one histogram, likewise."""
