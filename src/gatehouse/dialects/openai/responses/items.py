"""Items of the Responses API and messages of a `Call`, both ways.

There a turn of the model is a row of items (reasoning, text, function calls), here it is one assistant message. So what stands in
a row is folded into one, and a message is written as the items it was made of.

What a target needs to recognise its own reasoning (a signature, or the reasoning as it encrypted it) travels in
`encrypted_content`, marked as ours: what another gateway encrypted is refused, because no target behind us could read it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from gatehouse.core.calls import AudioPart, FilePart, ImagePart, Message, Part, RefusalPart, TextPart, ThinkingPart, ToolCall
from gatehouse.dialects._json import invalid
from gatehouse.dialects.openai.requests import check_url
from gatehouse.dialects.openai.responses.shapes import (
    FunctionCallItem,
    FunctionOutputItem,
    Given,
    InputFile,
    InputImage,
    Item,
    MessageItem,
    OutputRefusal,
    OutputText,
    ReasoningItem,
    Written,
)

_SEALED: Final = "gh1."


def read_items(items: Sequence[Item]) -> tuple[Message, ...]:
    """The messages that `items` are.

    Raises:
        InvalidRequest: parts that their role cannot say, or that hold nothing we could send on.
    """
    messages: list[Message] = []
    turn = _Turn()
    for index, item in enumerate(items):
        path = f"input[{index}]"
        if isinstance(item, FunctionCallItem):
            turn.calls.append(ToolCall(item.call_id, item.name, item.arguments))
        elif isinstance(item, ReasoningItem):
            if turn.over:
                turn.end_into(messages)
            turn.parts += _thoughts(item, path)
        elif isinstance(item, MessageItem) and item.role == "assistant":
            if turn.over:
                turn.end_into(messages)
            turn.say(item.content, path)
        else:
            turn.end_into(messages)
            messages.append(_message(item, path))
    turn.end_into(messages)
    return tuple(messages)


class _Turn:
    """The assistant's message while the items are read that make it up."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.calls: list[ToolCall] = []
        self._spoken = False

    @property
    def over(self) -> bool:
        """Whether it has spoken or called: what it thinks or says after that is another message."""
        return self._spoken or bool(self.calls)

    def say(self, content: str | list[Any], path: str) -> None:
        """Take in the content of an assistant's message."""
        self._spoken = True
        if isinstance(content, str):
            self.parts.append(TextPart(content))
            return
        for number, part in enumerate(content):
            if not isinstance(part, OutputText | OutputRefusal):
                raise invalid(f"{path}.content[{number}].type", "an assistant's message holds output_text and refusal.")
            self.parts.append(part.core())

    def end_into(self, messages: list[Message]) -> None:
        """Add the message, if there is one."""
        if self.parts or self.calls:
            messages.append(Message("assistant", _plainly(tuple(self.parts)) if self.parts else None, tool_calls=tuple(self.calls)))
        self.parts, self.calls, self._spoken = [], [], False


def _plainly(parts: tuple[Part, ...]) -> str | tuple[Part, ...]:
    """One text is a text, not a list of one: not every target reads lists."""
    only = parts[0]
    return only.text if len(parts) == 1 and isinstance(only, TextPart) else parts


def _message(item: MessageItem | FunctionOutputItem | FunctionCallItem | ReasoningItem, path: str) -> Message:
    if isinstance(item, FunctionOutputItem):
        output = item.output if isinstance(item.output, str) else _given(item.output, f"{path}.output")
        return Message("tool", output, tool_call_id=item.call_id)
    assert isinstance(item, MessageItem)
    return Message(item.role, item.content if isinstance(item.content, str) else _given(item.content, f"{path}.content"))


