"""OpenAI's protocol outbound: OpenAI itself, Azure's, and everything that speaks like them (vLLM, Mistral, other gateways).

The codec's functions live in `gatehouse.dialects.openai`, what servers do differently in its profiles; here they are put
together for the frame.
"""

from typing import Final, Literal

from gatehouse.adapters.providers._codec import Codec, Credential, Form, segment
from gatehouse.core.calls import Call, Operation
from gatehouse.core.events import Answer
from gatehouse.core.plans import Target
from gatehouse.dialects.openai import (
    CompletionStreamDecoder,
    StreamDecoder,
    decode_answer,
    decode_completion,
    decode_embeddings,
    decode_error,
    encode_completion_request,
    encode_embedding_request,
    encode_request,
)
from gatehouse.dialects.openai.profiles import AZURE, PLAIN, Profile

BEARER: Final = Credential()
API_KEY: Final = Credential("api-key", "")
"""How Azure names a key of its own; a token of Entra is a bearer's."""


def openai_codec(profile: Profile = PLAIN) -> Codec:
    """OpenAI's protocol as the server of `profile` speaks it."""
    return Codec(name=profile.name, forms=_forms(profile), decode_error=decode_error)


def azure_codec(api_version: str | None, credential: Literal["api-key", "bearer"] = "api-key") -> Codec:
    """Azure OpenAI under a resource's address. Without an `api_version` the v1 surface, which names the model in the body;
    with one the older surface of deployments, where the target's model is the deployment's name."""
    said = API_KEY if credential == "api-key" else BEARER
    if api_version is None:
        return Codec(
            name="azure-openai",
            forms=_forms(AZURE, "/openai/v1"),
            decode_error=decode_error,
            credential=said,
            health="/openai/v1/models",
        )
    query = f"?api-version={segment(api_version)}"

    def path(call: Call, target: Target) -> str:
        return f"/openai/deployments/{segment(target.model)}{_PATHS[call.operation]}{query}"

    forms = {operation: Form(path, form.encode, form.decode, form.stream) for operation, form in _forms(AZURE).items()}
    return Codec(name="azure-openai", forms=forms, decode_error=decode_error, credential=said, health=f"/openai/models{query}")


_PATHS: Final[dict[Operation, str]] = {"chat": "/chat/completions", "completion": "/completions", "embedding": "/embeddings"}


def _forms(profile: Profile, base: str = "") -> dict[Operation, Form]:
    def encode_chat(call: Call, target: Target) -> bytes:
        return encode_request(call, target.model, profile)

    def encode_completion(call: Call, target: Target) -> bytes:
        return encode_completion_request(call, target.model, profile)

    def encode_embedding(call: Call, target: Target) -> bytes:
        return encode_embedding_request(call, target.model, profile)

    forms: dict[Operation, Form] = {
        "chat": Form(f"{base}{_PATHS['chat']}", encode_chat, decode_answer, _read_chat),
        "completion": Form(f"{base}{_PATHS['completion']}", encode_completion, _decode_completion, _read_completion),
        "embedding": Form(f"{base}{_PATHS['embedding']}", encode_embedding, decode_embeddings),
    }
    return {operation: form for operation, form in forms.items() if operation in profile.operations}


def _decode_completion(body: bytes, call: Call) -> Answer:
    return decode_completion(body)


def _read_completion(call: Call) -> CompletionStreamDecoder:
    return CompletionStreamDecoder(call.choices)


def _read_chat(call: Call) -> StreamDecoder:
    return StreamDecoder(call.n)
