"""Requests for messages: a `Call` to the body a target gets.

What a `Call` may hold and the API has no word for: several choices, log probabilities, biases, audio and JSON without a schema
are for Route to keep away (a target's capabilities); seed, penalties, an image's `detail` and a participant's name are hints
and are left out, as Anthropic's own OpenAI-compatible endpoint does. Temperatures above 1 are capped there at 1, and here.
"""

from typing import Any, Final

import msgspec

from gatehouse.core.calls import Call, Thinking
from gatehouse.dialects.anthropic._messages import system_and_turns, tool

DEFAULT_MAX_TOKENS: Final = 4096
"""The bound of the output where nobody set one: the API insists on it."""
_EFFORTS: Final = {"minimal": "low"}
"""Efforts that other APIs know, and the nearest of this one."""
_CHOICES: Final = {"none": "none", "auto": "auto", "required": "any"}


def encode_request(
    call: Call, model: str, *, send_user: bool = False, system_turns: bool = False, anthropic_version: str | None = None
) -> bytes:
    """The body that asks `model` for what `call` says.

    `send_user` tells the target who the end user is. `system_turns`: the model takes instructions in the middle of the
    conversation. `anthropic_version` is for platforms that name the model in the path and want the version in the body.

    Raises:
        UpstreamFailed: the caller's fault; the call holds what no target of this kind takes (audio, a broken text file).
    """
    body: dict[str, Any] = dict(call.extra)
    if anthropic_version is None:
        body["model"] = model
    else:
        body["anthropic_version"] = anthropic_version
    body["max_tokens"] = call.max_tokens or DEFAULT_MAX_TOKENS
    system, body["messages"] = system_and_turns(call.messages, system_turns=system_turns)
    if system:
        body["system"] = system
    if call.stream:
        body["stream"] = True
    if call.tools:
        body["tools"] = [tool(known) for known in call.tools]
        choice = _tool_choice(call)
        if choice is not None:
            body["tool_choice"] = choice
    if call.stop:
        body["stop_sequences"] = call.stop
    if call.temperature is not None:
        body["temperature"] = min(call.temperature, 1)
    if call.top_p is not None:
        body["top_p"] = call.top_p
    if call.top_k is not None:
        body["top_k"] = call.top_k
    _add_reasoning(body, call)
    if send_user and call.user:
        body["metadata"] = {"user_id": call.user}
    return msgspec.json.encode(body)


def _tool_choice(call: Call) -> dict[str, Any] | None:
    wanted = call.tool_choice
    if wanted is None and call.parallel_tool_calls is not False:
        return None
    choice: dict[str, Any] = {"type": "auto"}
    if wanted is not None:
        choice = {"type": _CHOICES[wanted.mode]} if wanted.name is None else {"type": "tool", "name": wanted.name}
    if call.parallel_tool_calls is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return choice


def _add_reasoning(body: dict[str, Any], call: Call) -> None:
    """How much to think, and the schema of the answer: both shape the output."""
    thinking, effort = call.thinking, call.reasoning_effort
    if thinking is None and effort == "none":
        thinking = Thinking("disabled")
    if thinking is not None:
        body["thinking"] = {"type": thinking.mode} if thinking.budget is None else {"type": thinking.mode, "budget_tokens": thinking.budget}
    output: dict[str, Any] = {}
    if effort is not None and effort != "none":
        output["effort"] = _EFFORTS.get(effort, effort)
    form = call.response_format
    if form is not None and form.kind == "json_schema" and form.schema is not None:
        output["format"] = {"type": "json_schema", "schema": form.schema}
    if output:
        body["output_config"] = output
