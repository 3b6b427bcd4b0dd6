"""Token counts. Gemini's overlap in the prompt (cached tokens inside it, by modality too) and lie side by side in the
answer (thoughts beside candidates); core's are disjoint and sum to the total."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from gatehouse.core.usage import Usage

_MOST: Final = 10**9
"""More tokens than this in one call is not a count."""

_Count = Annotated[int, Meta(ge=0, le=_MOST)]


class _Modality(Struct, gc=False, rename="camel"):
    modality: str = ""
    token_count: _Count = 0


class _Usage(Struct, gc=False, rename="camel"):
    prompt_token_count: _Count = 0
    candidates_token_count: _Count = 0
    total_token_count: _Count | None = None
    cached_content_token_count: _Count = 0
    thoughts_token_count: _Count = 0
    tool_use_prompt_token_count: _Count = 0
    prompt_tokens_details: list[_Modality] = []
    cache_tokens_details: list[_Modality] = []
    candidates_tokens_details: list[_Modality] = []


def read_usage(raw: bytes | Raw) -> Usage | None:
    """The buckets of a `usageMetadata`; None when it is absurd, so that whoever accounts counts for itself.

    Absurd is what no honest count can be: negative, nothing at all, above 10^9, more cached or spoken tokens than tokens, a
    total below its parts. Tokens that are only in the total were thought: pieces of a stream count them there first.
    """
    try:
        usage = msgspec.json.decode(raw, type=_Usage)
    except (ValueError, RecursionError):
        return None
    into = usage.prompt_token_count + usage.tool_use_prompt_token_count
    out, thoughts, cached = usage.candidates_token_count, usage.thoughts_token_count, usage.cached_content_token_count
    audio = _audio(usage.prompt_tokens_details)
    audio_out = _audio(usage.candidates_tokens_details)
    total = into + out + thoughts if usage.total_token_count is None else usage.total_token_count
    beside = total - into - out - thoughts
    if not total or beside < 0 or max(cached, audio) > into or audio_out > out:
        return None
    # Audio that was cached is booked once, as cached: that is what it cost.
    audio_in = min(max(0, audio - _audio(usage.cache_tokens_details)), into - cached)
    return Usage(
        input=into - cached - audio_in,
        cached_input=cached,
        output=out - audio_out,
        reasoning=thoughts + beside,
        audio_input=audio_in,
        audio_output=audio_out,
    )


def _audio(details: list[_Modality]) -> int:
    return sum(detail.token_count for detail in details if detail.modality == "AUDIO")