def _given(parts: Sequence[Given | Written], path: str) -> str | tuple[Part, ...]:
    for number, part in enumerate(parts):
        where = f"{path}[{number}]"
        if isinstance(part, InputImage):
            if part.file_id is not None or part.image_url is None:
                raise invalid(f"{where}.image_url", "an image is sent by URL here; files are not kept.")
            check_url(part.image_url, f"{where}.image_url")
        elif isinstance(part, InputFile):
            if part.file_url is not None:
                raise invalid(f"{where}.file_url", "files are not fetched here; send the content as file_data.")
            if part.file_data is None and part.file_id is None:
                raise invalid(where, "needs file_data or file_id.")
        elif isinstance(part, OutputText | OutputRefusal):
            raise invalid(f"{where}.type", "only an assistant's message holds output_text and refusal.")
    return _plainly(tuple([part.core() for part in parts]))


def _thoughts(item: ReasoningItem, path: str) -> list[Part]:
    """What one item tells of the reasoning: one part, with its text in full where that is there."""
    text = "".join(part.text for part in item.content or ()) or "\n\n".join(part.text for part in item.summary)
    if not item.encrypted_content:
        return [ThinkingPart(text)] if text else []
    try:
        if not item.encrypted_content.startswith(_SEALED):
            raise ValueError
        signature, redacted = msgspec.json.decode(item.encrypted_content.removeprefix(_SEALED), type=tuple[str, list[str]])
    except ValueError:
        raise invalid(f"{path}.encrypted_content", "this was not written by this gateway; leave the reasoning item out.") from None
    kept: list[Part] = [ThinkingPart(redacted=piece) for piece in redacted if piece]
    return [ThinkingPart(text, signature or None), *kept] if text or signature else kept


def sealed(signature: str | None, redacted: Sequence[str]) -> str | None:
    """What a client sends back so that the target recognises its reasoning; None when it gave nothing to be recognised by."""
    if not signature and not redacted:
        return None
    return _SEALED + msgspec.json.encode((signature or "", redacted)).decode()


def write_items(messages: Sequence[Message], name: str) -> list[dict[str, Any]]:
    """The items that `messages` are; their ids are made from `name`, the same each time."""
    items: list[dict[str, Any]] = []
    for message in messages:
        for item in _items(message):
            item["id"] = f"{_PREFIXES[item['type']]}_{name}_in{len(items)}"
            items.append(item)
    return items


_PREFIXES: Final = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def _items(message: Message) -> Iterator[dict[str, Any]]:
    content = message.content
    if message.role == "tool":
        output = content if isinstance(content, str) else [_part(part) for part in content or ()]
        yield {"type": "function_call_output", "call_id": message.tool_call_id or "", "output": output, "status": "completed"}
        return
    if message.role != "assistant":
        parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else [_part(part) for part in content or ()]
        yield {"type": "message", "role": message.role, "content": parts, "status": "completed"}
        return
    said: list[dict[str, Any]] = []
    if isinstance(content, str):
        said.append({"type": "output_text", "text": content, "annotations": [], "logprobs": []})
    for part in content if isinstance(content, tuple) else ():
        if isinstance(part, ThinkingPart):
            text = [{"type": "reasoning_text", "text": part.thinking}] if part.thinking else []
            yield {"type": "reasoning", "summary": [], "content": text, "status": "completed"}
        else:
            said.append(_written(part))
    if message.refusal is not None:
        said.append({"type": "refusal", "refusal": message.refusal})
    if said:
        yield {"type": "message", "role": "assistant", "content": said, "status": "completed"}
    for call in message.tool_calls:
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments, "status": "completed"}


def _written(part: Part) -> dict[str, Any]:
    if isinstance(part, RefusalPart):
        return {"type": "refusal", "refusal": part.refusal}
    return {"type": "output_text", "text": part.text if isinstance(part, TextPart) else "", "annotations": [], "logprobs": []}


def _part(part: Part) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "input_text", "text": part.text}
        case ImagePart():
            return {"type": "input_image", "image_url": part.url, "detail": part.detail or "auto"}
        case AudioPart():
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
        case FilePart():
            fields = {"file_data": part.data, "file_id": part.file_id, "filename": part.filename}
            return {"type": "input_file", **{name: value for name, value in fields.items() if value is not None}}
        case _:
            return {"type": "input_text", "text": ""}
