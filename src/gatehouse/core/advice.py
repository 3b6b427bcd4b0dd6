"""Fields that a `Call` has no place for and that ask nothing of a model: they say what happens anyway, or only advise.

An application written for OpenAI sends them whatever stands behind, so every model takes them, and a target is told those
that it knows (`Target.advice`). The same names with other values change what is done (`store: true`, `service_tier: flex`)
and are no advice.
"""

from typing import Any, Final

LONGEST_NAME: Final = 512
"""Characters of a name for a user or for a part of a cache, as in `user`."""
_WORDS: Final[dict[str, frozenset[str]]] = {
    "service_tier": frozenset({"auto", "default"}),
    "verbosity": frozenset({"low", "medium", "high"}),
    "prompt_cache_retention": frozenset({"in_memory", "in-memory"}),
}
_NAMES: Final = frozenset({"safety_identifier", "prompt_cache_key"})

ADVICE: Final = frozenset({"store", "modalities", *_WORDS, *_NAMES})
"""The names of all of them."""


def advises(name: str, value: Any) -> bool:
    """Whether a field asks for nothing."""
    if name == "store":
        return value is False
    if name == "modalities":
        return bool(value == ["text"])
    if not isinstance(value, str):
        return False
    return value in _WORDS[name] if name in _WORDS else name in _NAMES and len(value) <= LONGEST_NAME
