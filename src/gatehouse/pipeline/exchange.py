"""The exchange: everything known of one call while it runs. Stages read what earlier ones wrote; nothing outlives the call."""

from collections.abc import Callable

import msgspec

from gatehouse.core.attribution import Attribution
from gatehouse.core.calls import Call
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer
from gatehouse.core.identity import Principal
from gatehouse.core.limits import Hold
from gatehouse.core.money import ZERO, Money
from gatehouse.core.outcome import Outcome
from gatehouse.core.plans import Plan, Target
from gatehouse.core.ports import Body, Dialect, Task
from gatehouse.core.records import MeterHold
from gatehouse.core.usage import Usage

NO_USAGE = Usage()


class Head(msgspec.Struct, frozen=True):
    """What is known before the body is read. Header names are lower case; `credentials` are the distinct keys offered."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    credentials: tuple[bytes, ...] = ()
    peer: str = ""

    def __repr__(self) -> str:
        return f"Head({self.method} {self.path} from {self.peer})"


class Lost(msgspec.Struct, frozen=True):
    """What was used in vain."""

    usage: Usage
    charge: Money


class Exchange:
    """One call from its first byte to its last. Created by whoever serves it; carried by the runner."""

    __slots__ = (
        "answer",
        "attempt",
        "attempts",
        "attribution",
        "body",
        "cache",
        "call",
        "ceiling",
        "charge",
        "clock_start",
        "commitment",
        "counted",
        "dialect",
        "entered",
        "error",
        "first_event",
        "flags",
        "head",
        "headers",
        "holds",
        "lost",
        "marks",
        "money_holds",
        "opened",
        "outcome",
        "plan",
        "principal",
        "request_id",
        "started_at",
        "stop",
        "target",
        "task",
        "traffic",
        "usage",
    )

    def __init__(self, request_id: str, head: Head, body: Body | None, dialect: Dialect) -> None:
        self.request_id = request_id
        self.head = head
        self.body = body
        """None when the call came decoded (library, batch): then `call` is set before the runner starts."""
        self.dialect = dialect
        self.traffic = "live"
        # when
        self.started_at = 0.0
        self.clock_start = 0.0
        self.first_event = -1.0
        """Seconds from the start to the first event, or -1."""
        self.marks: list[float] = []
        """Monotonic seconds at which each entered stage's admit ended, in order."""
        self.entered = 0
        # who and what
        self.principal: Principal | None = None
        self.call: Call | None = None
        self.plan: Plan | None = None
        self.counted: int | None = None
        """The prompt's exact tokens, where every target of the plan can count and the prompt is still the one that was counted."""
        self.commitment = b""
        self.attribution: Attribution | None = None
        """What it is booked under beside its key; the bookkeeper works it out with the first record."""
        # what is held and used
        self.holds: tuple[Hold, ...] = ()
        self.money_holds: tuple[MeterHold, ...] = ()
        self.ceiling = 0
        """The most that an attempt may cost, in units of 10^-10 USD, whether or not anybody has a budget for it."""
        self.target: Target | None = None
        """The target that answers, or answered last."""
        self.attempts = 0
        self.attempt = 0
        """The number of the attempt that answers, or was made last."""
        self.opened = False
        """An Opened record of attempt `attempt` stands in the journal and has no Closed yet."""
        self.usage = NO_USAGE
        self.charge: Money = ZERO
        self.lost: Lost | None = None
        """What attempts used that another overtook. It is in `usage` and `charge` and has rows of its own in the ledger."""
        self.cache = "bypass"
        self.flags: list[str] = []
        # how it ends
        self.answer: Answer | None = None
        """The whole answer, once somebody collected it."""
        self.outcome: Outcome | None = None
        self.error: GatehouseError | None = None
        self.task: Task | None = None
        """What carries this exchange, when whoever began it says so; else the runner finds out."""
        self.stop: Callable[[], object] | None = None
        """Cancels the task that carries this exchange; set by the runner."""
        self.headers: dict[str, str] = {}
        """Response headers that stages add."""

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
