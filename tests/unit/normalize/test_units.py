"""Units: a converted value means what was sent, and nothing is converted on a guess."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.errors import RulesetBroken
from fhir_bridge.fhir.json import parse, render
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import Ruleset, load_ruleset, preview
from fhir_bridge.normalize.tables import UnitRow
from fhir_bridge.normalize.verbs_units import canonical_value
from tests.unit.normalize.bench import MAPPINGS, pack

FACTORS = ("1.8", "0.0555", "88.42", "10.93", "2.2046226", "0.3937008", "10", "0.01129")
OBS = "https://harbor.example.org/codes/obs"


def row(factor: str, offset: str = "0") -> UnitRow:
    return UnitRow("local", "", "canonical", Decimal(factor), Decimal(offset))


@given(
    st.decimals(min_value=-(10**6), max_value=10**6, places=3) | st.integers(-(10**6), 10**6),
    st.sampled_from(FACTORS),
    st.sampled_from(("0", "32", "-23.5")),
)
def test_converting_back_gives_the_value_sent_within_its_precision(
    local: Decimal | int, factor: str, offset: str
) -> None:
    found = canonical_value(local, row(factor, offset))
    assert found is not None
    back = Fraction(found) * Fraction(factor) + Fraction(offset)
    exponent = Decimal(local).as_tuple().exponent
    assert isinstance(exponent, int)
    assert abs(back - Fraction(local)) <= Fraction(10) ** min(0, exponent) / 100


@pytest.mark.parametrize(
    ("local", "factor", "offset", "expected"),
    [
        (Decimal("98.6"), "1.8", "32", "37.0000"),
        (Decimal("100.23"), "1.8", "32", "37.90556"),
        (Decimal("5.6"), "0.0555", "0", "100.90"),
        (Decimal("48"), "10.93", "-23.5", "6.5416"),
        (Decimal("140"), "10", "0", "14.000"),
        (150, "2.2046226", "0", "68.039"),
    ],
)
def test_digits_follow_the_precision_sent(local: Decimal | int, factor: str, offset: str, expected: str) -> None:
    assert str(canonical_value(local, row(factor, offset))) == expected


@pytest.fixture(scope="module")
def harbor() -> Ruleset:
    return load_ruleset(MAPPINGS / "harbor")


def measured(code: str, quantity: str) -> dict[str, Any]:
    text = (
        '{"resourceType":"Observation","id":"o","status":"final","subject":{"reference":"Patient/p"},'
        f'"code":{{"coding":[{{"system":"{OBS}","code":"{code}"}}]}},"valueQuantity":{quantity}}}'
    )
    return parse(text.encode())


def test_a_coded_unit_is_left_alone_by_a_table(tmp_path: Path) -> None:
    """It is the sender's own statement; the spelling beside it is no riddle."""
    source = (
        "institution: x\nunits:\n  laboratory:\n    file: codes/units.csv\n"
        f"    constants: {{system: '{OBS}'}}\n    columns: {{code: local_code}}\n"
    )
    table = "local_code,local_unit,local_ucum,canonical,factor,offset\nLB6266,mmol/l,mmol/L,mg/dL,0.0555,0\n"
    steps = "rule: r\non: Observation\nwhy: test\ndo:\n  - unit: {path: value, table: laboratory}\n"
    ruleset = load_ruleset(pack(tmp_path / "x", steps, source, codes__units_csv=table))
    quantity = '{"value":5.60,"unit":"mmol/l","system":"http://unitsofmeasure.org","code":"mmol/L"}'
    found = preview(measured("LB6266", quantity), FhirVersion.R4, ruleset)
    assert render(found.body["valueQuantity"]) == quantity.encode()
    spelled = preview(measured("LB6266", '{"value":5.60,"unit":"mmol/l"}'), FhirVersion.R4, ruleset)
    assert str(spelled.body["valueQuantity"]["value"]) == "100.901"


def test_the_end_of_a_range_without_a_unit_follows_its_value(harbor: Ruleset) -> None:
    sent = measured("LB6266", '{"value":5.6,"unit":"mmol/l"}') | {
        "referenceRange": [{"high": {"value": Decimal("6.0")}}]
    }
    high = preview(sent, FhirVersion.R4, harbor).body["referenceRange"][0]["high"]
    assert (str(high["value"]), high["code"]) == ("108.11", "mg/dL")


