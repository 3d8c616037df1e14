"""Formats of FHIR's primitive types: one test a type, all of one shape.

For the validator. Patterns are those of FHIR R4 datatypes.html#primitive; where a pattern lets through what no
calendar or decoder takes (30 February, broken base64), the value itself is tried. A test never repeats the value.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a value does not fit: an issue type and a text for the sender."""

    code: str
    text: str


Test = Callable[[Any], Problem | None]

# FHIR R4 datatypes.html#string: "strings SHALL NOT exceed 1MB (1024*1024 characters) in size".
MAX_STRING_CHARS = 1024 * 1024

_YEAR = r"(?:[0-9](?:[0-9](?:[0-9][1-9]|[1-9]0)|[1-9]00)|[1-9]000)"
_DAY = r"(?:0[1-9]|1[0-2])-(?:0[1-9]|[1-2][0-9]|3[0-1])"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?"
_ZONE = r"(?:Z|[+-](?:(?:0[0-9]|1[0-3]):[0-5][0-9]|14:00))"
_DATE = re.compile(rf"{_YEAR}(?:-(?:0[1-9]|1[0-2]|{_DAY}))?")
_DATE_TIME = re.compile(rf"{_YEAR}(?:-(?:0[1-9]|1[0-2]|{_DAY}(?:T{_CLOCK}{_ZONE})?))?")
_INSTANT = re.compile(rf"{_YEAR}-{_DAY}T{_CLOCK}{_ZONE}")
_TIME = re.compile(_CLOCK)
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_INTEGER64 = re.compile(r"0|[+-]?[1-9][0-9]{0,18}")
_CODE = re.compile(r"\S+(?: \S+)*")
_OID = re.compile(r"urn:oid:[0-2](?:\.(?:0|[1-9][0-9]*))+")
_UUID = re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_LONGEST_REMEMBERED = 128
_WHITESPACE = re.compile(r"\s+")

_NOT_TEXT = Problem("value", "must be a JSON string")
_EMPTY = Problem("value", "must not be empty or blank; leave the element out instead")
_TOO_LONG = Problem("too-long", f"longer than {MAX_STRING_CHARS} characters")
_IMPOSSIBLE = Problem("value", "there is no such day")


def _string(value: Any) -> Problem | None:
    if type(value) is not str:
        return _NOT_TEXT
    if len(value) > MAX_STRING_CHARS:
        return _TOO_LONG
    return None if value and not value.isspace() else _EMPTY


def _pattern(pattern: re.Pattern[str], expected: str) -> Test:
    wrong = Problem("value", f"must be {expected}")

    fits = pattern.fullmatch

    def test(value: Any) -> Problem | None:
        if type(value) is str:
            # A pattern would take its time over a megabyte before it said no.
            if len(value) > MAX_STRING_CHARS:
                return _TOO_LONG
            return None if fits(value) else (wrong if value else _EMPTY)
        return _NOT_TEXT

    return test


def _dated(pattern: re.Pattern[str], expected: str) -> Test:
    fits = _pattern(pattern, expected)

    def test(value: Any) -> Problem | None:
        problem = fits(value)
        if problem is None and len(value) >= 10:
            try:
                date.fromisoformat(value[:10])
            except ValueError:
                return _IMPOSSIBLE
        return problem

    return test


def _uri(value: Any) -> Problem | None:
    if type(value) is not str:
        return _NOT_TEXT
    if len(value) <= _LONGEST_REMEMBERED:
        return _remembered(value)
    return _uri_text(value)


def _uri_text(value: str) -> Problem | None:
    if not value:
        return _EMPTY
    if len(value) > MAX_STRING_CHARS:
        return _TOO_LONG
    if _WHITESPACE.search(value):
        return Problem("value", "a URI holds no white space")
    if value.startswith("urn:oid:") and not _OID.fullmatch(value):
        return Problem("value", "what follows urn:oid: must be an OID")
    if value.startswith("urn:uuid:") and not _UUID.fullmatch(value):
        return Problem("value", "what follows urn:uuid: must be a UUID")
    return None


_remembered = lru_cache(maxsize=4096)(_uri_text)
"""A hospital's records name the same few code systems and profiles again and again."""


def _base64(value: Any) -> Problem | None:
    if type(value) is not str:
        return _NOT_TEXT
    if not value:
        return _EMPTY
    try:
        binascii.a2b_base64(_WHITESPACE.sub("", value).encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        return Problem("value", "must be base64 (RFC 4648 section 4)")
    return None


def _boolean(value: Any) -> Problem | None:
    return None if type(value) is bool else Problem("value", "must be JSON true or false")


def _decimal(value: Any) -> Problem | None:
    if type(value) is int or isinstance(value, Decimal):
        return None
    return Problem("value", "must be a JSON number")


def _whole(low: int) -> Test:
    wrong = Problem("value", f"must be a whole JSON number from {low} to 2147483647")

    def test(value: Any) -> Problem | None:
        return None if type(value) is int and low <= value < 2**31 else wrong

    return test


def _whole_64(value: Any) -> Problem | None:
    """R5's ``integer64`` is a JSON string (R5 json.html#primitive)."""
    if type(value) is str and _INTEGER64.fullmatch(value) and -(2**63) <= int(value) < 2**63:
        return None
    return Problem("value", "must be a whole number of 64 bits, written as a JSON string")


TESTS: dict[str, Test] = {
    "base64Binary": _base64,
    "boolean": _boolean,
    "canonical": _uri,
    "code": _pattern(_CODE, "a code: no white space at its ends, single spaces inside"),
    "date": _dated(_DATE, "a date: YYYY, YYYY-MM or YYYY-MM-DD"),
    "dateTime": _dated(_DATE_TIME, "a dateTime: YYYY, YYYY-MM, YYYY-MM-DD, or a full time with its zone"),
    "decimal": _decimal,
    "id": _pattern(_ID, "an id: 1 to 64 of A-Z, a-z, 0-9, '-' and '.'"),
    "instant": _dated(_INSTANT, "an instant: a full date and time with its zone"),
    "integer": _whole(-(2**31)),
    "integer64": _whole_64,
    "markdown": _string,
    "oid": _pattern(_OID, "an OID written as urn:oid:…"),
    "positiveInt": _whole(1),
    "string": _string,
    "time": _pattern(_TIME, "a time: hh:mm:ss without a zone"),
    "unsignedInt": _whole(0),
    "uri": _uri,
    "url": _uri,
    "uuid": _pattern(_UUID, "a UUID written as urn:uuid:…"),
    "xhtml": _string,
}
"""Primitive type → test; None means that the value fits."""

_MAX_HELD = 4096
_REPEATED = frozenset({"canonical", "code", "date", "dateTime", "instant", "uri", "url"})
"""Of these a hospital's records hold the same texts again and again."""


@cache
def surely(type_name: str) -> Callable[[Any], bool]:
    """Return what tells at a glance that a value fits a type and points to no fragment; if it cannot, the test does.

    For types whose texts repeat, those that fitted lately are remembered.
    """
    test = TESTS[type_name]
    if type_name not in _REPEATED:
        return lambda value: test(value) is None
    held: set[str] = set()

    def is_sure(value: Any) -> bool:
        if type(value) is not str:
            return False
        if value in held:
            return True
        if value[:1] == "#" or test(value) is not None:
            return False
        if len(value) <= _LONGEST_REMEMBERED:
            if len(held) >= _MAX_HELD:
                held.clear()
            held.add(value)
        return True

    return is_sure
