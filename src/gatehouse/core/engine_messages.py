"""What a worker and the host of an embedded engine say to each other over a Unix socket. Values only."""

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.events import Answer, Chunk


class EngineMessage(msgspec.Struct, frozen=True, array_like=True, tag_field="m"):
    """Base of all messages. `number` is the worker's name for a call on this connection."""


class Hello(EngineMessage, frozen=True, tag=0):
    """host -> worker, first on each connection. `problem` is "" or why nothing can be answered."""

    engine: str
    context: int
    slots: int
    problem: str = ""


class Ask(EngineMessage, frozen=True, tag=1):
    """worker -> host: answer this call. It waits for a free slot at most `patience` seconds."""

    number: int
    call: Call
    patience: float


class Cancel(EngineMessage, frozen=True, tag=2):
    """worker -> host: nobody waits for this call, or for this count, any more."""

    number: int


class Pieces(EngineMessage, frozen=True, tag=3):
    """host -> worker: what was generated since the last message."""

    number: int
    chunks: tuple[Chunk, ...]


class Whole(EngineMessage, frozen=True, tag=4):
    """host -> worker: an answer in one piece, and its end."""

    number: int
    answer: Answer


class Done(EngineMessage, frozen=True, tag=5):
    """host -> worker: a streamed answer is complete."""

    number: int


class Failed(EngineMessage, frozen=True, tag=6):
    """host -> worker: there will be no (more of an) answer. `message` is safe to show."""

    number: int
    code: str
    message: str
    retry_after: float | None = None
    caller_fault: bool = False


class Ping(EngineMessage, frozen=True, tag=7):
    """worker -> host: are you well? Answered by Hello."""


class Count(EngineMessage, frozen=True, tag=8):
    """worker -> host: how many tokens has the prompt of this call? Answered by Counted or Failed, beside the line for slots."""

    number: int
    call: Call


class Counted(EngineMessage, frozen=True, tag=9):
    """host -> worker: so many, template included."""

    number: int
    tokens: int


AnyEngineMessage = Hello | Ask | Cancel | Pieces | Whole | Done | Failed | Ping | Count | Counted


class EngineRefused(Exception):
    """An engine will not answer a call; the text is safe to show."""

    def __init__(self, code: str, message: str, *, caller_fault: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.caller_fault = caller_fault
