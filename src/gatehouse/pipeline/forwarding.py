"""What a target is told beside the question: who asks, tags, whether to store it, where it stands in a trace. By policy only.

Every call passes here on its way to any model, whatever format that speaks, so that no adapter can forget it. By default
nothing of it goes out. What a call only advises goes to targets that know the field.
`tracestate` and `baggage` never do, nor does any other header of the caller.
"""

import hashlib
import hmac
from typing import Any, Final

from msgspec.structs import replace

from gatehouse.core.advice import advises
from gatehouse.core.calls import Call
from gatehouse.core.plans import Target
from gatehouse.core.traces import child_traceparent, parse_traceparent
from gatehouse.pipeline.attempt import Attempt
from gatehouse.pipeline.exchange import Exchange

_TRACE_HEADER: Final = b"traceparent"
_USER_FIELDS: Final = ("safety_identifier",)
"""Fields among `extra` that name the end user as `user` does."""
_MAY_NAME_USER: Final = ("prompt_cache_key",)
"""Fields in which applications put who is asking, though they are there for something else; a model that lists one passes it on."""
_STORE: Final = "store"
_NOTHING: Final[frozenset[str]] = frozenset()
_HASH_BYTES: Final = 16


class Forwarding:
    """Applies each target's `Forward`. `key` is for hashes of end users; without one a policy of hashing tells nothing."""

    def __init__(self, key: bytes = b"") -> None:
        self._key = key

    def __repr__(self) -> str:
        return "Forwarding(***)"

    def shown(self, x: Exchange, call: Call, target: Target, attempt: Attempt) -> Call:
        """`call` as `target` may see it; sets `attempt.traceparent` where the target may have one."""
        if target.forward.traceparent:
            came = x.head.headers.get(_TRACE_HEADER)
            parent = None if came is None else parse_traceparent(came)
            if parent is not None:
                attempt.traceparent = child_traceparent(parent, x.request_id, attempt.number)
        if call.user is None and not call.metadata and not call.extra:
            return call
        listed = x.plan.extra_fields if x.plan is not None else _NOTHING
        return self._shown(call, target, listed, attempt.tenant)

    def hashed(self, user: str, provider: str, tenant: str) -> str | None:
        """The name under which an end user is known to one provider: another one than to any other, and than in our ledger."""
        if not self._key:
            return None
        words = f"{provider}\0{tenant}\0{user}".encode("utf-8", "surrogatepass")
        return f"u_{hmac.digest(self._key, words, hashlib.sha256)[:_HASH_BYTES].hex()}"

    def _shown(self, call: Call, target: Target, listed: frozenset[str], tenant: str) -> Call:
        policy = target.forward

        def named(user: Any) -> str | None:
            if not isinstance(user, str) or not user or policy.user == "off":
                return None
            return user if policy.user == "plain" else self.hashed(user, target.provider, tenant)

        extra = {}
        for field, value in call.extra.items():
            if field not in listed and field not in target.advice and advises(field, value):
                continue  # asked of whoever knows it, and this target does not
            if field in _USER_FIELDS or (field in _MAY_NAME_USER and field not in listed):
                if (name := named(value)) is not None:
                    extra[field] = name
            elif field != _STORE or policy.store or value is False:
                # To ask that nothing is stored needs no policy.
                extra[field] = value
        return replace(call, user=named(call.user), metadata=call.metadata if policy.metadata else {}, extra=extra)
