"""A streamed chat answer, read with nothing but the standard library: what `gatehouse chat` shows and measures.

The other side of the connection is the user's own gateway, but what it passes on was written by a model: it is data here, and
never reaches a terminal before `for_terminal` has been through it.
"""

import http.client
import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self
from unicodedata import category

import msgspec

from gatehouse.cli.client import CommandError, Door, refusal

PATH: Final = "/v1/chat/completions"
_HARMLESS: Final = frozenset("\n\t\u200c\u200d")
"""Not printable by the letter, and needed: line breaks, and the joiners of scripts and emoji."""
_MARK: Final = "\N{REPLACEMENT CHARACTER}"
LONGEST_LINE: Final = 8 * 1024 * 1024
SILENCE_SECONDS: Final = 660.0
"""Longer than any deadline of the server: it tells sooner, and better, what is wrong."""


class Piece(msgspec.Struct, frozen=True):
    """Some of the answer; `reasoning` is what the model thinks aloud."""

    text: str = ""
    reasoning: str = ""


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Gatehouse(msgspec.Struct, frozen=True):
    cost_usd: str | None = None


class _Error(msgspec.Struct, frozen=True):
    message: str = "The stream broke off."
    code: str | None = None


class _Event(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    gatehouse: _Gatehouse | None = None
    error: _Error | None = None


class Told(msgspec.Struct):
    """What is known of a call when its stream has ended. Times are seconds; `first` and `took` count from the request."""

    model: str
    request_id: str = ""
    target: str = ""
    cache: str = ""
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: str | None = None
    first: float | None = None
    took: float = 0.0
    complete: bool = False

    @property
    def tokens_per_second(self) -> float | None:
        """Of the answer after its first piece; of the whole time where the most of that was over by then, because a guard may hold
        the beginning back and several tokens may come at once. None when there is too little to tell."""
        if self.completion_tokens is None or self.completion_tokens < 2 or self.first is None or self.took <= self.first:
            return None
        after = self.took - self.first
        return self.completion_tokens / self.took if after < self.took / 2 else (self.completion_tokens - 1) / after


class ChatStream:
    """One call. A context manager: leaving it closes the connection, which is how the server learns that nobody listens any more."""

    def __init__(self, door: Door, model: str, messages: list[dict[str, str]]) -> None:
        self.told = Told(model)
        self._door = door
        self._body: dict[str, Any] = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._connection is not None:
            self._connection.close()

    def pieces(self) -> Iterator[Piece]:
        """The answer as it comes.

        Raises:
            CommandError: refused, or broken off before its end; `told` has what was known until then.
        """
        told, began = self.told, time.monotonic()
        self._connection, response = self._door.send("POST", PATH, json.dumps(self._body).encode(), SILENCE_SECONDS)
        headers = response.headers
        told.request_id, told.target = headers.get("x-gatehouse-request-id", ""), headers.get("x-gatehouse-target", "")
        told.cache = headers.get("x-gatehouse-cache", "")
        try:
            if response.status != 200:
                raise CommandError(_refused(response, told.request_id))
            if not headers.get("content-type", "").startswith("text/event-stream"):
                raise CommandError(f"What answers at {self._door.where} is not the data port of a Gatehouse.")
            for data in frames(response):
                if data == "[DONE]":
                    told.complete = True
                    return
                piece = self._take(data)
                if piece is not None:
                    if told.first is None:
                        told.first = time.monotonic() - began
                    yield piece
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(f"The answer broke off ({type(error).__name__}).") from None
        finally:
            told.took = time.monotonic() - began
            response.close()
        raise self._broken("The answer broke off before its end.")

    def _broken(self, words: str) -> CommandError:
        return CommandError(f"{words} [{self.told.request_id}]" if self.told.request_id else words)

    def _take(self, data: str) -> Piece | None:
        try:
            event = msgspec.json.decode(data, type=_Event)
        except msgspec.DecodeError:
            raise self._broken("The server sent something that is not a piece of an answer.") from None
        told = self.told
        if event.error is not None:
            code = f" ({event.error.code})" if event.error.code else ""
            raise self._broken(f"{event.error.message}{code}")
        if event.usage is not None:
            told.prompt_tokens, told.completion_tokens = event.usage.prompt_tokens, event.usage.completion_tokens
        if event.gatehouse is not None:
            told.cost_usd = event.gatehouse.cost_usd
        if not event.choices:
            return None
        choice = event.choices[0]
        told.finish = choice.finish_reason or told.finish
        piece = Piece((choice.delta.content or "") + (choice.delta.refusal or ""), choice.delta.reasoning_content or "")
        return piece if piece.text or piece.reasoning else None


def frames(response: http.client.HTTPResponse) -> Iterator[str]:
    """The data of each server-sent event (WHATWG's rules, as far as data goes). Ends where the body ends."""
    data: list[str] = []
    while line := response.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise CommandError("The server sent a line that is too long to be a piece of an answer.")
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            if data:
                yield "\n".join(data)
            data = []
        elif text.startswith("data:"):
            data.append(text[5:].removeprefix(" "))


def for_terminal(text: str) -> str:
    """Text from outside without what a terminal would obey: control characters and those that turn text around become marks."""
    return "".join(c if c.isprintable() or c in _HARMLESS else " " if category(c) == "Zs" else _MARK for c in text.replace("\r\n", "\n"))


def _refused(response: http.client.HTTPResponse, request_id: str) -> str:
    words = refusal(response.status, response.read(1024 * 1024))
    wait = response.headers.get("retry-after")
    if wait and wait.isdecimal():
        words += f" Try again in {wait} s."
    return f"{words} [{request_id}]" if request_id else words
