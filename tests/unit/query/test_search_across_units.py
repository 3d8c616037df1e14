"""A quantity asked for in a UCUM unit finds what is recorded in another one (FHIR R4 search.html#quantity).

What the units are is known by hand: a decilitre is a tenth of a litre, a millimetre of mercury 133.322 Pa (UCUM),
zero degrees Celsius are 32 Fahrenheit and 100 are 212, the pH is the negative logarithm of mol/L.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fhir_bridge.fhir.search import extract
from fhir_bridge.model.ingest import IndexRow, pack_values
from fhir_bridge.query import QueryRefused, search
from tests.unit.query.query_samples import LOINC, NOW, observation, view_of

UCUM = "http://unitsofmeasure.org"
PREFIXES = ("", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")


def row(name: str, number: str, code: str | None = None, **more: Any) -> IndexRow:
    quantity = {"value": Decimal(number), **({"system": UCUM, "code": code} if code else {}), **more}
    resource = {
        "resourceType": "Observation",
        "code": {"coding": [{"system": LOINC, "code": "x"}]},
        "valueQuantity": quantity,
    }
    return replace(observation(name), search=pack_values(extract(resource)))


def ids(text: str, *rows: IndexRow, name: str = "value-quantity") -> str:
    found = search(view_of(*rows), "Observation", [(name, text)], now=NOW).found
    return " ".join(sorted(each.row.id for each in found))


DENSE = tuple(
    row(number, number, "mg/dL")
    for number in ("485.9", "486", "534.9", "535", "540", "540.1", "544.9", "545", "594.1")
)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        # 5.4 g/L means [5.35, 5.45) g/L, which is [535, 545) mg/dL; with a comparison it means 540 mg/dL exactly.
        ("5.4", "535 540 540.1 544.9"),
        ("eq5.4", "535 540 540.1 544.9"),
        ("5.40", "540 540.1"),
        ("54e-1", "535 540 540.1 544.9"),
        ("5", "485.9 486 534.9 535 540 540.1 544.9 545"),
        ("ne5.4", "485.9 486 534.9 545 594.1"),
        ("gt5.4", "540.1 544.9 545 594.1"),
        ("sa5.4", "540.1 544.9 545 594.1"),
        ("ge5.4", "540 540.1 544.9 545 594.1"),
        ("lt5.4", "485.9 486 534.9 535"),
        ("eb5.4", "485.9 486 534.9 535"),
        ("le5.4", "485.9 486 534.9 535 540"),
        # A tenth of 5.4 g/L to either side: 486 to 594 mg/dL.
        ("ap5.4", "486 534.9 535 540 540.1 544.9 545"),
    ],
)
def test_the_digits_of_the_question_count_in_its_own_unit(asked: str, expected: str) -> None:
    assert ids(f"{asked}|{UCUM}|g/L", *DENSE) == expected


@pytest.mark.parametrize(
    ("number", "code", "asked", "unit"),
    [
        ("120", "mm[Hg]", "15.998640", "kPa"),
        ("98.6", "[degF]", "37.0", "Cel"),
        ("310.15", "K", "37.00", "Cel"),
        ("37", "Cel", "98.60", "[degF]"),
        ("180", "cm", "1.80", "m"),
        ("72", "{beats}/min", "1.20", "Hz"),
        ("23", "mm/h", "0.023", "m/h"),
        ("5.0", "10*9/L", "5000", "/uL"),
        ("0.5", "1", "50.0", "%"),
        ("39.81", "nmol/L", "7.400", "[pH]"),
        ("5.4", "mmol/L", "5400", "umol/L"),
        ("48", "mmol/mol", "0.048", "mol/mol"),
    ],
)
def test_units_that_say_the_same_are_found_by_each_other(number: str, code: str, asked: str, unit: str) -> None:
    assert ids(f"{asked}|{UCUM}|{unit}", row("it", number, code)) == "it"
    assert ids(f"{asked}|{UCUM}|{unit}", row("it", str(Decimal(number) * 2), code)) == ""


def test_fahrenheit_is_compared_exactly() -> None:
    rows = [row(each, each, "[degF]") for each in ("98.5", "98.6", "98.7")]
    for prefix, expected in (("ge", "98.6 98.7"), ("gt", "98.7"), ("le", "98.5 98.6"), ("lt", "98.5")):
        assert ids(f"{prefix}37|{UCUM}|Cel", *rows) == expected


def test_more_ph_is_less_acid() -> None:
    rows = (row("acid", "100", "nmol/L"), row("basic", "30", "nmol/L"), row("ph", "7.35", "[pH]"))
    assert ids(f"gt7.2|{UCUM}|[pH]", *rows) == "basic ph"
    assert ids(f"gt50|{UCUM}|nmol/L", *rows) == "acid"


def test_what_is_no_measure_of_the_same_kind_is_not_found() -> None:
    rows = (
        row("same", "5", "mg/dL"),
        row("mass", "5", "mg"),
        row("amount", "5", "mmol/L"),
        row("house", "5", "mg/dL", system="http://house.example/units"),
        row("bare", "5", None, unit="mg/dL"),
        row("nonsense", "5", "mg per dl"),
        row("arbitrary", "5", "[IU]/dL"),
        row("none", "5"),
    )
    assert ids(f"lt1000|{UCUM}|mg/dL", *rows) == "same"
    assert ids(f"lt1000|{UCUM}|[iU]/dL", *rows) == "arbitrary"
    assert ids(f"5|{UCUM}|mg per dl", *rows) == "nonsense"
    assert ids("5|http://house.example/units|mg/dL", *rows) == "house"


def test_an_amount_is_no_number_and_no_equivalent() -> None:
    # By the tables 48 mmol/mol are 4.8 % and 5 meq/L are 5 mmol/L; of HbA1c and of calcium they are not.
    rows = (row("a1c", "48", "mmol/mol"), row("percent", "6.5", "%"), row("calcium", "5", "meq/L"))
    assert ids(f"lt100|{UCUM}|%", *rows) == "percent"
    assert ids(f"lt100|{UCUM}|mmol/L", *rows) == ""
    assert ids(f"lt1|{UCUM}|eq/L", *rows) == "calcium"


def test_a_score_is_no_percentage() -> None:
    rows = (row("pain", "3", "{score}"), row("ratio", "0.5", "L/L"), row("plain", "2", "1"))
    assert ids(f"ge50|{UCUM}|%", *rows) == "plain ratio"
    assert ids(f"3|{UCUM}|1", *rows) == "pain"
    assert ids(f"gt100|{UCUM}|{{percentile}}", row("it", "2", "10*3")) == ""


def test_without_a_system_code_and_unit_count_as_they_are_written() -> None:
    # search.html#quantity: "where the unit - either the code (code) or the stated human unit (unit) are"
    rows = (row("code", "5.4", "mg/dL", unit="mg/dl"), row("unit", "5.4", unit="mg/dl"), row("other", "54", "mg/L"))
    assert ids("5.4||mg/dL", *rows) == "code"
    assert ids("5.4||mg/dl", *rows) == "code unit"
    assert ids("5.4||mg", *rows) == ""
    assert ids("5.4", *rows) == "code unit"
    # A text without a system is none of UCUM, even if it could be; the litre has two codes there.
    assert ids(f"5.4|{UCUM}|mg/dl", *rows) == "code other"
    assert ids(f"5.4|{UCUM}|", *rows) == "code"


def test_composites_compare_across_units_too() -> None:
    rows = (row("low", "535", "mg/dL"), row("high", "545", "mg/dL"))
    assert ids(f"{LOINC}|x$gt5.4|{UCUM}|g/L", *rows, name="code-value-quantity") == "high"


@pytest.mark.parametrize("number", ["1e999999", "lt1e-999999", "gt" + "1" * 500])
def test_a_number_beyond_measure_costs_a_refusal_and_no_memory(number: str) -> None:
    with pytest.raises(QueryRefused):
        ids(f"{number}|{UCUM}|g", row("it", "1", "kg"))


@pytest.mark.parametrize("number", ["1E+9999999", "ap1e999999", "1E-9999999", "0E+9999999", "lt" + "1" * 500])
def test_such_a_number_is_refused_whatever_the_parameter(number: str) -> None:
    rows = (row("it", "1", "kg"),)
    for name, text in (
        ("value-quantity", number),
        ("value-quantity", f"{number}|urn:x|y"),
        ("value-quantity", f"{number}||kg"),
        ("code-value-quantity", f"{LOINC}|x${number}"),
    ):
        with pytest.raises(QueryRefused) as refused:
            ids(text, *rows, name=name)
        assert [i.code for i in refused.value.issues] == ["invalid"]
    with pytest.raises(QueryRefused):
        search(view_of(), "RiskAssessment", [("probability", number)], now=NOW)


LONG = ("12345678901234567890123456789012345", "1." + "0" * 33 + "1", "1" * 200 + "." + "1" * 200)


@pytest.mark.parametrize("number", LONG)
@pytest.mark.parametrize("unit", ["", f"|{UCUM}|kg", "||kg"])
def test_a_number_of_many_digits_finds_itself_and_not_what_differs_in_the_last(number: str, unit: str) -> None:
    rows = (row("it", number, "kg"), row("next", f"{number[:-1]}{int(number[-1]) + 1}", "kg"))
    assert ids(number + unit, *rows) == "it"
    assert ids(f"ne{number}{unit}", *rows) == "next"
    assert ids(f"ap{number}{unit}", *rows) == "it next"


def test_a_recorded_number_beyond_measure_is_compared_all_the_same() -> None:
    rows = (row("huge", "1e99999", "mg"), row("tiny", "1e-99999", "mg"))
    assert ids(f"gt1|{UCUM}|g", *rows) == "huge"
    assert ids(f"lt1|{UCUM}|g", *rows) == "tiny"


@given(
    st.decimals("0.001", "1000", places=3),
    st.decimals("0.001", "1000", places=3),
    st.sampled_from(PREFIXES),
    st.sampled_from([("g", 0), ("kg", 3), ("mg", -3), ("ug", -6)]),
    st.sampled_from([("g", 0), ("kg", 3), ("mg", -3), ("ug", -6)]),
)
def test_it_is_the_comparison_of_both_in_grams(
    asked: Decimal, held: Decimal, prefix: str, to: tuple[str, int], of: tuple[str, int]
) -> None:
    """A second definition: both sides as fractions of a gram."""
    step = Fraction(10) ** to[1]
    limit, value = Fraction(asked) * step, Fraction(held) * Fraction(10) ** of[1]
    half, tenth = step / 2000, abs(limit) / 10
    is_equal = limit - half <= value < limit + half
    wanted = {
        "eq": is_equal,
        "ne": not is_equal,
        "gt": value > limit,
        "sa": value > limit,
        "lt": value < limit,
        "eb": value < limit,
        "ge": value >= limit,
        "le": value <= limit,
        "ap": abs(value - limit) <= tenth,
    }[prefix or "eq"]
    assert ids(f"{prefix}{asked}|{UCUM}|{to[0]}", row("it", str(held), of[0])) == ("it" if wanted else "")
