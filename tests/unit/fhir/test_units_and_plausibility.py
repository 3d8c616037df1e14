"""Units that are no UCUM and values that cannot be are flagged, never refused."""

from typing import Any

import pytest

from fhir_bridge.fhir.tables import r4
from fhir_bridge.fhir.ucum import is_ucum
from fhir_bridge.fhir.validate import validate_r4
from tests.unit.fhir.fhir_samples import Json, errors, flags, observation, quantity


def test_every_unit_of_hl7s_list_of_ucum_units_is_ucum() -> None:
    """``ValueSet/ucum-units`` of the R4 expansions: 997 units in clinical use, made by UCUM's own keepers."""
    listed = r4().codes["http://hl7.org/fhir/ValueSet/ucum-units"]["http://unitsofmeasure.org"]
    assert len(listed) > 900
    assert [code for code in sorted(listed) if not is_ucum(code)] == []


# Spellings from the specification's text (sections 2.1 to 2.4) and from everyday records.
UCUM_UNITS = ["m/s2", "mg/dL", "/min", "10*-6", "m[H2O]", "kg.m/s2", "(8.h)", "{rbc}", "a", "u[IU]/mL", "kat/kg", "%"]


@pytest.mark.parametrize("code", UCUM_UNITS)
def test_ucum_is_recognised(code: str) -> None:
    assert is_ucum(code)


@pytest.mark.parametrize(
    "code",
    [
        "beats/minute",
        "mmHg",
        "mm Hg",
        "degC",
        "lbs",
        "pounds",
        "bpm",
        "inches",
        "percent",
        "mg//dL",
        "mg/",
        ".mg",
        "",
        " ",
        "mg dL",
        "{open",
        "close}",
        "(mg",
        "mg)",
        "kkg",
        "kmin",
        "mcg",
        "[foo]",
        "cc",
        "MG/DL",
        "m" * 200,
        "(" * 120,
    ],
)
def test_what_is_no_ucum_is_recognised(code: str) -> None:
    assert not is_ucum(code)


def test_a_false_ucum_code_is_flagged_wherever_a_quantity_stands() -> None:
    bad = quantity(4, "beats/minute")
    cases: dict[str, Json] = {
        "Observation.valueQuantity.code": observation(valueQuantity=bad),
        "Observation.component[0].valueQuantity.code": observation(
            component=[{"code": {"text": "x"}, "valueQuantity": bad}]
        ),
        "Observation.referenceRange[0].low.code": observation(referenceRange=[{"low": bad}]),
        "Observation.valueRatio.numerator.code": observation(
            valueRatio={"numerator": bad, "denominator": quantity(1, "1")}
        ),
    }
    for place, resource in cases.items():
        issues = validate_r4(resource)
        assert (errors(issues), flags(issues)) == (set(), {("code-invalid", place)})


def test_a_unit_of_another_system_is_not_judged() -> None:
    assert validate_r4(observation(valueQuantity=quantity(4, "beats/minute", "http://x.example"))) == []


def measured(loinc: str, value: Any, unit: str) -> Json:
    code = {"coding": [{"system": "http://loinc.org", "code": loinc}]}
    return observation(code=code, valueQuantity=quantity(value, unit))


PLACE = {("business-rule", "Observation.valueQuantity.value")}

IMPOSSIBLE = [
    ("8867-4", "900", "/min"),
    ("8310-5", "371", "Cel"),
    ("8310-5", "-3.5", "Cel"),
    ("8310-5", "37.0", "[degF]"),
    ("8480-6", "1200", "mm[Hg]"),
    ("29463-7", "7000", "kg"),
    ("29463-7", "0", "kg"),
    ("8302-2", "1.75", "cm"),
    ("2708-6", "101", "%"),
    ("2339-0", "-5", "mg/dL"),
    ("2345-7", "99999", "mg/dL"),
    ("4548-4", "0.065", "%"),
    ("718-7", "140", "g/dL"),
    ("2823-3", "45", "mmol/L"),
    ("2744-1", "74", "[pH]"),
    ("39156-5", "2500", "kg/m2"),
    ("9269-2", "2", "{score}"),
]
POSSIBLE = [
    ("8867-4", "72", "/min"),
    ("8867-4", "0", "/min"),
    ("8310-5", "37.20", "Cel"),
    ("8310-5", "98.6", "[degF]"),
    ("8480-6", "120", "mm[Hg]"),
    ("29463-7", "0.45", "kg"),
    ("8302-2", "1.75", "m"),
    ("2345-7", "1200", "mg/dL"),
    ("4548-4", "6.5", "%"),
    ("718-7", "14", "g/dL"),
    ("1925-7", "-8", "mmol/L"),
    ("38263-0", "-2.5", "{Tscore}"),
    ("8310-5", "371", "{unknown unit}"),
]


@pytest.mark.parametrize(("loinc", "value", "unit"), IMPOSSIBLE)
def test_what_no_living_person_has_is_flagged(loinc: str, value: str, unit: str) -> None:
    issues = validate_r4(measured(loinc, value, unit))
    assert (errors(issues), flags(issues)) == (set(), PLACE)
    assert value not in repr(issues).replace("0 to", "").replace(" 0 ", "") or value == "0"


@pytest.mark.parametrize(("loinc", "value", "unit"), POSSIBLE)
def test_what_somebody_can_have_is_not_flagged(loinc: str, value: str, unit: str) -> None:
    assert validate_r4(measured(loinc, value, unit)) == []


def test_a_negative_measurement_of_unknown_kind_is_flagged() -> None:
    assert flags(validate_r4(measured("99999-9", "-1", "{score}"))) == PLACE


def test_components_are_judged_one_by_one() -> None:
    def part(loinc: str, value: int) -> Json:
        code = {"coding": [{"system": "http://loinc.org", "code": loinc}]}
        return {"code": code, "valueQuantity": quantity(value, "mm[Hg]")}

    resource = observation(component=[part("8480-6", 120), part("8462-4", 800)])
    place = "Observation.component[1].valueQuantity.value"
    assert flags(validate_r4(resource)) == {("business-rule", place)}


def test_a_dose_below_zero_is_flagged() -> None:
    resource: Json = {
        "resourceType": "MedicationRequest",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": {"text": "x"},
        "subject": {"reference": "Patient/1"},
        "dosageInstruction": [{"doseAndRate": [{"doseQuantity": quantity(-1, "mg")}]}],
    }
    place = "MedicationRequest.dosageInstruction[0].doseAndRate[0].doseQuantity.value"
    assert flags(validate_r4(resource)) == {("business-rule", place)}


@pytest.mark.parametrize(
    ("born", "died", "flagged"),
    [("1950-05-01", "1949", True), ("1950-05-01", "1950-05-01", False), ("1950", "1950-03-01T00:00:00Z", False)],
)
def test_death_before_birth_is_flagged(born: str, died: str, flagged: bool) -> None:
    resource: Json = {"resourceType": "Patient", "birthDate": born, "deceasedDateTime": died}
    assert flags(validate_r4(resource)) == ({("business-rule", "Patient.deceasedDateTime")} if flagged else set())


@pytest.mark.parametrize("unit", [["mg/dL"], {}, 7, None, True])
def test_a_unit_that_is_no_text_is_refused_where_it_stands(unit: object) -> None:
    quantity = {"value": -5, "code": unit}
    observation = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "2345-7"}]},
        "valueQuantity": quantity,
    }
    found = {(issue.severity, issue.expression.split("[")[0]) for issue in validate_r4(observation)}
    assert ("error", "Observation.valueQuantity.code") in found
