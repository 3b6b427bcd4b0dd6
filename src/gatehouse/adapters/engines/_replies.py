"""What every answer of llama.cpp's server may hold, as far as it is read here."""

import msgspec

from gatehouse.core.engine_messages import EngineRefused
from gatehouse.core.events import FinishReason
from gatehouse.core.usage import Usage


class Spent(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """The same in our words."""
        return Usage(input=self.prompt_tokens, output=self.completion_tokens)


class Progress(msgspec.Struct, frozen=True, gc=False):
    """How far a prompt has been read. Comes before the first piece of a stream, again after each part of a long prompt."""

    total: int = 0


class Problem(msgspec.Struct, frozen=True, gc=False):
    """Why there is no answer."""

    type: str = ""
    code: int = 500
    n_prompt_tokens: int = 0
    n_ctx: int = 0

    @property
    def refusal(self) -> EngineRefused:
        """What a caller is told; never llama.cpp's words, which may quote the prompt."""
        if self.type == "exceed_context_size_error":
            message = f"The prompt has {self.n_prompt_tokens} tokens and the model's context holds {self.n_ctx}."
            return EngineRefused("context_length_exceeded", message, caller_fault=True)
        if self.code == 400:
            return EngineRefused("invalid_request", "The embedded model cannot do what this call asks for.", caller_fault=True)
        return EngineRefused("engine_failed", "The embedded model failed.")


def finish_reason(said: str | None) -> FinishReason | None:
    """Why a choice ended; None while it goes on."""
    return "length" if said == "length" else "stop" if said else None
