"""A chat in the words of llama.cpp's server, which puts the messages into the model's template."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gatehouse.adapters.engines._replies import Problem, Progress, Spent, finish_reason
from gatehouse.core.calls import Call
from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk

_SAME: Final = ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "logit_bias")


class _Said(msgspec.Struct, frozen=True, gc=False):
    """A message, or a piece of one."""

    content: str | None = None
    reasoning_content: str | None = None
    role: str | None = None


class _Spoken(msgspec.Struct, frozen=True, gc=False):
    delta: _Said = _Said()
    message: _Said = _Said()
    finish_reason: str | None = None


class ChatReply(msgspec.Struct, frozen=True, gc=False):
    """What llama.cpp answers, as far as it is read here."""

    choices: tuple[_Spoken, ...] = ()
    id: str = ""
    created: int = 0
    usage: Spent | None = None
    error: Problem | None = None
    prompt_progress: Progress | None = None

    @property
    def chunk(self) -> Chunk:
        """The piece of a streamed answer that this is."""
        deltas = [
            ChoiceDelta(
                text=choice.delta.content or "",
                reasoning=choice.delta.reasoning_content or "",
                finish=finish_reason(choice.finish_reason),
                begins=choice.delta.role is not None,
            )
            for choice in self.choices
        ]
        return Chunk(tuple(deltas), self.id, "", self.created, None if self.usage is None else self.usage.usage)

    @property
    def answer(self) -> Answer:
        """The answer in one piece that this is."""
        choices = [
            Choice(
                text=choice.message.content or "",
                reasoning=choice.message.reasoning_content or None,
                finish=finish_reason(choice.finish_reason) or "stop",
            )
            for choice in self.choices
        ]
        return Answer(tuple(choices), self.id, "", self.created, None if self.usage is None else self.usage.usage)


def chat_request(call: Call, messages: Sequence[dict[str, Any]]) -> bytes:
    """The body that asks what `call` asks with `messages`. Asked in bytes the server's handler answers in bytes."""
    request: dict[str, Any] = {
        "messages": messages,
        "stream": call.stream,
        # A prefix kept from another tenant's prompt would tell by its speed that it was asked before (CVE-2025-46570).
        "cache_prompt": False,
        **answer_form(call),
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


def answer_form(call: Call) -> dict[str, Any]:
    """What the answer has to look like, where the call says it; a template may write some of it into the prompt."""
    form = call.response_format
    if form is not None and form.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if form is not None and form.kind == "json_schema":
        schema = {"name": form.name or "answer", "schema": form.schema or {}}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {}