def test_an_unknown_unit_of_a_known_analyte_is_kept_and_reported(harbor: Ruleset) -> None:
    found = preview(measured("LB6266", '{"value":5.60,"unit":"spoons"}'), FhirVersion.R4, harbor)
    assert render(found.body["valueQuantity"]) == b'{"value":5.60,"unit":"spoons"}'
    assert [(f.code, f.expression) for f in found.flags] == [("code-invalid", "Observation.valueQuantity")]


def test_another_unit_than_the_dictionary_states_is_coded_as_what_it_is_and_reported(harbor: Ruleset) -> None:
    found = preview(measured("LB2031", '{"value":78.1,"unit":"mL/min"}'), FhirVersion.R4, harbor)
    assert (found.body["valueQuantity"]["code"], found.body["valueQuantity"]["value"]) == ("mL/min", Decimal("78.1"))
    assert [f.code for f in found.flags] == ["business-rule"]


def test_a_reported_finding_names_no_value(harbor: Ruleset) -> None:
    found = preview(measured("LB6266", '{"value":5.60,"unit":"canary"}'), FhirVersion.R4, harbor)
    assert all("canary" not in f.diagnostics for f in found.flags)


def test_a_comparator_survives_conversion(harbor: Ruleset) -> None:
    found = preview(measured("LB6266", '{"value":5.0,"comparator":"<","unit":"mmol/l"}'), FhirVersion.R4, harbor)
    assert found.body["valueQuantity"]["comparator"] == "<"


TABLE = "local_code,local_unit,local_ucum,canonical,factor,offset\n"


def by_table(folder: Path, *rows: str) -> Ruleset:
    source = (
        "institution: x\nunits:\n  laboratory:\n    file: codes/units.csv\n"
        f"    constants: {{system: '{OBS}'}}\n    columns: {{code: local_code}}\n"
    )
    steps = "rule: r\non: Observation\nwhy: test\ndo:\n  - unit: {path: value, table: laboratory}\n"
    return load_ruleset(pack(folder, steps, source, codes__units_csv=TABLE + "".join(f"{row}\n" for row in rows)))


@pytest.mark.parametrize("value", ["1e70", "1" * 100, "1e9999", "0." + "1" * 100])
def test_a_number_beyond_measure_is_kept_and_reported(tmp_path: Path, value: str) -> None:
    ruleset = by_table(tmp_path / "x", "A,mmol/l,mmol/L,mg/dL,0.0555,0")
    quantity = f'{{"value":{value},"unit":"mmol/l"}}'
    found = preview(measured("A", quantity), FhirVersion.R4, ruleset)
    assert render(found.body["valueQuantity"]).decode() == quantity
    assert [f.code for f in found.flags] == ["business-rule"]


def test_the_end_of_a_range_beyond_measure_says_the_unit_it_stays_in(tmp_path: Path) -> None:
    ruleset = by_table(tmp_path / "x", "A,mmol/l,mmol/L,mg/dL,0.0555,0")
    sent = measured("A", '{"value":5.6,"unit":"mmol/l"}') | {"referenceRange": [{"high": {"value": Decimal("1e70")}}]}
    found = preview(sent, FhirVersion.R4, ruleset).body
    high = found["referenceRange"][0]["high"]
    assert (found["valueQuantity"]["code"], high["unit"], high["code"]) == ("mg/dL", "mmol/l", "mmol/L")


def test_a_factor_of_zero_converts_nothing(tmp_path: Path) -> None:
    ruleset = by_table(tmp_path / "x", "A,mmol/l,mmol/L,mg/dL,0,0")
    quantity = '{"value":5.60,"unit":"mmol/l"}'
    found = preview(measured("A", quantity), FhirVersion.R4, ruleset)
    assert render(found.body["valueQuantity"]).decode() == quantity
    assert [f.code for f in found.flags] == ["business-rule"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["A,x,,mg/dL,-2,0"], "units.csv:2:1 a factor below zero would turn limits and comparators around"),
        (["A,x,,mg/dL,2,0", "A,y,,mg/dL,3,0"], "units.csv:3:1 the code stands twice, in two ways"),
    ],
)
def test_a_wrong_table_is_an_error_of_the_pack(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(RulesetBroken) as caught:
        by_table(tmp_path / "x", *rows)
    assert message in str(caught.value)
