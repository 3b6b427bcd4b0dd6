"""The golden prompt: what a model is asked when it was loaded, because weights that are damaged load without a word."""

import msgspec

from gatehouse.adapters.engines._replies import Problem, Spent


class _Odds(msgspec.Struct, frozen=True, gc=False):
    logprob: float | None = None
    """None is how llama.cpp writes what is no number."""


class _Token(msgspec.Struct, frozen=True, gc=False):
    logprob: float | None = None
    top_logprobs: tuple[_Odds, ...] = ()


class _Content(msgspec.Struct, frozen=True, gc=False):
    content: tuple[_Token, ...] = ()


class _Spoken(msgspec.Struct, frozen=True, gc=False):
    logprobs: _Content | None = None


class _Reply(msgspec.Struct, frozen=True, gc=False):
    choices: tuple[_Spoken, ...] = ()
    usage: Spent = Spent()
    error: Problem | None = None


def golden_request() -> bytes:
    """A word, to be answered with a few tokens and how likely each of them was."""
    asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0, "cache_prompt": False}
    return msgspec.json.encode({**asked, "logprobs": True, "top_logprobs": 3})


def damage(replies: list[bytes]) -> str:
    """What the answer to `golden_request` shows to be wrong with the weights; "" for nothing."""
    try:
        reply = msgspec.json.decode(replies[0], type=_Reply) if replies else _Reply()
    except msgspec.DecodeError:
        return "its answer cannot be read"
    if reply.error is not None:
        return reply.error.refusal.message
    if reply.usage.completion_tokens < 1:
        return "it says nothing: its weights are damaged"
    tokens = [token for choice in reply.choices if choice.logprobs is not None for token in choice.logprobs.content]
    for token in tokens:
        if token.logprob is None:
            return "its weights are damaged: what it computes is not a number"
        odds = {each.logprob for each in token.top_logprobs}
        if len(token.top_logprobs) > 1 and len(odds) == 1:
            return "its weights are damaged: every word is as likely as every other"
    return ""
