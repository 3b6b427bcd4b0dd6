"""What Converse is asked. The body is the same streamed and not; the path says which, and names the model.

Converse has one way to say what all models understand, and `additionalModelRequestFields` for what only some do. For those
the family of the model decides, read from its id. What has no place for a family is refused, never left out in silence;
only hints whose lack changes no answer (cache marks, tags) may be dropped.
"""

import re
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec

from gatehouse.core.calls import Call, ResponseFormat, Tool, ToolChoice
from gatehouse.dialects._failures import inexpressible
from gatehouse.dialects._opinions import NOT_ASKED
from gatehouse.dialects.bedrock.content import cache_point, mentions_tools, write_conversation

Family = Literal["anthropic", "nova", "nova-2", "mistral", "cohere", "openai", "other"]

_FAMILY: Final = re.compile(r"(?:^|[./])(?:(anthropic)\.|amazon\.(nova-2|nova)|(mistral)\.|(cohere)\.|(openai)\.)")
_CACHING: Final = frozenset({"anthropic", "nova", "nova-2", "other"})
"""Who takes cache points; an id that names no family (a provisioned model, a profile) belongs most often to one of them."""
_EFFORTS: Final = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_TAG_NAME: Final = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,.-]{1,256}", re.ASCII)
_TAG_VALUE: Final = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,.-]{0,256}", re.ASCII)
_MOST_TAGS: Final = 16
_NO_PARAMETERS: Final[dict[str, Any]] = {"type": "object", "properties": {}}


class Guardrail(msgspec.Struct, frozen=True):
    """A guardrail of Bedrock that every chat passes through there: its id or ARN, and a version or DRAFT."""

    identifier: str
    version: str


def request_path(call: Call, model: str) -> str:
    """The path for `call`; `model` is an id, a profile's id or an ARN, and is one segment of it."""
    return f"/model/{quote(model, safe='')}/{'converse-stream' if call.stream else 'converse'}"


def family_of(model: str) -> Family:
    """Whose model an id names: `us.anthropic.claude-...`, an ARN with such an id in it, or other."""
    found = _FAMILY.search(model)
    if found is None:
        return "other"
    named: Any = next(name for name in found.groups() if name)
    return named  # type: ignore[no-any-return]


def encode_request(call: Call, model: str, guardrail: Guardrail | None = None) -> bytes:
    """The body that asks `model` for what `call` says, through `guardrail` if there is one.

    Raises:
        UpstreamFailed: something of the call that this model cannot be asked for, before anything was sent; it names the field.
    """
    _refuse_the_impossible(call)
    family = family_of(model)
    system, messages = write_conversation(call, caching=family in _CACHING)
    body: dict[str, Any] = {"messages": messages}
    if system:
        body["system"] = system
    inference = _inference(call)
    if inference:
        body["inferenceConfig"] = inference
    tools = _tools(call, caching=family in _CACHING)
    if tools is not None:
        body["toolConfig"] = tools
    output = _output(call, family)
    if output:
        body["outputConfig"] = output
    more = {name: value for name, value in call.extra.items() if name not in NOT_ASKED} | _additional(call, family)
    if more:
        body["additionalModelRequestFields"] = more
    if guardrail is not None:
        body["guardrailConfig"] = {"guardrailIdentifier": guardrail.identifier, "guardrailVersion": guardrail.version}
    if call.stop:
        body["additionalModelResponseFieldPaths"] = ["/stop_sequence"]
    tags = _tags(call.metadata)
    if tags:
        body["requestMetadata"] = tags
    return msgspec.json.encode(body)


def _refuse_the_impossible(call: Call) -> None:
    if call.operation != "chat":
        raise inexpressible("model", f"this model does not do a {call.operation}; it does chats.")
    for name, asked, words in (
        ("n", call.n != 1, "this model gives one choice a request."),
        ("seed", call.seed is not None, "this model takes no seed."),
        ("logprobs", bool(call.logprobs), "this model gives no log probabilities."),
        ("logit_bias", bool(call.logit_bias), "this model takes no logit_bias."),
        ("parallel_tool_calls", call.parallel_tool_calls is False and bool(call.tools), "this model cannot promise single tool calls."),
    ):
        if asked:
            raise inexpressible(name, words)


