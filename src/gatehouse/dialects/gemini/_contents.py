"""Messages as Gemini's `contents`: turns of the roles user and model, made of parts.

- System and developer messages, wherever they stand, are one `systemInstruction`: there is no such role between turns.
- Results of tools that follow each other are one turn, as the API wants the answers to parallel calls.
- A reasoning part is not sent back: the API asks for its signature only, on the call or text that followed it. Signatures
  carry the name of their dialect (`gemini:`) while they are the caller's, so that another provider's is not sent here. A
  call in the history without one (another model's, or a client that has no place for it) gets the word that the API
  documents for this: without it Gemini 3 and later refuse the history.
- `name` of a message is not sent: there is no field for it.
"""

import re
from typing import Any, Final

import msgspec

from gatehouse.core.calls import AudioPart, Call, FilePart, ImagePart, Message, Part, RefusalPart, TextPart, ThinkingPart, ToolCall
from gatehouse.dialects._data_urls import split_data_url
from gatehouse.dialects._failures import inexpressible

SIGNATURE: Final = "gemini:"
"""Before each signature that leaves this dialect."""
_UNSIGNED: Final = "skip_thought_signature_validator"
_NEVER_SIGNED: Final = re.compile(r"gemini-[12](?!\d)|(?!gemini)")
_Json = dict[str, Any]


def contents(call: Call, model: str) -> tuple[list[_Json], _Json | None]:
    """The turns, and the system instruction.

    Raises:
        UpstreamFailed: naming what Gemini has no words for.
    """
    turns: list[_Json] = []
    system: list[_Json] = []
    names: dict[str, str] = {}
    results: list[_Json] | None = None
    for at, message in enumerate(call.messages):
        path = f"messages[{at}]"
        if message.role == "tool":
            if results is None:
                results = []
                turns.append({"role": "user", "parts": results})
            results.append(_result(message, names, path))
            continue
        results = None
        if message.role in ("system", "developer"):
            system += _parts(message, path)
            continue
        parts = _parts(message, path)
        if message.role == "assistant":
            parts += _calls(message, model, path)
            names.update((called.id, called.name) for called in message.tool_calls)
        if parts:
            turns.append({"role": "model" if message.role == "assistant" else "user", "parts": parts})
    if not turns:
        return [{"role": "user", "parts": system}], None
    return turns, {"parts": system} if system else None


def _parts(message: Message, path: str) -> list[_Json]:
    content = message.content
    parts = []
    if isinstance(content, str):
        if content or not message.tool_calls:
            parts.append({"text": content})
    elif content is not None:
        for index, part in enumerate(content):
            written = _part(part, f"{path}.content[{index}]")
            if written is not None:
                parts.append(written)
    if message.refusal:
        parts.append({"text": message.refusal})
    signature = None if message.tool_calls else _signature(message)
    if signature is not None and parts:
        parts[-1]["thoughtSignature"] = signature
    return parts


def _part(part: Part, path: str) -> _Json | None:
    match part:
        case TextPart(text=text) | RefusalPart(refusal=text):
            return {"text": text}
        case ImagePart(url=url):
            return _inline(url, f"{path}.image_url.url", "an image")
        case AudioPart(data=data, format=kind):
            return {"inlineData": {"mimeType": f"audio/{kind}", "data": data}}
        case FilePart(data=str(data)):
            return _inline(data, f"{path}.file.file_data", "a file")
        case FilePart():
            raise inexpressible(f"{path}.file.file_id", "this model takes a file by its content (file_data) only.")
        case ThinkingPart():
            return None


def _inline(url: str, path: str, what: str) -> _Json:
    found = split_data_url(url)
    if found is None:
        raise inexpressible(path, f"this model takes {what} by its content only, as a base64 data: URL that names its type.")
    return {"inlineData": {"mimeType": found[0], "data": found[1]}}


def _calls(message: Message, model: str, path: str) -> list[_Json]:
    parts: list[_Json] = []
    for index, called in enumerate(message.tool_calls):
        part: _Json = {"functionCall": {"id": called.id, "name": called.name, "args": _arguments(called, f"{path}.tool_calls[{index}]")}}
        if index == 0:
            signature = _signature(message)
            if signature is None and not _NEVER_SIGNED.match(model):
                signature = _UNSIGNED
            if signature is not None:
                part["thoughtSignature"] = signature
        parts.append(part)
    return parts


def _arguments(called: ToolCall, path: str) -> msgspec.Raw | _Json:
    """The arguments as the model wrote them, once they are known to be an object."""
    if called.kind == "custom":
        raise inexpressible(path, "this model has no custom tools.")
    if not called.arguments.strip():
        return {}
    try:
        msgspec.json.decode(called.arguments, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        raise inexpressible(f"{path}.function.arguments", "this model takes arguments that are a JSON object only.") from None
    return msgspec.Raw(called.arguments.encode())


def _signature(message: Message) -> str | None:
    """Gemini's own proof of the reasoning before what the message says."""
    if type(message.content) is not tuple:
        return None
    for part in reversed(message.content):
        if isinstance(part, ThinkingPart) and part.signature is not None and part.signature.startswith(SIGNATURE):
            return part.signature[len(SIGNATURE) :]
    return None


def _result(message: Message, names: dict[str, str], path: str) -> _Json:
    """What a tool said, under the name and id of its call."""
    identifier = message.tool_call_id or ""
    name = names.get(identifier)
    if name is None:
        raise inexpressible(f"{path}.tool_call_id", "no earlier message calls a tool under this id.")
    texts: list[str] = []
    media: list[_Json] = []
    if isinstance(message.content, str):
        texts.append(message.content)
    else:
        for part in _parts(message, path):
            if "text" in part:
                texts.append(part["text"])
            else:
                media.append(part)
    response: _Json = {"id": identifier, "name": name, "response": {"error" if message.is_error else "output": "".join(texts)}}
    if media:
        response["parts"] = media
    return {"functionResponse": response}
