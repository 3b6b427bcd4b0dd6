"""Amazon Bedrock: Converse for chats, InvokeModel for embeddings, signed as AWS wants it or with a Bedrock API key."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from gatehouse.adapters.providers._aws_keys import KeySource
from gatehouse.adapters.providers._codec import Codec, Form, Unsigned
from gatehouse.adapters.providers._sigv4 import AwsKey, Scope, Signable, Signer
from gatehouse.core.calls import Call
from gatehouse.core.events import Answer
from gatehouse.core.plans import Deadlines, Target
from gatehouse.dialects.bedrock import (
    Guardrail,
    StreamDecoder,
    decode_answer,
    decode_embedding,
    decode_error,
    embedding_path,
    encode_embedding,
    encode_request,
    request_path,
)

_SERVICE: Final = "bedrock"
_LARGE: Final = 1_000_000
"""Bytes of a body whose hash is worked out beside the loop: it takes a millisecond or more."""


def bedrock_url(region: str) -> str:
    """The address of the runtime in `region`; China has a domain of its own."""
    return f"https://bedrock-runtime.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def bedrock_codec(guardrail: Guardrail | None = None) -> Codec:
    """Converse and ConverseStream, through `guardrail` if there is one, and InvokeModel for embeddings.

    The runtime has no cheap request that shows whether a key is good, so a ping only looks whether it can be reached.
    """
    chat = Form(_chat_path, lambda call, target: encode_request(call, target.model, guardrail), _decode_chat, _read_chat)
    embedding = Form(
        path=lambda call, target: embedding_path(target.model),
        encode=lambda call, target: encode_embedding(call, target.model),
        decode=decode_embedding,
    )
    return Codec(
        name="bedrock",
        forms={"chat": chat, "embedding": embedding},
        decode_error=decode_error,
        stream_type="application/vnd.amazon.eventstream",
        health="",
    )


class AwsAuthoriser:
    """Signs each request right before it is sent. Implements `_codec.Authoriser`."""

    def __init__(self, source: KeySource, region: str, now: Callable[[], float] = time.time) -> None:
        self._source = source
        self._scope = Scope(region, _SERVICE)
        self._now = now
        self._signer: tuple[AwsKey, Signer] | None = None

    async def headers(self, request: Unsigned, deadlines: Deadlines) -> Sequence[tuple[str, str]]:
        """See `Authoriser`."""
        key = await self._source.key()
        if self._signer is None or self._signer[0] is not key:
            self._signer = (key, Signer(key, self._scope))
        signer = self._signer[1]
        said = {"host": request.authority}
        if request.method == "POST":
            said["content-type"] = "application/json"
        signable = Signable(request.method, request.path, said, request.body)
        moment = datetime.fromtimestamp(self._now(), UTC)
        if len(request.body) > _LARGE:
            return await asyncio.to_thread(signer.sign, signable, moment)
        return signer.sign(signable, moment)

    def refused(self) -> bool:
        """See `Authoriser`. AWS refuses with a 403, which may as well be about the model."""
        self._source.refused()
        return False

    async def close(self) -> None:
        """See `Authoriser`."""
        await self._source.close()


def _chat_path(call: Call, target: Target) -> str:
    return request_path(call, target.model)


def _decode_chat(body: bytes, call: Call) -> Answer:
    return decode_answer(body)


def _read_chat(call: Call) -> StreamDecoder:
    return StreamDecoder()
