"""Ledger rows as tuples: by the thousand, the detour through an object mapper would cost more than the database."""

import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Dialect, Row

from gatehouse.adapters.storage._tables import LEDGER
from gatehouse.core.attribution import Attribution
from gatehouse.core.records import Closed, StageTime
from gatehouse.core.usage import Usage

COLUMNS: Final = tuple(column.name for column in LEDGER.columns)
MICROS: Final = 1_000_000
_MOST_TEXTS: Final = 1_000
LARGEST: Final = 2**63 - 1


class RowWriter:
    """Makes rows; one instance serves one thread."""

    def __init__(self) -> None:
        self._json = msgspec.json.Encoder().encode
        self._days: dict[int, str] = {}
        self._texts: dict[tuple[str, ...], str] = {}
        """Lists of meters and of flags as their columns have them: there are few of them."""

    def row(self, closed: Closed) -> tuple[Any, ...]:
        """The columns of LEDGER, in their order."""
        usage = closed.usage
        at = round(closed.at * MICROS)
        encode = self._json
        return (
            closed.request_id,
            closed.attempt,
            at,
            self._day(at),
            closed.tenant,
            closed.team,
            closed.key_id,
            closed.operation,
            closed.model,
            closed.target,
            closed.target_model,
            closed.price,
            closed.outcome,
            closed.error,
            usage.input,
            usage.cached_input,
            usage.cache_write,
            usage.output,
            usage.reasoning,
            usage.audio_input,
            usage.audio_output,
            closed.charge,
            self._texts.get(closed.meters) or self._text(closed.meters),
            closed.cache,
            closed.traffic,
            self._texts.get(closed.flags) or self._text(closed.flags),
            closed.duration_us,
            closed.first_event_us,
            encode(closed.times()).decode(),
            closed.policy,
            # A driver asks of `bytes`, but not of this, whether somebody has registered another way to write it.
            bytearray(closed.commitment),
            closed.final,
            tags_text(closed.attribution),
            "" if closed.attribution is None else closed.attribution.end_user,
            "" if closed.attribution is None else closed.attribution.trace,
            "" if closed.attribution is None else closed.attribution.peer,
        )

    def _text(self, words: tuple[str, ...]) -> str:
        if len(self._texts) >= _MOST_TEXTS:
            self._texts.clear()
        text = self._texts[words] = self._json(words).decode()
        return text

    def _day(self, at: int) -> str:
        number = at // (86_400 * MICROS)
        day = self._days.get(number)
        if day is None:
            self._days.clear()
            day = self._days[number] = day_name(number)
        return day


def tags_text(attribution: Attribution | None) -> str:
    """Tags as the column has them: a JSON object, or "" for none."""
    if attribution is None or not attribution.tags:
        return ""
    return msgspec.json.encode(dict(attribution.tags)).decode()


def day_name(number: int) -> str:
    """The date of a day since the epoch ("2026-11-22")."""
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=number)).isoformat()


def insert_ignoring(dialect: Dialect) -> str:
    """INSERT of one LEDGER row by position; a row whose key is there stays as it is."""
    mark = "?" if dialect.paramstyle == "qmark" else "%s"
    marks = ", ".join([mark] * len(COLUMNS))
    columns = ", ".join(f'"{name}"' for name in COLUMNS)
    return f"INSERT INTO ledger ({columns}) VALUES ({marks}) ON CONFLICT (request_id, attempt) DO NOTHING"  # noqa: S608 - names from LEDGER


def tame(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """`values` as every database takes them: no NUL in text, no number beyond 64 bits. What is wrong must still be booked."""
    return tuple(_tame(value) for value in values)


def _tame(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    return min(value, LARGEST) if type(value) is int else value


def closed_of(row: Row[Any]) -> Closed:
    """The record a row was made from."""
    return Closed(
        request_id=row.request_id,
        attempt=row.attempt,
        at=row.at / MICROS,
        tenant=row.tenant,
        team=row.team,
        key_id=row.key_id,
        operation=row.operation,
        model=row.model,
        target=row.target,
        target_model=row.target_model,
        price=row.price,
        outcome=row.outcome,
        error=row.error,
        usage=Usage(row.input, row.cached_input, row.cache_write, row.output, row.reasoning, row.audio_input, row.audio_output),
        charge=row.charge,
        meters=msgspec.json.decode(row.meters, type=tuple[str, ...]),
        cache=row.cache,
        traffic=row.traffic,
        flags=msgspec.json.decode(row.flags, type=tuple[str, ...]),
        duration_us=row.duration_us,
        first_event_us=row.first_event_us,
        stages=msgspec.json.decode(row.stages, type=tuple[StageTime, ...]),
        policy=row.policy,
        commitment=bytes(row.commitment),
        final=row.final,
        attribution=_attribution(row),
    )


def _attribution(row: Row[Any]) -> Attribution | None:
    if not (row.tags or row.end_user or row.trace or row.peer):
        return None
    tags = msgspec.json.decode(row.tags, type=dict[str, str]) if row.tags else {}
    return Attribution(tuple(sorted(tags.items())), row.end_user, row.trace, row.peer)
