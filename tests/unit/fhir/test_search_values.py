"""Values that search parameters match, by the tables of FHIR R4 search.html."""

from typing import Any

import pytest

from fhir_bridge.fhir.dates import interval
from fhir_bridge.fhir.search import codes, extract, fold, names_beside, parameters_of, targets_of
from fhir_bridge.fhir.tables import r4, search_parameters
from fhir_bridge.fhir.validate import validate_r4
from tests.unit.fhir.fhir_samples import Json, errors, examples, observation, patient, quantity

LOINC = "http://loinc.org"


def test_an_observation_is_found_by_what_it_says() -> None:
    values = extract(
        observation(
            category=[{"coding": [{"system": "http://c", "code": "vital-signs"}], "text": "x"}, {"text": "no code"}],
            encounter={"reference": "Encounter/e1/_history/3"},
            performer=[{"reference": "Practitioner?identifier=http://npi|9"}, {"reference": "#c"}],
            identifier=[{"system": "http://i", "value": "7"}, {"value": "8"}],
            valueQuantity=quantity("7.20", "mmol/L"),
            meta={
                "profile": ["http://p"],
                "tag": [{"system": "http://t", "code": "a"}],
                "security": [{"code": "R"}],
                "source": "urn:s",
            },
        )
    )
    assert values["_id"] == (("", "o1"),)
    assert values["code"] == values["combo-code"] == ((LOINC, "8867-4"),)
    assert values["status"] == (("", "final"),)
    assert values["category"] == (("http://c", "vital-signs"),)
    assert values["patient"] == values["subject"] == ("Patient/p1",)
    assert values["encounter"] == ("Encounter/e1",)
    assert values["performer"] == ("|http://npi|9",)
    assert values["identifier"] == (("http://i", "7"), ("", "8"))
    assert values["date"] == (interval("2026-03-01T10:00:00Z"),)
    assert values["value-quantity"] == (("7.20", "http://unitsofmeasure.org", "mmol/L"),)
    assert values["_profile"] == ("http://p",)
    assert values["_tag"] == (("http://t", "a"),)
    assert values["_security"] == (("", "R"),)
    assert values["_source"] == ("urn:s",)


def test_a_patient_is_found_by_name_and_identifier() -> None:
    values = extract(
        patient(
            name=[{"use": "official", "family": "Muñoz", "given": ["Ana", "B"], "prefix": ["Dr"], "text": "Ana M"}],
            telecom=[{"system": "phone", "value": "1"}, {"system": "email", "value": "a@b"}],
            address=[{"use": "home", "line": ["x 1"], "city": "Y", "postalCode": "Z"}],
            birthDate="1970-01",
            deceasedBoolean=False,
            active=True,
        )
    )
    assert set(values["name"]) == {"Muñoz", "Ana", "B", "Dr", "Ana M"}
    assert (values["family"], values["given"]) == (("Muñoz",), ("Ana", "B"))
    assert values["birthdate"] == (interval("1970-01"),)
    assert values["gender"] == (("", "female"),)
    assert values["phone"] == (("", "1"),)
    assert values["email"] == (("", "a@b"),)
    assert set(values["address"]) == {"x 1", "Y", "Z"}
    assert values["deceased"] == (("", "false"),)
    assert values["active"] == (("", "true"),)
    assert extract(patient(deceasedDateTime="2020"))["deceased"] == (("", "true"),)


def test_a_patient_who_is_not_said_to_be_dead_is_found_as_alive() -> None:
    # R4's path is "Patient.deceased.exists() and Patient.deceased != false", which is false without deceased[x].
    assert extract(patient())["deceased"] == (("", "false"),)


def test_a_parameter_whose_path_ends_at_an_extension_finds_its_value() -> None:
    url = "http://hl7.org/fhir/StructureDefinition/observation-geneticsGene"
    gene = {"coding": [{"system": "http://www.genenames.org", "code": "3236", "display": "EGFR"}]}
    values = extract(observation(extension=[{"url": url, "valueCodeableConcept": gene}, {"url": "urn:x"}]))
    assert values["gene-identifier"] == (("http://www.genenames.org", "3236"),)
    assert values["gene-identifier:text"] == ("EGFR",)


def test_a_composite_can_look_outside_its_part() -> None:
    # R4 MolecularSequence-chromosome-variant-coordinate: %resource.referenceSeq.chromosome with start and end.
    chromosome = {"coding": [{"system": "urn:c", "code": "2"}]}
    variants = [{"start": 5, "end": 6}, {"start": 8}]
    sequence = {"resourceType": "MolecularSequence", "coordinateSystem": 1, "variant": variants}
    values = extract(sequence | {"referenceSeq": {"chromosome": chromosome}})
    assert values["chromosome-variant-coordinate"] == (((("urn:c", "2"),), ("5",), ("6",)),)
    assert "chromosome-variant-coordinate" not in extract(sequence)


