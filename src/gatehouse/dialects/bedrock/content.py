"""What is said, in Converse's words: system blocks, and messages of content blocks that alternate between user and assistant.

Results of tools belong to the user's turn there, and turns of the same speaker are joined, because the API takes neither
apart. Instructions from anywhere in the conversation go before it: the API knows no other place for them.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from gatehouse.core.calls import (
    AudioPart,
    CacheMark,
    Call,
    FilePart,
    ImagePart,
    Message,
    Part,
    RefusalPart,
    TextPart,
    ThinkingPart,
    ToolCall,
)
from gatehouse.dialects._failures import inexpressible
from gatehouse.dialects._signatures import is_foreign

Blocks = list[dict[str, Any]]

_IMAGES: Final = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_DOCUMENTS: Final = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_FORMATS: Final = frozenset(_DOCUMENTS.values())
_SOUNDS: Final = frozenset({"mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "m4a", "mpeg", "mpga", "pcm", "webm"})
_DATA_URL: Final = re.compile(r"data:([a-zA-Z0-9.+/-]*)(?:;[a-zA-Z0-9=._-]+)*;base64,", re.ASCII)
_TOOL_USE_ID: Final = re.compile(r"[a-zA-Z0-9_.:-]{1,64}", re.ASCII)
_NOT_IN_A_NAME: Final = re.compile(r"[^a-zA-Z0-9()\[\] -]+|(?<= ) +", re.ASCII)


def write_conversation(call: Call, *, caching: bool) -> tuple[Blocks, list[dict[str, Any]]]:
    """(system, messages). `caching` says whether the model takes cache points; where it does not, marks are left out.

    Raises:
        UpstreamFailed: a part that this API cannot carry, before anything was sent; it names the part.
    """
    system: Blocks = []
    messages: list[dict[str, Any]] = []
    for index, message in enumerate(call.messages):
        path = f"messages[{index}]"
        if message.role in ("system", "developer"):
            system += _content(message, path, caching=caching)
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _turn(message, path, caching=caching)
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        elif blocks or role == "user":
            messages.append({"role": role, "content": blocks})
    return system, messages


def cache_point(mark: CacheMark | None) -> Blocks:
    """The block that asks for what is before it to be kept; none without a mark. Five minutes are the default there."""
    if mark is None:
        return []
    return [{"cachePoint": {"type": "default"} if mark == "5m" else {"type": "default", "ttl": mark}}]


def _turn(message: Message, path: str, *, caching: bool) -> Blocks:
    if message.role == "tool":
        unmarked = msgspec.structs.replace(message, cache=None)
        result: dict[str, Any] = {
            "toolUseId": _tool_use_id(message.tool_call_id or ""),
            "content": _content(unmarked, path, caching=False),
        }
        if message.is_error:
            result["status"] = "error"
        return [{"toolResult": result}, *(cache_point(_mark(message)) if caching else ())]
    blocks = _content(message, path, caching=caching)
    if not message.tool_calls:
        return blocks
    last = blocks.pop() if blocks and message.cache is not None and caching else None
    blocks += [_tool_use(called) for called in message.tool_calls]
    return blocks if last is None else [*blocks, last]


def _mark(message: Message) -> CacheMark | None:
    """The mark on a tool's result: its own, or that of its last part, as a result is one block here."""
    if message.cache is not None or not isinstance(message.content, tuple) or not message.content:
        return message.cache
    return getattr(message.content[-1], "cache", None)


def _content(message: Message, path: str, *, caching: bool) -> Blocks:
    """The blocks of a message's content. Empty text is left out: the API refuses it."""
    blocks: Blocks = []
    if isinstance(message.content, str):
        if message.content:
            blocks.append({"text": message.content})
    else:
        for at, part in enumerate(message.content or ()):
            block = _part(part, f"{path}.content[{at}]")
            if block is not None:
                blocks.append(block)
                if caching:
                    blocks += cache_point(getattr(part, "cache", None))
    if message.refusal:
        blocks.append({"text": message.refusal})
    if caching:
        blocks += cache_point(message.cache)
    return blocks


def _part(part: Part, path: str) -> dict[str, Any] | None:
    match part:
        case TextPart():
            return {"text": part.text} if part.text else None
        case RefusalPart():
            return {"text": part.refusal} if part.refusal else None
        case ImagePart():
            media, data = _inline(part.url, f"{path}.image_url.url")
            if media not in _IMAGES:
                raise inexpressible(path, "this model takes images as png, jpeg, gif or webp.")
            return {"image": {"format": _IMAGES[media], "source": {"bytes": data}}}
        case AudioPart():
            if part.format not in _SOUNDS:
                raise inexpressible(path, "this model does not take audio of this format.")
            return {"audio": {"format": part.format, "source": {"bytes": part.data}}}
        case FilePart():
            return {"document": _document(part, path)}
        case ThinkingPart(signature=str(signature)) if is_foreign(signature):
            return None
        case ThinkingPart():
            return {"reasoningContent": _thinking(part)}


def _thinking(part: ThinkingPart) -> dict[str, Any]:
    if part.redacted is not None and not part.thinking:
        return {"redactedContent": part.redacted}
    text = {"text": part.thinking} if part.signature is None else {"text": part.thinking, "signature": part.signature}
    return {"reasoningText": text}


def _document(part: FilePart, path: str) -> dict[str, Any]:
    """A document. Its name is cut down to the few characters the API allows, as it is part of what the model reads."""
    if part.data is None:
        raise inexpressible(path, "this model takes files by content only, not by id.")
    media, data = _inline(part.data, f"{path}.file.file_data")
    stem, _, ending = (part.filename or "").rpartition(".")
    kind = _DOCUMENTS.get(media) or (ending.lower() if ending.lower() in _FORMATS else "")
    if not kind:
        raise inexpressible(path, f"this model takes files as {', '.join(sorted(_FORMATS))}.")
    name = _NOT_IN_A_NAME.sub(" ", stem or "document").strip()
    return {"format": kind, "name": " ".join(name.split())[:200] or "document", "source": {"bytes": data}}


def _inline(url: str, path: str) -> tuple[str, str]:
    """(media type, base64) of a `data:` URL. Nothing is fetched here, and the API fetches nothing either."""
    found = _DATA_URL.match(url)
    if found is None:
        raise inexpressible(path, "this model takes content only inside the request, as a base64 data: URL.")
    return found[1].lower(), url[found.end() :]


def _tool_use(called: ToolCall) -> dict[str, Any]:
    return {"toolUse": {"toolUseId": _tool_use_id(called.id), "name": called.name, "input": _arguments(called)}}


def _arguments(called: ToolCall) -> Any:
    """The arguments as they are when they are a JSON object; else (free text, or what a model wrote badly) as the member of one."""
    text = called.arguments
    if not text.strip():
        return {}
    if called.kind == "function":
        try:
            if isinstance(msgspec.json.decode(text), dict):
                return msgspec.Raw(text.encode())
        except (ValueError, RecursionError):
            pass
    return {"input": text}


def _tool_use_id(identifier: str) -> str:
    """The id of a tool call; one that the API would refuse is replaced, the same way in the call and in its result."""
    if _TOOL_USE_ID.fullmatch(identifier):
        return identifier
    return "call_" + hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def mentions_tools(messages: Iterable[Message]) -> bool:
    """Whether a tool was called before in this conversation."""
    return any(message.tool_calls or message.role == "tool" for message in messages)
