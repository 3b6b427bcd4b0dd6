"""What a refusal says beside its body, on whichever way it leaves the data port."""

import math

from gatehouse.core.errors import GatehouseError, Unavailable


def advice(status: int, error: GatehouseError) -> dict[str, str]:
    """What headers tell a client about an error: when to come back, and how to sign in."""
    fields = {}
    if error.retry_after is not None:
        fields["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if status == 401:
        fields["www-authenticate"] = "Bearer"
    return fields


def shutting_down() -> Unavailable:
    """What a request is told that comes, or is cut short, while the server ends."""
    return Unavailable("This server is shutting down; send the request again.", code="shutting_down", retry_after=1.0)
