"""What steward and workers say to each other: length-prefixed msgpack over a socket pair that only the two hold.

No path, no port, no credential: the steward makes the pair and the child inherits one end, so the peer is known by
construction, and the end of the socket is the end of the peer.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import msgspec

from gatehouse.core.frames import FrameCutter, framed
from gatehouse.core.identity import KeyRecord
from gatehouse.core.limits import Draw, Granted, Unused
from gatehouse.core.plans import Plan
from gatehouse.core.replays import Claim, Replayed
from gatehouse.core.responses import Ended, Kept, Owner
from gatehouse.core.targets import TargetState

logger = logging.getLogger("gatehouse.processes")


class Message(msgspec.Struct, frozen=True, array_like=True, tag_field="m"):
    """Base of all messages."""


class WorkerKeys(msgspec.Struct, frozen=True, array_like=True):
    """What a worker needs of the root key, derived for exactly these purposes. Never printed."""

    pepper: bytes
    commitment: bytes
    bootstrap: bytes | None = None
    """The digest of the bootstrap key, when there is one."""
    end_user: bytes = b""
    """For hashes of end users in the ledger."""
    end_user_forward: bytes = b""
    """For hashes of end users that targets are told; another one, so that theirs and ours cannot be put side by side."""

    def __repr__(self) -> str:
        return "WorkerKeys(***)"


class Configure(Message, frozen=True, tag=0):
    """steward -> worker: take this configuration. `settings` is the encoded tree, secrets included; it never leaves the pair."""

    version: str
    settings: bytes
    plans: tuple[Plan, ...]
    keys: WorkerKeys
    engines: dict[str, str] = {}
    """Where the hosts of embedded engines are: provider name to socket path."""

    def __repr__(self) -> str:
        return f"Configure(version={self.version!r})"


class Configured(Message, frozen=True, tag=1):
    """worker -> steward: configuration `version` is in force; `problem` is "" or why it is not."""

    version: str
    problem: str = ""


class Serving(Message, frozen=True, tag=2):
    """worker -> steward: connections are accepted."""


class Acquire(Message, frozen=True, tag=3):
    """worker -> steward: draw from meters; answered by `Acquired` with the same number."""

    number: int
    draws: tuple[Draw, ...]


class Acquired(Message, frozen=True, tag=4):
    """steward -> worker. `problem` is not "" when nobody could decide: then nothing was granted and nothing refused."""

    number: int
    granted: Granted
    problem: str = ""


class GiveBack(Message, frozen=True, tag=5):
    """worker -> steward: unused amounts."""

    amounts: tuple[Unused, ...]


class ReportOver(Message, frozen=True, tag=6):
    """worker -> steward: a charge passed its hold."""

    meter: str
    amount: int


class FindKey(Message, frozen=True, tag=7):
    """worker -> steward: answered by `KeyFound`."""

    number: int
    key_id: str


class KeyFound(Message, frozen=True, tag=8):
    """steward -> worker. `problem` is not "" when the store could not be asked: then absence means nothing."""

    number: int
    record: KeyRecord | None
    problem: str = ""


class ForgetKey(Message, frozen=True, tag=9):
    """steward -> worker: a key changed; "" means all of them."""

    key_id: str


class Metrics(Message, frozen=True, tag=10):
    """worker -> steward: the worker's counters so far (cumulative), encoded by its tally."""

    snapshot: bytes


class Collect(Message, frozen=True, tag=11):
    """steward -> worker: send `Metrics` now, then `Collected` with this number."""

    number: int


class Collected(Message, frozen=True, tag=12):
    """worker -> steward."""

    number: int


class Drain(Message, frozen=True, tag=13):
    """steward -> worker: stop accepting, finish what runs within `grace` seconds, exit."""

    grace: float


class Revoke(Message, frozen=True, tag=14):
    """steward -> worker: end the running calls of this key."""

    key_id: str


class Recall(Message, frozen=True, tag=15):
    """steward -> worker: give back what lies idle of these meters, then say `Recalled`."""

    number: int
    meters: tuple[str, ...]


class Recalled(Message, frozen=True, tag=16):
    """worker -> steward."""

    number: int


