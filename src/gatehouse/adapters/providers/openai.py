"""Models behind OpenAI's protocol: OpenAI itself, and everything that speaks like it (vLLM, llama.cpp, other gateways).

The codec lives in `gatehouse.dialects.openai`; here is who we are to the provider, which connection carries the call, and
what counts as an answer. A failure before the first event is raised from `answer`, so that another target can be tried.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Final, Literal

import msgspec

from gatehouse.adapters.providers._http import (
    Credentials,
    HttpClient,
    HttpOptions,
    Pool,
    PoolOptions,
    Reply,
    bypasses,
    parse_base_url,
    parse_proxy,
)
from gatehouse.core.calls import Call
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Chunk, Event, Events
from gatehouse.core.plans import Deadlines, Target
from gatehouse.core.ports import Attempt
from gatehouse.core.secrets import Secret
from gatehouse.core.single import Single
from gatehouse.dialects.openai import StreamDecoder, decode_answer, decode_error, encode_request

OPENAI_BASE_URL: Final = "https://api.openai.com/v1"
_SLOWEST: Final = 0.05
"""Seconds a token of an unstreamed answer may take: its first byte comes only when the last token is written."""
_STARTED: Final = Chunk()
"""What a stream yields to nobody, so that its generator has begun and closing it always runs its end."""
_PING_SECONDS: Final = 5.0


class OpenAIOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says of one provider.

    `base_url` "" is OpenAI's own. `proxy` is a URL like the value of HTTPS_PROXY, a secret for it may hold a password;
    hosts in `no_proxy` are reached directly. `ca_bundle` is a file of the only roots trusted. `headers` are sent with each
    request. `max_tokens_field` None is what the kind is known to take. `max_answer` is in bytes.
    """

    name: str
    kind: Literal["openai", "openai-compatible"] = "openai-compatible"
    base_url: str = ""
    api_key: Secret | None = None
    plaintext: bool = False
    ca_bundle: str | None = None
    proxy: Secret | None = None
    no_proxy: Sequence[str] = ()
    max_connections: int = 256
    max_waiting: int = 1024
    keep_idle: float = 55.0
    headers: dict[str, Secret] = {}
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    max_answer: int = 32 * 1024 * 1024


class _Probe:
    """The attempt of a ping, which belongs to no call."""

    __slots__ = ("deadlines", "request_id", "sent", "tenant")

    def __init__(self) -> None:
        self.request_id = "ping"
        self.tenant = ""
        self.deadlines = Deadlines(_PING_SECONDS, _PING_SECONDS, _PING_SECONDS, _PING_SECONDS)
        self.sent = False

    def vacated(self) -> None:
        """Nobody waits for it."""


class OpenAIModel:
    """Implements `core.ports.Model` for one provider."""

    def __init__(self, options: OpenAIOptions) -> None:
        """Raises ValueError or OSError when the options cannot work: a bad URL, an unreadable bundle, plain http elsewhere."""
        base = parse_base_url(options.base_url or OPENAI_BASE_URL, plaintext=options.plaintext)
        proxy = None
        if options.proxy is not None and not bypasses(options.no_proxy, base.origin.host):
            proxy = parse_proxy(options.proxy)
        self.name = options.name
        self._http = HttpClient(
            HttpOptions(
                label=options.name,
                base=base,
                credentials=Credentials(base.origin, options.api_key) if options.api_key else None,
                headers=options.headers,
                plaintext=options.plaintext,
                ca_bundle=options.ca_bundle,
                proxy=proxy,
                pool=PoolOptions(options.max_connections, options.max_waiting, options.keep_idle),
                max_answer=options.max_answer,
            )
        )
        self._whole = self._http.prefix("POST", "/chat/completions", accept="application/json")
        self._stream = self._http.prefix("POST", "/chat/completions", accept="text/event-stream")
        self._models = self._http.prefix("GET", "/models", accept="application/json")
        self._field = options.max_tokens_field or ("max_completion_tokens" if options.kind == "openai" else "max_tokens")

    @property
    def pool(self) -> Pool:
        """The connections to the provider: how many are open, idle, waited for."""
        return self._http.pool

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name})"

    async def answer(self, call: Call, target: Target, attempt: Attempt) -> Events:
        """See `Model`. A streamed call that is answered in one piece yields that one `Answer`."""
        body = encode_request(call, target.model, max_tokens_field=self._field)
        first_byte = attempt.deadlines.first_byte
        if call.stream:
            prefix = self._stream
        else:
            prefix = self._whole
            first_byte += _SLOWEST * call.max_tokens if call.max_tokens is not None else attempt.deadlines.total
        reply = await self._http.send(prefix, body, attempt, streams=call.stream, first_byte=first_byte)
        if not reply.streaming:
            return Single(self._read_whole(reply))
        decoder = StreamDecoder(call.n)
        try:
            first = decoder.feed(reply.take())
            while not first:
                first = await self._first(reply, decoder)
        except BaseException:
            reply.abandon()
            raise
        reply.begin()
        return await _begun(_flow(reply, decoder, first))

    async def ping(self) -> str:
        """ "" when the provider answers and accepts our key."""
        try:
            reply = await self._http.send(self._models, b"", _Probe(), streams=False, first_byte=_PING_SECONDS)
        except UpstreamFailed as error:
            return error.message
        if reply.status in {401, 403}:
            return "The provider refuses our credentials."
        if reply.status >= 500:
            return f"The provider answers {reply.status}."
        return ""

    async def close(self) -> None:
        """Close every connection, those in use too."""
        await self._http.close()

    def _read_whole(self, reply: Reply) -> Event:
        body = reply.take()
        status = reply.status
        if status == 200:
            kind = reply.headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
            if not body:
                raise self._invalid("an empty answer")
            if kind != b"application/json" and not kind.endswith(b"+json"):
                raise self._invalid("an answer that is not JSON")
            return decode_answer(body)
        if status < 400:
            raise self._invalid(f"status {status}")
        error = decode_error(status, reply.headers, body)
        error.detail = f"{self.name}: {error.detail}"
        raise error

    async def _first(self, reply: Reply, decoder: StreamDecoder) -> list[Event]:
        data = b"" if decoder.finished else await reply.more()
        if data:
            return decoder.feed(data)
        decoder.close()
        raise self._invalid("a stream without an event")

    def _invalid(self, detail: str) -> UpstreamFailed:
        return UpstreamFailed("The model's answer could not be read.", code="upstream_invalid", detail=f"{self.name}: {detail}")


async def _begun(events: AsyncGenerator[Event, None]) -> Events:
    # A generator that was never entered runs no `finally` when it is closed; one that stands at its first yield does.
    await events.asend(None)
    return events


async def _flow(reply: Reply, decoder: StreamDecoder, events: list[Event]) -> AsyncGenerator[Event, None]:
    try:
        yield _STARTED
        while True:
            for event in events:
                yield event
            data = b"" if decoder.finished else await reply.more()
            if not data:
                decoder.close()
                reply.finish()
                return
            events = decoder.feed(data)
    finally:
        reply.abandon()
