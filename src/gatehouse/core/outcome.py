"""Who ended a call. Exactly one of these is written for each call, whatever happened."""

import enum


class Outcome(enum.StrEnum):
    """completed: the answer is whole. refused: a stage said no before a target was asked. failed: a target or we failed.
    client: the caller left. deadline: time was up. revoked: the key was. guard: a guard stopped a running answer.
    shutdown: we stopped. lost: the process died with the call open (written by the drain, never by a live worker)."""

    COMPLETED = "completed"
    REFUSED = "refused"
    FAILED = "failed"
    CLIENT = "client"
    DEADLINE = "deadline"
    REVOKED = "revoked"
    GUARD = "guard"
    SHUTDOWN = "shutdown"
    LOST = "lost"
