"""llama.cpp in this process, in embedding mode: a model that reads texts and makes a vector of each. It writes nothing."""

import os
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import xllamacpp

from gatehouse.adapters.engines._inside import Inside
from gatehouse.adapters.engines.gguf import Header, ModelFileRefused, read_header, slot_context
from gatehouse.core.calls import Call
from gatehouse.core.engine_messages import EngineRefused
from gatehouse.core.events import Answer, Chunk
from gatehouse.core.usage import Usage

DEFAULT_SLOTS: Final = 2
_NOT_POOLED: Final = 0
_RANKS: Final = 4


class _Item(msgspec.Struct, frozen=True, gc=False):
    embedding: str
    index: int


class _Spent(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: int = 0


class _Reply(msgspec.Struct, frozen=True, gc=False):
    data: tuple[_Item, ...] = ()
    usage: _Spent = _Spent()
    error: dict[str, Any] | None = None


class LlamaEmbedder:
    """Makes vectors with a GGUF file of an embedding model. `run` may be called by `slots` threads at a time."""

    def __init__(self, path: Path, *, slots: int | None = None, context: int | None = None) -> None:
        """Load the file and let it read one word.

        Raises:
            ModelFileRefused: the file is not a model that can be loaded, or none that makes embeddings.
        """
        self.header: Header = read_header(path)
        if self.header.pooling in (None, _NOT_POOLED, _RANKS):
            raise ModelFileRefused("the file is of no embedding model: it does not say how the vectors of a text become one")
        self.slots = slots or DEFAULT_SLOTS
        self.context = slot_context(self.header.context_length, context)
        self.name = path.stem
        self._inside = Inside()
        self._decode = msgspec.json.Decoder(_Reply).decode
        try:
            self._server = xllamacpp.Server(self._parameters(path))
        except RuntimeError as error:
            raise ModelFileRefused(f"llama.cpp cannot load the file ({self.header.architecture}): {str(error)[:200]}") from None
        try:
            self.dimensions = len(self._vectors(Call(operation="embedding", model="", inputs=("hello",)))[0][0]) // 4
        except (EngineRefused, IndexError):
            raise ModelFileRefused("the model makes no vector of a word: its weights are damaged") from None

    def _parameters(self, path: Path) -> Any:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.hostnames = [self._inside.socket]
        parameters.api_keys = [self._inside.key]
        parameters.embedding = True
        parameters.cache_ram_mib = 0
        parameters.n_parallel = self.slots
        parameters.n_ctx = self.context * self.slots
        # A text is read in one piece.
        parameters.n_batch = parameters.n_ubatch = self.context
        parameters.warmup = False
        parameters.verbosity = -1
        parameters.ui = False
        threads = max(1, (os.cpu_count() or 2) - 1)
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        return parameters

    def run(self, call: Call, on_event: Callable[[Chunk | Answer], bool]) -> None:
        """Answer `call` with one answer. Blocks.

        Raises:
            EngineRefused: the engine will not answer it.
        """
        if call.operation != "embedding":
            raise EngineRefused("invalid_request", "This embedded model makes embeddings and nothing else.", caller_fault=True)
        if call.dimensions is not None and call.dimensions != self.dimensions:
            words = f"The embedded model makes vectors of {self.dimensions} numbers; other dimensions cannot be chosen."
            raise EngineRefused("invalid_request", words, caller_fault=True)
        self.header.check_tokens(call)
        vectors, tokens = self._vectors(call)
        on_event(Answer((), vectors=tuple(vectors), usage=Usage(input=tokens)))

    def count(self, call: Call) -> int:
        """Exact tokens of all inputs. Blocks for a moment."""
        return self._inside.tokens(*call.inputs)

    def close(self) -> None:
        """Remove what lies in the file system; the process ends with the engine in it."""
        self._inside.close()

    def _vectors(self, call: Call) -> tuple[list[bytes], int]:
        asked = msgspec.json.encode({"input": call.inputs, "encoding_format": "base64"})
        reply = self._decode(self._server.handle_embeddings(asked))
        if reply.error is not None:
            raise self._refusal(reply.error)
        found = sorted(reply.data, key=lambda item: item.index)
        if len(found) != len(call.inputs):
            raise EngineRefused("engine_failed", "The embedded model failed.")
        return [b64decode(item.embedding) for item in found], reply.usage.prompt_tokens

    def _refusal(self, error: dict[str, Any]) -> EngineRefused:
        if "too large to process" in str(error.get("message")) or error.get("type") == "exceed_context_size_error":
            words = f"A text has more tokens than the model's context holds, which are {self.context}."
            return EngineRefused("context_length_exceeded", words, caller_fault=True)
        if error.get("code") == 400:
            return EngineRefused("invalid_request", "The embedded model cannot read this input.", caller_fault=True)
        return EngineRefused("engine_failed", "The embedded model failed.")
