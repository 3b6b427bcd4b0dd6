"""What a provider's wire format is to the frame that speaks it: a few values and pure functions.

`frame.HttpModel` owns the connection, the credentials, the deadlines and what counts as an answer. A `Codec` says the
rest: for each operation (chat, completion, embedding) a `Form` with the path and how a call becomes bytes and bytes become
events. A new provider is therefore a codec over functions of its dialect, and one line in `compose.providers`.

    def gemini() -> Codec:
        chat = Form(path=lambda call, target: f"/models/{segment(target.model)}:{verb(call)}", encode=..., decode=..., stream=...)
        return Codec(name="gemini", forms={"chat": chat}, decode_error=..., credential=Credential("x-goog-api-key", ""))

A format whose requests are signed, or whose token is fetched and grows old, has an `Authoriser` as well.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import quote

import msgspec

from gatehouse.core.calls import Call, Operation
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Event
from gatehouse.core.plans import Deadlines, Target


class StreamReader(Protocol):
    """Reads one streamed answer. The bytes come as the socket gave them: cut anywhere."""

    finished: bool
    """Nothing that may still come matters: the stream has said so, or it failed. The frame then reads no further."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes, possibly none.

        Raises:
            UpstreamFailed: the target reported an error, or sent what this format does not have. Events that came before
                it are returned first; then `finished` is True and the next `feed` or `close` raises.
        """

    def close(self) -> None:
        """No more bytes will come.

        Raises:
            UpstreamFailed: the stream failed, or it broke off (upstream_broken). A broken stream never ends like a whole one.
        """


class Form(msgspec.Struct, frozen=True):
    """How one operation is asked and answered.

    `path` follows the base URL's and may carry a query; where it depends on call or target it is a function, which must give
    few different paths (they are kept): a model's name goes through `segment`. `encode` writes the body. `decode` reads a
    whole answer (a 200 of JSON) and raises UpstreamFailed when it is none. `stream` makes the reader of one streamed answer;
    None where the format cannot stream: `encode` then never sees a call that streams.
    `headers` are further headers a call asks for; None, which costs nothing, for nearly all.
    """

    path: str | Callable[[Call, Target], str]
    encode: Callable[[Call, Target], bytes]
    decode: Callable[[bytes, Call], Answer]
    stream: Callable[[Call], StreamReader] | None = None
    headers: Callable[[Call, Target], Sequence[tuple[str, str]]] | None = None


class Credential(msgspec.Struct, frozen=True):
    """The header that carries a key, and what stands before the key in it."""

    header: str = "authorization"
    prefix: str = "Bearer "


class Codec(msgspec.Struct, frozen=True):
    """A wire format outbound. Everything in it is pure; one instance serves every call.

    `decode_error` reads status, headers (names in lower case) and body of an answer of 400 or more: it decides whose fault
    it is and whether waiting helps. A refused credential must become code `upstream_auth`, and a 429 `upstream_overloaded`:
    rotation of keys and quarantine go by them. `headers` go out with every request (a version of the API). `stream_type` is
    the content type of a streamed answer, lower case: everything else is read whole. `health` is the path of a cheap GET
    that shows whether the key is good; "" where the format has none, and then ping only looks whether it can be reached.
    """

    name: str
    forms: Mapping[Operation, Form]
    decode_error: Callable[[int, Mapping[bytes, bytes], bytes], UpstreamFailed]
    credential: Credential = Credential()
    headers: Sequence[tuple[str, str]] = ()
    stream_type: str = "text/event-stream"
    health: str = "/models"


class Unsigned(msgspec.Struct, frozen=True):
    """A request that an `Authoriser` gives its headers: exactly what will be sent.

    `authority` is the `host` header; `path` the whole of the request line's, base path and query included.
    """

    method: str
    authority: str
    path: str
    body: bytes


class Authoriser(Protocol):
    """Makes the headers that say who we are, where a fixed key does not do. It may keep a token and connections of its own."""

    async def headers(self, request: Unsigned, deadlines: Deadlines) -> Sequence[tuple[str, str]]:
        """The headers for this one request. Many calls may ask at once; a token is fetched once for all of them.

        Raises:
            UpstreamFailed: with `sent=False`; code upstream_auth when we were refused, upstream_unreachable or
                upstream_timeout when the place that gives tokens cannot be asked.
        """

    def refused(self) -> bool:
        """The target answered 401: what is kept may be stale. True when `headers` may now give others: the request is sent again, once."""

    async def close(self) -> None:
        """Give back every connection; may be called twice."""


def segment(text: str) -> str:
    """`text` as one step of a path: nothing in it can end the step or the request line."""
    return quote(text, safe="")
