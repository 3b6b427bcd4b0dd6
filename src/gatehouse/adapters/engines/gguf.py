"""The header of a GGUF file, read by ourselves: what is wrong with a model file is said before native code sees it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Only what decides is kept; arrays are skipped.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from gatehouse.core.calls import Call
from gatehouse.core.engine_messages import EngineRefused

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
MOST_ENTRIES: Final = 100_000
LONGEST_STRING: Final = 64 * 1024 * 1024
LARGEST_CONTEXT: Final = 8192
"""Tokens a slot holds unless the operator asks for more: memory grows with it."""
_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TOKENS: Final = "tokenizer.ggml.tokens"
_KINDS: Final = "tokenizer.ggml.token_type"
_KEPT: Final = frozenset({_TOKENS, _KINDS})
_SPECIAL: Final = (3, 4)
"""Token types: control, and defined by the user; llama.cpp reads both in a template's text."""
_STRING: Final = 8
_ARRAY: Final = 9
_FORMATS: Final = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class ModelFileRefused(Exception):
    """The file is not a model we can load; the text says why."""


class Header(msgspec.Struct, frozen=True):
    """What a GGUF file says of itself."""

    architecture: str
    name: str
    context_length: int
    tensors: int
    size: int
    """Bytes of the file."""
    control: tuple[str, ...] = ()
    """The vocabulary's control tokens as they are written: in a caller's text they must stay text."""
    vocabulary: int = 0
    """How many tokens there are; 0 when the file does not say."""
    pooling: int | None = None
    """How the vectors of a text become one (llama.cpp's number for it); None when the file does not say, as those that chat."""

    def check_tokens(self, call: Call) -> None:
        """Raises EngineRefused for a token id that the vocabulary does not have: native code is not asked what it makes of it."""
        for tokens in call.inputs:
            if not isinstance(tokens, str) and self.vocabulary and max(tokens) >= self.vocabulary:
                words = f"The embedded model's vocabulary has {self.vocabulary} tokens, and {max(tokens)} is none of them."
                raise EngineRefused("invalid_request", words, caller_fault=True)


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def take(self, count: int) -> bytes:
        if count > self._left:
            raise ModelFileRefused("the file ends inside its header: it is truncated")
        self._left -= count
        return self._file.read(count)

    def skip(self, count: int) -> None:
        if count > self._left:
            raise ModelFileRefused("the file ends inside its header: it is truncated")
        self._left -= count
        self._file.seek(count, 1)

    def number(self, kind: str) -> int:
        return int(struct.unpack(kind, self.take(struct.calcsize(kind)))[0])

    def length(self) -> int:
        length = self.number("<Q")
        if length > LONGEST_STRING:
            raise ModelFileRefused("the header has a string of a senseless length: the file is damaged")
        return length

    def text(self) -> str:
        return self.take(self.length()).decode("utf-8", "replace")

    def value(self, kind: int, *, keep: bool) -> object:
        """A scalar or a string; an array only when it is to be kept, else it is skipped and None."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array(keep=keep)
        if kind not in _SIZES:
            raise ModelFileRefused("the header has a value of an unknown type: the file is damaged")
        return struct.unpack(_FORMATS[kind], self.take(_SIZES[kind]))[0]

    def array(self, *, keep: bool) -> list[object] | None:
        kind, count = self.number("<I"), self.number("<Q")
        if kind != _STRING and kind not in _SIZES:
            raise ModelFileRefused("the header has an array of an unknown type: the file is damaged")
        if count > LONGEST_STRING:
            raise ModelFileRefused("the header has an array of a senseless length: the file is damaged")
        if kind == _STRING:
            if keep:
                return [self.text() for _ in range(count)]
            for _ in range(count):
                self.skip(self.length())
        elif keep:
            size = _SIZES[kind]
            data = self.take(size * count)
            return [struct.unpack_from(_FORMATS[kind], data, place)[0] for place in range(0, size * count, size)]
        else:
            self.skip(_SIZES[kind] * count)
        return None


def read_header(path: Path) -> Header:
    """The header of the file at `path`.

    Raises:
        ModelFileRefused: missing, unreadable, truncated, damaged, or of another format.
    """
    try:
        with path.open("rb") as file:
            return _parse(file, path.stat().st_size)
    except OSError as error:
        raise ModelFileRefused(f"the file cannot be read: {error.strerror}") from None


def read_context_length(path: Path) -> int:
    """The context length alone, read no further than it stands: vocabularies are long, and this is asked at every start.

    Raises:
        ModelFileRefused: as `read_header`, as far as it was read.
    """
    try:
        with path.open("rb") as file:
            reader = _Reader(file, path.stat().st_size)
            facts: dict[str, object] = {}
            for key, value in _entries(reader, _begin(file, reader)[1], frozenset()):
                facts[key] = value
                if (found := _context_length(facts)) is not None:
                    return found
    except OSError as error:
        raise ModelFileRefused(f"the file cannot be read: {error.strerror}") from None
    raise ModelFileRefused("the header tells no context length")


def slot_context(length: int, asked: int | None) -> int:
    """Tokens that a slot of an engine holds: what the operator `asked` for, within the model's own context `length`."""
    return min(asked or LARGEST_CONTEXT, length)


