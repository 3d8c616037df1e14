"""Cells become FHIR values in the stated form or not at all; strptime and decimal are the second definitions."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.fhir.json import render
from fhir_bridge.formats.csv_cells import CellWrong, PatternWrong, as_date, as_number, as_quantity, as_text

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("pattern", "as_python"),
    [("DD.MM.YYYY", "%d.%m.%Y"), ("MM/DD/YYYY", "%m/%d/%Y"), ("YYYYMMDD", "%Y%m%d"), ("DD-MMM-YYYY", "%d-%b-%Y")],
)
@given(st.dates(min_value=date(1000, 1, 1)))
def test_a_day_in_a_stated_form_is_that_day(pattern: str, as_python: str, day: date) -> None:
    assert as_date("date", [pattern], None)(day.strftime(as_python)) == day.isoformat()


def test_the_form_decides_what_03_04_means() -> None:
    assert as_date("date", ["DD/MM/YYYY"], None)("03/04/2026") == "2026-04-03"
    assert as_date("date", ["MM/DD/YYYY"], None)("03/04/2026") == "2026-03-04"
    with pytest.raises(CellWrong, match=r"state its form with 'date'"):
        as_text("date")("03/04/2026")


@given(st.integers(0, 55 * 366 * 1440))
def test_clocks_of_a_zone_get_the_offset_they_showed(minute: int) -> None:
    make = as_date("dateTime", ["YYYY-MM-DD HH:mm"], BERLIN)
    in_utc = datetime(1980, 4, 6, 1, tzinfo=UTC) + timedelta(minutes=minute)
    local = in_utc.astimezone(BERLIN)
    made = datetime.fromisoformat(make(local.strftime("%Y-%m-%d %H:%M")))
    # In the hour that comes twice, the earlier is taken.
    assert made in (in_utc, in_utc - timedelta(hours=1))
    assert made.replace(tzinfo=None) == local.replace(tzinfo=None)
    assert made == in_utc or local.fold == 1


def test_an_hour_that_was_skipped_is_refused() -> None:
    with pytest.raises(CellWrong, match="skipped this time"):
        as_date("dateTime", ["YYYY-MM-DD HH:mm"], BERLIN)("2026-03-29 02:30")


@pytest.mark.parametrize(
    ("pattern", "cell", "wanted"),
    [
        ("YYYY", "1980", "1980"),
        ("MM.YYYY", "04.1980", "1980-04"),
        ("D.M.YYYY H:mm:ss", "3.4.2026 8:05:09", "2026-04-03T08:05:09+02:00"),
        ("M/D/YYYY h:mm A", "4/3/2026 12:05 AM", "2026-04-03T00:05:00+02:00"),
        ("M/D/YYYY h:mm A", "4/3/2026 12:05 pm", "2026-04-03T12:05:00+02:00"),
        ("YYYY-MM-DDTHH:mmZ", "2026-01-03T08:05-0500", "2026-01-03T08:05:00-05:00"),
        ("DD.MM.YYYY 00:00:00", "03.04.1980 00:00:00", "1980-04-03"),
    ],
)
def test_no_precision_is_made_up(pattern: str, cell: str, wanted: str) -> None:
    assert as_date("dateTime", [pattern], BERLIN)(cell) == wanted


@pytest.mark.parametrize(
    ("type_name", "pattern", "zone", "words"),
    [
        ("date", "DD.MM.YY", None, "name no century"),
        ("date", "DD.YYYY", None, "MM where it has DD"),
        ("date", "DD.MM.YYYY HH:mm", BERLIN, "the element is a date"),
        ("dateTime", "DD.MM.YYYY HH:mm", None, "state 'zone'"),
        ("dateTime", "DD.MM.YYYY hh:mm", BERLIN, "hh goes with A"),
        ("dateTime", "YYYY HH:mm", BERLIN, "a time needs the day"),
        ("instant", "YYYY-MM-DD", BERLIN, "the element is an instant"),
        ("date", "jj.MM.YYYY", None, "'j' is unknown"),
        ("date", "MM.MM.YYYY", None, "the same part twice"),
    ],
)
def test_a_pattern_that_leaves_something_open_is_refused_when_the_pack_loads(
    type_name: str, pattern: str, zone: ZoneInfo | None, words: str
) -> None:
    with pytest.raises(PatternWrong, match=words):
        as_date(type_name, [pattern], zone)


@pytest.mark.parametrize("cell", ["31.02.2026", "00.01.2026", "3.4.2026", "03.04.26", "2026-04-03", "", "٠٣.04.2026"])
def test_what_has_not_the_form_is_not_read_another_way(cell: str) -> None:
    with pytest.raises(CellWrong):
        as_date("date", ["DD.MM.YYYY"], None)(cell)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**7), max_value=10**7))
def test_a_decimal_comma_changes_the_sign_and_no_digit(number: Decimal) -> None:
    text = f"{number:f}"
    german = f"{number:,f}".replace(",", "'").replace(".", ",").replace("'", ".")
    assert render(as_number("decimal", ",", ".")(german)).decode() == text
    assert render(as_number("decimal", ",")(text.replace(".", ","))).decode() == text


@pytest.mark.parametrize(
    ("cell", "decimal", "thousands", "wanted"),
    [("5,60", ",", "", "5.60"), ("1.234", ",", ".", "1234"), ("1,234.50", ".", ",", "1234.50"), ("007", ".", "", "7"),
     ("+3", ".", "", "3"), ("1e2", ".", "", "1e2"), ("-0,0", ",", "", "-0.0")],
)  # fmt: skip
def test_a_number_keeps_its_digits(cell: str, decimal: str, thousands: str, wanted: str) -> None:
    assert render(as_number("decimal", decimal, thousands)(cell)).decode() == wanted


@pytest.mark.parametrize("cell", ["1.23", "12.34.567", "5,", ",5", "5.6", "five", "1 000", "٥", "NaN", "1,2,3", ""])
def test_a_number_in_another_form_is_refused(cell: str) -> None:
    with pytest.raises(CellWrong):
        as_number("decimal", ",", ".")(cell)


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [("<0,5", {"value": Decimal("0.5"), "comparator": "<"}), (">= 12", {"value": 12, "comparator": ">="}),
     ("≤ 3", {"value": 3, "comparator": "<="}), ("7,10", {"value": Decimal("7.10")})],
)  # fmt: skip
def test_a_result_below_the_limit_says_so(cell: str, wanted: dict[str, Any]) -> None:
    made = as_quantity(as_number("decimal", ","), unit="mg/dl")(cell)
    assert made == wanted | {"unit": "mg/dl"}


def test_text_stays_exact_and_codes_lose_the_blanks_at_their_ends() -> None:
    assert as_text("string")("  =SUM(A1)  ") == "  =SUM(A1)  "
    assert as_text("code")(" final ") == "final"
