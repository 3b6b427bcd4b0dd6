"""Pieces of an answer that were said at about the same time: one piece instead of many. Pure."""

from collections.abc import Sequence

import msgspec

from gatehouse.core.events import Chunk


def together(chunks: Sequence[Chunk]) -> list[Chunk]:
    """The same with what follows each other in one choice, texts or thoughts, in one piece."""
    made: list[Chunk] = []
    texts: list[str] = []

    def close() -> None:
        if len(texts) > 1:
            last = made[-1]
            (delta,) = last.choices
            changes = {"reasoning" if delta.reasoning else "text": "".join(texts)}
            made[-1] = msgspec.structs.replace(last, choices=(msgspec.structs.replace(delta, **changes),))
        texts.clear()

    key = None
    for chunk in chunks:
        found = _alike(chunk)
        if found is None or found != key:
            close()
            made.append(chunk)
        key = found
        if found is not None:
            texts.append(chunk.choices[0].text or chunk.choices[0].reasoning)
    close()
    return made


def says(chunk: Chunk) -> bool:
    """Whether there is anything to read in it."""
    return any(delta.text or delta.reasoning for delta in chunk.choices)


def _alike(chunk: Chunk) -> tuple[int, bool] | None:
    """Pieces for which this is the same can be one; None for a piece that is to stay as it is."""
    if len(chunk.choices) != 1 or chunk.usage is not None:
        return None
    (delta,) = chunk.choices
    if delta.begins or delta.finish or bool(delta.text) == bool(delta.reasoning):
        return None
    return delta.index, bool(delta.reasoning)
