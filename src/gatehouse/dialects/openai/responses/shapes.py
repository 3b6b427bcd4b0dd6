"""The body of `POST /v1/responses` as typed shapes, in the manner of the chat completions' (`_shapes`).

Items are told apart by `type`; an item that has a role and no type is a message, which `requests` writes in before these
shapes are read. Fields that answers hold and a client sends back empty are accepted empty.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gatehouse.core.calls import AudioPart, FilePart, ImagePart, Part, RefusalPart, ResponseFormat, TextPart, Tool
from gatehouse.dialects.openai._shapes import Identifier, Label, Name, ObjectFormat, Parts, TextFormat, TokenBound, _InputAudio, _Shape

Status = Literal["in_progress", "completed", "incomplete"]
ResponseId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z")]
NoItems = Annotated[list[Any], Meta(max_length=0)]


class InputText(_Shape, tag_field="type", tag="input_text"):
    """Text from a user, a developer or a tool."""

    text: str

    def core(self) -> Part:
        """The core part."""
        return TextPart(self.text)


class InputImage(_Shape, tag_field="type", tag="input_image"):
    """An image by URL."""

    image_url: Annotated[str, Meta(min_length=1)] | None = None
    file_id: str | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None

    def core(self) -> Part:
        """The core part."""
        return ImagePart(self.image_url or "", self.detail)


class InputFile(_Shape, tag_field="type", tag="input_file"):
    """A file by content or id."""

    file_data: str | None = None
    file_id: Identifier | None = None
    file_url: str | None = None
    filename: Annotated[str, Meta(max_length=256)] | None = None

    def core(self) -> Part:
        """The core part."""
        return FilePart(self.file_data, self.file_id, self.filename)


class InputAudio(_Shape, tag_field="type", tag="input_audio"):
    """Audio in base64."""

    input_audio: _InputAudio

    def core(self) -> Part:
        """The core part."""
        return AudioPart(self.input_audio.data, self.input_audio.format)


class OutputText(_Shape, tag_field="type", tag="output_text"):
    """Text a model wrote before; its log probabilities are for people and not read again."""

    text: str
    annotations: NoItems | None = None
    logprobs: list[Any] | None = None

    def core(self) -> Part:
        """The core part."""
        return TextPart(self.text)


class OutputRefusal(_Shape, tag_field="type", tag="refusal"):
    """A refusal of before."""

    refusal: str

    def core(self) -> Part:
        """The core part."""
        return RefusalPart(self.refusal)


Given = InputText | InputImage | InputFile | InputAudio
Written = OutputText | OutputRefusal


class MessageItem(_Shape, tag_field="type", tag="message"):
    """A message of anybody; which parts may be in it depends on the role."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[Given | Written], Parts]
    id: Identifier | None = None
    status: Status | None = None
    phase: None = None


class FunctionCallItem(_Shape, tag_field="type", tag="function_call"):
    """A function the model called."""

    call_id: Identifier
    name: Identifier
    arguments: str
    id: Identifier | None = None
    status: Status | None = None
    caller: None = None
    namespace: None = None


class FunctionOutputItem(_Shape, tag_field="type", tag="function_call_output"):
    """What a function answered."""

    call_id: Identifier
    output: str | Annotated[list[Given], Parts]
    id: Identifier | None = None
    status: Status | None = None
    caller: None = None
    name: None = None
    namespace: None = None


class _SummaryText(_Shape):
    type: Literal["summary_text"]
    text: str


class _ReasoningText(_Shape):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(_Shape, tag_field="type", tag="reasoning"):
    """What the model thought before, as an answer gave it."""

    summary: Annotated[list[_SummaryText], Meta(max_length=128)]
    content: Annotated[list[_ReasoningText], Meta(max_length=128)] | None = None
    encrypted_content: str | None = None
    id: Identifier | None = None
    status: Status | None = None


Item = MessageItem | FunctionCallItem | FunctionOutputItem | ReasoningItem


class FunctionTool(_Shape):
    """A function the model may call."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def core(self) -> Tool:
        """The core tool."""
        return Tool(self.name, self.description, self.parameters, self.strict)


class NamedTool(_Shape):
    """The one tool the model must call."""

    type: Literal["function"]
    name: Name


class SchemaFormat(_Shape, tag_field="type", tag="json_schema"):
    """JSON under a schema."""

    name: Name
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None

    def core(self) -> ResponseFormat:
        """The core format."""
        return ResponseFormat("json_schema", self.name, self.description, self.schema, self.strict)


class TextConfig(_Shape):
    """What the text of the answer is to be."""

    format: TextFormat | ObjectFormat | SchemaFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(_Shape):
    """How much a model that reasons is to think, and in which form that is looked for."""

    effort: Annotated[str, Meta(pattern=r"^[a-z]{1,32}\Z")] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(_Shape):
    """How a stream is written."""

    include_obfuscation: bool | None = None


class ResponsesRequest(_Shape):
    """The body, field by field."""

    model: Identifier
    input: str | Annotated[list[Item], Meta(min_length=1, max_length=10_000)]
    instructions: str | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    max_output_tokens: TokenBound | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    reasoning: Reasoning | None = None
    include: Annotated[list[str], Meta(max_length=16)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
    safety_identifier: Annotated[str, Meta(max_length=512)] | None = None
    metadata: Annotated[dict[Label, Annotated[str, Meta(max_length=512)]], Meta(max_length=16)] | None = None
    store: bool | None = None
    previous_response_id: ResponseId | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


FIELDS: Final = frozenset(field.encode_name for field in msgspec.structs.fields(ResponsesRequest))
"""Every top-level name this dialect knows; all others go to `Call.extra`."""
