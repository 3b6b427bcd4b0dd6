"""A small embedding model for tests: the built-in one under a header that says how its vectors become one."""

import struct
from pathlib import Path

from gatehouse.adapters.engines import gguf
from gatehouse.models import builtin_path

MEAN = 1
_ALIGNMENT = 32
_ENTRIES_AT = 16
"""Where a GGUF file says how many entries its header has."""


def write_embedding_model(path: Path) -> Path:
    """Write it to `path`."""
    content = builtin_path().read_bytes()
    with builtin_path().open("rb") as file:
        gguf._parse(file, len(content))
        end = file.tell()
    key = b"llama.pooling_type"
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, MEAN)
    (entries,) = struct.unpack_from("<Q", content, _ENTRIES_AT)
    header = content[:_ENTRIES_AT] + struct.pack("<Q", entries + 1) + entry + content[_ENTRIES_AT + 8 : end]
    path.write_bytes(header + bytes(-len(header) % _ALIGNMENT) + content[end + -end % _ALIGNMENT :])
    return path
