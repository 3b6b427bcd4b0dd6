"""Fields of OpenAI's API that other formats have no place for and need none: they ask nothing of the model.

`store` says whether an answer may be read again later, which no other API keeps; `safety_identifier` says who asks; the others
only advise. A model that lists one of them may have targets of several formats.
"""

from typing import Final

NOT_ASKED: Final = frozenset({"safety_identifier", "store", "prompt_cache_key", "prompt_cache_retention", "verbosity"})
