"""One line of the audit log: who did what, when, to what, under which policy, and how it ended. Metadata only; contents never.

A call's `commitment` is a keyed HMAC over its canonical form: it proves later what was asked without telling it.
"""

import msgspec


class AuditEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """`kind` is call, admin or system; `action` e.g. "chat", "key.create", "config.reload"; `subject` the request or object id.

    `detail` is flat and small: strings only, escaped on the way out. `at` is seconds since the epoch.
    """

    at: float
    kind: str
    action: str
    actor: str
    tenant: str
    subject: str
    outcome: str
    detail: dict[str, str] = {}
    commitment: bytes = b""
