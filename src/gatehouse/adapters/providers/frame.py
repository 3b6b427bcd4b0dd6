"""The frame of every remote model: which connection and key carry a call, and what counts as an answer.

What is said over it is the codec's (`adapters.providers._codec`). A failure before the first event is raised from `answer`,
so that another target can be tried. With one key, or none, a request's head is put together once and kept; with several
the frame goes round among those that are good.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import msgspec

from gatehouse.adapters.providers._codec import Authoriser, Codec, Form, StreamReader, Unsigned
from gatehouse.adapters.providers._http import (
    Credentials,
    HttpClient,
    HttpOptions,
    Pool,
    PoolOptions,
    Prefix,
    Reply,
    bypasses,
    parse_base_url,
    parse_proxy,
    written,
)
from gatehouse.adapters.providers._keys import KeyRing
from gatehouse.core.calls import Call
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Chunk, Event, Events
from gatehouse.core.plans import Deadlines, Target
from gatehouse.core.ports import Asked, Attempt, Tally, Told, Turn
from gatehouse.core.secrets import Secret
from gatehouse.core.single import Single

_SLOWEST: Final = 0.05
"""Seconds a token of an unstreamed answer may take: its first byte comes only when the last token is written."""
_OPENAI: Final = "openai"
"""How the names of OpenAI's dialects begin."""
_STARTED: Final = Chunk()
"""What a stream yields to nobody, so that its generator has begun and closing it always runs its end."""
_PING_SECONDS: Final = 5.0
_WHOLE: Final = "application/json"
_JSON: Final = b"application/json"
_MOST_PATHS: Final = 4_096
"""Heads that are kept. Paths come from the operator's targets, so there are few; this is for a codec that makes a mistake."""


class ModelOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says of one provider.

    `proxy` is a URL like the value of HTTPS_PROXY, a secret for it may hold a password; hosts in `no_proxy` are reached
    directly. `ca_bundle` is a file of the only roots trusted. `headers` are sent with each request. `max_answer` is in bytes.
    `api_keys` are equals: calls go round among them.
    """

    name: str
    base_url: str
    api_keys: Sequence[Secret] = ()
    plaintext: bool = False
    ca_bundle: str | None = None
    proxy: Secret | None = None
    no_proxy: Sequence[str] = ()
    max_connections: int = 256
    max_waiting: int = 1024
    keep_idle: float = 55.0
    headers: dict[str, Secret] = {}
    max_answer: int = 32 * 1024 * 1024


class _Probe:
    """The attempt of a ping, which belongs to no call."""

    __slots__ = ("deadlines", "request_id", "sent", "tenant", "traceparent")

    def __init__(self) -> None:
        self.request_id = "ping"
        self.tenant = ""
        self.deadlines = Deadlines(_PING_SECONDS, _PING_SECONDS, _PING_SECONDS, _PING_SECONDS)
        self.sent = False
        self.traceparent = ""

    def vacated(self) -> None:
        """Nobody waits for it."""


class _Heads:
    """The heads of requests that carry one key, by path: made when first needed, then kept."""

    __slots__ = ("_http", "_key", "_stream_type", "streamed", "whole")

    def __init__(self, http: HttpClient, key: Credentials | None, stream_type: str) -> None:
        self._http = http
        self._key = key
        self._stream_type = stream_type
        self.whole: dict[str, Prefix] = {}
        self.streamed: dict[str, Prefix] = {}

    def make(self, path: str, *, streams: bool) -> Prefix:
        """The head of a POST to `path`, from now on kept."""
        kept = self.streamed if streams else self.whole
        if len(kept) >= _MOST_PATHS:
            kept.clear()
        made = kept[path] = self._http.prefix("POST", path, accept=self._stream_type if streams else _WHOLE, credentials=self._key)
        return made

    def health(self, path: str) -> Prefix:
        """The head of a ping."""
        return self._http.prefix("GET", path, accept=_WHOLE, credentials=self._key)


class HttpModel:
    """Implements `core.ports.Model` for one provider, in the words of `codec`."""

    def __init__(self, options: ModelOptions, codec: Codec, authoriser: Authoriser | None = None) -> None:
        """Raises ValueError or OSError when the options cannot work: a bad URL, an unreadable bundle, plain http elsewhere."""
        base = parse_base_url(options.base_url, plaintext=options.plaintext)
        proxy = None
        if options.proxy is not None and not bypasses(options.no_proxy, base.origin.host):
            proxy = parse_proxy(options.proxy)
        self.name = options.name
        self._codec = codec
        self._forms = codec.forms
        self._authoriser = authoriser
        self._base = base
        fixed = {name.lower(): Secret(value) for name, value in codec.headers}
        self._http = HttpClient(
            HttpOptions(
                label=options.name,
                base=base,
                headers={**fixed, **{name.lower(): value for name, value in options.headers.items()}},
                plaintext=options.plaintext,
                ca_bundle=options.ca_bundle,
                proxy=proxy,
                pool=PoolOptions(options.max_connections, options.max_waiting, options.keep_idle),
                max_answer=options.max_answer,
                stream_type=codec.stream_type.encode(),
            )
        )
        said = codec.credential
        keys = [Credentials(base.origin, key, name=said.header, prefix=said.prefix) for key in options.api_keys]
        self._heads = [_Heads(self._http, key, codec.stream_type) for key in keys or (None,)]
        self._ring = KeyRing(options.name, len(keys)) if len(keys) > 1 else None
        self._plain = self._ring is None and authoriser is None
        self._replies: list[Reply] = []
        self.turn: Turn | None = None
        """The turns of the loop at whose end requests leave; without them nothing can be asked without waiting."""

    @property
    def pool(self) -> Pool:
        """The connections to the provider: how many are open, idle, waited for."""
        return self._http.pool

    def count_keys(self, tally: Tally) -> None:
        """Count in `tally` how often a key had to be left aside; keys are named by their place."""
        if self._ring is not None:
            self._ring.tally = tally

    def __repr__(self) -> str:
        return f"HttpModel({self.name}, {self._codec.name})"

    async def answer(self, call: Call, target: Target, attempt: Attempt) -> Events:
        """See `Model`. A streamed call that is answered in one piece yields that one `Answer`."""
        form = self._forms.get(call.operation)
        if form is None:
            raise UpstreamFailed(
                f"The model cannot do this: it takes no {call.operation} requests.",
                code="upstream_rejected",
                detail=f"{self.name}: {self._codec.name} has no {call.operation}",
                sent=False,
            )
        if call.stream and form.stream is None:
            call = msgspec.structs.replace(call, stream=False)
        body = form.encode(call, target)
        if self._plain and form.headers is None:
            # One fixed key, or none: no layer between, since this is nearly every call.
            prefix, first_byte = self._prepared(form, call, target, attempt, 0)
            reply = await self._http.send(prefix, body, attempt, streams=call.stream, first_byte=first_byte)
        elif self._ring is None:
            reply = await self._send(form, body, call, target, attempt, 0)
        else:
            reply = await self._send_in_turn(self._ring, form, body, call, target, attempt)
        if not reply.streaming:
            return Single(_dated(self._read_whole(reply, form, call), attempt.request_id))
        assert form.stream is not None
        reader = form.stream(call)
        try:
            first = reader.feed(reply.take())
            while not first:
                first = await self._first(reply, reader)
        except BaseException:
            reply.abandon()
            raise
        reply.begin()
        undated = not first[0].created and first[0].dialect[:6] != _OPENAI
        return await _begun(_flow(reply, reader, first, attempt.request_id if undated else ""))

    def ask(self, call: Call, target: Target, attempt: Attempt, told: Told) -> Asked | None:
        """See `core.ports.Direct`."""
        form, turn = self._forms.get(call.operation), self.turn
        if turn is None or not self._plain or call.stream or form is None or form.headers is not None:
            return None
        body = form.encode(call, target)
        prefix, first_byte = self._prepared(form, call, target, attempt, 0)
        reply = self._http.ask(prefix, body, attempt, turn, self._came, first_byte=first_byte)
        if reply is not None:
            reply.context = (form, call, attempt.request_id, told)
        return reply

    def _came(self, reply: Reply) -> None:
        """A reply that was asked for without waiting is whole, or has failed: it is read at the end of this turn, with all others."""
        came = self._replies
        if not came:
            assert self.turn is not None
            self.turn.before(self._read_together)
        came.append(reply)

    def _read_together(self) -> None:
        came, self._replies = self._replies, []
        read: list[tuple[Told, Event | None, Exception | None]] = []
        came = [reply for reply in came if reply.context is not None]  # without those that were abandoned after they came
        if not came:
            return
        for reply in came:
            form, call, request_id, told = reply.context
            reply.context = None
            event: Event | None = None
            fault: Exception | None = None
            if reply.failure is not None:
                fault = None if reply.stale else reply.failure.error()
            else:
                try:
                    event = self._read_whole(reply, form, call)
                    if not event.created:
                        event = _dated(event, request_id)
                except Exception as error:
                    fault = error
            read.append((told, event, fault))
        for told, event, fault in read:
            told(event, fault)
        # A failure holds this function, which must not hold it or whom it was told: nothing is to wait for the cycle collector.
        came.clear()
        read.clear()
        del told, reply, event, fault

    async def ping(self) -> str:
        """ "" when the provider answers and accepts our keys."""
        path = self._codec.health
        refused = 0
        for heads in self._heads:
            try:
                more = await self._authorised("GET", path, b"", _Probe().deadlines) if self._authoriser is not None else b""
                reply = await self._http.send(heads.health(path), b"", _Probe(), streams=False, first_byte=_PING_SECONDS, more=more)
            except UpstreamFailed as error:
                return error.message
            if reply.status >= 500:
                return f"The provider answers {reply.status}."
            refused += bool(path) and reply.status in {401, 403}
        if not refused:
            return ""
        return (
            "The provider refuses our credentials."
            if len(self._heads) == 1
            else f"The provider refuses {refused} of {len(self._heads)} keys."
        )

    async def close(self) -> None:
        """Close every connection, those in use too."""
        await self._http.close()
        if self._authoriser is not None:
            await self._authoriser.close()

    # --- asking ----------------------------------------------------------------------------------------------------

    def _prepared(self, form: Form, call: Call, target: Target, attempt: Attempt, key: int) -> tuple[Prefix, float]:
        """The head of the request, and the seconds its answer may take to begin."""
        path = form.path
        if not isinstance(path, str):
            path = path(call, target)
        heads = self._heads[key]
        first_byte = attempt.deadlines.first_byte
        if call.stream:
            return heads.streamed.get(path) or heads.make(path, streams=True), first_byte
        if call.operation != "embedding":
            first_byte += _SLOWEST * call.max_tokens if call.max_tokens is not None else attempt.deadlines.total
        return heads.whole.get(path) or heads.make(path, streams=False), first_byte

    async def _send(self, form: Form, body: bytes, call: Call, target: Target, attempt: Attempt, key: int) -> Reply:
        prefix, first_byte = self._prepared(form, call, target, attempt, key)
        more = b"" if form.headers is None else written(form.headers(call, target))
        if self._authoriser is None:
            return await self._http.send(prefix, body, attempt, streams=call.stream, first_byte=first_byte, more=more)
        path = form.path if isinstance(form.path, str) else form.path(call, target)
        own = await self._authorised("POST", path, body, attempt.deadlines)
        reply = await self._http.send(prefix, body, attempt, streams=call.stream, first_byte=first_byte, more=more + own)
        if reply.status == 401 and self._authoriser.refused():
            # What was kept was stale, and the request was not looked at: the provider is not to be left alone for that.
            own = await self._authorised("POST", path, body, attempt.deadlines)
            reply = await self._http.send(prefix, body, attempt, streams=call.stream, first_byte=first_byte, more=more + own)
        return reply

    async def _authorised(self, method: str, path: str, body: bytes, deadlines: Deadlines) -> bytes:
        assert self._authoriser is not None
        request = Unsigned(method, self._base.origin.authority, self._base.path + path, body)
        return written(await self._authoriser.headers(request, deadlines))

    async def _send_in_turn(self, ring: KeyRing, form: Form, body: bytes, call: Call, target: Target, attempt: Attempt) -> Reply:
        """With the key whose turn it is; one that the provider refuses or rests makes room for the next, each at most once."""
        error: UpstreamFailed | None = None
        for key in ring.turns(target.model):
            reply = await self._send(form, body, call, target, attempt, key)
            if reply.status < 400:
                ring.well(key, target.model)
                return reply
            error = self._refusal(reply)
            if not ring.learn(key, target.model, error, status=reply.status):
                break
        assert error is not None
        raise error

    # --- reading ---------------------------------------------------------------------------------------------------

    def _read_whole(self, reply: Reply, form: Form, call: Call) -> Event:
        status = reply.status
        if status >= 400:
            raise self._refusal(reply)
        if status != 200:
            raise self._invalid(f"status {status}")
        kind = reply.headers.get(b"content-type", _JSON)
        body = reply.take()
        if not body:
            raise self._invalid("an empty answer")
        if kind != _JSON and not (kind := kind.partition(b";")[0].strip().lower()).endswith(b"+json") and kind != _JSON:
            raise self._invalid("an answer that is not JSON")
        return form.decode(body, call)

    def _refusal(self, reply: Reply) -> UpstreamFailed:
        error = self._codec.decode_error(reply.status, reply.headers, reply.take())
        error.detail = f"{self.name}: {error.detail}"
        return error

    async def _first(self, reply: Reply, reader: StreamReader) -> list[Event]:
        data = b"" if reader.finished else await reply.more()
        if data:
            return reader.feed(data)
        reader.close()
        raise self._invalid("a stream without an event")

    def _invalid(self, detail: str) -> UpstreamFailed:
        return UpstreamFailed("The model's answer could not be read.", code="upstream_invalid", detail=f"{self.name}: {detail}")


async def _begun(events: AsyncGenerator[Event, None]) -> Events:
    # A generator that was never entered runs no `finally` when it is closed; one that stands at its first yield does.
    await events.asend(None)
    return events


def _dated(event: Event, request_id: str, now: int = 0) -> Event:
    """`event` with a time and an id, which some formats do not give and some callers' formats must. OpenAI's leaves as it came."""
    if event.created or event.dialect[:6] == _OPENAI:
        return event
    return msgspec.structs.replace(event, created=now or int(time.time()), id=event.id or request_id)


async def _flow(reply: Reply, reader: StreamReader, events: list[Event], undated: str) -> AsyncGenerator[Event, None]:
    """The events of a stream; with the id of a request in `undated`, each gets the same time and an id."""
    now = int(time.time()) if undated else 0
    try:
        yield _STARTED
        while True:
            for event in events:
                yield _dated(event, undated, now) if undated else event
            data = b"" if reader.finished else await reply.more()
            if not data:
                reader.close()
                reply.finish()
                return
            events = reader.feed(data)
    finally:
        reply.abandon()
