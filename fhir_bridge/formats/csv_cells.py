"""From a cell's text to a FHIR value, by what the pack states and nothing else.

Invariants:
    * text keeps every character, a number its digits, a partial date its precision;
    * what does not fit the stated form is refused with the form, never read another way; no message repeats a cell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from fhir_bridge.fhir.json import NotStrictJson, parse_any
from fhir_bridge.fhir.local_times import NoSuchTime, offset_of
from fhir_bridge.fhir.primitives import TESTS
from fhir_bridge.fhir.ucum import UCUM

Made = Callable[[str], Any]
"""Cell, not empty → value."""

TEXTS = frozenset({"string", "markdown", "xhtml", "base64Binary"})
NUMBERS = frozenset({"decimal", "integer", "positiveInt", "unsignedInt"})
WHOLE = NUMBERS - {"decimal"}
DATES = frozenset({"date", "dateTime", "instant"})
_COMPARATORS = {"<": "<", "<=": "<=", "=<": "<=", "≤": "<=", ">": ">", ">=": ">=", "=>": ">=", "≥": ">="}
_COMPARED = re.compile(r"(?P<comparator>[<>]=?|=[<>]|[≤≥])?\s*(?P<number>.*)", re.DOTALL)


class CellWrong(Exception):
    """A cell that does not fit; ``code`` is an issue type, the text says what to change."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class PatternWrong(ValueError):
    """A date pattern that cannot be used; the text says why."""


def as_text(type_name: str) -> Made:
    """Cells that are the value as they stand: exact for texts, without blanks at the ends for codes and URIs."""
    if type_name == "boolean":
        return _boolean
    test = TESTS[type_name]
    strips = type_name not in TEXTS

    def make(cell: str) -> str:
        text = cell.strip() if strips else cell
        problem = test(text)
        if problem is not None:
            hint = ": state its form with 'date', such as date: DD.MM.YYYY" if type_name in DATES else ""
            raise CellWrong(problem.code, problem.text + hint)
        return text

    return make


def as_number(type_name: str, decimal: str = ".", thousands: str = "") -> Made:
    """Numbers with the decimal sign and the thousands separator of the export."""
    grouped = rf"[0-9]{{1,3}}(?:{re.escape(thousands)}[0-9]{{3}})+|[0-9]+" if thousands else "[0-9]+"
    part = "" if type_name in WHOLE else rf"(?:{re.escape(decimal)}(?P<part>[0-9]+))?(?P<power>[eE][+-]?[0-9]+)?"
    shape = re.compile(rf"(?P<sign>[+-]?)(?P<whole>{grouped}){part}", re.ASCII)
    told = "a whole number" if type_name in WHOLE else f"a number with {decimal!r} as decimal sign"
    told += f" and {thousands!r} between thousands" if thousands else ""

    def make(cell: str) -> Any:
        match = shape.fullmatch(cell.strip())
        if match is None:
            raise CellWrong("value", f"is not {told}")
        found = match.groupdict()
        whole = (found["whole"].replace(thousands, "") if thousands else found["whole"]).lstrip("0") or "0"
        text = ("-" if found["sign"] == "-" else "") + whole
        text += f".{found['part']}" if found.get("part") else ""
        try:
            value = parse_any((text + (found.get("power") or "")).encode())
        except NotStrictJson as error:
            raise CellWrong("value", error.issues[0].diagnostics) from None
        problem = TESTS[type_name](value)
        if problem is not None:
            raise CellWrong(problem.code, problem.text)
        return value

    return make


def as_quantity(number: Made, *, unit: str = "", ucum: str = "") -> Made:
    """Measured values, ``<`` and its like becoming the comparator; ``unit`` as the hospital writes it."""

    def make(cell: str) -> dict[str, Any]:
        match = _COMPARED.fullmatch(cell.strip())
        assert match is not None
        made = {"value": number(match["number"])}
        if match["comparator"]:
            made["comparator"] = _COMPARATORS[match["comparator"]]
        if unit or ucum:
            made["unit"] = unit or ucum
        return made | ({"system": UCUM, "code": ucum} if ucum else {})

    return make


def as_listed(codes: Mapping[str, Any], column: str) -> Made:
    """Words that the pack translates; any other is refused."""

    def make(cell: str) -> Any:
        word = cell.strip()
        if word not in codes:
            raise CellWrong(
                "code-invalid", f"holds a word that is not among the 'codes' of column {column!r}: add it"
            )
        return codes[word]

    return make


def as_coding(code: Made, system: str) -> Made:
    """Codes of one system, as a Coding."""
    return lambda cell: {"system": system, "code": code(cell)}


