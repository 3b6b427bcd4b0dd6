"""The exchange: everything known of one call while it runs. Stages read what earlier ones wrote; nothing outlives the call."""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gatehouse.core.attribution import Attribution
from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer, Events
from gatehouse.core.identity import Principal
from gatehouse.core.limits import NO_HOLDS, Holds
from gatehouse.core.money import ZERO, Money
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Plan, Target
from gatehouse.core.ports import Body, Dialect, Task
from gatehouse.core.records import MeterHold
from gatehouse.core.usage import Usage

NO_USAGE = Usage()
canonical: Callable[[Any], bytes] = msgspec.msgpack.Encoder(order="deterministic").encode
"""The one encoding of a value that proofs and keys are made from."""


class Head(msgspec.Struct, frozen=True):
    """What is known before the body is read. Header names are lower case; `credentials` are the distinct keys offered."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    credentials: tuple[bytes, ...] = ()
    peer: str = ""
    seen: dict[str, Any] = {}
    """What stages found out about it, for as long as its connection says the same again."""

    def __repr__(self) -> str:
        return f"Head({self.method} {self.path} from {self.peer})"


class Lost(msgspec.Struct, frozen=True):
    """What was used in vain."""

    usage: Usage
    charge: Money


class Asker(Protocol):
    """Who asked, as long as no task carries the call: it is told in a function call, of the turn of the loop in which it happens."""

    def take(self, answer: Answer) -> bool:
        """Here is the whole answer; the call is settled after this. False: it cannot be taken without waiting."""

    def ended(self, error: GatehouseError | None) -> None:
        """Everything is settled: the answer that was taken may leave, or `error` is to be told, or `x.outcome` says who stopped it."""

    def stop(self) -> None:
        """The call was ended from outside: have `Runner.stopped` called in the loop's next step."""

    def wait(self) -> None:
        """Something has to be waited for: start a task that awaits `Runner.carry`."""


class Exchange(msgspec.Struct, eq=False):
    """One call from its first byte to its last. Created by whoever serves it; carried by the runner."""

    request_id: str
    head: Head
    body: Body | None
    """None when the call came decoded (library, batch): then `call` is set before the runner starts."""
    dialect: Dialect
    traffic: str = "live"
    # when
    started_at: float = 0.0
    clock_start: float = 0.0
    first_event: float = -1.0
    """Seconds from the start to the first event, or -1."""
    marks: list[float] = []
    """Monotonic seconds at which each stage's admit ended, in order, for all calls of its turn. The first began with the call, each
    other when the one before it ended; one that is entered and has no mark has not ended."""
    entered: int = 0
    # who and what
    principal: Principal | None = None
    size: int = 0
    """Bytes of the body that all of `call` came in; 0 when that is not known, or more was added to it."""
    call: Call | None = None
    plan: Plan | None = None
    counted: int | None = None
    """The prompt's exact tokens, where every target of the plan can count and the prompt is still the one that was counted."""
    commitment: bytes = b""
    attribution: Attribution | None = None
    """What it is booked under beside its key; the bookkeeper works it out with the first record."""
    # what is held and used
    holds: Holds = NO_HOLDS
    money_holds: tuple[MeterHold, ...] = ()
    ceiling: int = 0
    """The most that an attempt may cost, in units of 10^-10 USD, whether or not anybody has a budget for it."""
    target: Target | None = None
    """The target that answers, or answered last."""
    attempts: int = 0
    attempt: int = 0
    """The number of the attempt that answers, or was made last."""
    opened: bool = False
    """An Opened record of attempt `attempt` stands in the journal and has no Closed yet."""
    usage: Usage = NO_USAGE
    charge: Money = ZERO
    lost: Lost | None = None
    """What attempts used that another overtook. It is in `usage` and `charge` and has rows of its own in the ledger."""
    cache: str = "bypass"
    flags: list[str] = []
    # how it ends
    answer: Answer | None = None
    """The whole answer, once somebody collected it."""
    outcome: Outcome | None = None
    error: GatehouseError | None = None
    asker: Asker | None = None
    """Who is told how it ended, while no task carries it."""
    ready: tuple[Events, Events] | None = None
    """What the last stage answered and what the watchers made of it, when both are there before a task carries them on."""
    task: Task | None = None
    """What carries this exchange, when whoever began it says so; else the runner finds out."""
    stop: Callable[[], object] | None = None
    """Stops what carries this exchange; set by the runner."""
    headers: dict[str, str] = {}
    """Response headers that stages add."""
    lines: str = ""
    """Further ones, as whole lines of our own words and numbers: what every call carries is written out only once."""

    def __repr__(self) -> str:
        # What it holds is a caller's: their words, and the key they sent.
        return f"Exchange({self.request_id})"

    def flag(self, flag: str) -> None:
        """Note something about the call, once; it is in its records."""
        if flag not in self.flags:
            self.flags.append(flag)

    def end(self, outcome: Outcome) -> None:
        """Stop the call from outside (client gone, deadline, revoked, shutdown). The first word counts; later ones are ignored."""
        if self.outcome is None:
            self.outcome = outcome
            if self.stop is not None:
                self.stop()
