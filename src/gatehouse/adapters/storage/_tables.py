"""The tables of ledger, meters, leases, journals and prices.

Money, counts and times (microseconds since the epoch) are whole numbers of 64 bits, so that every database keeps them as they
are. Lists are JSON text: they are shown, never searched.
"""

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, String, Table, Text

from gatehouse.adapters.storage._metadata import METADATA

LEDGER: Final = Table(
    "ledger",
    METADATA,
    Column("request_id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("day", String(10), nullable=False),
    Column("tenant", Text, nullable=False),
    Column("team", Text),
    Column("key_id", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("target_model", Text, nullable=False),
    Column("price", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("input", BigInteger, nullable=False),
    Column("cached_input", BigInteger, nullable=False),
    Column("cache_write", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
    Column("audio_input", BigInteger, nullable=False),
    Column("audio_output", BigInteger, nullable=False),
    Column("charge", BigInteger, nullable=False),
    Column("meters", Text, nullable=False),
    Column("cache", Text, nullable=False),
    Column("traffic", Text, nullable=False),
    Column("flags", Text, nullable=False),
    Column("duration_us", BigInteger, nullable=False),
    Column("first_event_us", BigInteger, nullable=False),
    Column("stages", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("commitment", LargeBinary, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("tags", Text, nullable=False, server_default=""),
    Column("end_user", Text, nullable=False, server_default=""),
    Column("trace", Text, nullable=False, server_default=""),
    Column("peer", Text, nullable=False, server_default=""),
    Index(None, "tenant", "at", "request_id"),
)
"""One row an attempt; the columns are those of `Closed`, its usage spread over the buckets, and the UTC day. `tags` are a JSON
object with sorted names, "" for none."""

USAGE_HOURS: Final = Table(
    "usage_hours",
    METADATA,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("tenant", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("team", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("charge", BigInteger, nullable=False),
)
"""Sums of the ledger by hour (hours since the epoch), written with it: a report over a year reads these, not millions of rows.
No team is ""."""

USAGE_TAG_HOURS: Final = Table(
    "usage_tag_hours",
    METADATA,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("tenant", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("team", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("tags", Text, primary_key=True),
    Column("end_user", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("charge", BigInteger, nullable=False),
)
"""That part of USAGE_HOURS that has tags or an end user, by these too: what is in the one and not in the other has neither."""

METERS: Final = Table(
    "meters",
    METADATA,
    Column("meter", Text, primary_key=True),
    Column("spent", BigInteger, nullable=False),
)
"""All that was ever charged to a money meter."""

LEASES: Final = Table(
    "leases",
    METADATA,
    Column("incarnation", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("granted", BigInteger, nullable=False),
    Column("returned", BigInteger, nullable=False),
    Column("booked", BigInteger, nullable=False),
)
"""Cumulative totals of money lent to one process; see `gatehouse.core.leases`."""

JOURNALS: Final = Table(
    "journals",
    METADATA,
    Column("incarnation", Text, primary_key=True),
    Column("server", Text, nullable=False),
    Column("file", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("seen", Boolean, nullable=False),
    Column("settled", Boolean, nullable=False),
    Column("damaged", Boolean, nullable=False),
    Index(None, "server"),
)
"""How far each journal is posted. `server` is whose data directory holds the files; `seen` is false until they were found there."""

JOURNAL_OPEN: Final = Table(
    "journal_open",
    METADATA,
    Column("incarnation", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("record", LargeBinary, nullable=False),
)
"""Records of calls that were still open when the journal file they stand in was posted and removed."""

PRICE_SNAPSHOTS: Final = Table(
    "price_snapshots",
    METADATA,
    Column("snapshot", Text, primary_key=True),
    Column("price", Text, nullable=False),
)

FACTS: Final = Table(
    "facts",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""What all servers on this database must agree on, such as the fingerprint of the root key."""