def test_references_keep_their_kind() -> None:
    def subject(reference: Json) -> Any:
        return extract(observation(subject=reference)).get("subject")

    assert subject({"reference": "https://a.example/fhir/Patient/1"}) == ("https://a.example/fhir/Patient/1",)
    assert subject({"identifier": {"system": "http://s", "value": "v"}}) == ("|http://s|v",)
    assert subject({"reference": "Patient/1", "identifier": {"value": "v"}}) == ("Patient/1", "||v")
    assert subject({"display": "x"}) is None


def test_patient_means_references_to_patients_only() -> None:
    values = extract(observation(subject={"reference": "Group/g"}))
    assert "patient" not in values
    assert values["subject"] == ("Group/g",)


@pytest.mark.parametrize(
    ("elements", "low", "high"),
    [
        ({"effectivePeriod": {"start": "2020", "end": "2021"}}, "2020", "2021"),
        ({"effectiveInstant": "2020-01-01T00:00:00Z"}, "2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
        ({"effectiveTiming": {"event": ["2021", "2020"]}}, "2020", "2021"),
    ],
)
def test_every_form_of_a_date_is_an_interval(elements: Json, low: str, high: str) -> None:
    first, last = interval(low), interval(high)
    assert first is not None
    assert last is not None
    assert extract(observation(effectiveDateTime=None, **elements))["date"] == ((first[0], last[1]),)


def test_text_is_no_date_even_if_it_reads_like_one() -> None:
    # search.html#date lists date, dateTime, instant, Period and Timing; scheduled[x] may be a string as well.
    plan = {"resourceType": "CarePlan", "id": "c", "activity": [{"detail": {"scheduledString": "2011-06-27"}}]}
    assert "activity-date" not in extract(plan)
    plan["activity"] = [{"detail": {"scheduledPeriod": {"start": "2011-06-27", "end": "2011-06-28"}}}]
    assert len(extract(plan)["activity-date"]) == 1


def test_a_parameter_can_point_to_what_its_element_can_point_to() -> None:
    # R4's definition of this parameter names Organization alone; the element is Reference(Patient | Group).
    assert {"Group", "Patient"} <= set(targets_of("Condition", "subject"))
    assert targets_of("Encounter", "service-provider") == ("Organization",)


def test_extraction_serves_exactly_the_parameters_it_names() -> None:
    for example in examples("r4"):
        type_name = example["resourceType"]
        assert set(extract(example)) <= {*parameters_of(type_name), *names_beside(type_name)}, type_name


def test_every_plain_parameter_of_the_standard_is_offered() -> None:
    plain = {"token", "date", "reference", "string", "uri", "quantity", "number", "composite"}
    missing = {
        (name, row.name)
        for name in r4().resource_types()
        for row in search_parameters().get(name, {}).values()
        if row.kind in plain and row.name not in parameters_of(name)
    }
    left_out = {("Bundle", "composition"), ("Bundle", "message")}
    left_out |= {(name, row) for name, row in missing if row == "phonetic"}
    assert missing == left_out


def test_an_unknown_type_has_no_parameters() -> None:
    assert parameters_of("Nothing") == {}
    assert targets_of("Observation", "nothing") == ()
    assert "Patient" in targets_of("Observation", "subject")


def test_folding_follows_the_standards_string_rule() -> None:
    assert fold("  Mun\u0303OZ  de la  Ñ ") == fold("muñoz DE la n\u0303") == "munoz de la n"
    assert fold("Straße") == fold("STRASSE")


def test_codes_name_what_a_record_is_about() -> None:
    resource = observation(
        category=[{"coding": [{"system": "http://c", "code": "laboratory"}]}],
        interpretation=[{"coding": [{"system": "http://i", "code": "N"}]}],
        component=[{"code": {"coding": [{"system": LOINC, "code": "1-8"}]}, "valueString": "x"}],
        valueCodeableConcept={"coding": [{"system": "http://snomed.info/sct", "code": "86406008"}]},
    )
    assert set(codes(resource)) == {
        f"{LOINC}|8867-4",
        f"{LOINC}|1-8",
        "http://c|laboratory",
        "http://snomed.info/sct|86406008",
    }
    request: Json = {
        "resourceType": "MedicationRequest",
        "contained": [{"resourceType": "Medication", "id": "m", "code": {"coding": [{"code": "z"}]}}],
        "medicationReference": {"reference": "#m"},
        "reasonCode": [{"coding": [{"system": "http://r", "code": "y"}]}],
    }
    assert set(codes(request)) == {"|z", "http://r|y"}


def test_samples_of_these_tests_are_valid() -> None:
    assert errors(validate_r4(observation())) == errors(validate_r4(patient())) == set()
