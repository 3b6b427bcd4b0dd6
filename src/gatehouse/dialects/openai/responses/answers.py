"""The `response` object: as it begins, and as it is when the answer is whole.

A model's answer is one choice; here it is a row of items: its reasoning, its message, its calls. Ids are made from the response's
own, so that the stream of an answer and the whole of it name the same items alike.
"""

from typing import Any, Final

import msgspec

from gatehouse.core.calls import Call, ResponseFormat, Tool, Turn
from gatehouse.core.errors import GatehouseError
from gatehouse.core.events import Answer, Choice, FinishReason
from gatehouse.core.usage import Usage
from gatehouse.dialects.openai.responses.items import sealed

NAME: Final = "openai-responses"
PREFIX: Final = "resp_"
_REASONS: Final[dict[FinishReason, str]] = {"length": "max_output_tokens", "content_filter": "content_filter"}
_CODES: Final = {"limit_exceeded": "rate_limit_exceeded", "blocked": "invalid_prompt", "invalid_request": "invalid_prompt"}
"""Inside a response the API's codes are a closed set, which typed clients hold it to; the error beside it says more."""
CANCELLED: Final = "response_cancelled"
"""The code of the error that ends a response whose caller cancelled it."""
_NO_TURN: Final = Turn()


class Ids:
    """The ids of one response and what is in it."""

    __slots__ = ("_name", "response")

    def __init__(self, response: str) -> None:
        self.response = response if response.startswith(PREFIX) else PREFIX + response
        self._name = self.response.removeprefix(PREFIX)

    def item(self, kind: str, number: int = 0) -> str:
        """An item's: `kind` is rs, msg or fc, `number` counts those of a kind."""
        return f"{kind}_{self._name}_{number}"

    def call(self, own: str | None, number: int) -> str:
        """What an answer to a function call refers to: the target's own id, where it gave one."""
        return own or f"call_{self._name}_{number}"


def turn_of(call: Call) -> Turn:
    """What the caller said beside the question; nothing for a call that came another way."""
    return call.turn or _NO_TURN


def encode_answer(answer: Answer, call: Call) -> bytes:
    """The body for `answer`. It is always written: what a target sent is in no form that could pass here."""
    return msgspec.json.encode(whole(answer, call))


def whole(answer: Answer, call: Call, cost: str | None = None) -> dict[str, Any]:
    """The response object of a finished answer."""
    turn = turn_of(call)
    ids = Ids(turn.id or answer.id)
    choice = answer.choices[0] if answer.choices else Choice()
    body = begun(call, ids, answer.model or call.model, answer.created)
    finish(body, output(choice, ids, turn), choice.finish, answer.usage, cost)
    return body


def begun(call: Call, ids: Ids, model: str, created: int) -> dict[str, Any]:
    """The response object before anything was said. Most of it repeats what was asked."""
    turn = turn_of(call)
    body: dict[str, Any] = {
        "id": ids.response,
        "object": "response",
        "created_at": turn.created or created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": _instructions(call, turn),
        "max_output_tokens": call.max_tokens,
        "metadata": call.metadata,
        "model": model,
        "output": [],
        "parallel_tool_calls": call.parallel_tool_calls is not False,
        "previous_response_id": turn.previous,
        "reasoning": {"effort": call.reasoning_effort, "summary": "auto" if turn.summary else None},
        "store": bool(turn.store),
        "temperature": call.temperature,
        "text": {"format": _format(call.response_format)},
        "tool_choice": _tool_choice(call),
        "tools": [_tool(tool) for tool in call.tools],
        "top_p": call.top_p,
        "truncation": "disabled",
        "usage": None,
    }
    if call.user is not None:
        body["safety_identifier" if turn.safety else "user"] = call.user
    return body


def finish(body: dict[str, Any], items: list[dict[str, Any]], finished: FinishReason, usage: Usage | None, cost: str | None) -> None:
    """Put into a response object what it became."""
    reason = _REASONS.get(finished)
    body["output"] = items
    body["status"] = "completed"
    if reason is not None:
        body["status"] = "incomplete"
        body["incomplete_details"] = {"reason": reason}
        if items:
            items[-1]["status"] = "incomplete"
    if usage is not None:
        body["usage"] = write_usage(usage)
        if cost is not None:
            body["gatehouse"] = {"cost_usd": cost}