def _inference(call: Call) -> dict[str, Any]:
    fields = {"maxTokens": call.max_tokens, "temperature": call.temperature, "topP": call.top_p, "stopSequences": call.stop or None}
    return {name: value for name, value in fields.items() if value is not None}


def _tools(call: Call, *, caching: bool) -> dict[str, Any] | None:
    choice = call.tool_choice
    if choice is not None and choice.mode == "none":
        # The API has no word for "none": without its tools the model can call none.
        if mentions_tools(call.messages):
            raise inexpressible("tool_choice", "none cannot be promised by this model after earlier tool calls; leave it out.")
        return None
    if not call.tools:
        return None
    written: list[dict[str, Any]] = []
    for tool in call.tools:
        written.append({"toolSpec": _tool(tool)})
        if caching:
            written += cache_point(tool.cache)
    return {"tools": written} if choice is None else {"tools": written, "toolChoice": _choice(choice)}


def _tool(tool: Tool) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": tool.name}
    if tool.description:
        spec["description"] = tool.description
    spec["inputSchema"] = {"json": tool.parameters or _NO_PARAMETERS}
    if tool.strict:
        spec["strict"] = True
    return spec


def _choice(choice: ToolChoice) -> dict[str, Any]:
    if choice.name is not None:
        return {"tool": {"name": choice.name}}
    return {"any": {}} if choice.mode == "required" else {"auto": {}}


def _output(call: Call, family: Family) -> dict[str, Any]:
    output: dict[str, Any] = {}
    if call.response_format is not None and call.response_format.kind != "text":
        output["textFormat"] = _format(call.response_format)
    effort = call.reasoning_effort
    if effort is not None and effort != "none" and family == "anthropic":
        output["effort"] = _effort(effort)
    return output


def _format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.kind != "json_schema":
        raise inexpressible("response_format", "this model takes json_schema, not json_object; give the schema you expect.")
    schema = {"schema": msgspec.json.encode(wanted.schema or {}).decode(), "name": wanted.name, "description": wanted.description}
    named = {name: value for name, value in schema.items() if value is not None}
    return {"type": "json_schema", "structure": {"jsonSchema": named}}


def _effort(said: str) -> str:
    if said not in _EFFORTS:
        raise inexpressible("reasoning_effort", f"this model takes {', '.join(_EFFORTS)}.")
    return _EFFORTS[said]


def _additional(call: Call, family: Family) -> dict[str, Any]:
    """What only the model's own family understands, as AWS documents it for each."""
    more: dict[str, Any] = {}
    if call.top_k is not None:
        match family:
            case "anthropic" | "mistral":
                more["top_k"] = call.top_k
            case "nova" | "nova-2":
                more["inferenceConfig"] = {"topK": call.top_k}
            case "cohere":
                more["k"] = call.top_k
            case _:
                raise inexpressible("top_k", "this model takes no top_k.")
    for name in ("frequency_penalty", "presence_penalty"):
        penalty = getattr(call, name)
        if penalty:
            if family != "cohere":
                raise inexpressible(name, f"this model takes no {name}.")
            more[name] = penalty
    more.update(_reasoning(call, family))
    return more


def _reasoning(call: Call, family: Family) -> dict[str, Any]:
    thinking, effort = call.thinking, call.reasoning_effort
    off = thinking is not None and thinking.mode == "disabled"
    match family:
        case "anthropic":
            if thinking is not None:
                budget = {} if thinking.budget is None else {"budget_tokens": thinking.budget}
                return {"thinking": {"type": thinking.mode, **budget}}
            return {}
        case "nova-2":
            if off or effort == "none":
                return {"reasoningConfig": {"type": "disabled"}}
            if effort is not None or thinking is not None:
                level = "high" if effort in ("xhigh", "max") else _effort(effort or "medium")
                return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": level}}
            return {}
        case "openai" if thinking is None:
            return {} if effort is None else {"reasoning_effort": effort}
    if thinking is not None and not off:
        raise inexpressible("thinking", "this model is not told how to reason.")
    if effort not in (None, "none"):
        raise inexpressible("reasoning_effort", "this model is not told how to reason.")
    return {}


def _tags(metadata: dict[str, str]) -> dict[str, str]:
    """What of the caller's tags the service's own logs can take."""
    fit = [(name, value) for name, value in metadata.items() if _TAG_NAME.fullmatch(name) and _TAG_VALUE.fullmatch(value)]
    return dict(fit[:_MOST_TAGS])
