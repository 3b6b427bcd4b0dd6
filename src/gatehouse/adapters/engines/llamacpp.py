"""llama.cpp in this process, through xllamacpp. One instance a process: the host's.

xllamacpp runs llama.cpp's own server inside; it is told to listen on a Unix socket in a private directory, under a random
key, so that no port is open. Calls do not go through that socket but through its handlers, which block their thread until
the answer is complete or the callback says that nobody wants it any more.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import xllamacpp

from gatehouse.adapters.engines._chat import ChatReply, answer_form, chat_request
from gatehouse.adapters.engines._golden import damage, golden_request
from gatehouse.adapters.engines._inside import Inside
from gatehouse.adapters.engines._raw import RawReply, nothing_more, raw_request
from gatehouse.adapters.engines._replies import Problem
from gatehouse.adapters.engines.gguf import Header, ModelFileRefused, read_header, slot_context
from gatehouse.core.calls import Call, Message, TextPart
from gatehouse.core.engine_messages import EngineRefused
from gatehouse.core.events import Answer, Chunk
from gatehouse.core.usage import Usage

DEFAULT_SLOTS: Final = 4
OnEvent = Callable[[Chunk | Answer], bool]
"""Takes an event; True means that nobody wants more."""
_READING: Final = Chunk()
"""Nothing was said yet: only whether anybody still waits is of interest."""


class LlamaEngine:
    """Answers calls from a GGUF file. `run` may be called by `slots` threads at a time."""

    def __init__(self, path: Path, *, slots: int | None = None, context: int | None = None) -> None:
        """Load the file and let it say one token.

        Raises:
            ModelFileRefused: the file is not a model that can be loaded, or its weights say nothing.
        """
        self.header: Header = read_header(path)
        self.slots = slots or DEFAULT_SLOTS
        self.context = slot_context(self.header.context_length, context)
        self.name = path.stem
        self._control = re.compile("|".join(re.escape(token) for token in self.header.control)) if self.header.control else None
        self._inside = Inside()
        self._decode_raw = msgspec.json.Decoder(RawReply).decode
        self._decode = msgspec.json.Decoder(ChatReply).decode
        try:
            self._server = xllamacpp.Server(self._parameters(path))
        except RuntimeError as error:
            raise ModelFileRefused(f"llama.cpp cannot load the file ({self.header.architecture}): {str(error)[:200]}") from None
        self._prove()

    def _parameters(self, path: Path) -> Any:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.hostnames = [self._inside.socket]
        parameters.api_keys = [self._inside.key]
        parameters.cache_ram_mib = 0
        parameters.n_parallel = self.slots
        parameters.n_ctx = self.context * self.slots
        parameters.n_predict = -1
        parameters.warmup = False
        parameters.verbosity = -1
        parameters.ui = False
        # One core is left to whoever brings the work.
        threads = max(1, (os.cpu_count() or 2) - 1)
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        return parameters

    def _prove(self) -> None:
        """Weights full of zeros or of what is no number load without a word, and then say anything or nothing."""
        said: list[bytes] = []

        def heard(message: bytes) -> bool:
            said.append(message)
            return False

        self._server.handle_chat_completions(golden_request(), heard)
        if problem := damage(said):
            raise ModelFileRefused(f"the model does not pass its golden prompt: {problem}")

    def run(self, call: Call, on_event: OnEvent) -> None:
        """Answer `call` (n must be 1) with chunks, or one answer when it does not stream. Blocks.

        The first piece of a stream tells the prompt's tokens: who cuts it off before its end is booked with them.

        Raises:
            EngineRefused: the engine will not answer it.
        """
        if call.operation == "completion":
            self._continue(call, on_event)
            return
        if call.operation == "embedding":
            raise EngineRefused("invalid_request", "This embedded model chats and makes no embeddings.", caller_fault=True)
        refused: list[Problem] = []
        read = 0

        def heard(message: bytes) -> bool:
            nonlocal read
            reply = self._decode(message)
            if reply.error is not None:
                refused.append(reply.error)
                return True
            if reply.prompt_progress is not None:
                read = reply.prompt_progress.total
                return on_event(_READING)
            if not call.stream:
                return on_event(reply.answer)
            chunk = reply.chunk
            if read:
                chunk, read = msgspec.structs.replace(chunk, usage=Usage(input=read), interim=True), 0
            return on_event(chunk)

        self._server.handle_chat_completions(chat_request(call, [self._message(message) for message in call.messages]), heard)
        if refused:
            raise refused[0].refusal

    def count(self, call: Call) -> int:
        """Exact tokens of the prompt, template included; of several inputs, all of them. Blocks for a moment."""
        if call.inputs:
            return self._inside.tokens(*call.inputs)
        # A template may say something about the form of the answer too.
        asked = {"messages": [self._message(message) for message in call.messages], **answer_form(call)}
        return self._inside.tokens(self._inside.ask("/apply-template", asked)["prompt"])

    def _continue(self, call: Call, on_event: OnEvent) -> None:
        """Go on with a bare prompt, as `run` answers a chat."""
        self.header.check_tokens(call)
        prompt = call.inputs[0]
        before = "" if not call.echo else prompt if isinstance(prompt, str) else self._inside.text(prompt)
        if call.max_tokens == 0:
            on_event(nothing_more(before, self.count(call), streams=call.stream))
            return
        refused: list[Problem] = []
        begins = True
        read = 0

        def heard(message: bytes) -> bool:
            nonlocal before, begins, read
            reply = self._decode_raw(message)
            if reply.error is not None:
                refused.append(reply.error)
                return True
            if reply.prompt_progress is not None:
                read = reply.prompt_progress.total
                return on_event(_READING)
            if read:
                told, read = Chunk(usage=Usage(input=read), interim=True), 0
                if on_event(told):
                    return True
            event = reply.event(streams=call.stream, before=before, begins=begins)
            before, begins = "", False
            return on_event(event)

        self._server.handle_completions(raw_request(call), heard)
        if refused:
            raise refused[0].refusal

    def _message(self, message: Message) -> dict[str, Any]:
        content = message.content
        if isinstance(content, tuple):
            content = "".join(part.text for part in content if isinstance(part, TextPart))
        text = content or ""
        if self._control is not None:
            # A word joiner behind its first character: what looked like a control token is text that only looks like one.
            text = self._control.sub(lambda found: f"{found[0][0]}\u2060{found[0][1:]}", text)
        return {"role": "system" if message.role == "developer" else message.role, "content": text}

    def close(self) -> None:
        """Remove what lies in the file system; the process ends with the engine in it."""
        self._inside.close()