def fail(body: dict[str, Any], items: list[dict[str, Any]], error: GatehouseError) -> None:
    """Put into a response object that it failed; what it had said by then stays."""
    body["output"] = items
    if items:
        items[-1]["status"] = "incomplete"
    if error.code == CANCELLED:
        body["status"] = "cancelled"
        return
    body["status"] = "failed"
    message = error.message.encode("utf-8", "backslashreplace").decode()
    body["error"] = {"code": _CODES.get(error.kind, "server_error"), "message": message}


def write_usage(usage: Usage) -> dict[str, Any]:
    """Token counts. The details are inside the totals."""
    return {
        "input_tokens": usage.input_total,
        "input_tokens_details": {"cached_tokens": usage.cached_input, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output_total,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }


# -- items -----------------------------------------------------------------------------------------------------------------


def output(choice: Choice, ids: Ids, turn: Turn) -> list[dict[str, Any]]:
    """What a finished choice is as items. An answer of nothing is an empty message."""
    items: list[dict[str, Any]] = []
    secret = sealed(choice.signature, choice.redacted) if turn.sealed else None
    if choice.reasoning or secret:
        items.append(reasoning_item(ids.item("rs"), choice.reasoning or "", secret, summary=turn.summary))
    parts = []
    if choice.text:
        parts.append(text_part(choice.text, tokens_of(choice.logprobs)))
    if choice.refusal:
        parts.append(refusal_part(choice.refusal))
    if not parts and not items and not choice.tools:
        parts.append(text_part("", []))
    if parts:
        items.append(message_item(ids.item("msg"), parts))
    for number, tool in enumerate(choice.tools):
        items.append(call_item(ids.item("fc", number), ids.call(tool.id, number), tool.name, tool.arguments))
    return items


def reasoning_item(name: str, text: str, secret: str | None, *, summary: bool) -> dict[str, Any]:
    """What the model showed of its reasoning, where the caller looks for it: in full, or as its summary."""
    item: dict[str, Any] = {"id": name, "type": "reasoning", "status": "completed", "summary": []}
    if summary:
        item["summary"] = [summary_part(text)] if text else []
    else:
        item["content"] = [reasoning_part(text)] if text else []
    if secret is not None:
        item["encrypted_content"] = secret
    return item


def message_item(name: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What the model said."""
    return {"id": name, "type": "message", "role": "assistant", "status": "completed", "content": parts}


def call_item(name: str, call_id: str, function: str, arguments: str) -> dict[str, Any]:
    """A function the model calls."""
    return {"id": name, "type": "function_call", "status": "completed", "call_id": call_id, "name": function, "arguments": arguments}


def text_part(text: str, logprobs: list[Any]) -> dict[str, Any]:
    """A part of text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def refusal_part(text: str) -> dict[str, Any]:
    """A part that says no."""
    return {"type": "refusal", "refusal": text}


def reasoning_part(text: str) -> dict[str, Any]:
    """A part of reasoning."""
    return {"type": "reasoning_text", "text": text}


def summary_part(text: str) -> dict[str, Any]:
    """A part of reasoning, for who looks at summaries."""
    return {"type": "summary_text", "text": text}


def tokens_of(logprobs: Any) -> list[Any]:
    """The log probabilities of a text, from the object that targets write around them."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return content if isinstance(content, list) else []


# -- what was asked --------------------------------------------------------------------------------------------------------


def _instructions(call: Call, turn: Turn) -> str | None:
    if not turn.instructions or not call.messages:
        return None
    content = call.messages[0].content
    return content if isinstance(content, str) else None


def _format(wanted: ResponseFormat | None) -> dict[str, Any]:
    if wanted is None or wanted.kind != "json_schema":
        return {"type": "text" if wanted is None else wanted.kind}
    fields = {"name": wanted.name, "description": wanted.description, "schema": wanted.schema, "strict": wanted.strict}
    return {"type": "json_schema", **{name: value for name, value in fields.items() if value is not None}}


def _tool_choice(call: Call) -> Any:
    choice = call.tool_choice
    if choice is None:
        return "auto"
    return choice.mode if choice.name is None else {"type": "function", "name": choice.name}


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
