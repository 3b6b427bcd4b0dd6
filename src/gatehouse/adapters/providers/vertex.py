"""Vertex AI outbound: Gemini and Anthropic's Claude under a Google Cloud project, by the token of a service account.

What a model is called decides its publisher: `gemini-...` is Google's, `claude-...` Anthropic's, and either may be written
out ("publishers/anthropic/models/claude-sonnet-4-5@20250929"). `endpoints/ID` is a tuned Gemini model.
"""

from pathlib import Path
from typing import Final

from gatehouse.adapters.providers._codec import Authoriser, Codec, Form, segment
from gatehouse.adapters.providers._google_token import GoogleAuthoriser, ServiceAccount, read_service_account
from gatehouse.adapters.providers._http import HttpOptions, bypasses, parse_base_url, parse_proxy
from gatehouse.adapters.providers.frame import HttpModel, ModelOptions
from gatehouse.adapters.providers.gemini import verb
from gatehouse.core.calls import Call
from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import Answer, Events
from gatehouse.core.plans import Target
from gatehouse.core.ports import Attempt
from gatehouse.dialects import anthropic
from gatehouse.dialects.gemini import (
    StreamDecoder,
    decode_answer,
    decode_error,
    decode_predictions,
    encode_predictions,
    encode_request,
)

ANTHROPIC_VERSION: Final = "vertex-2023-10-16"
"""https://docs.anthropic.com/en/api/claude-on-vertex-ai"""
_GOOGLE: Final = "google"
_ANTHROPIC: Final = "anthropic"


def vertex_url(location: str) -> str:
    """The address of the API for a location; "global" is served by the address without one."""
    host = "aiplatform.googleapis.com" if location == "global" else f"{location}-aiplatform.googleapis.com"
    return f"https://{host}/v1"


def publisher_of(model: str) -> tuple[str, str]:
    """Whose model it is, and what it is called there. A tuned model's endpoint is Google's, and keeps its whole name."""
    if model.startswith("publishers/"):
        steps = model.split("/")
        if len(steps) == 4 and steps[2] == "models":
            return steps[1], steps[3]
    return (_ANTHROPIC if model.startswith("claude") else _GOOGLE), model


class VertexModel:
    """Implements `core.ports.Model` for one project: each publisher's models in their own format, with the same token."""

    def __init__(self, options: ModelOptions, authoriser: Authoriser, project: str, location: str) -> None:
        """Raises ValueError or OSError when the options cannot work."""
        parent = f"/projects/{segment(project)}/locations/{segment(location)}"
        self.name = options.name
        self._models = {
            _GOOGLE: HttpModel(options, _google_codec(parent), authoriser),
            _ANTHROPIC: HttpModel(options, _anthropic_codec(parent), authoriser),
        }

    def __repr__(self) -> str:
        return f"VertexModel({self.name})"

    async def answer(self, call: Call, target: Target, attempt: Attempt) -> Events:
        """See `Model`."""
        publisher, _ = publisher_of(target.model)
        model = self._models.get(publisher)
        if model is None:
            raise UpstreamFailed(
                "The model is not available: it is not configured properly.",
                code="upstream_rejected",
                detail=f"{self.name}: models of publisher {publisher!r} are not spoken to; google and anthropic are",
                sent=False,
            )
        return await model.answer(call, target, attempt)

    async def ping(self) -> str:
        """ "" when a token is given and the API can be reached; whether the models may be used, only a call shows."""
        return await self._models[_GOOGLE].ping()

    async def close(self) -> None:
        """Close every connection, those in use too."""
        for model in self._models.values():
            await model.close()


def service_account(options: ModelOptions, file: str, token_url: str | None) -> tuple[ServiceAccount, GoogleAuthoriser]:
    """The account of a key file as it now is, and what signs in with it. Tokens are fetched the way calls go: proxy, authorities.

    Raises:
        ValueError: the file or `token_url` cannot be used.
    """

    def read() -> ServiceAccount:
        return read_service_account(Path(file), token_url)

    account = read()
    base = parse_base_url(account.token_uri, plaintext=options.plaintext)
    proxy = None
    if options.proxy is not None and not bypasses(options.no_proxy, base.origin.host):
        proxy = parse_proxy(options.proxy)
    http = HttpOptions(label=options.name, base=base, plaintext=options.plaintext, ca_bundle=options.ca_bundle, proxy=proxy)
    return account, GoogleAuthoriser(http, read)


# Google's models


def _google_codec(parent: str) -> Codec:
    def resource(target: Target) -> str:
        _, name = publisher_of(target.model)
        if name.startswith("endpoints/"):
            return f"{parent}/endpoints/{segment(name.removeprefix('endpoints/'))}"
        return f"{parent}/publishers/google/models/{segment(name)}"

    chat = Form(lambda call, target: f"{resource(target)}:{verb(call)}", _encode_chat, _decode_chat, _read_chat)
    embedding = Form(lambda call, target: f"{resource(target)}:predict", _encode_embedding, decode_predictions)
    return Codec(name="vertex", forms={"chat": chat, "embedding": embedding}, decode_error=decode_error, health="")


def _encode_chat(call: Call, target: Target) -> bytes:
    return encode_request(call, publisher_of(target.model)[1])


def _decode_chat(body: bytes, call: Call) -> Answer:
    return decode_answer(body)


def _read_chat(call: Call) -> StreamDecoder:
    return StreamDecoder(call.n)


def _encode_embedding(call: Call, target: Target) -> bytes:
    return encode_predictions(call)


# Anthropic's models: its own format, with the model in the path and the version in the body


def _anthropic_codec(parent: str) -> Codec:
    def path(call: Call, target: Target) -> str:
        _, name = publisher_of(target.model)
        return f"{parent}/publishers/anthropic/models/{segment(name)}:{'streamRawPredict' if call.stream else 'rawPredict'}"

    chat = Form(path, _encode_messages, _decode_messages, _read_messages)
    return Codec(name="vertex-anthropic", forms={"chat": chat}, decode_error=decode_error, health="")


def _encode_messages(call: Call, target: Target) -> bytes:
    return anthropic.encode_request(call, target.model, anthropic_version=ANTHROPIC_VERSION)


def _decode_messages(body: bytes, call: Call) -> Answer:
    return anthropic.decode_answer(body)


def _read_messages(call: Call) -> anthropic.StreamDecoder:
    return anthropic.StreamDecoder()
