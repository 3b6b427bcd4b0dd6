"""Bare text to be continued, in the words of llama.cpp's server: no template, no roles; what was sent is what the model reads.

Control tokens in such a prompt are control tokens: it is the caller's whole prompt, and there is nobody else's text in it to be
protected. Beginning the answer with the prompt (`echo`) is done by us.
"""

import secrets
import time
from typing import Any, Final

import msgspec

from gatehouse.adapters.engines._replies import Problem, Progress, Spent, finish_reason
from gatehouse.core.calls import Call
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk
from gatehouse.core.usage import Usage

_SAME: Final = ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "logit_bias")


class _Spoken(msgspec.Struct, frozen=True, gc=False):
    text: str = ""
    finish_reason: str | None = None


class RawReply(msgspec.Struct, frozen=True, gc=False):
    """What llama.cpp answers, as far as it is read here."""

    choices: tuple[_Spoken, ...] = ()
    id: str = ""
    created: int = 0
    usage: Spent | None = None
    error: Problem | None = None
    prompt_progress: Progress | None = None

    def event(self, *, streams: bool, before: str = "", begins: bool = False) -> Chunk | Answer:
        """The event this is, with the text `before` in front of it."""
        spoken = self.choices[0] if self.choices else _Spoken()
        usage = None if self.usage is None else self.usage.usage
        finish = finish_reason(spoken.finish_reason)
        text = before + spoken.text
        if streams:
            return Chunk((ChoiceDelta(text=text, finish=finish, begins=begins),), self.id, "", self.created, usage)
        return Answer((Choice(text=text, finish=finish or "stop"),), self.id, "", self.created, usage)


def raw_request(call: Call) -> bytes:
    """The body that asks for a completion of the call's one prompt."""
    request: dict[str, Any] = {
        "prompt": call.inputs[0],
        "stream": call.stream,
        # As for chats: what is kept of one caller's prompt would be told by its speed to another.
        "cache_prompt": False,
    }
    if call.stream:
        request["stream_options"] = {"include_usage": True}
        request["return_progress"] = True
    for field in _SAME:
        value = getattr(call, field)
        if value is not None:
            request[field] = value
    if call.stop:
        request["stop"] = call.stop
    return msgspec.json.encode(request)


def nothing_more(text: str, tokens: int, *, streams: bool) -> Chunk | Answer:
    """The answer to who asks for no token more."""
    usage, name, now = Usage(input=tokens), f"cmpl-{secrets.token_hex(12)}", int(time.time())
    if streams:
        return Chunk((ChoiceDelta(text=text, finish="length", begins=True),), name, "", now, usage)
    return Answer((Choice(text=text, finish="length"),), name, "", now, usage)
