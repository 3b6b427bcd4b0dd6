"""The shapes of what Gemini answers, whole or as one piece of a stream: both are a `GenerateContentResponse`.

Fields we do not know are tolerated (safety ratings, citations); kinds of parts we do not know are not: a part that holds
an image or the output of a program would be lost without a word, and it was paid for.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from gatehouse.core.errors import UpstreamFailed
from gatehouse.core.events import FinishReason
from gatehouse.dialects._failures import not_understood

ABSENT: Final = Raw()

_FINISHES: Final[dict[str, FinishReason]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "ESCALATION": "content_filter",
    "PUP_LIMITED_DISABLED": "content_filter",
}
_FAILURES: Final = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
        "TOO_MANY_TOOL_CALLS",
        "UNEXPECTED_TOOL_CALL",
    }
)
"""Ends of an answer that nobody can use: told as a failure, so that another target can be tried."""
_CARRIED: Final = frozenset({"text", "functionCall", "thought", "thoughtSignature", "partMetadata", "mediaResolution"})


def given(member: Raw) -> bool:
    """Whether the member is there and not null."""
    return member is not ABSENT and bytes(member) != b"null"


def finish_reason(said: str, *, called: bool) -> FinishReason:
    """Why a candidate ended, in core's words; `called` says that it called tools. Words that are new to us count as stop.

    Raises:
        UpstreamFailed: it ended in what nobody can use.
    """
    if said in _FAILURES:
        raise UpstreamFailed("The model wrote what nobody can use.", code="upstream_invalid", detail=f"finish reason {said}")
    finish = _FINISHES.get(said, "stop")
    return "tool_calls" if called and finish == "stop" else finish


class FunctionCallReply(Struct, gc=False):
    """A call of a tool, always whole. `args` stays as the model wrote it."""

    name: str = ""
    id: str | None = None
    args: Raw = ABSENT

    def arguments(self) -> str:
        """The JSON text of the arguments."""
        return bytes(self.args).decode() if given(self.args) else "{}"


class PartReply(Struct, gc=False, rename="camel"):
    """A piece of content."""

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: FunctionCallReply | None = None


class ContentReply(Struct, gc=False):
    """What a candidate says; without parts when it was filtered."""

    parts: list[PartReply] | None = None


class CandidateReply(Struct, gc=False, rename="camel"):
    """One choice."""

    content: ContentReply | None = None
    index: int | None = None
    finish_reason: str | None = None
    logprobs_result: Raw = ABSENT

    def parts(self, payload: bytes) -> list[PartReply]:
        """What it is made of; `payload` is what it was read from.

        Raises:
            UpstreamFailed: one holds what no answer of ours can carry.
        """
        parts = (self.content.parts if self.content is not None else None) or []
        for part in parts:
            if part.text is None and part.function_call is None:
                _refuse_strangers(payload)
                break
        return parts


class FeedbackReply(Struct, gc=False, rename="camel"):
    """What became of the prompt."""

    block_reason: str | None = None


class GenerateReply(Struct, gc=False, rename="camel"):
    """A `GenerateContentResponse`. Usage and errors stay undecoded at first: one that is written badly must not spoil the answer."""

    candidates: list[CandidateReply] | None = None
    prompt_feedback: FeedbackReply | None = None
    usage_metadata: Raw = ABSENT
    model_version: str | None = None
    response_id: str | None = None
    error: Raw = ABSENT


def _refuse_strangers(payload: bytes) -> None:
    """The longer look, for answers in which a part says nothing that we read: what else do parts hold?"""
    strangers: set[str] = set()
    for candidate in msgspec.json.decode(payload)["candidates"]:
        for part in (candidate.get("content") or {}).get("parts") or ():
            strangers |= part.keys() - _CARRIED
    if strangers:
        raise not_understood("parts of kinds that are not carried: " + ", ".join(sorted(strangers)))


def call_id(said: str | None, response_id: str, at: int) -> str:
    """The id of a tool call. Where the API gives none, one that is this answer's alone."""
    return said or f"call_{response_id or 'gemini'}_{at}"


class _Token(Struct, gc=False, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class _Top(Struct, gc=False):
    candidates: list[_Token] = []


class _Logprobs(Struct, gc=False, rename="camel"):
    chosen_candidates: list[_Token] = []
    top_candidates: list[_Top] = []


def read_logprobs(raw: Raw) -> dict[str, Any] | None:
    """Log probabilities in the shape core carries them in (OpenAI's); None when there are none that can be read."""
    if not given(raw):
        return None
    try:
        found = msgspec.json.decode(raw, type=_Logprobs)
    except (ValueError, RecursionError):
        return None
    tops = [top.candidates for top in found.top_candidates]
    return {
        "content": [
            {**_token(token), "top_logprobs": [_token(top) for top in (tops[at] if at < len(tops) else ())]}
            for at, token in enumerate(found.chosen_candidates)
        ]
    }


def _token(token: _Token) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.log_probability, "bytes": list(token.token.encode("utf-8", "replace"))}
