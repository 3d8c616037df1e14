"""Dates, dateTimes and times that know how precise they are (FHIRPath N1 sections 4.1.5 to 4.1.7, 6.1, 6.2, 6.7).

``2026-03`` is less than ``2026-04``; whether it is less than ``2026-03-15`` is not known, and so a comparison may
give no answer. A zone that is not written is not made up: against a time with a zone, only what holds in every zone
from UTC-12 to UTC+14 is told.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from functools import lru_cache

DATE, DATE_TIME, TIME = "Date", "DateTime", "Time"

_TEXT = re.compile(
    r"(?:(?P<year>\d{4})(?:-(?P<month>\d\d)(?:-(?P<day>\d\d))?)?)?"
    r"(?P<t>T)?(?:(?P<hour>\d\d)(?::(?P<minute>\d\d)(?::(?P<second>\d\d(?:\.\d+)?))?)?"
    r"(?P<zone>Z|[+-]\d\d:\d\d)?)?"
)
_KINDS = {"date": DATE, "dateTime": DATE_TIME, "instant": DATE_TIME, "time": TIME}
_EARLIEST_ZONE, _LATEST_ZONE = 14 * 60, -12 * 60
_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Temporal:
    """A point in time as far as it was written.

    Attributes:
        kind: ``Date``, ``DateTime`` or ``Time``.
        parts: Year, month, day, hour, minute, second, as many as are given; of a time from the hour.
        zone: Minutes east of UTC, or None.
        digits: Digits of the second's fraction.
    """

    kind: str
    parts: tuple[int | Decimal, ...]
    zone: int | None = None
    digits: int = 0

    def __str__(self) -> str:
        """As it is written, without ``@``."""
        signs = ("", ":", ":") if self.kind == TIME else ("", "-", "-", "T", ":", ":")
        wide = 2 if self.kind == TIME else 4
        text = "".join(
            sign + _written(part, wide if at == 0 else 2, self.digits)
            for at, (sign, part) in enumerate(zip(signs, self.parts, strict=False))
        )
        return text + _zone_text(self.zone)


def _written(part: int | Decimal, width: int, digits: int) -> str:
    if isinstance(part, Decimal):
        return f"{part:.{digits}f}".rjust(2 + (digits + 1 if digits else 0), "0")
    return str(part).rjust(width, "0")


def _zone_text(zone: int | None) -> str:
    if not zone:
        return "" if zone is None else "Z"
    return f"{'-' if zone < 0 else '+'}{abs(zone) // 60:02d}:{abs(zone) % 60:02d}"


@lru_cache(maxsize=4096)
def read_temporal(text: str, type_name: str) -> Temporal | None:
    """Read a FHIR ``date``, ``dateTime``, ``instant`` or ``time``, or a System type of such; None when it is none."""
    kind = _KINDS.get(type_name, type_name)
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    clock = [match["hour"], match["minute"], match["second"]]
    if kind == TIME:
        if match["year"] or match["t"] or match["zone"] or not match["hour"]:
            return None
        return _made(kind, [], clock, None)
    if not match["year"] or (match["hour"] and not match["day"]) or (match["zone"] and not match["hour"]):
        return None
    # A T may end a partial dateTime (2026T); between a date and a clock it must stand.
    if bool(match["hour"]) > bool(match["t"]) or (kind == DATE and match["t"]):
        return None
    return _made(kind, [match["year"], match["month"], match["day"]], clock, match["zone"])


def read_literal(text: str) -> Temporal | None:
    """Read what stands after ``@``; None where the calendar or the clock has no such moment."""
    if text.startswith("T"):
        return read_temporal(text[1:], TIME)
    return read_temporal(text, DATE_TIME if "T" in text else DATE)


def _made(kind: str, days: list[str], clock: list[str], zone: str | None) -> Temporal | None:
    parts: list[int | Decimal] = [int(part) for part in days if part]
    second = clock[2]
    parts += [int(part) for part in clock[:2] if part]
    if second:
        parts.append(Decimal(second))
    digits = len(second.partition(".")[2]) if second else 0
    offset = None if zone is None else 0
    if zone not in (None, "Z"):
        offset = int(f"{zone[0]}1") * (int(zone[1:3]) * 60 + int(zone[4:]))
    made = Temporal(kind, tuple(parts), offset, digits)
    return made if _exists(made) else None


def _exists(value: Temporal) -> bool:
    parts = value.parts
    clock = parts if value.kind == TIME else parts[3:]
    if any(part >= limit for part, limit in zip(clock, (24, 60, 61), strict=False)):
        return False
    if value.zone is not None and abs(value.zone) > 14 * 60:
        return False
    if value.kind == TIME:
        return True
    year, month, day = (int(part) for part in (*parts[:3], 1, 1)[:3])
    return year >= 1 and 1 <= month <= 12 and 1 <= day <= monthrange(year, month)[1]


def from_clock(now: datetime, kind: str) -> Temporal:
    """The moment of evaluation as a value of ``kind``, to the millisecond."""
    day: tuple[int | Decimal, ...] = (now.year, now.month, now.day)
    if kind == DATE:
        return Temporal(DATE, day)
    second = now.second + Decimal(now.microsecond // 1000).scaleb(-3)
    clock: tuple[int | Decimal, ...] = (now.hour, now.minute, second)
    offset = now.utcoffset() or timedelta(0)
    zone = int(offset.total_seconds()) // 60
    return Temporal(TIME, clock, None, 3) if kind == TIME else Temporal(DATE_TIME, day + clock, zone, 3)


def as_date(value: Temporal) -> Temporal:
    """The day of a dateTime, as far as it is given."""
    return Temporal(DATE, value.parts[:3])


def are_alike(first: Temporal, second: Temporal) -> bool:
    """Whether two can be compared: both of the day, or both times."""
    return (first.kind == TIME) is (second.kind == TIME)


def order(first: Temporal, second: Temporal) -> int | None:
    """Return -1, 0 or 1 for two that are alike; None where their precision or their zones leave it open."""
    if first.kind != TIME and (first.zone is None) is not (second.zone is None):
        return _order_in_every_zone(first, second)
    a, b = in_utc(first).parts, in_utc(second).parts
    for one, other in zip(a, b, strict=False):
        if one != other:
            return -1 if one < other else 1
    return 0 if len(a) == len(b) else None


def _order_in_every_zone(first: Temporal, second: Temporal) -> int | None:
    if _latest(first) < _earliest(second):
        return -1
    return 1 if _latest(second) < _earliest(first) else None


def _earliest(value: Temporal) -> Decimal:
    zone = _EARLIEST_ZONE if value.zone is None else value.zone
    return _minutes(_filled(value, _first)) - zone


def _latest(value: Temporal) -> Decimal:
    zone = _LATEST_ZONE if value.zone is None else value.zone
    return _minutes(_filled(value, _last)) - zone


def _minutes(parts: tuple[int | Decimal, ...]) -> Decimal:
    year, month, day, hour, minute, second = parts
    days = date(int(year), int(month), int(day)).toordinal()
    return Decimal(days * _DAY + int(hour) * 60 + int(minute)) + Decimal(second) / 60


def in_utc(value: Temporal) -> Temporal:
    """The same moment in UTC, if its zone is known."""
    if not value.zone or len(value.parts) < 4:
        return value
    try:
        return _moved(value, Decimal(-value.zone * 60))
    except OverflowError:
        # The first day of the year 1, or the last of 9999: no other moment can be the same.
        return value


def _moved(value: Temporal, seconds: Decimal) -> Temporal:
    """Shift a dateTime or a date; its precision and zone stay.

    Raises:
        OverflowError: Outside the years 1 to 9999.
    """
    year, month, day, hour, minute, second = _filled(value, _first)
    total = second + seconds
    minutes = int((total / 60).to_integral_value(ROUND_FLOOR))
    # Without a zone: the text keeps its own, whatever that is.
    moved = datetime(int(year), int(month), int(day), int(hour), int(minute)) + timedelta(minutes=minutes)  # noqa: DTZ001
    parts = (moved.year, moved.month, moved.day, moved.hour, moved.minute, total - minutes * 60)
    return replace(value, parts=parts[: len(value.parts)])


_MOST_DIGITS = 18
_MONTHS = {"year": 12, "month": 1}
_SECONDS = {"week": 604_800, "day": 86_400, "hour": 3_600, "minute": 60, "second": 1}


def shifted(value: Temporal, number: Decimal, unit: str) -> Temporal | None:
    """Add a calendar duration (N1 section 6.7.1); None where it leaves the calendar.

    A fraction of the unit is ignored, as the official tests have it, also of seconds. What is finer than the value
    is first rounded down to the value's precision: ``2026 + 30 months`` is ``2028``.
    """
    if number.adjusted() > _MOST_DIGITS:
        return None
    whole = int(number)
    try:
        if value.kind == TIME:
            return _shifted_time(value, whole, unit)
        if unit in _MONTHS:
            return _shifted_months(value, whole * _MONTHS[unit])
        if len(value.parts) < 3:
            # N1: where the value has no days, 30 days are a month and 365 days a year.
            days = abs(whole) * _SECONDS.get(unit, 0) // 86_400
            months = days // 365 * 12 if len(value.parts) == 1 else days // 30
            return _shifted_months(value, months if whole >= 0 else -months)
        return _shifted_seconds(value, whole, unit)
    except (OverflowError, ValueError):
        return None


def _shifted_time(value: Temporal, whole: int, unit: str) -> Temporal:
    day = Temporal(DATE_TIME, (2000, 1, 1, *value.parts), None, value.digits)
    moved = _shifted_seconds(day, whole, unit)
    return replace(value, parts=moved.parts[3:], digits=moved.digits)


def _shifted_seconds(value: Temporal, whole: int, unit: str) -> Temporal:
    if unit != "millisecond":
        return _moved(value, Decimal(whole * _SECONDS[unit]))
    moved = _moved(value, Decimal(whole).scaleb(-3))
    return replace(moved, digits=max(value.digits, 3)) if len(value.parts) == 6 else moved


def _shifted_months(value: Temporal, months: int) -> Temporal:
    year, month = int(value.parts[0]), int(value.parts[1]) if len(value.parts) > 1 else 1
    total = year * 12 + month - 1 + months
    year, month = total // 12, total % 12 + 1
    if not 1 <= year <= 9999:
        raise OverflowError
    parts: list[int | Decimal] = [year, month, *value.parts[2:]]
    if len(parts) > 2:
        # The last day of the month where the day does not exist there.
        parts[2] = min(int(parts[2]), monthrange(year, month)[1])
    return replace(value, parts=tuple(parts[: len(value.parts)]))


# Digits of a precision, as precision() and the boundaries count them → number of parts.
_PARTS_OF_DIGITS = {4: 1, 6: 2, 8: 3, 10: 4, 12: 5, 14: 6, 17: 6}
_TIME_PARTS_OF_DIGITS = {2: 1, 4: 2, 6: 3, 9: 3}
Fill = Callable[[tuple[int | Decimal, ...]], int | Decimal]


def precision(value: Temporal) -> int:
    """Number of digits that are written: 4 for a year, 8 for a day, 17 for a dateTime to the millisecond."""
    count = len(value.parts) * 2 + (0 if value.kind == TIME else 2)
    return count + value.digits


def boundary(value: Temporal, digits: int | None, *, is_low: bool) -> Temporal | None:
    """The first or last moment that a value can mean, to ``digits``; None where there is no such precision.

    An hour without minutes is taken as the full hour, since FHIR has none. A missing zone becomes the one in which
    the moment comes first (UTC+14) or last (UTC-12).
    """
    table = _TIME_PARTS_OF_DIGITS if value.kind == TIME else _PARTS_OF_DIGITS
    wanted = digits if digits is not None else {DATE: 8, DATE_TIME: 17, TIME: 9}[value.kind]
    count = table.get(wanted)
    if count is None:
        return None
    hours = 1 if value.kind == TIME else 4
    given = (*value.parts, 0) if len(value.parts) == hours else value.parts
    parts = _filled(replace(value, parts=given), _first if is_low else _last)[:count]
    if value.kind == TIME:
        return Temporal(TIME, parts, None, 3 if wanted == 9 else 0)
    if count <= 3:
        return Temporal(DATE, parts)
    zone = value.zone if value.zone is not None else _EARLIEST_ZONE if is_low else _LATEST_ZONE
    return Temporal(DATE_TIME, parts, zone, 3 if wanted == 17 else 0)


def _filled(value: Temporal, fill: Fill) -> tuple[int | Decimal, ...]:
    parts = value.parts if value.kind != TIME else (2000, 1, 1, *value.parts)
    while len(parts) < 6:
        parts = (*parts, fill(parts))
    if not value.digits and len(value.parts) == (3 if value.kind == TIME else 6) and fill is _last:
        parts = (*parts[:5], Decimal(parts[5]) + Decimal("0.999"))
    return parts if value.kind != TIME else parts[3:]


def _first(parts: tuple[int | Decimal, ...]) -> int | Decimal:
    return (1, 1, 1, 0, 0, Decimal(0))[len(parts)]


def _last(parts: tuple[int | Decimal, ...]) -> int | Decimal:
    if len(parts) == 2:
        return monthrange(int(parts[0]), int(parts[1]))[1]
    return (9999, 12, 31, 23, 59, Decimal("59.999"))[len(parts)]
