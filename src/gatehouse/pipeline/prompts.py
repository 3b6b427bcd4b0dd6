"""How large a prompt is where its target does not tell."""

from typing import Final

import msgspec

from gatehouse.core.calls import Call, TextPart, ThinkingPart

MEDIA_TOKENS: Final = 765
"""What an image, a sound or a file is taken for when the target does not say: a large image in OpenAI's tiles."""
CHARACTERS_A_TOKEN: Final = 4


def prompt_tokens(call: Call) -> int:
    """The tokens of a prompt where its target does not tell: a quarter of its characters, and a little for each message."""
    characters = 0
    others = 0
    for message in call.messages:
        content = message.content
        if isinstance(content, str):
            characters += len(content)
        elif content is not None:
            for part in content:
                if isinstance(part, TextPart):
                    characters += len(part.text)
                elif isinstance(part, ThinkingPart):
                    characters += len(part.thinking) + len(part.redacted or "")
                else:
                    others += 1
        characters += sum(len(tool.arguments) + len(tool.name) for tool in message.tool_calls)
    if call.tools:
        characters += len(msgspec.json.encode(call.tools))
    if call.response_format is not None and call.response_format.schema is not None:
        characters += len(msgspec.json.encode(call.response_format.schema))
    tokens = 0
    for piece in call.inputs:
        tokens += -(-len(piece) // CHARACTERS_A_TOKEN) if isinstance(piece, str) else len(piece)
    characters += len(call.suffix or "")
    return tokens - (-characters // CHARACTERS_A_TOKEN) + 4 * len(call.messages) + MEDIA_TOKENS * others
