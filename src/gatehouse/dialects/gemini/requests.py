"""Requests to `generateContent` and `streamGenerateContent`, written from a `Call`.

Whatever a call asks for and Gemini has no words for is refused before a byte is sent: a bias on tokens, one tool call at
a time, a strict schema that would be ignored in part. Not sent are `user`, `metadata` and an image's `detail`: they carry
nothing a model could do. Fields that the operator lets callers pass (`Call.extra`: `safetySettings`, `cachedContent`) go
beside what is written here, never over it, in neither of the two spellings that Google reads.
"""

from typing import Any, Final

import msgspec

from gatehouse.core.calls import Call, ResponseFormat, Tool, ToolChoice
from gatehouse.dialects._failures import inexpressible
from gatehouse.dialects._opinions import NOT_ASKED
from gatehouse.dialects.gemini._contents import contents
from gatehouse.dialects.gemini._schemas import schema_for

_Json = dict[str, Any]

_OWN: Final = frozenset(
    {"contents", "generationConfig", "generation_config", "systemInstruction", "system_instruction", "tools", "toolConfig", "tool_config"}
)
_SAME: Final = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_BUDGETS: Final = {"none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576}
"""Tokens to think with, as Google maps the effort for models that take a budget (Gemini 2.5)."""
_LEVELS: Final = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}


def encode_request(call: Call, model: str) -> bytes:
    """The body that asks `model` for what `call` says; whether it streams is said by the address, not by the body.

    Raises:
        UpstreamFailed: naming what Gemini has no words for (nothing was sent).
    """
    if call.operation != "chat":
        raise inexpressible("model", "this model takes chats only.")
    if call.logit_bias:
        raise inexpressible("logit_bias", "this model takes no bias on tokens.")
    for name in call.extra:
        if name in _OWN:
            raise inexpressible(name, "is written from the other fields of the request.")
    turns, system = contents(call, model)
    body: _Json = {name: value for name, value in call.extra.items() if name not in NOT_ASKED}
    body["contents"] = turns
    if system is not None:
        body["systemInstruction"] = system
    if call.tools:
        body["tools"] = [{"functionDeclarations": [_tool(tool, f"tools[{at}]") for at, tool in enumerate(call.tools)]}]
        if call.parallel_tool_calls is False:
            raise inexpressible("parallel_tool_calls", "this model cannot be kept from calling several tools at once.")
        choosing = _choosing(call.tool_choice, any(tool.strict for tool in call.tools))
        if choosing is not None:
            body["toolConfig"] = {"functionCallingConfig": choosing}
    config = _generation(call, model)
    if config:
        body["generationConfig"] = config
    return msgspec.json.encode(body)


def _tool(tool: Tool, path: str) -> _Json:
    declared: _Json = {"name": tool.name}
    if tool.description is not None:
        declared["description"] = tool.description
    if tool.parameters is not None:
        declared["parametersJsonSchema"] = schema_for(tool.parameters, f"{path}.function.parameters", strict=bool(tool.strict))
    return declared


def _choosing(choice: ToolChoice | None, strict: bool) -> _Json | None:
    """Gemini is held to the schemas when it must call a tool (ANY), and when it may in the mode VALIDATED."""
    if choice is None or choice.mode == "auto":
        return {"mode": "VALIDATED"} if strict else None if choice is None else {"mode": "AUTO"}
    if choice.mode == "none":
        return {"mode": "NONE"}
    return {"mode": "ANY"} if choice.name is None else {"mode": "ANY", "allowedFunctionNames": [choice.name]}


def _generation(call: Call, model: str) -> _Json:
    config: _Json = {}
    if call.n != 1:
        config["candidateCount"] = call.n
    if call.max_tokens is not None:
        config["maxOutputTokens"] = call.max_tokens
    if call.stop:
        config["stopSequences"] = call.stop
    for name, theirs in _SAME.items():
        value = getattr(call, name)
        if value is not None:
            config[theirs] = value
    if call.logprobs:
        config["responseLogprobs"] = True
        if call.top_logprobs:
            config["logprobs"] = call.top_logprobs
    if call.response_format is not None and call.response_format.kind != "text":
        _format(call.response_format, config)
    thinking = _thinking(call, model)
    if thinking is not None:
        config["thinkingConfig"] = thinking
    return config


def _format(wanted: ResponseFormat, config: _Json) -> None:
    config["responseMimeType"] = "application/json"
    if wanted.schema is not None:
        path = "response_format.json_schema.schema"
        config["responseJsonSchema"] = schema_for(wanted.schema, path, strict=bool(wanted.strict))


def _thinking(call: Call, model: str) -> _Json | None:
    """What was asked for in Anthropic's words (a budget) goes before OpenAI's (an effort)."""
    thinking, effort = call.thinking, call.reasoning_effort
    if thinking is not None:
        if thinking.mode == "disabled":
            return {"thinkingBudget": 0}
        budget = thinking.budget if thinking.mode == "enabled" and thinking.budget is not None else -1
        return {"includeThoughts": True, "thinkingBudget": budget}
    if effort is None:
        return None
    if model.startswith("gemini-2") or effort == "none":
        budgeted = _BUDGETS.get(effort)
        if budgeted is not None:
            return {"thinkingBudget": budgeted}
    elif effort in _LEVELS:
        return {"thinkingLevel": _LEVELS[effort]}
    raise inexpressible("reasoning_effort", f"this model does not know the effort {effort[:32]!r}.")
