"""What an error of Cohere's means: `{"message": ...}` under a status, 498 among them for a token that is not good."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gatehouse.core.errors import UpstreamFailed
from gatehouse.dialects._failures import failure


class _Body(msgspec.Struct, gc=False):
    message: Any = None


def decode_error(status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamFailed:
    """What an error answer means: whose fault, whether waiting helps, what the caller may be told."""
    try:
        said = msgspec.json.decode(body, type=_Body).message
    except (ValueError, RecursionError):
        said = None
    return failure(401 if status == 498 else status, headers, said)
