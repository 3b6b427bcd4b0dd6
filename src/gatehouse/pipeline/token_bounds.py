"""How many tokens a prompt can have at most, and at least, when no target can count exactly. Pure.

At most: every token of every tokenizer in use stands for at least one byte of UTF-8; chat templates, tools and media get an
allowance on top. At least: tokens do not reach across the space between two words, and none is longer than 128 bytes.
"""

from typing import Final

import msgspec

from gatehouse.core.calls import AudioPart, Call, FilePart, ImagePart, Message, Part, RefusalPart, TextPart, ThinkingPart

PER_CALL: Final = 128
"""A template's own words: the system prompt it inserts, dates, the opening of the answer."""
PER_MESSAGE: Final = 16
TOOLS: Final = 512
"""The instructions a template adds when there are tools."""
PER_TOOL: Final = 64
PER_IMAGE: Final = 4096
PER_FILE_ID: Final = 200_000
"""A file we cannot see: the provider has it, or it has still to be fetched."""
AUDIO_BYTES_PER_TOKEN: Final = 16
"""Base64 characters: 32 tokens a second, at the lowest bit rate in use."""
LONGEST_TOKEN: Final = 128


def at_most(call: Call) -> int:
    """An upper bound of the prompt's tokens."""
    bound = PER_CALL
    for message in call.messages:
        content = message.content
        bound += PER_MESSAGE
        if type(content) is str:
            bound += len(content) if content.isascii() else _bytes(content)
        elif type(content) is tuple:
            bound += sum(_part(part) for part in content)
        if message.tool_calls or message.name or message.refusal or message.tool_call_id:
            bound += _annex(message)
    for text in call.inputs:
        bound += PER_MESSAGE + (_bytes(text) if isinstance(text, str) else len(text))
    if call.suffix:
        bound += _bytes(call.suffix)
    if call.tools:
        bound += TOOLS + PER_TOOL * len(call.tools) + len(msgspec.json.encode(call.tools))
    if call.response_format is not None:
        bound += len(msgspec.json.encode(call.response_format))
    if call.extra:
        bound += len(msgspec.json.encode(call.extra))
    return bound


def at_least(call: Call) -> int:
    """A lower bound of the prompt's tokens; of several inputs, each a prompt of its own, the longest one's.

    Runs of spaces count as at most one, so that indented text is not overrated.
    """
    words = size = 0
    for message in call.messages:
        for text in _texts(message):
            words += max(text.count(" ") - 2 * text.count("  ") - 1, 0)
            size += len(text)
    if call.inputs:
        return max(_least_of(piece) for piece in call.inputs)
    return max(words, size // LONGEST_TOKEN)


def _least_of(piece: str | tuple[int, ...]) -> int:
    if not isinstance(piece, str):
        return len(piece)
    return max(piece.count(" ") - 2 * piece.count("  ") - 1, len(piece) // LONGEST_TOKEN, 0)


def _texts(message: Message) -> list[str]:
    if isinstance(message.content, str):
        return [message.content]
    return [part.text for part in message.content or () if isinstance(part, TextPart)]


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _part(part: Part) -> int:
    match part:
        case TextPart(text=text) | RefusalPart(refusal=text):
            return _bytes(text)
        case ImagePart():
            return PER_IMAGE
        case AudioPart(data=data):
            return PER_MESSAGE + len(data) // AUDIO_BYTES_PER_TOKEN
        case FilePart(data=str(data)) if not data.startswith(("http://", "https://")):
            return PER_MESSAGE + len(data)
        case FilePart():
            return PER_FILE_ID
        case ThinkingPart(thinking=text, signature=signature, redacted=redacted):
            return PER_MESSAGE + _bytes(text) + len(signature or "") + len(redacted or "")


def _annex(message: Message) -> int:
    calls = sum(PER_MESSAGE + _bytes(call.id) + _bytes(call.name) + _bytes(call.arguments) for call in message.tool_calls)
    return calls + sum(_bytes(text) for text in (message.name, message.refusal, message.tool_call_id) if text)
