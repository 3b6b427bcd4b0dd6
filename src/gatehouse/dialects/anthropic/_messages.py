"""Messages, parts and tools of a `Call` as Anthropic's API takes them.

The API knows two speakers who take turns. Instructions stand apart from them; what tools answered is said by the user, all
results of one turn in one message and before anything else the user says.
"""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from gatehouse.core.calls import CacheMark, FilePart, ImagePart, Message, Part, RefusalPart, TextPart, ThinkingPart, Tool, ToolCall
from gatehouse.dialects._data_urls import split_data_url
from gatehouse.dialects._failures import inexpressible
from gatehouse.dialects._signatures import is_foreign

UNREADABLE: Final = "unparsed_arguments"
"""The one member of the input that stands for arguments which are no JSON object: no tool's schema takes it for its own."""
_INSTRUCTIONS: Final = ("system", "developer")
_NO_PARAMETERS: Final = {"type": "object", "properties": {}}
_Block = dict[str, Any]


def system_and_turns(messages: Sequence[Message], *, system_turns: bool) -> tuple[str | list[_Block], list[dict[str, Any]]]:
    """The `system` field and the `messages` field.

    Instructions in the middle of the conversation join those at its beginning, unless the model takes `system_turns`.
    """
    leading = 0
    while leading < len(messages) and messages[leading].role in _INSTRUCTIONS:
        leading += 1
    rest = messages[leading:]
    instructions = list(messages[:leading])
    if not system_turns:
        instructions += [message for message in rest if message.role in _INSTRUCTIONS]
        rest = [message for message in rest if message.role not in _INSTRUCTIONS]
    return _system(instructions), _turns(rest)


def _system(messages: list[Message]) -> str | list[_Block]:
    if len(messages) == 1 and isinstance(messages[0].content, str) and messages[0].cache is None:
        return messages[0].content
    return [block for message in messages for block in _blocks(message)]


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    results: list[_Block] | None = None
    """The blocks of the user's turn, while it began with what tools answered."""
    for message in messages:
        role = message.role
        if role == "tool":
            if results is None:
                results = []
                turns.append({"role": "user", "content": results})
            results.append(_tool_result(message))
        elif role == "user" and results is not None:
            results += _blocks(message)
        else:
            results = None
            plain = isinstance(message.content, str) and message.cache is None and not message.tool_calls and not message.refusal
            content = message.content if plain else _blocks(message)
            if content:
                turns.append({"role": "system" if role == "developer" else role, "content": content})
    return turns


def _blocks(message: Message) -> list[_Block]:
    content = message.content
    parts: tuple[Part, ...] = (TextPart(content),) if isinstance(content, str) else content or ()
    blocks = [block for part in parts if (block := _block(part)) is not None]
    if message.refusal:
        blocks.append({"type": "text", "text": message.refusal})
    blocks += [tool_use(called) for called in message.tool_calls]
    if message.cache is not None and blocks:
        blocks[-1]["cache_control"] = _cache(message.cache)
    return blocks


def _tool_result(message: Message) -> _Block:
    content = message.content
    block: _Block = {"type": "tool_result", "tool_use_id": message.tool_call_id or ""}
    if isinstance(content, str):
        block["content"] = content
    elif content:
        block["content"] = [inner for part in content if (inner := _block(part)) is not None]
    if message.is_error:
        block["is_error"] = True
    if message.cache is not None:
        block["cache_control"] = _cache(message.cache)
    return block


def _block(part: Part) -> _Block | None:
    """A part as a block; None for what the API does not take: empty text, reasoning that nobody signed, or another provider."""
    match part:
        case TextPart(text=text, cache=cache):
            return _marked({"type": "text", "text": text}, cache) if text else None
        case RefusalPart(refusal=text):
            return {"type": "text", "text": text} if text else None
        case ImagePart(url=url, cache=cache):
            return _marked({"type": "image", "source": _image(url)}, cache)
        case FilePart():
            return _document(part)
        case ThinkingPart(redacted=str(data)):
            return {"type": "redacted_thinking", "data": data}
        case ThinkingPart(thinking=text, signature=str(signature)) if not is_foreign(signature):
            return {"type": "thinking", "thinking": text, "signature": signature}
        case ThinkingPart():
            return None
        case _:
            raise inexpressible("messages", "this model takes no audio.")


def _image(url: str) -> dict[str, str]:
    if url[:5].lower() != "data:":
        return {"type": "url", "url": url}
    media, data = data_url(url)
    return {"type": "base64", "media_type": media, "data": data}


def _document(part: FilePart) -> _Block:
    if part.data is None:
        return _titled({"type": "document", "source": {"type": "file", "file_id": part.file_id or ""}}, part)
    if part.data[:8].lower().startswith(("https://", "http://")):
        return _titled({"type": "document", "source": {"type": "url", "url": part.data}}, part)
    media, data = data_url(part.data) if part.data[:5].lower() == "data:" else ("application/pdf", part.data)
    source = {"type": "base64", "media_type": media, "data": data}
    if media.startswith("image/"):
        return _marked({"type": "image", "source": source}, part.cache)
    if media == "text/plain":
        source = {"type": "text", "media_type": media, "data": _text(data)}
    return _titled({"type": "document", "source": source}, part)


def _titled(block: _Block, part: FilePart) -> _Block:
    if part.filename:
        block["title"] = part.filename
    return _marked(block, part.cache)


def data_url(url: str) -> tuple[str, str]:
    """Media type and base64 of a `data:` URL, which may as well be percent-encoded or leave out its type."""
    found = split_data_url(url)
    if found is not None:
        return found
    head, _, data = url[5:].partition(",")
    media, *options = [option.strip() for option in head.split(";")]
    if "base64" not in options:
        data = b64encode(unquote_to_bytes(data)).decode()
    return media.lower() or "text/plain", data


def _text(data: str) -> str:
    try:
        return b64decode(data, validate=True).decode()
    except ValueError:
        raise inexpressible("messages", "a file of text is not base64 of UTF-8.") from None


def tool_use(called: ToolCall) -> _Block:
    """A tool call as a block of a message."""
    return {"type": "tool_use", "id": called.id, "name": called.name, "input": tool_input(called)}


def tool_input(called: ToolCall) -> Any:
    """The arguments as an object: as the model wrote it, else (broken off by a bound, or free text) under one telling name."""
    arguments = called.arguments
    if called.kind == "custom":
        return {"input": arguments}
    if not arguments.strip():
        return {}
    try:
        if isinstance(msgspec.json.decode(arguments), dict):
            return msgspec.Raw(arguments.encode())
    except (ValueError, RecursionError):
        pass
    return {UNREADABLE: arguments}


def tool(known: Tool) -> dict[str, Any]:
    """A tool's definition."""
    schema = known.parameters
    body: dict[str, Any] = {"name": known.name}
    if known.description is not None:
        body["description"] = known.description
    body["input_schema"] = _NO_PARAMETERS if not schema else schema if "type" in schema else {"type": "object", **schema}
    if known.strict:
        body["strict"] = True
    return _marked(body, known.cache)


def _marked(block: _Block, cache: CacheMark | None) -> _Block:
    if cache is not None:
        block["cache_control"] = _cache(cache)
    return block


def _cache(mark: CacheMark) -> dict[str, str]:
    return {"type": "ephemeral"} if mark == "5m" else {"type": "ephemeral", "ttl": mark}
