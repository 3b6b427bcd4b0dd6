"""A call: what somebody asks of a model, in one shape for every dialect.

Dialects decode into it and providers encode from it, so that guard and model read the same thing. Values are frozen:
a stage that changes a call makes a new one with `msgspec.structs.replace`.
"""

from typing import Any, Final, Literal

import msgspec

Role = Literal["system", "developer", "user", "assistant", "tool"]
Operation = Literal["chat", "completion", "embedding"]

FORBIDDEN_FIELDS: Final = frozenset(
    {
        "api_base",
        "api_key",
        "api_version",
        "base_url",
        "chat_template",
        "chat_template_kwargs",
        "custom_llm_provider",
        "extra_body",
        "extra_headers",
        "extra_query",
        "organization",
        "user_config",
    }
)
"""Names that elsewhere let a caller pick a network target, code or a template. Refused at any depth; no setting admits them."""


CacheMark = Literal["5m", "1h"]
"""Asks the target to keep its reading of the prompt up to here for so long (Anthropic's cache_control); None asks for nothing."""


class TextPart(msgspec.Struct, frozen=True, omit_defaults=True, tag="text", gc=False):
    """Text inside a message of several parts."""

    text: str
    cache: CacheMark | None = None


class RefusalPart(msgspec.Struct, frozen=True, tag="refusal", gc=False):
    """An assistant's earlier refusal, sent back as history."""

    refusal: str


class ImagePart(msgspec.Struct, frozen=True, omit_defaults=True, tag="image", gc=False):
    """An image by `data:` URL or remote URL; `detail` is low, high, auto or None."""

    url: str
    detail: str | None = None
    cache: CacheMark | None = None


class AudioPart(msgspec.Struct, frozen=True, tag="audio", gc=False):
    """Base64 audio."""

    data: str
    format: str


class FilePart(msgspec.Struct, frozen=True, omit_defaults=True, tag="file", gc=False):
    """A file by content (base64 data URL) or by an id the provider knows."""

    data: str | None = None
    file_id: str | None = None
    filename: str | None = None
    cache: CacheMark | None = None


class ThinkingPart(msgspec.Struct, frozen=True, omit_defaults=True, tag="thinking", gc=False):
    """An assistant's earlier reasoning, sent back as history. `signature` is the target's proof that it wrote it; without its
    text (`thinking` empty) `redacted` holds the reasoning as the target encrypted it."""

    thinking: str = ""
    signature: str | None = None
    redacted: str | None = None


Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart | ThinkingPart


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A tool the model called; `arguments` is the JSON text exactly as the model wrote it. kind is function or custom."""

    id: str
    name: str
    arguments: str
    kind: Literal["function", "custom"] = "function"


class Message(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One turn. `content` is None only beside tool calls. `is_error` says that a tool (role tool) failed."""

    role: Role
    content: str | tuple[Part, ...] | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    refusal: str | None = None
    is_error: bool = False
    cache: CacheMark | None = None


class Tool(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A function the model may call; `parameters` is a JSON Schema, opaque to us and bounded by the dialect."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    cache: CacheMark | None = None


class Thinking(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a model that reasons is told to: off, with a bound of `budget` tokens (counted in max_tokens), or as much as it sees fit."""

    mode: Literal["disabled", "enabled", "adaptive"]
    budget: int | None = None
    display: Literal["summarized", "omitted"] | None = None
    """How much of it the caller wants to see; None leaves that to the model."""


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """mode none, auto or required; with `name`, that one tool (mode is then required)."""

    mode: Literal["none", "auto", "required"]
    name: str | None = None


class ResponseFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    """text, any JSON object, or JSON under a schema."""

    kind: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class Turn(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a caller of the Responses API says beside what the model is asked: it is for us, and no target is told any of it."""

    id: str = ""
    """The response's id; "" until Read gave it one."""
    created: int = 0
    """When it was begun, in seconds since the epoch."""
    previous: str | None = None
    """The id of the response that this one continues."""
    store: bool | None = None
    """Whether to keep the response; None until Read knows what holds where the caller did not say."""
    instructions: bool = False
    """The first message is the caller's instructions: they hold for this response and not for those that continue it."""
    begins: int = 0
    """The first message of this turn; those before it are instructions and what was said in earlier turns."""
    summary: bool = False
    """The caller looks for the reasoning among its summaries, not in full."""
    sealed: bool = False
    """The caller wants what it needs to send the reasoning back."""
    safety: bool = False
    """`Call.user` came as `safety_identifier`."""


class Call(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """One request for inference. None means "not said": the target's default holds.

    A chat has `messages`. A completion (text to continue) and an embedding have `inputs` instead: texts, or lists of token ids.
    `max_tokens` bounds the tokens of one choice; Limit replaces None by the bound it held for, and that number is sent.
    `include_usage` is what the client asked for; usage is always asked of the target.
    `extra` holds top-level fields the dialect does not know; Route refuses those the model does not list.
    """

    operation: Operation = "chat"
    model: str
    messages: tuple[Message, ...] = ()
    inputs: tuple[str | tuple[int, ...], ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    n: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    reasoning_effort: str | None = None
    thinking: Thinking | None = None
    suffix: str | None = None
    """Completion only: the text that follows what is to be written."""
    echo: bool = False
    """Completion only: begin the answer with the prompt."""
    dimensions: int | None = None
    """Embedding only: the length of a vector."""
    encoding_format: Literal["float", "base64"] | None = None
    """Embedding only: how vectors are written to the caller."""
    user: str | None = None
    metadata: dict[str, str] = {}
    stream: bool = False
    include_usage: bool = False
    extra: dict[str, Any] = {}
    turn: Turn | None = None
    """Only there for calls of the Responses API."""

    @property
    def choices(self) -> int:
        """How many choices an answer has: `n`, for each prompt of a completion."""
        return self.n * len(self.inputs) if self.operation == "completion" else self.n