def _begin(file: BinaryIO, reader: _Reader) -> tuple[int, int]:
    """How many tensors and how many entries there are."""
    magic = file.read(4)
    file.seek(0)
    if magic != MAGIC:
        raise ModelFileRefused(_what(magic))
    reader.take(4)
    version = reader.number("<I")
    if version not in VERSIONS:
        raise ModelFileRefused(f"GGUF version {version} is not one of {', '.join(map(str, VERSIONS))}")
    tensors, entries = reader.number("<Q"), reader.number("<Q")
    if not 0 < tensors <= MOST_ENTRIES or not 0 < entries <= MOST_ENTRIES:
        raise ModelFileRefused("the header counts no tensors or senselessly many: the file is damaged")
    return tensors, entries


def _entries(reader: _Reader, entries: int, kept: frozenset[str]) -> Iterator[tuple[str, object]]:
    for _ in range(entries):
        key = reader.text()
        value = reader.value(reader.number("<I"), keep=key in kept)
        if value is not None:
            yield key, value


def _context_length(facts: dict[str, object]) -> int | None:
    context = facts.get(f"{facts.get('general.architecture')}.context_length")
    return context if isinstance(context, int) and context > 0 else None


def _parse(file: BinaryIO, size: int) -> Header:
    reader = _Reader(file, size)
    tensors, entries = _begin(file, reader)
    facts = dict(_entries(reader, entries, _KEPT))
    architecture = facts.get("general.architecture")
    if not isinstance(architecture, str):
        raise ModelFileRefused("the header names no architecture")
    context = _context_length(facts)
    if context is None:
        raise ModelFileRefused("the header tells no context length")
    _check_tensors(reader, tensors, size, facts)
    name, tokens, pooling = str(facts.get("general.name") or ""), facts.get(_TOKENS), facts.get(f"{architecture}.pooling_type")
    vocabulary = len(tokens) if isinstance(tokens, list) else 0
    pooled = pooling if isinstance(pooling, int) else None
    return Header(architecture, name, context, tensors, size, _control(facts), vocabulary, pooled)


def _control(facts: dict[str, object]) -> tuple[str, ...]:
    tokens, kinds = facts.get(_TOKENS), facts.get(_KINDS)
    if not isinstance(tokens, list) or not isinstance(kinds, list) or len(tokens) != len(kinds):
        return ()
    found = {str(token) for token, kind in zip(tokens, kinds, strict=True) if kind in _SPECIAL and len(str(token)) > 1}
    return tuple(sorted(found, key=len, reverse=True))


def _check_tensors(reader: _Reader, tensors: int, size: int, facts: dict[str, object]) -> None:
    """The last tensor must begin inside the file, or the weights are cut off."""
    furthest = 0
    for _ in range(tensors):
        reader.text()
        dimensions = reader.number("<I")
        if dimensions > 8:
            raise ModelFileRefused("a tensor has senselessly many dimensions: the file is damaged")
        elements = 1
        for _ in range(dimensions):
            elements *= reader.number("<Q")
        reader.number("<I")
        # Whatever the quantisation, a weight takes at least a bit.
        furthest = max(furthest, reader.number("<Q") + elements // 8)
    if furthest > size:
        raise ModelFileRefused("the weights are cut off: the file is truncated")


def _what(magic: bytes) -> str:
    if magic[:2] == b"PK" or magic[:1] == b"\x80":
        return "this is a pickle or a PyTorch archive, which can run code; only GGUF files are loaded"
    if not magic:
        return "the file is empty"
    return "this is not a GGUF file"
