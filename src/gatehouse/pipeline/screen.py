"""The screen: one answer passing a guard. Events leave in the order they came, each as soon as its text is decided.

An event whose text is clean leaves as the object that came, raw bytes and all. One that shows part of a finding is made
anew without raw bytes and logprobs. Text, reasoning, refusal, the tokens of logprobs and each tool's arguments are texts of their own in
each choice; a tool's id and name come in one piece and are decided with it.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from gatehouse.core.events import Answer, Choice, ChoiceDelta, Chunk
from gatehouse.core.normalise import Normaliser
from gatehouse.core.ports import Scanner
from gatehouse.pipeline.margins import tokens
from gatehouse.pipeline.sieve import Sieve, redacted

Action = Literal["block", "redact", "flag"]

_TEXT: Final = "text"
_NAME: Final = "name "
_PLAIN_FIELDS: Final = ("reasoning", "refusal")
_MOST_HELD: Final = 16_384
"""Events that wait at most: an answer that needs more is cut off rather than kept in memory."""


class Found(Exception):
    """The answer holds what the policy does not let out."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class _Piece(msgspec.Struct, frozen=True, gc=False):
    """The text that one event adds to one sieve: characters [start, end) of it."""

    sieve: Sieve
    start: int
    end: int


class Screen:
    """State of one answer. `rules` are the rules that found something so far."""

    __slots__ = ("_action", "_normaliser", "_others", "_quiet", "_scanner", "_texts", "_unsigned", "_waiting", "rules")

    def __init__(self, scanner: Scanner, normaliser: Normaliser, action: Action, quiet: frozenset[str] = frozenset()) -> None:
        self._scanner = scanner
        self._normaliser = normaliser
        self._action = action
        self._quiet = quiet
        self._texts: dict[int, Sieve] = {}
        self._others: dict[tuple[int, str], Sieve] = {}
        self._waiting: deque[tuple[Chunk, tuple[_Piece, ...]]] = deque()
        self._unsigned: set[int] = set()
        """Choices whose reasoning was changed: a proof of what was thought proves nothing any more."""
        self.rules: list[str] = []

    def take(self, chunk: Chunk) -> Chunk | list[Chunk]:
        """What may leave now that `chunk` came: `chunk` itself, or a list that may be empty.

        Raises:
            Found: a finding is decided and the action is block.
            ValueError: the scanner broke its promises, or too much would have to wait.
        """
        choices = chunk.choices
        if not self._waiting:
            if len(choices) == 1:
                choice = choices[0]
                if not (choice.tools or choice.reasoning or choice.refusal or choice.logprobs):
                    text = choice.text
                    if not text:
                        return chunk if not self._unsigned else self._without_proof(chunk) or []
                    sieve = self._texts.get(choice.index) or self._sieve(choice.index, _TEXT)
                    if sieve.passes(text):
                        return chunk
            elif not choices:
                return chunk
        return self._hold(chunk)

    def finish(self) -> list[Chunk]:
        """The answer has ended: what still waits, decided.

        Raises:
            Found: as `take`.
        """
        for sieve in (*self._texts.values(), *self._others.values()):
            sieve.finish()
            self._note(sieve)
        return list(self._decided())

    def _sieve(self, index: int, channel: str) -> Sieve:
        known = self._others.get((index, channel)) if channel != _TEXT else self._texts.get(index)
        if known is None:
            known = Sieve(self._scanner, self._normaliser, self._quiet)
            if channel == _TEXT:
                self._texts[index] = known
            else:
                self._others[index, channel] = known
        return known

    def _hold(self, chunk: Chunk) -> Chunk | list[Chunk]:
        pieces = tuple(self._pieces(chunk))
        for piece in pieces:
            self._note(piece.sieve)
        if self._action == "flag" or (not self._waiting and not _touched(pieces)):
            return chunk
        self._waiting.append((chunk, pieces))
        if len(self._waiting) > _MOST_HELD:
            raise ValueError("too many events between the beginning and the end of a possible match")
        return list(self._decided())

    def _pieces(self, chunk: Chunk) -> Iterator[_Piece]:
        for choice in chunk.choices:
            for channel, text in _texts_of(choice):
                sieve = self._sieve(choice.index, channel)
                start = sieve.length
                if not sieve.passes(text):
                    sieve.feed(text)
                    if channel.startswith(_NAME):
                        sieve.finish()
                yield _Piece(sieve, start, sieve.length)

    def _note(self, sieve: Sieve) -> None:
        for rule in sieve.rules:
            if rule not in self.rules:
                self.rules.append(rule)
        if sieve.spots:
            if self._action == "block":
                raise Found(sieve.spots[0].rule)
            if self._action == "flag":
                sieve.spots.clear()

    def _decided(self) -> Iterator[Chunk]:
        waiting = self._waiting
        while waiting:
            chunk, pieces = waiting[0]
            if any(piece.end > piece.sieve.decided for piece in pieces):
                return
            waiting.popleft()
            rewritten: Chunk | None = chunk
            if any(_spotted(piece) for piece in pieces):
                self._unsigned |= {choice.index for choice in chunk.choices if self._changes_reasoning(choice, pieces)}
                rewritten = _rewritten(chunk, pieces)
            if self._unsigned and rewritten is not None:
                rewritten = self._without_proof(rewritten)
            for piece in pieces:
                spots = piece.sieve.spots
                while spots and spots[0].end <= piece.end:
                    del spots[0]
            if rewritten is not None:
                yield rewritten

    def _changes_reasoning(self, choice: ChoiceDelta, pieces: tuple[_Piece, ...]) -> bool:
        sieve = self._others.get((choice.index, "reasoning")) if choice.reasoning else None
        return sieve is not None and any(piece.sieve is sieve and _spotted(piece) for piece in pieces)

    def _without_proof(self, chunk: Chunk) -> Chunk | None:
        """The event without signatures of reasoning that was changed; None when nothing of it is left."""
        if not any(choice.signature and choice.index in self._unsigned for choice in chunk.choices):
            return chunk
        choices = [replace(choice, signature="") if choice.index in self._unsigned else choice for choice in chunk.choices]
        kept = tuple([choice for choice in choices if not _is_empty(choice)])
        return replace(chunk, choices=kept, raw=b"") if kept or chunk.usage is not None else None