def as_date(type_name: str, patterns: Sequence[str], zone: ZoneInfo | None) -> Made:
    """Dates and times in stated forms, tried in order.

    Args:
        zone: Whose clocks times without an offset tell.

    Raises:
        PatternWrong: A pattern that FHIR cannot take, or that leaves something open.
    """
    readers = [_pattern(type_name, pattern, zone) for pattern in patterns]
    told = " or ".join(patterns)

    def make(cell: str) -> str:
        text = cell.strip()
        for shape, write in readers:
            match = shape.fullmatch(text)
            if match is not None:
                return write(match)
        raise CellWrong("value", f"does not have the form {told}")

    return make


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TOKENS = {
    "YYYY": r"(?P<year>[0-9]{4})",
    "MMM": rf"(?P<name>(?i:{'|'.join(_MONTHS)}))",
    "MM": r"(?P<month>[0-9]{2})",
    "M": r"(?P<month>[0-9]{1,2})",
    "DD": r"(?P<day>[0-9]{2})",
    "D": r"(?P<day>[0-9]{1,2})",
    "HH": r"(?P<hour>[0-9]{2})",
    "H": r"(?P<hour>[0-9]{1,2})",
    "hh": r"(?P<twelve>[0-9]{2})",
    "h": r"(?P<twelve>[0-9]{1,2})",
    "mm": r"(?P<minute>[0-9]{2})",
    "ss": r"(?P<second>[0-9]{2})",
    "A": r"(?P<half>(?i:AM|PM))",
    "Z": r"(?P<offset>Z|[+-][0-9]{2}:?[0-9]{2})",
}
_TOKEN = re.compile("YYYY|MMM|MM|M|DD|D|HH|H|hh|h|mm|ss|A|Z")
_KNOWN = "YYYY, MM, M, MMM (Jan), DD, D, HH, H, hh, h with A (AM/PM), mm, ss and Z (offset)"


def _pattern(
    type_name: str, pattern: str, zone: ZoneInfo | None
) -> tuple[re.Pattern[str], Callable[[re.Match[str]], str]]:
    shape = _shape(pattern)
    names = set(shape.groupindex)
    month = bool(names & {"month", "name"})
    has_time = bool(names & {"hour", "twelve"})
    if "year" not in names or ("day" in names and not month):
        raise PatternWrong(f"{pattern!r} needs YYYY, and MM where it has DD")
    if ("twelve" in names) != ("half" in names):
        raise PatternWrong(f"{pattern!r}: hh goes with A (AM/PM), and HH without")
    if (names & {"minute", "second", "offset"} and not has_time) or (has_time and not {"day", "minute"} <= names):
        raise PatternWrong(f"{pattern!r}: a time needs the day, hours and minutes")
    if has_time and type_name == "date":
        raise PatternWrong(
            f"{pattern!r} has a time and the element is a date; write what is always there as 00:00:00"
        )
    if not has_time and type_name == "instant":
        raise PatternWrong(f"{pattern!r} has no time and the element is an instant")
    if has_time and "offset" not in names and zone is None:
        raise PatternWrong(f"{pattern!r} has a time without an offset: state 'zone', or 'time_zone' of the source")
    return shape, lambda match: _written(match.groupdict(), zone)


def _shape(pattern: str) -> re.Pattern[str]:
    made, at = "", 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is not None:
            made += _TOKENS[token[0]]
            at = token.end()
        elif pattern[at] == "Y":
            raise PatternWrong(f"{pattern!r}: write YYYY; two digits of a year name no century")
        elif pattern[at].isalpha() and pattern[at] != "T":
            raise PatternWrong(f"{pattern!r}: {pattern[at]!r} is unknown; known are {_KNOWN}")
        else:
            made += re.escape(pattern[at])
            at += 1
    try:
        return re.compile(made, re.ASCII)
    except re.error:
        raise PatternWrong(f"{pattern!r} names the same part twice") from None


def _written(found: dict[str, str | None], zone: ZoneInfo | None) -> str:
    parts = [str(found["year"])]
    if found.get("name"):
        parts.append(f"{_MONTHS.index(str(found['name']).lower()) + 1:02d}")
    elif found.get("month"):
        parts.append(f"{int(str(found['month'])):02d}")
    if found.get("day"):
        parts.append(f"{int(str(found['day'])):02d}")
    text = "-".join(parts)
    problem = TESTS["date"](text)
    if problem is not None:
        raise CellWrong(problem.code, "there is no such day, month or year")
    return text if not found.get("minute") else f"{text}T{_clock(text, found, zone)}"


def _clock(day: str, found: dict[str, str | None], zone: ZoneInfo | None) -> str:
    hour = int(found.get("hour") or 0)
    if found.get("twelve"):
        twelve = int(str(found["twelve"]))
        if not 1 <= twelve <= 12:
            raise CellWrong("value", "there is no such hour")
        hour = twelve % 12 + (12 if str(found["half"]).upper() == "PM" else 0)
    clock = f"{hour:02d}:{found['minute']}:{found.get('second') or '00'}"
    if TESTS["time"](clock) is not None:
        raise CellWrong("value", "there is no such time of day")
    offset = found.get("offset")
    if offset:
        offset = offset if offset == "Z" or ":" in offset else f"{offset[:3]}:{offset[3:]}"
        if TESTS["instant"](f"{day}T{clock}{offset}") is not None:
            raise CellWrong("value", "there is no such offset")
        return clock + offset
    assert zone is not None, "the pattern was refused otherwise"
    return clock + _offset(day, clock, zone)


def _offset(day: str, clock: str, zone: ZoneInfo) -> str:
    try:
        return offset_of(f"{day}T{clock}", zone)
    except NoSuchTime as wrong:
        raise CellWrong("value", str(wrong)) from None


def _boolean(cell: str) -> bool:
    word = cell.strip()
    if word not in ("true", "false"):
        raise CellWrong("value", "must be true or false: translate other words with 'codes'")
    return word == "true"
