"""What can go wrong, for programs that use the library: every error of a call, and those of a start.

from gatehouse.errors import GatehouseError, LimitExceeded
"""

from gatehouse.compose.start import StartError
from gatehouse.core.errors import (
    Blocked,
    ContextTooLong,
    Forbidden,
    GatehouseError,
    Internal,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Timeout,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)
from gatehouse.operator_file import SettingsError

__all__ = [
    "Blocked",
    "ContextTooLong",
    "Forbidden",
    "GatehouseError",
    "Internal",
    "InvalidRequest",
    "LimitExceeded",
    "NotFound",
    "SettingsError",
    "StartError",
    "Timeout",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "UpstreamFailed",
]