def _texts_of(choice: ChoiceDelta) -> Iterator[tuple[str, str]]:
    """The texts one delta adds to, by channel. The order is that of `_rewritten`."""
    if choice.text:
        yield _TEXT, choice.text
    if choice.reasoning:
        yield "reasoning", choice.reasoning
    if choice.refusal:
        yield "refusal", choice.refusal
    if choice.logprobs:
        yield "logprobs", tokens(choice.logprobs)
    for tool in choice.tools:
        if tool.id:
            yield f"{_NAME}id {tool.index}", tool.id
        if tool.name:
            yield f"{_NAME}{tool.index}", tool.name
        if tool.arguments:
            yield f"arguments {tool.index}", tool.arguments


def _touched(pieces: tuple[_Piece, ...]) -> bool:
    """Whether any piece is undecided or shows part of a finding."""
    return any(piece.end > piece.sieve.decided or piece.sieve.spots for piece in pieces)


def _spotted(piece: _Piece) -> bool:
    return any(spot.start < piece.end and spot.end > piece.start for spot in piece.sieve.spots)


def _rewritten(chunk: Chunk, pieces: tuple[_Piece, ...]) -> Chunk | None:
    """The event without what was found, or None when nothing of it is left."""
    following = iter(pieces)

    def without(text: str | None) -> str:
        if not text:
            return ""
        piece = next(following)
        return redacted(text, piece.start, piece.sieve.spots)

    def without_tokens(logprobs: Any) -> Any:
        if not logprobs:
            return logprobs
        piece = next(following)
        return None if _spotted(piece) else logprobs

    choices = []
    for old in chunk.choices:
        text, reasoning, refusal = without(old.text), without(old.reasoning), without(old.refusal)
        spelled = without_tokens(old.logprobs)
        tools = [
            replace(tool, id=without(tool.id) or tool.id, name=without(tool.name) or tool.name, arguments=without(tool.arguments))
            for tool in old.tools
        ]
        new = replace(old, text=text, reasoning=reasoning, refusal=refusal, tools=tuple(tools), logprobs=spelled)
        choices.append(old if new == old else replace(new, logprobs=None))
    kept = tuple(choice for choice in choices if not _is_empty(choice))
    if not kept and chunk.usage is None:
        return None
    return replace(chunk, choices=kept, raw=b"")


def _is_empty(choice: ChoiceDelta) -> bool:
    tools = any(tool.id is not None or tool.name is not None or tool.arguments for tool in choice.tools)
    said = choice.text or choice.reasoning or choice.refusal or tools or choice.signature or choice.redacted
    return not (said or choice.finish or choice.begins or choice.logprobs)


def plain_answer(answer: Answer) -> str:
    """Every text of a whole answer, one below the other, in the order of `answer_texts`."""
    if len(answer.choices) == 1:
        choice = answer.choices[0]
        if not (choice.reasoning or choice.refusal or choice.tools or choice.logprobs):
            return choice.text or ""
    return "\n".join([text for _, text in answer_texts(answer)])


def answer_texts(answer: Answer) -> Iterator[tuple[str, str]]:
    """Every text of a whole answer with its place."""
    for number, choice in enumerate(answer.choices):
        for field in (_TEXT, *_PLAIN_FIELDS):
            if text := getattr(choice, field):
                yield f"choices[{number}].{field}", text
        if choice.logprobs:
            yield f"choices[{number}].logprobs", tokens(choice.logprobs)
        for index, tool in enumerate(choice.tools):
            yield f"choices[{number}].tools[{index}].id", tool.id
            yield f"choices[{number}].tools[{index}].name", tool.name
            yield f"choices[{number}].tools[{index}].arguments", tool.arguments


def rewritten_answer(answer: Answer, changes: dict[str, str]) -> Answer:
    """`answer` with the texts at the places that are keys of `changes` replaced; without raw bytes, and without the logprobs of
    the choices that changed."""
    choices = []
    for number, old in enumerate(answer.choices):
        fields = {field: changes.get(f"choices[{number}].{field}", getattr(old, field)) for field in (_TEXT, *_PLAIN_FIELDS)}
        tools = tuple(
            replace(
                tool,
                id=changes.get(f"choices[{number}].tools[{index}].id", tool.id),
                name=changes.get(f"choices[{number}].tools[{index}].name", tool.name),
                arguments=changes.get(f"choices[{number}].tools[{index}].arguments", tool.arguments),
            )
            for index, tool in enumerate(old.tools)
        )
        new: Choice = replace(old, tools=tools, **fields)
        if f"choices[{number}].logprobs" in changes:
            new = replace(new, logprobs=None)
        if new.reasoning != old.reasoning:
            new = replace(new, signature=None)
        choices.append(old if new == old else replace(new, logprobs=None))
    return replace(answer, choices=tuple(choices), raw=b"")
