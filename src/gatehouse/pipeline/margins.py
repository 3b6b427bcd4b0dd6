"""What stands in the margins of an answer: its id, the names of model and build, and the tokens that log-probabilities tell.

A target chooses them all, so whoever reads answers reads them too. Ids and names are the same in every event of an answer and are
read when they change. Of log-probabilities only the tokens of the answer are read: alternatives are single tokens.
"""

from typing import Any, Final

from msgspec.structs import replace

from gatehouse.core.events import Event

LONGEST: Final = 256
"""Characters of an id or a name."""


class Margins:
    """State of one answer. What cannot stand is replaced by the call's own id, the model that was asked for, and nothing."""

    __slots__ = ("_fingerprint", "_id", "_model", "_request_id", "well")

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._id = self._model = ""
        self._fingerprint: str | None = None
        self.well = True
        """Whether what was seen last may leave."""

    def are_new(self, event: Event) -> bool:
        """Whether the margins are others than those of the event before; these are then the ones that `well` is about."""
        if event.id == self._id and event.model == self._model and event.fingerprint == self._fingerprint:
            return False
        self._id, self._model, self._fingerprint = event.id, event.model, event.fingerprint
        self.well = fit(event)
        return True

    def clean(self, event: Event) -> Event:
        """`event` itself, or without margins that cannot stand."""
        return event if self.well else replace(event, id=self._request_id, model="", fingerprint=None, raw=b"")


def written(event: Event) -> str:
    """Id and names, one a line."""
    return f"{event.id}\n{event.model}\n{event.fingerprint or ''}"


def fit(event: Event) -> bool:
    """Whether id and names are what they should be: short, and nothing that a terminal or a log would act on."""
    return (
        len(event.id) <= LONGEST
        and len(event.model) <= LONGEST
        and event.id.isprintable()
        and event.model.isprintable()
        and (event.fingerprint is None or (len(event.fingerprint) <= LONGEST and event.fingerprint.isprintable()))
    )


def tokens(logprobs: Any) -> str:
    """The tokens of an answer as its log-probabilities spell them: of chats ("content", "refusal") and completions ("tokens")."""
    if not isinstance(logprobs, dict):
        return ""
    pieces: list[str] = []
    for member in ("content", "refusal", "tokens"):
        listed = logprobs.get(member)
        for each in listed if isinstance(listed, list) else ():
            token = each.get("token") if isinstance(each, dict) else each
            if isinstance(token, str):
                pieces.append(token)
    return "".join(pieces)
