"""Shapes: how a secret is spelled, as values that are a regular expression and know their own beginnings.

A stream must hold back text that could still become a secret. Writing that second expression by hand beside the first
would let them drift apart, so both are derived: `pattern` is what matches, `start` is every non-empty beginning of
something that matches (whole matches included), `hint` is a weaker pattern with few states for the one-pass test.
"""

from typing import Final

import msgspec

_SHORTEST_HINT: Final = 6
"""Repetitions a hint asks for: enough to be rare in prose, few enough to keep the automaton small."""


class Shape(msgspec.Struct, frozen=True):
    """Regular expressions in RE2 syntax. `nullable`: the shape also matches nothing."""

    pattern: str
    start: str
    hint: str
    nullable: bool = False


def lit(text: str) -> Shape:
    """Exactly `text` (ASCII)."""
    pattern = start = ""
    for character in reversed(text):
        escaped = character if character.isalnum() else f"\\x{ord(character):02x}"
        pattern = escaped + pattern
        start = f"{escaped}(?:{start})?" if start else escaped
    return Shape(pattern, start, pattern)


def one(chars: str) -> Shape:
    """One of `chars`, written like the inside of a character class."""
    return Shape(f"[{chars}]", f"[{chars}]", f"[{chars}]")


def run(chars: str, least: int = 0) -> Shape:
    """`least` and more of `chars`. Without an upper bound on purpose: what is glued to the end of a secret goes with it."""
    return Shape(f"[{chars}]{{{least},}}", f"[{chars}]+", f"[{chars}]{{{min(least, _SHORTEST_HINT)},}}", nullable=not least)


def seq(*shapes: Shape) -> Shape:
    """One after the other."""
    *before, last = shapes
    start = last.start
    for shape in reversed(before):
        start = f"(?:{shape.start}|{shape.pattern}(?:{start}))"
    return Shape(
        "".join(shape.pattern for shape in shapes),
        start,
        "".join(shape.hint for shape in shapes),
        nullable=all(shape.nullable for shape in shapes),
    )


def either(*shapes: Shape) -> Shape:
    """Any one of them."""

    def joined(*patterns: str) -> str:
        return f"(?:{'|'.join(patterns)})"

    return Shape(
        joined(*(shape.pattern for shape in shapes)),
        joined(*(shape.start for shape in shapes)),
        joined(*(shape.hint for shape in shapes)),
        nullable=any(shape.nullable for shape in shapes),
    )


def maybe(shape: Shape) -> Shape:
    """It or nothing."""
    return Shape(f"(?:{shape.pattern})?", shape.start, f"(?:{shape.hint})?", nullable=True)


def some(shape: Shape) -> Shape:
    """Any number of them, none included."""
    return Shape(f"(?:{shape.pattern})*", f"(?:{shape.pattern})*(?:{shape.start})", f"(?:{shape.hint})*", nullable=True)
