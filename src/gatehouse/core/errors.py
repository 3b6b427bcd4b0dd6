"""The one error tree: what went wrong, in words that are safe to show, and what the caller can do.

    GatehouseError
    ├── InvalidRequest        the request is at fault (400)
    │   ├── ContextTooLong    the prompt does not fit the model (400)
    │   └── TooLarge          a size limit was passed (413)
    ├── Unauthenticated       no key, or not a good one (401)
    ├── Forbidden             a good key without the grant (403)
    ├── NotFound              no such model or object (404)
    ├── Blocked               a guard refused the content (400)
    ├── LimitExceeded         a rate, concurrency or budget limit (429)
    ├── Timeout               the caller was too slow to send (408)
    ├── Unavailable           overloaded, draining or a dependency is down (503)
    ├── UpstreamFailed        the model behind us failed (502; 503 unreachable or overloaded, 504 too slow)
    └── Internal              our own fault (500)

`message` is public: it never holds a secret, an upstream's body or a path of the machine. What operators may know and
callers may not goes to `detail`, which only logs and traces show.
"""

from typing import ClassVar


class GatehouseError(Exception):
    """Base of everything that ends a call in a way the caller is told about."""

    kind: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.kind
        """Machine-readable, from a closed set: the default is the kind."""
        self.param = param
        """The field at fault, as the caller wrote it ("messages[0].content")."""
        self.retry_after = retry_after
        """Seconds after which a retry can succeed; None when it cannot or nobody knows."""
        self.detail = detail


class InvalidRequest(GatehouseError):
    """The request is at fault; sending it again unchanged will fail again."""

    kind = "invalid_request"


class ContextTooLong(InvalidRequest):
    """The prompt does not fit the context of any eligible target."""

    kind = "context_length_exceeded"


class TooLarge(InvalidRequest):
    """A size limit was passed; `param` names what was too large."""

    kind = "too_large"


class Unauthenticated(GatehouseError):
    """No credential, or one that is unknown, revoked or expired; which of them is not told."""

    kind = "unauthenticated"


class Forbidden(GatehouseError):
    """A good credential without the grant."""

    kind = "forbidden"


class NotFound(GatehouseError):
    """No such model, path or object, or none that this caller may know of."""

    kind = "not_found"


class Blocked(GatehouseError):
    """A guard refused the content; the rule's id is in `code`."""

    kind = "blocked"


class LimitExceeded(GatehouseError):
    """A limit of the caller is used up; `code` is rate_limit_exceeded, concurrency_exceeded or insufficient_quota."""

    kind = "limit_exceeded"


class Timeout(GatehouseError):
    """The caller was too slow to send its request."""

    kind = "timeout"


class Unavailable(GatehouseError):
    """This service cannot take the call now: overload, shutdown, or a part it needs is down. Never the caller's fault."""

    kind = "unavailable"


class UpstreamFailed(GatehouseError):
    """A target failed. `code` is one of upstream_unreachable, upstream_timeout, upstream_rejected, upstream_overloaded,
    upstream_auth, upstream_invalid, upstream_broken (died after the first byte)."""

    kind = "upstream_failed"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        retry_after: float | None = None,
        detail: str = "",
        sent: bool = True,
        caller_fault: bool = False,
        too_large: bool = False,
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after, detail=detail)
        self.sent = sent
        """False when certainly nothing of the request reached the target."""
        self.caller_fault = caller_fault
        """True when the request itself is at fault, which is told as a 400: the target refused it (its 400, 413, 422), or with
        `sent` False its format has no words for it."""
        self.too_large = too_large
        """True beside `caller_fault` when the target takes no request of this size, which is told as a 413."""

    @property
    def final(self) -> bool:
        """Whether no other target is to be tried: one has looked at the request and found fault with it. Who finds it too large has
        not looked, and another may take more."""
        return self.caller_fault and self.sent and not self.too_large


class Internal(GatehouseError):
    """A fault of ours; the message says no more than that, the log says the rest under the request id."""

    kind = "internal"
