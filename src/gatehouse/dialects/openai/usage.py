"""Token counts, both ways. OpenAI's overlap (cached tokens inside prompt tokens); core's are disjoint and sum to the total."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from gatehouse.core.usage import Usage

_MOST: Final = 10**9
"""More tokens than this in one call is not a count."""

_Count = Annotated[int, Meta(ge=0, le=_MOST)]


class _PromptDetails(Struct, gc=False):
    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    audio_tokens: _Count | None = None


class _CompletionDetails(Struct, gc=False):
    reasoning_tokens: _Count | None = None
    audio_tokens: _Count | None = None


class UsageReply(Struct, gc=False):
    """A usage object."""

    prompt_tokens: _Count
    completion_tokens: _Count | None = None
    total_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: _Count | None = None
    """DeepSeek's name for cached tokens."""


_decode: Final = msgspec.json.Decoder(UsageReply).decode
_NO_PROMPT_DETAILS: Final = _PromptDetails()
_NO_COMPLETION_DETAILS: Final = _CompletionDetails()


def read_usage(raw: bytes | msgspec.Raw) -> Usage | None:
    """The buckets of a usage object; None when it is absurd, so that whoever accounts counts for itself.

    Absurd is what no honest count can be: negative, nothing at all, above 10^9, more cached tokens than tokens, a total below its parts.
    Reasoning that a target reports beside its completion tokens, or only inside the total, is told by the total.
    """
    try:
        usage: UsageReply = _decode(raw)
    except (ValueError, RecursionError):
        return None
    return buckets(usage)


def buckets(usage: UsageReply) -> Usage | None:
    """The same of a decoded one."""
    prompt = usage.prompt_tokens
    completion = usage.completion_tokens or 0
    into = usage.prompt_tokens_details or _NO_PROMPT_DETAILS
    out = usage.completion_tokens_details or _NO_COMPLETION_DETAILS
    cached = into.cached_tokens or usage.prompt_cache_hit_tokens or 0
    written = into.cache_write_tokens or 0
    audio_in = into.audio_tokens or 0
    reasoning = out.reasoning_tokens or 0
    audio_out = out.audio_tokens or 0
    total = usage.total_tokens or prompt + completion
    beside = total - prompt - completion
    if not (written or audio_in or reasoning or audio_out or beside) and total and cached <= prompt:
        return Usage(prompt - cached, cached, 0, completion)  # as nearly every one
    if not total or beside < 0 or max(cached, written, audio_in) > prompt or audio_out > completion or reasoning > completion + beside:
        return None
    # Details may overlap (audio that was cached): each token is booked once, at what it was read as first.
    cached = min(cached, prompt - audio_in)
    written = min(written, prompt - audio_in - cached)
    reasoning = max(min(reasoning, completion + beside - audio_out), beside)
    return Usage(
        input=prompt - cached - written - audio_in,
        cached_input=cached,
        cache_write=written,
        output=completion + beside - reasoning - audio_out,
        reasoning=reasoning,
        audio_input=audio_in,
        audio_output=audio_out,
    )


def write_usage(usage: Usage) -> dict[str, Any]:
    """The usage object for `usage`."""
    prompt: dict[str, int] = {"cached_tokens": usage.cached_input, "audio_tokens": usage.audio_input}
    if usage.cache_write:
        prompt["cache_write_tokens"] = usage.cache_write
    return {
        "prompt_tokens": usage.input_total,
        "completion_tokens": usage.output_total,
        "total_tokens": usage.total,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": usage.audio_output},
    }