class KeepResponse(Message, frozen=True, tag=17):
    """worker -> steward: keep a response; answered by `ResponseSaid`, like the next two."""

    number: int
    kept: Kept


class FindResponse(Message, frozen=True, tag=18):
    """worker -> steward: what an owner has under an id."""

    number: int
    owner: Owner
    response_id: str


class RemoveResponse(Message, frozen=True, tag=19):
    """worker -> steward: delete what an owner has under an id."""

    number: int
    owner: Owner
    response_id: str


class CancelResponse(Message, frozen=True, tag=20):
    """worker -> steward: have the call ended that makes a response, in whichever worker it runs."""

    number: int
    owner: Owner
    response_id: str


class ResponseSaid(Message, frozen=True, tag=21):
    """steward -> worker: what was found, whether there was something to remove, what was ended. `problem` as in `KeyFound`."""

    number: int
    kept: Kept | None = None
    done: bool = False
    ended: Ended | None = None
    problem: str = ""


class EndResponse(Message, frozen=True, tag=22):
    """steward -> worker: end the call that makes a response, if it runs here, then say `ResponseEnded`."""

    number: int
    owner: Owner
    response_id: str


class ResponseEnded(Message, frozen=True, tag=23):
    """worker -> steward: what was ended; None when it did not run there."""

    number: int
    ended: Ended | None


class TargetsTold(Message, frozen=True, tag=30):
    """worker -> steward, and on to the other workers: what a worker knows of its targets. `everything` is False for one change
    as it happens, True for all that there is, once a second. `origin` names the worker; the steward fills it in."""

    states: tuple[TargetState, ...]
    everything: bool = True
    origin: str = ""


class FindPlan(Message, frozen=True, tag=31):
    """worker -> steward: the plan of a model that is not listed; answered by `PlanFound`."""

    number: int
    name: str


class PlanFound(Message, frozen=True, tag=32):
    """steward -> worker. `problem` is not "" when it could not be made."""

    number: int
    plan: Plan | None
    problem: str = ""


class ClaimReplay(Message, frozen=True, tag=34):
    """worker -> steward: a request that names an idempotency key; answered by `ReplaySaid`."""

    number: int
    key: bytes
    digest: bytes


class ReplaySaid(Message, frozen=True, tag=35):
    """steward -> worker: what becomes of the request."""

    number: int
    claim: Claim


class FinishReplay(Message, frozen=True, tag=36):
    """worker -> steward: what was claimed has ended."""

    key: bytes
    answer: Replayed | None


AnyMessage = (
    ClaimReplay
    | ReplaySaid
    | FinishReplay
    | Configure
    | Configured
    | Serving
    | Acquire
    | Acquired
    | GiveBack
    | ReportOver
    | FindKey
    | KeyFound
    | ForgetKey
    | Metrics
    | Collect
    | Collected
    | Drain
    | Revoke
    | Recall
    | Recalled
    | KeepResponse
    | FindResponse
    | RemoveResponse
    | CancelResponse
    | ResponseSaid
    | EndResponse
    | ResponseEnded
    | TargetsTold
    | FindPlan
    | PlanFound
)


class Link(asyncio.Protocol):
    """One end of the pair: whole messages in, whole messages out. Sending never awaits; a peer that stops reading is cut."""

    def __init__(self, receive: Callable[[Any], None], lost: Callable[[], None]) -> None:
        self._receive = receive
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._cutter = FrameCutter()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(AnyMessage)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The pair is up."""
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Cut frames; a frame that cannot be read ends the link, since what follows cannot be trusted."""
        try:
            messages = [self._decoder.decode(payload) for payload in self._cutter.feed(data)]
        except (ValueError, msgspec.DecodeError):
            logger.exception("what came over the inner socket cannot be read; closing it")
            self.close()
            return
        for message in messages:
            self._receive(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone."""
        self._transport = None
        self._lost()

    @property
    def open(self) -> bool:
        """Whether the peer can still be spoken to."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: Message) -> bool:
        """Write one message; False when the peer is gone."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(framed(self._encoder.encode(message)))
        return True

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()
