"""Formats of primitive types, as FHIR R4 datatypes.html#primitive describes them."""

from decimal import Decimal
from typing import Any

import pytest

from fhir_bridge.fhir.primitives import TESTS

GOOD: dict[str, list[Any]] = {
    "base64Binary": ["QQ==", "QUI=", "QUJD", "QU JD\nQUJD"],
    "boolean": [True, False],
    "canonical": ["http://hl7.org/fhir/ValueSet/x|4.0.1", "#frag"],
    "code": ["final", "in progress", "https://a.example/x", "ä"],
    "date": ["2026", "2026-02", "2024-02-29", "0001-01-01", "9999-12-31"],
    "dateTime": [
        "2026",
        "2026-02",
        "2026-02-28",
        "2026-02-28T23:59:59Z",
        "2016-12-31T23:59:60Z",
        "2026-02-28T00:00:00.123456789+14:00",
        "2026-02-28T00:00:00-13:59",
    ],
    "decimal": [0, -1, Decimal("1.10"), Decimal("1E-9")],
    "id": ["a", "A-1.b", "1" * 64],
    "instant": ["2026-02-28T23:59:59Z", "2026-02-28T23:59:59.1+01:00"],
    "integer": [0, -(2**31), 2**31 - 1],
    "markdown": ["# x"],
    "oid": ["urn:oid:1.2.840", "urn:oid:2.0"],
    "positiveInt": [1, 2**31 - 1],
    "string": ["x", " x ", "Muñoz", "line\nline", "\U0001f600"],
    "time": ["00:00:00", "23:59:59.5"],
    "unsignedInt": [0, 1],
    "uri": ["http://x.example", "urn:oid:1.2.3", "urn:uuid:c757873d-ec9a-4326-a141-556f43239520", "Patient/1", "x"],
    "url": ["http://x.example", "mailto:a@b.example"],
    "uuid": ["urn:uuid:c757873d-ec9a-4326-a141-556f43239520"],
}

BAD: dict[str, list[Any]] = {
    "base64Binary": ["@@@@", "QQ=", "QQ", "Q", "QQ==QQ==", "", "QQ=ä", 5],
    "boolean": ["true", 0, 1, "", None],
    "canonical": ["a b", "", 1],
    "code": ["", " final", "final ", "in  progress", "a\tb", 1],
    "date": [
        "26",
        "2026-13",
        "2026-00",
        "2026-02-30",
        "2025-02-29",
        "2026-04-31",
        "0000-01-01",
        "2026-1-1",
        "2026-02-28T",
    ],
    "dateTime": [
        "2026-02-30",
        "2026-02-28T10:00:00",
        "2026-02-28T10:00Z",
        "2026-02-28T24:00:00Z",
        "2026-02-28 10:00:00Z",
        "2026-02-28T10:00:00+15:00",
        "2026-02-28T10:00:00z",
        "28/02/2026",
        "2026-02-29T10:00:00Z",
        "2026-02-28\n",
    ],
    "decimal": ["1.0", True, None, "NaN"],
    "id": ["", "a b", "a_b", "1" * 65, "ä", "a/b", "a\n"],
    "instant": ["2026-02-28", "2026-02", "2026-02-28T10:00:00", "2026-02-30T10:00:00Z"],
    "integer": [2**31, -(2**31) - 1, Decimal("1.0"), "1", True],
    "markdown": ["", "  "],
    "oid": ["1.2.840", "urn:oid:3.1", "urn:oid:1.02", "urn:oid:1"],
    "positiveInt": [0, -1, True],
    "string": ["", " ", "\n\t", 1, True, None],
    "time": ["24:00:00", "10:00", "10:00:00Z", "1:00:00"],
    "unsignedInt": [-1, 2**31],
    "uri": ["a b", "", "urn:oid:x", "urn:uuid:1"],
    "url": ["http://x .example"],
    "uuid": ["c757873d-ec9a-4326-a141-556f43239520", "urn:uuid:c757873d"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in GOOD.items() for v in values])
def test_the_standard_allows_it(name: str, value: Any) -> None:
    assert TESTS[name](value) is None


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values])
def test_the_standard_forbids_it(name: str, value: Any) -> None:
    problem = TESTS[name](value)
    assert problem is not None
    assert problem.code == "value"


@pytest.mark.parametrize("name", ["string", "markdown", "uri", "code", "id"])
def test_more_than_a_mebi_of_characters_is_too_long(name: str) -> None:
    limit = 1024 * 1024
    problem = TESTS[name]("x" * (limit + 1))
    assert problem is not None
    assert problem.code == "too-long"
    if name not in ("id",):
        assert TESTS[name]("x" * limit) is None
