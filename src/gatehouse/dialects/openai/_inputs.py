"""Prompts and inputs that are texts or token ids, one of them or many, both ways."""

from typing import Annotated, Any

from msgspec import Meta

from gatehouse.dialects._json import invalid

TokenNumber = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Tokens = Annotated[list[TokenNumber], Meta(min_length=1, max_length=1_000_000)]
Inputs = str | Annotated[list[str | TokenNumber | Tokens], Meta(min_length=1, max_length=1_000_000)]
"""A text, texts, a list of token ids, or lists of them; which of them a list is, `read_inputs` says."""


def read_inputs(given: Any, field: str, most: int) -> tuple[str | tuple[int, ...], ...]:
    """What was given as core holds it: every text, and every list of token ids, by itself.

    Raises:
        InvalidRequest: kinds are mixed, or there are more than `most`.
    """
    if isinstance(given, str):
        return (given,)
    kind = type(given[0])
    for index, item in enumerate(given):
        if type(item) is not kind:
            raise invalid(f"{field}[{index}]", "texts and token ids cannot be mixed in one list.")
    if kind is int:
        return (tuple(given),)
    if len(given) > most:
        raise invalid(field, f"may hold {most} inputs, not {len(given)}.")
    return tuple(given) if kind is str else tuple([tuple(item) for item in given])


def write_inputs(inputs: tuple[str | tuple[int, ...], ...]) -> Any:
    """One input by itself, several as a list."""
    return inputs[0] if len(inputs) == 1 else inputs
