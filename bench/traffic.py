"""What is asked and what is answered: the same bytes for everybody, so that only what stands between differs."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

PATH: Final = "/v1/chat/completions"
MESSAGES_PATH: Final = "/v1/messages"
MODEL: Final = "assistant"
SDK_HEADERS: Final = {
    "Host": "127.0.0.1",
    # A gateway that compresses would pay for it here and nobody else would: everybody is asked for plain bytes.
    "Accept-Encoding": "identity",
    "Connection": "keep-alive",
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": "OpenAI/Python 2.9.0",
    "X-Stainless-Lang": "python",
    "X-Stainless-Package-Version": "2.9.0",
    "X-Stainless-OS": "Linux",
    "X-Stainless-Arch": "x64",
    "X-Stainless-Runtime": "CPython",
    "X-Stainless-Runtime-Version": "3.11.7",
    "X-Stainless-Async": "async:asyncio",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
}
"""What the official SDK sends along."""

WORD: Final = " gate"
"""Each event of a stream carries it, so a reader can count what arrived whatever was merged on the way."""
PROMPT_TOKENS: Final = 42
CACHED_TOKENS: Final = 8
ANSWER_TOKENS: Final = 17
PRICE: Final = {"input": "0.25", "cached_input": "0.025", "output": "2.00"}
"""USD per million tokens."""

_SERIAL: Final = b"00000000"
_KILO: Final = "The gatekeeper writes down who came, when, and what for; at night the book is closed and put away. "


class Ask(msgspec.Struct, frozen=True):
    """A request in two halves, between which goes a serial number that makes it unlike every other."""

    name: str
    before: bytes
    after: bytes
    stream: bool = False
    end: bytes = b"data: [DONE]"
    """What a stream that is whole ends with."""

    def numbered(self, serial: int) -> bytes:
        """The request as bytes; `serial` < 10^8."""
        return b"%b%08d%b" % (self.before, serial, self.after)


def chat() -> dict[str, object]:
    """A short chat, the body of most requests."""
    return _body([{"type": "text", "text": "Which of these three is a capital, and of what? Paris, Lyon, Nice."}])


def large_text(size: int = 1_000_000) -> dict[str, object]:
    """A chat with `size` bytes of prose."""
    return _body([{"type": "text", "text": (_KILO * (size // len(_KILO) + 1))[:size]}])


def large_image(size: int = 1_000_000) -> dict[str, object]:
    """A chat with an image part of `size` bytes of base64."""
    data = ("iVBORw0KGgoAAAANSUhEUgAAB4AAAAQ4CAYAAADo08FD" * (size // 44 + 1))[: size // 4 * 4]
    return _body([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}])


def _body(content: list[dict[str, object]]) -> dict[str, object]:
    words: object = content[0]["text"] if len(content) == 1 else content
    system = {"role": "system", "content": f"Answer in one word. Conversation {_SERIAL.decode()}."}
    return {"model": MODEL, "messages": [system, {"role": "user", "content": words}], "max_tokens": 64}


def messages(body: dict[str, object]) -> dict[str, object]:
    """The same short chat in Anthropic's words."""
    system, *rest = msgspec.convert(body["messages"], list[dict[str, object]])
    return {**body, "system": system["content"], "messages": rest}


def ask(
    name: str,
    body: dict[str, object],
    key: str,
    headers: Mapping[str, str] | None = None,
    *,
    stream: bool = False,
    translated: bool = False,
) -> Ask:
    """`body`, a chat, as a request that carries `key`; `translated` asks in Anthropic's words."""
    if translated:
        body = messages(body)
    text = json.dumps({**body, "stream": True} if stream else body, separators=(",", ":")).encode()
    fields = {**SDK_HEADERS, "Authorization": f"Bearer {key}", **(headers or {}), "Content-Length": str(len(text))}
    lines = "".join(f"{field}: {value}\r\n" for field, value in fields.items())
    start, _, end = text.partition(_SERIAL)
    head = f"POST {MESSAGES_PATH if translated else PATH} HTTP/1.1\r\n{lines}\r\n".encode()
    if translated:
        return Ask(name, head + start, end, stream, b"event: message_stop")
    return Ask(name, head + start, end, stream)


def usage(answer_tokens: int) -> dict[str, object]:
    """What the upstream says it used."""
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": answer_tokens,
        "total_tokens": PROMPT_TOKENS + answer_tokens,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
    }


def cost(answer_tokens: int) -> Decimal:
    """What one answer costs at PRICE, exactly."""
    per = {name: Decimal(usd) / 1_000_000 for name, usd in PRICE.items()}
    return (PROMPT_TOKENS - CACHED_TOKENS) * per["input"] + CACHED_TOKENS * per["cached_input"] + answer_tokens * per["output"]
