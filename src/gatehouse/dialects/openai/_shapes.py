"""The body of `POST /v1/chat/completions` as typed shapes: what is documented, what we can carry, and its ranges.

Every shape refuses fields it does not know, so nothing travels that the guard has not read. Each turns itself into its core
value with `core()`. Optional fields default to None, which also accepts an explicit null; where histories usually hold
nulls the default is UNSET, so that writing the shape again gives the keys that were read (see `_json.refuse_ambiguity`).
For the same reason a shape has a tag only where it is one of several: alone, its tag could be left out and still be written.
"""

from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from gatehouse.core.calls import AudioPart, FilePart, ImagePart, Message, Part, RefusalPart, ResponseFormat, TextPart, Tool, ToolCall

MAX_REMOTE_URL: Final = 8_192
_INT64: Final = 2**63

Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}\Z")]
"""Of a tool or a schema."""
Speaker = Annotated[str, Meta(pattern=r"^[^\s<|\\/>]{1,64}\Z")]
"""Of a participant; what could pass for a template's control token is not a name."""
Identifier = Annotated[str, Meta(min_length=1, max_length=256)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
TokenBound = Annotated[int, Meta(ge=1, le=10_000_000)]
TokenId = Annotated[str, Meta(pattern=r"^[0-9]{1,10}\Z")]
Label = Annotated[str, Meta(min_length=1, max_length=64)]
StopText = Annotated[str, Meta(min_length=1, max_length=1_024)]


class _Shape(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Base of all shapes."""


class _ImageURL(_Shape):
    url: Annotated[str, Meta(min_length=1)]
    detail: Literal["auto", "low", "high", "original"] | None = None


class _InputAudio(_Shape):
    data: str
    format: Annotated[str, Meta(pattern=r"^[a-z0-9]{1,16}\Z")]


class _FileContent(_Shape):
    file_data: str | None = None
    file_id: Identifier | None = None
    filename: Annotated[str, Meta(max_length=256)] | None = None


class TextShape(_Shape, tag_field="type", tag="text"):
    """A part of text."""

    text: str

    def core(self) -> Part:
        """The core part."""
        return TextPart(self.text)


class OnlyText(_Shape):
    """The same where nothing but text is allowed."""

    type: Literal["text"]
    text: str

    def core(self) -> Part:
        """The core part."""
        return TextPart(self.text)


class RefusalShape(_Shape, tag_field="type", tag="refusal"):
    """A part that holds an earlier refusal."""

    refusal: str

    def core(self) -> Part:
        """The core part."""
        return RefusalPart(self.refusal)


class ImageShape(_Shape, tag_field="type", tag="image_url"):
    """An image by URL."""

    image_url: _ImageURL

    def core(self) -> Part:
        """The core part."""
        return ImagePart(self.image_url.url, self.image_url.detail)


class AudioShape(_Shape, tag_field="type", tag="input_audio"):
    """Audio in base64."""

    input_audio: _InputAudio

    def core(self) -> Part:
        """The core part."""
        return AudioPart(self.input_audio.data, self.input_audio.format)


class FileShape(_Shape, tag_field="type", tag="file"):
    """A file by content or id."""

    file: _FileContent

    def core(self) -> Part:
        """The core part."""
        return FilePart(self.file.file_data, self.file.file_id, self.file.filename)


UserPart = TextShape | ImageShape | AudioShape | FileShape
AssistantPart = TextShape | RefusalShape
Parts = Meta(min_length=1, max_length=2_048)


def _content(content: "str | list[Any]") -> str | tuple[Part, ...]:
    return content if isinstance(content, str) else tuple(part.core() for part in content)


class _FunctionCalled(_Shape):
    name: Identifier
    arguments: str


class _CustomCalled(_Shape):
    name: Identifier
    input: str


class FunctionCallShape(_Shape, tag_field="type", tag="function"):
    """A call of a function in the history."""

    id: Identifier
    function: _FunctionCalled

    def core(self) -> ToolCall:
        """The core call."""
        return ToolCall(self.id, self.function.name, self.function.arguments)


class CustomCallShape(_Shape, tag_field="type", tag="custom"):
    """A call of a custom tool in the history; its input is free text."""

    id: Identifier
    custom: _CustomCalled

    def core(self) -> ToolCall:
        """The core call."""
        return ToolCall(self.id, self.custom.name, self.custom.input, "custom")


class SystemShape(_Shape, tag_field="role", tag="system"):
    """Instructions."""

    role: ClassVar[Literal["system", "developer"]] = "system"
    content: str | Annotated[list[OnlyText], Parts]
    name: Speaker | None = None

    def core(self) -> Message:
        """The core message."""
        content = self.content
        return Message(self.role, content if type(content) is str else _content(content), self.name)


class DeveloperShape(SystemShape, tag_field="role", tag="developer"):
    """Instructions, as newer models name them."""

    role: ClassVar[Literal["system", "developer"]] = "developer"


class UserShape(_Shape, tag_field="role", tag="user"):
    """What the user says."""

    content: str | Annotated[list[UserPart], Parts]
    name: Speaker | None = None

    def core(self) -> Message:
        """The core message."""
        content = self.content
        return Message("user", content if type(content) is str else _content(content), self.name)


class AssistantShape(_Shape, tag_field="role", tag="assistant"):
    """What the model said before. Answers come back as they were given, so their empty fields are accepted."""

    content: str | Annotated[list[AssistantPart], Parts] | UnsetType | None = UNSET
    name: Speaker | UnsetType | None = UNSET
    tool_calls: Annotated[list[FunctionCallShape | CustomCallShape], Meta(max_length=128)] | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    annotations: Annotated[list[Any], Meta(max_length=0)] | UnsetType | None = UNSET
    audio: UnsetType | None = UNSET
    function_call: UnsetType | None = UNSET

    def core(self) -> Message:
        """The core message."""
        calls = tuple(call.core() for call in self.tool_calls) if self.tool_calls else ()
        content = _content(self.content) if isinstance(self.content, str | list) else None
        return Message("assistant", content, self.name or None, calls, None, self.refusal or None)


class ToolShape(_Shape, tag_field="role", tag="tool"):
    """What a tool answered."""

    content: str | Annotated[list[OnlyText], Parts]
    tool_call_id: Identifier
    name: Identifier | None = None

    def core(self) -> Message:
        """The core message."""
        return Message("tool", _content(self.content), self.name, (), self.tool_call_id)


class FunctionDefinition(_Shape):
    """What a function is and takes."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(_Shape):
    """A function the model may call."""

    type: Literal["function"]
    function: FunctionDefinition

    def core(self) -> Tool:
        """The core tool."""
        function = self.function
        return Tool(function.name, function.description, function.parameters, function.strict)


class _Named(_Shape):
    name: Name


class NamedTool(_Shape):
    """The one tool the model must call."""

    type: Literal["function"]
    function: _Named


class TextFormat(_Shape, tag_field="type", tag="text"):
    """Plain text."""

    def core(self) -> ResponseFormat:
        """The core format."""
        return ResponseFormat("text")


class ObjectFormat(_Shape, tag_field="type", tag="json_object"):
    """Any JSON object."""

    def core(self) -> ResponseFormat:
        """The core format."""
        return ResponseFormat("json_object")


class _NamedSchema(_Shape):
    name: Name
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class SchemaFormat(_Shape, tag_field="type", tag="json_schema"):
    """JSON under a schema."""

    json_schema: _NamedSchema

    def core(self) -> ResponseFormat:
        """The core format."""
        named = self.json_schema
        return ResponseFormat("json_schema", named.name, named.description, named.schema, named.strict)


class StreamOptions(_Shape):
    """What a stream carries beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


AnyMessage = UserShape | AssistantShape | SystemShape | DeveloperShape | ToolShape


class ChatRequest(_Shape):
    """The body, field by field."""

    model: Identifier
    messages: Annotated[list[AnyMessage], Meta(min_length=1, max_length=10_000)]
    tools: Annotated[list[FunctionTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: TokenBound | None = None
    max_completion_tokens: TokenBound | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=16)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-_INT64, le=_INT64 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    logit_bias: Annotated[dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1_024)] | None = None
    reasoning_effort: Annotated[str, Meta(pattern=r"^[a-z]{1,32}\Z")] | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
    metadata: Annotated[dict[Label, Annotated[str, Meta(max_length=512)]], Meta(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
