"""Order the versions of a record and tell what a new arrival means for it.

For the ingest line, which is the only writer. Versions follow the sender's own
``meta.lastUpdated`` when both carry it, so that an older one that arrives late
enters the history and never replaces; otherwise the durable order of arrival
decides (docs/formats/records.md). Everything here is a function of rows, so a
restart that reads the same rows back gets the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from msgspec import structs

from fhir_bridge.model.ids import version_id
from fhir_bridge.model.ingest import IndexRow, Normalized


def place(history: list[IndexRow], row: IndexRow) -> None:
    """Insert ``row`` into a record's versions, oldest first."""
    spot = len(history)
    while spot and _is_later(history[spot - 1], row):
        spot -= 1
    history.insert(spot, row)


def unchanged(history: Sequence[IndexRow], row: IndexRow) -> IndexRow | None:
    """Return the version that already holds this content, or None if ``row`` is news.

    The current version counts always; an older one only when the sender's own
    time says that the arrival belongs into the past.
    """
    if not history:
        return None
    if history[-1].content == row.content and history[-1].deleted == row.deleted:
        return history[-1]
    if not _is_later(history[-1], row):
        return None
    past = (old for old in history if old.content == row.content and old.source_updated_us == row.source_updated_us)
    return next(past, None)


def held_before(history: Sequence[IndexRow], row: IndexRow) -> IndexRow | None:
    """Return any version that holds this content; what a replayed message brings again is no news."""
    return next((old for old in history if old.content == row.content and old.deleted == row.deleted), None)


def is_superseded(history: Sequence[IndexRow], row: IndexRow, since_us: int) -> bool:
    """Tell whether a version was stored after ``since_us`` that an undated one from then must not replace."""
    if not history or history[-1].last_updated_us <= since_us:
        return False
    return history[-1].source_updated_us is None or row.source_updated_us is None


def versioned(id_key: bytes, record: Normalized, history: Sequence[IndexRow], now: datetime) -> IndexRow:
    """Return the index row of a new version, with its version id and time set.

    The version id depends on the content and on how often the record has held
    it before, never on a counter that would show how many versions exist.
    """
    same = sum(1 for old in history if old.content == record.row.content and old.deleted == record.row.deleted)
    digest = record.row.content + (b"\x01" if record.row.deleted else b"\x00")
    dated = [old.source_updated_us for old in history if old.source_updated_us is not None]
    return structs.replace(
        record.row,
        # A deletion has no time of its own; what the sender had dated before it must not come back after it.
        source_updated_us=max(dated, default=None) if record.row.deleted else record.row.source_updated_us,
        version=version_id(id_key, record.id, digest, same),
        last_updated_us=_stored(now),
    )


@lru_cache(maxsize=16)
def microseconds(moment: datetime) -> int:
    """Return µs since 1970 of an aware datetime, without a detour over floats; a commit asks for one all the time."""
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


@lru_cache(maxsize=16)
def _stored(moment: datetime) -> int:
    """Return µs since 1970 to the millisecond, as they are stored; all records of a commit have the same."""
    return microseconds(moment) // 1000 * 1000


def _is_later(existing: IndexRow, arriving: IndexRow) -> bool:
    """True if ``existing`` must stay after ``arriving``: both are dated by the sender and it is newer."""
    if existing.source_updated_us is None or arriving.source_updated_us is None:
        return False
    return existing.source_updated_us > arriving.source_updated_us
