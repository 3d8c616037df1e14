"""FHIR dates as half-open intervals of microseconds, so that partial dates compare and sort honestly.

For search values, the timeline and invariants. ``2026-03`` means the whole month and ``10:00:00`` the whole second
(FHIR R4 search.html#date). A date without a time has no zone; it is taken in UTC, and the text stays as it was.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import date, datetime
from functools import lru_cache

Interval = tuple[int, int]
"""``[low, high)`` in µs since 1970-01-01T00:00:00Z."""

SECOND = 1_000_000
DAY = 86_400 * SECOND
ALWAYS: Interval = (-(2**62), 2**62)
"""Bounds for an open end; outside every year that FHIR can write."""

_LONGEST_REMEMBERED = 40
_EPOCH_DAY = date(1970, 1, 1).toordinal()


def interval(text: str) -> Interval | None:
    """Return the interval that a FHIR ``date``, ``dateTime`` or ``instant`` covers; None when it is none."""
    return _remembered(text) if len(text) <= _LONGEST_REMEMBERED else _covered(text)


def _covered(text: str) -> Interval | None:
    try:
        if len(text) <= 10:
            return _of_days(text)
        return _of_time(text)
    except (ValueError, OverflowError):
        return None


_remembered = lru_cache(maxsize=4096)(_covered)
"""A record is dated several times over: for the timeline, for searches, by rules."""


def period(value: object) -> Interval | None:
    """Return the interval of a FHIR ``Period``, open ends included; None when neither end is given."""
    if type(value) is not dict:
        return None
    start, end = value.get("start"), value.get("end")
    first = interval(start) if type(start) is str else None
    last = interval(end) if type(end) is str else None
    if first is None and last is None:
        return None
    return (first[0] if first else ALWAYS[0], last[1] if last else ALWAYS[1])


def _of_days(text: str) -> Interval:
    year = int(text[:4])
    if len(text) == 4:
        first, last = date(year, 1, 1), date(year, 12, 31)
    elif len(text) == 7:
        month = int(text[5:])
        first, last = date(year, month, 1), date(year, month, monthrange(year, month)[1])
    else:
        first = last = date.fromisoformat(text)
    low = (first.toordinal() - _EPOCH_DAY) * DAY
    return low, (last.toordinal() - _EPOCH_DAY + 1) * DAY


def _of_time(text: str) -> Interval:
    leap = text[17:19] == "60"
    moment = datetime.fromisoformat(text[:17] + "59" + text[19:] if leap else text)
    offset = moment.utcoffset()
    seconds = moment.hour * 3_600 + moment.minute * 60 + moment.second + leap
    low = (moment.toordinal() - _EPOCH_DAY) * DAY + seconds * SECOND + moment.microsecond
    if offset is not None:
        low -= (offset.days * 86_400 + offset.seconds) * SECOND
    return low, low + _width(text)


def _width(text: str) -> int:
    """Length of the interval: 1 s, or the last digit shown of a fraction."""
    if len(text) < 20 or text[19] != ".":
        return SECOND if text[16:17] == ":" else 60 * SECOND
    digits = 0
    for char in text[20:26]:
        if not char.isdigit():
            break
        digits += 1
    return int(10 ** (6 - digits))
