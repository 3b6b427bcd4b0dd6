"""Gatehouse: one door to every language model in an organisation.

    from gatehouse import Gatehouse

Importing the package loads nothing; what is named here is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatehouse.compose.library import Completion as Completion
    from gatehouse.compose.library import Gatehouse as Gatehouse
    from gatehouse.compose.reply import Reply as Reply
else:

    def __getattr__(name: str) -> object:
        if name not in {"Completion", "Gatehouse", "Reply"}:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from gatehouse.compose import library  # noqa: PLC0415 - the library's parts are loaded when they are wanted

        return getattr(library, name)


__version__ = "0.1.0"
__all__ = ["Completion", "Gatehouse", "Reply", "__version__"]
