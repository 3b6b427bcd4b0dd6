"""The body of `POST /v1/messages` as typed shapes: what is documented, what we can carry, and its ranges.

Every shape refuses fields it does not know, so nothing travels that the guard has not read. Each turns itself into its core
value with `core()`. Optional fields default to None, which also accepts an explicit null; where histories usually hold nulls
the default is UNSET, so that writing the shape again gives the keys that were read (see `_json.refuse_ambiguity`).
For the same reason a shape has a tag only where it is one of several: alone, its tag could be left out and still be written.
"""

from base64 import b64encode
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from gatehouse.core.calls import (
    CacheMark,
    FilePart,
    ImagePart,
    Message,
    Part,
    ResponseFormat,
    TextPart,
    Thinking,
    ThinkingPart,
    Tool,
    ToolCall,
    ToolChoice,
)

Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}\Z")]
Identifier = Annotated[str, Meta(min_length=1, max_length=256)]
TokenBound = Annotated[int, Meta(ge=1, le=10_000_000)]
StopText = Annotated[str, Meta(min_length=1, max_length=1_024)]
_Blocks = Meta(max_length=2_048)
_None = Annotated[list[Any], Meta(max_length=0)]


class _Shape(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Base of all shapes."""


class CacheShape(_Shape):
    """Asks to keep the reading of the prompt up to here."""

    type: Literal["ephemeral"]
    ttl: CacheMark | None = None

    def core(self) -> CacheMark:
        """The core mark."""
        return self.ttl or "5m"


_Cache = CacheShape | UnsetType | None


def cache_mark(shape: _Cache) -> CacheMark | None:
    """The core mark, if there is one."""
    return shape.core() if isinstance(shape, CacheShape) else None


class TextShape(_Shape, tag_field="type", tag="text"):
    """A block of text."""

    text: str
    cache_control: _Cache = UNSET
    citations: _None | UnsetType | None = UNSET

    def core(self) -> Part:
        """The core part."""
        return TextPart(self.text, cache_mark(self.cache_control))


class OnlyText(_Shape):
    """The same where nothing but text is allowed."""

    type: Literal["text"]
    text: str
    cache_control: _Cache = UNSET
    citations: _None | UnsetType | None = UNSET

    def core(self) -> Part:
        """The core part."""
        return TextPart(self.text, cache_mark(self.cache_control))


class _ImageData(_Shape, tag_field="type", tag="base64"):
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class UrlSource(_Shape, tag_field="type", tag="url"):
    """Something by its address."""

    url: Annotated[str, Meta(min_length=1)]


class ImageShape(_Shape, tag_field="type", tag="image"):
    """An image by content or URL."""

    source: _ImageData | UrlSource
    cache_control: _Cache = UNSET

    def core(self) -> Part:
        """The core part."""
        source = self.source
        url = source.url if type(source) is UrlSource else f"data:{source.media_type};base64,{source.data}"  # type: ignore[union-attr]
        return ImagePart(url, None, cache_mark(self.cache_control))


class _PdfData(_Shape, tag_field="type", tag="base64"):
    media_type: Literal["application/pdf"]
    data: str


class _TextData(_Shape, tag_field="type", tag="text"):
    media_type: Literal["text/plain"]
    data: str


class _FileId(_Shape, tag_field="type", tag="file"):
    file_id: Identifier


class _Citations(_Shape):
    enabled: Literal[False] | None = None


class DocumentShape(_Shape, tag_field="type", tag="document"):
    """A document by content, URL or id."""

    source: _PdfData | _TextData | _FileId | UrlSource
    title: Annotated[str, Meta(max_length=500)] | None = None
    citations: _Citations | None = None
    cache_control: _Cache = UNSET

    def core(self) -> Part:
        """The core part."""
        source = self.source
        mark = cache_mark(self.cache_control)
        if isinstance(source, _FileId):
            return FilePart(None, source.file_id, self.title, mark)
        if isinstance(source, _TextData):
            return FilePart(f"data:text/plain;base64,{b64encode(source.data.encode()).decode()}", None, self.title, mark)
        if isinstance(source, UrlSource):
            return FilePart(source.url, None, self.title, mark)
        return FilePart(f"data:application/pdf;base64,{source.data}", None, self.title, mark)


class ThinkingShape(_Shape, tag_field="type", tag="thinking"):
    """Reasoning in the history, with the proof of who thought it."""

    thinking: str
    signature: str

    def core(self) -> Part:
        """The core part."""
        return ThinkingPart(self.thinking, self.signature or None)


class RedactedShape(_Shape, tag_field="type", tag="redacted_thinking"):
    """Reasoning in the history, as it was encrypted."""

    data: str

    def core(self) -> Part:
        """The core part."""
        return ThinkingPart(redacted=self.data)


class _Direct(_Shape):
    type: Literal["direct"]


class ToolUseShape(_Shape, tag_field="type", tag="tool_use"):
    """A call of a tool in the history. Answers come back as they were given, so `caller` is accepted."""

    id: Identifier
    name: Identifier
    input: dict[str, Any]
    cache_control: _Cache = UNSET
    caller: _Direct | UnsetType | None = UNSET
    toolset_name: UnsetType | None = UNSET

    def core(self) -> ToolCall:
        """The core call."""
        return ToolCall(self.id, self.name, msgspec.json.encode(self.input).decode())


class ToolResultShape(_Shape, tag_field="type", tag="tool_result"):
    """What a tool answered."""

    tool_use_id: Identifier
    content: str | Annotated[list[TextShape | ImageShape | DocumentShape], _Blocks] | UnsetType | None = UNSET
    is_error: bool | UnsetType | None = UNSET
    cache_control: _Cache = UNSET
    toolset_name: UnsetType | None = UNSET

    def core(self) -> Message:
        """The core message."""
        content = content_of([part.core() for part in self.content]) if isinstance(self.content, list) else self.content or ""
        cache = cache_mark(self.cache_control)
        return Message("tool", content, None, (), self.tool_use_id, None, self.is_error is True, cache)


UserBlock = TextShape | ImageShape | DocumentShape | ToolResultShape
AssistantBlock = TextShape | ThinkingShape | RedactedShape | ToolUseShape


def content_of(parts: list[Part]) -> str | tuple[Part, ...]:
    """One unmarked text is what the API calls a string's long form, and targets like strings."""
    if not parts:
        return ""
    first = parts[0]
    return first.text if len(parts) == 1 and type(first) is TextPart and first.cache is None else tuple(parts)


class UserShape(_Shape, tag_field="role", tag="user"):
    """What the user says, and what tools answered."""

    content: str | Annotated[list[UserBlock], _Blocks]

    def core(self) -> list[Message]:
        """The core messages: one for each tool that answered, one for what is said between."""
        if isinstance(self.content, str):
            return [Message("user", self.content)]
        messages: list[Message] = []
        parts: list[Part] = []
        for block in self.content:
            if isinstance(block, ToolResultShape):
                if parts:
                    messages.append(Message("user", content_of(parts)))
                    parts = []
                messages.append(block.core())
            else:
                parts.append(block.core())
        if parts or not messages:
            messages.append(Message("user", content_of(parts)))
        return messages


class AssistantShape(_Shape, tag_field="role", tag="assistant"):
    """What the model said before."""

    content: str | Annotated[list[AssistantBlock], _Blocks]

    def core(self) -> list[Message]:
        """The core message: what was said and thought, in its order, then the tools that were called.

        The mark of a called tool becomes the message's: it ends there.
        """
        if isinstance(self.content, str):
            return [Message("assistant", self.content)]
        parts: list[Part] = []
        calls: list[ToolCall] = []
        cache: CacheMark | None = None
        for block in self.content:
            if isinstance(block, ToolUseShape):
                calls.append(block.core())
                cache = cache_mark(block.cache_control) or cache
            else:
                parts.append(block.core())
        return [Message("assistant", content_of(parts) if parts or not calls else None, None, tuple(calls), cache=cache)]


class SystemShape(_Shape, tag_field="role", tag="system"):
    """Instructions in the middle of the conversation."""

    content: str | Annotated[list[OnlyText], _Blocks]

    def core(self) -> list[Message]:
        """The core message."""
        return [Message("system", self.content if isinstance(self.content, str) else content_of([part.core() for part in self.content]))]


class ToolShape(_Shape):
    """A tool that the caller runs."""

    name: Name
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: _Cache = UNSET
    eager_input_streaming: bool | None = None
    """How finely the input is streamed: targets stream it as they do."""

    def core(self) -> Tool:
        """The core tool."""
        return Tool(self.name, self.description, self.input_schema, self.strict, cache_mark(self.cache_control))


class _AutoChoice(_Shape, tag_field="type", tag="auto"):
    disable_parallel_tool_use: bool | None = None


class _AnyChoice(_Shape, tag_field="type", tag="any"):
    disable_parallel_tool_use: bool | None = None


class NamedChoice(_Shape, tag_field="type", tag="tool"):
    """The one tool the model must call."""

    name: Name
    disable_parallel_tool_use: bool | None = None


class _NoChoice(_Shape, tag_field="type", tag="none"):
    pass


AnyToolChoice = _AutoChoice | _AnyChoice | NamedChoice | _NoChoice


def tool_choice(shape: AnyToolChoice | None) -> tuple[ToolChoice | None, bool | None]:
    """The core choice, and whether several tools may be called at once."""
    if shape is None:
        return None, None
    if isinstance(shape, _NoChoice):
        return ToolChoice("none"), None
    parallel = None if shape.disable_parallel_tool_use is None else not shape.disable_parallel_tool_use
    if isinstance(shape, NamedChoice):
        return ToolChoice("required", shape.name), parallel
    return ToolChoice("auto" if isinstance(shape, _AutoChoice) else "required"), parallel


_Display = Literal["summarized", "omitted"]


class _Enabled(_Shape, tag_field="type", tag="enabled"):
    budget_tokens: Annotated[int, Meta(ge=1_024, le=10_000_000)]
    display: _Display | None = None

    def core(self) -> Thinking:
        return Thinking("enabled", self.budget_tokens, self.display)


class _Adaptive(_Shape, tag_field="type", tag="adaptive"):
    display: _Display | None = None

    def core(self) -> Thinking:
        return Thinking("adaptive", None, self.display)


class _Disabled(_Shape, tag_field="type", tag="disabled"):
    def core(self) -> Thinking:
        return Thinking("disabled")


class _Metadata(_Shape):
    user_id: Annotated[str, Meta(max_length=512)] | None = None


class _SchemaFormat(_Shape):
    type: Literal["json_schema"]
    schema: dict[str, Any]

    def core(self) -> ResponseFormat:
        """Formats have no names here, and need one elsewhere. The API always holds the model to the schema."""
        return ResponseFormat("json_schema", "answer", None, self.schema, True)


class _OutputConfig(_Shape):
    effort: Annotated[str, Meta(pattern=r"^[a-z]{1,32}\Z")] | None = None
    format: _SchemaFormat | None = None


AnyMessage = UserShape | AssistantShape | SystemShape


class CountRequest(_Shape, kw_only=True):
    """The body of a question how many tokens a prompt has."""

    model: Identifier
    messages: Annotated[list[AnyMessage], Meta(min_length=1, max_length=10_000)]
    system: str | Annotated[list[OnlyText], _Blocks] | None = None
    tools: Annotated[list[ToolShape], Meta(max_length=128)] | None = None
    tool_choice: AnyToolChoice | None = None
    thinking: _Enabled | _Adaptive | _Disabled | None = None
    output_config: _OutputConfig | None = None
    cache_control: CacheShape | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """The body, field by field."""

    max_tokens: TokenBound
    stop_sequences: Annotated[list[StopText], Meta(max_length=16)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    metadata: _Metadata | None = None
    stream: bool | None = None
