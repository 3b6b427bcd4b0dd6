"""The model that comes with the package, so that a first answer needs no network: data only, and the way to it.

What it is, how it was made and how well it does stand in `models/tiny/README.md` of the repository.
"""

from importlib.resources import files
from pathlib import Path

__all__ = ["builtin_path"]


def builtin_path() -> Path:
    """Path of `tiny.gguf` (GGUF v3, llama architecture, q8_0, 2,048 tokens of context).

    The engine maps the file into memory, so the package must lie unpacked on disk, as pip installs it.
    """
    return Path(str(files(__name__).joinpath("tiny.gguf")))
