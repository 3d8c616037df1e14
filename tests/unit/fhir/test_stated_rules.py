"""What R4 says in words of attachments, bundles, documents and definitions; each with the sentence it follows."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from fhir_bridge.fhir.validate import validate_r4
from tests.unit.fhir.fhir_samples import Json, errors, observation, patient

DATA = b"a bug, in 16 byte"


def flags(resource: Json) -> set[tuple[str, str]]:
    return {(i.code, i.expression) for i in validate_r4(resource) if i.severity == "warning"}


# --- Attachment.size: "The number of bytes of data that make up this attachment (before base64 encoding ...)"


def photo(data: bytes, **more: Any) -> Json:
    return patient(photo=[{"contentType": "image/png", "data": base64.b64encode(data).decode(), **more}])


@pytest.mark.parametrize("length", range(1, 9))
def test_the_size_of_an_attachment_is_that_of_its_data(length: int) -> None:
    assert errors(validate_r4(photo(bytes(length), size=length))) == set()
    for wrong in (length - 1, length + 1):
        assert errors(validate_r4(photo(bytes(length), size=wrong))) == {("value", "Patient.photo[0].size")}


def test_white_space_in_the_data_does_not_count() -> None:
    spaced = photo(b"")
    spaced["photo"][0] |= {"data": "YWJj\n ZGU=", "size": 5}
    assert errors(validate_r4(spaced)) == set()


def test_a_size_without_data_is_that_of_what_the_url_has() -> None:
    assert errors(validate_r4(patient(photo=[{"url": "http://x.example/1.png", "size": 100}]))) == set()


def test_a_hash_that_is_not_of_the_data_is_flagged() -> None:
    # "The calculated hash of the data using SHA-1. Represented using base64."
    right = base64.b64encode(hashlib.sha1(DATA, usedforsecurity=False).digest()).decode()
    assert flags(photo(DATA, hash=right)) == set()
    assert flags(photo(DATA + b"!", hash=right)) == {("value", "Patient.photo[0].hash")}


# --- a flag beside an error: neither hides the other


def test_a_flag_does_not_keep_an_invariant_from_being_looked_at() -> None:
    # obs-7: "If Observation.code is the same as an Observation.component.code then the value element associated
    # with the code SHALL NOT be present"; obs-6 is the same of dataAbsentReason.
    odd = {"value": 1, "system": "http://unitsofmeasure.org", "code": "no unit"}
    reason = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "unknown"}]}
    made = observation(valueQuantity=odd, dataAbsentReason=reason)
    assert flags(made) == {("code-invalid", "Observation.valueQuantity.code")}
    assert errors(validate_r4(made)) == {("invariant", "Observation")}


@pytest.mark.parametrize("system", ["LOCAL", "http://hl7.org/fhir/ValueSet/observation-codes"])
def test_a_system_that_names_no_code_system_is_flagged(system: str) -> None:
    made = observation(code={"coding": [{"system": system, "code": "1"}]})
    assert flags(made) == {("code-invalid", "Observation.code.coding[0].system")}
    assert errors(validate_r4(made)) == set()


# --- texts


@pytest.mark.parametrize(
    "text",
    [
        "Standard <script>x</script>",
        "<SCRIPT src=//x>",
        "<iframe/src=x>",
        "a <img src=x onerror=alert(1)>",
        "<svg/onload=alert(1)>",
        '<a href="x"onmouseover=alert(1)>',
    ],
)
def test_a_text_that_a_browser_would_run_is_flagged(text: str) -> None:
    assert flags(patient(name=[{"text": text}])) == {("security", "Patient.name[0].text")}
    assert flags(observation(note=[{"text": text}])) == {("security", "Observation.note[0].text")}


@pytest.mark.parametrize(
    "text",
    [
        "Hb <120 and >80",
        "<base excess>",
        "<b onset = 3 days",
        "<unknown>",
        "a < script > b",
        "<scripted text>",
        "<br/>",
    ],
)
def test_a_sign_in_a_text_is_no_fault(text: str) -> None:
    assert validate_r4(patient(name=[{"text": text}])) == []


def test_a_long_text_of_signs_is_read_in_no_time() -> None:
    for piece in ("<a ", "<a onload ", "<a onmouse" + "e" * 50, "<script"):
        text = (piece * 100_000)[:1_000_000]
        assert flags(patient(name=[{"text": text}])) == set()


# --- Bundle.entry.fullUrl: "The Absolute URL for the resource"


def bundle(kind: str, *entries: Json, **more: Any) -> Json:
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries), **more}


@pytest.mark.parametrize("url", ["Patient/p1", "p1", "#p1", "/Patient/p1"])
def test_a_full_url_is_absolute(url: str) -> None:
    made = bundle("collection", {"fullUrl": url, "resource": patient()})
    assert errors(validate_r4(made)) == {("value", "Bundle.entry[0].fullUrl")}


@pytest.mark.parametrize(
    "url", ["urn:uuid:c757873d-ec9a-4326-a141-556f43239520", "https://x.example/fhir/Patient/p1"]
)
def test_absolute_full_urls_are_taken(url: str) -> None:
    assert errors(validate_r4(bundle("collection", {"fullUrl": url, "resource": patient()}))) == set()


# --- documents.html: "Resources referenced by the Composition as listed below SHALL be included in the bundle";
# bundle.html#references says how a reference finds its entry.

ROOT = "http://x.example/fhir"
URN = "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"


def composition(**changes: Any) -> Json:
    return {
        "resourceType": "Composition",
        "id": "c1",
        "status": "final",
        "type": {"text": "Letter"},
        "date": "2026-03-01",
        "title": "Letter",
        "author": [{"display": "somebody"}],
        **changes,
    }


def document(first: Json, *others: Json, url: str = f"{ROOT}/Composition/c1") -> Json:
    identifier = {"system": "urn:ietf:rfc:3986", "value": URN}
    entries = ({"fullUrl": url, "resource": first}, *others)
    return bundle("document", *entries, identifier=identifier, timestamp="2026-03-01T10:00:00Z")


def at(url: str, version: str | None = None, **changes: Any) -> Json:
    made = patient(**changes)
    return {"fullUrl": url, "resource": made | ({"meta": {"versionId": version}} if version else {})}


P1 = at(f"{ROOT}/Patient/p1")


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("Patient/p1", P1),
        (f"{ROOT}/Patient/p1", P1),
        (URN, at(URN)),
        ("Patient/p1/_history/2", at(f"{ROOT}/Patient/p1", "2")),
        (f"{ROOT}/Patient/p1/_history/2", at(f"{ROOT}/Patient/p1", "2")),
    ],
)
def test_a_reference_that_finds_its_entry(text: str, entry: Json) -> None:
    assert errors(validate_r4(document(composition(subject={"reference": text}), entry))) == set()


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("Patient/p2", P1),
        ("Patient/p1", at("http://elsewhere.example/Patient/p1")),
        (f"{ROOT}/Patient/p1", at(URN)),
        ("Patient/p1/_history/3", at(f"{ROOT}/Patient/p1", "2")),
        ("Patient/p1/_history/3", P1),
    ],
)
def test_a_reference_that_finds_none(text: str, entry: Json) -> None:
    found = errors(validate_r4(document(composition(subject={"reference": text}), entry)))
    assert found == {("not-found", "Bundle.entry[0].resource.subject.reference")}


def test_a_relative_reference_from_an_entry_without_a_root_has_no_meaning() -> None:
    found = errors(validate_r4(document(composition(subject={"reference": "Patient/p1"}), P1, url=URN)))
    assert found == {("not-found", "Bundle.entry[0].resource.subject.reference")}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"encounter": {"reference": "Encounter/x"}}, "encounter"),
        ({"author": [{"display": "a"}, {"reference": "Practitioner/x"}]}, "author[1]"),
        ({"attester": [{"mode": "legal", "party": {"reference": "Practitioner/x"}}]}, "attester[0].party"),
        ({"custodian": {"reference": "Organization/x"}}, "custodian"),
        ({"event": [{"detail": [{"reference": "Procedure/x"}]}]}, "event[0].detail[0]"),
        ({"section": [{"title": "a", "entry": [{"reference": "Condition/x"}]}]}, "section[0].entry[0]"),
        (
            {
                "section": [
                    {"title": "a", "section": [{"focus": {"reference": "Condition/x"}, "entry": [{"display": "e"}]}]}
                ]
            },
            "section[0].section[0].focus",
        ),
    ],
)
def test_every_listed_reference_is_looked_at(changes: Json, place: str) -> None:
    found = errors(validate_r4(document(composition(**changes), P1)))
    assert found == {("not-found", f"Bundle.entry[0].resource.{place}.reference")}


def test_what_several_entries_answer_to_is_ambiguous_and_not_judged() -> None:
    several = (at(f"{ROOT}/Patient/p1", "1"), at(f"{ROOT}/Patient/p1", "2"))
    assert errors(validate_r4(document(composition(subject={"reference": "Patient/p1"}), *several))) == set()


def test_a_collection_may_point_outside() -> None:
    made = bundle("collection", {"fullUrl": URN, "resource": composition(subject={"reference": "Patient/p2"})})
    assert errors(validate_r4(made)) == set()


# --- definitions


def questionnaire(conditions: int, **more: Any) -> Json:
    items = [{"linkId": str(n), "type": "boolean"} for n in range(3)]
    when = [{"question": str(n), "operator": "=", "answerBoolean": True} for n in range(conditions)]
    asked = {"linkId": "last", "type": "string", "enableWhen": when, **more}
    return {"resourceType": "Questionnaire", "status": "draft", "item": [*items, asked]}


def test_several_conditions_say_how_they_count_together() -> None:
    # "This element must be specified if more than one enableWhen value is provided."
    assert errors(validate_r4(questionnaire(1))) == set()
    for several in (2, 3):
        assert errors(validate_r4(questionnaire(several))) == {("invariant", "Questionnaire.item[3]")}
        assert errors(validate_r4(questionnaire(several, enableBehavior="all"))) == set()


def code_system(**changes: Any) -> Json:
    made = {
        "resourceType": "CodeSystem",
        "url": "http://x.example/cs",
        "status": "draft",
        "content": "complete",
        "property": [{"code": "weight", "type": "decimal"}],
        **changes,
    }
    return {key: value for key, value in made.items() if value is not None}


def told(**of: Any) -> list[Json]:
    return [{"code": "a", "concept": [{"code": "b", "property": [of]}]}]


def test_properties_of_concepts_are_those_that_the_system_defines() -> None:
    # "A code that is a reference to CodeSystem.property.code."
    assert errors(validate_r4(code_system(concept=told(code="weight", valueDecimal=1)))) == set()
    place = "CodeSystem.concept[0].concept[0].property[0]"
    undefined = code_system(concept=told(code="height", valueDecimal=1))
    assert errors(validate_r4(undefined)) == {("business-rule", f"{place}.code")}
    typed = code_system(concept=told(code="weight", valueInteger=1))
    assert errors(validate_r4(typed)) == {("business-rule", place)}
    without = code_system(property=None, concept=told(code="weight", valueDecimal=1))
    assert errors(validate_r4(without)) == {("business-rule", f"{place}.code")}


def test_a_supplement_says_so() -> None:
    # content: "The resource doesn't define any new concepts; just provides additional designations and properties"
    assert errors(validate_r4(code_system(supplements="http://loinc.org", content="supplement"))) == set()
    found = errors(validate_r4(code_system(supplements="http://loinc.org")))
    assert found == {("business-rule", "CodeSystem.content")}


@pytest.mark.parametrize("type_name", ["ValueSet", "CodeSystem", "Questionnaire", "CapabilityStatement"])
def test_what_is_published_has_an_absolute_url(type_name: str) -> None:
    # "An absolute URI that is used to identify this ... when it is referenced in a specification"
    made: Json = {"resourceType": type_name, "url": "ValueSet/mine", "status": "draft"}
    assert errors(validate_r4(_filled(made))) == {("value", f"{type_name}.url")}
    assert errors(validate_r4(_filled(made | {"url": "urn:oid:1.2.3"}))) == set()


def _filled(made: Json) -> Json:
    rest = {"mode": "server"}
    more: dict[str, Json] = {
        "CodeSystem": {"content": "complete"},
        "CapabilityStatement": {
            "date": "2026-03-01",
            "kind": "instance",
            "implementation": {"description": "x"},
            "fhirVersion": "4.0.1",
            "format": ["json"],
            "rest": [rest],
        },
    }
    return made | more.get(made["resourceType"], {})


PART = {"definition": "http://hl7.org/fhir/SearchParameter/Organization-name", "expression": "name"}


def search_parameter(**changes: Any) -> Json:
    return {
        "resourceType": "SearchParameter",
        "url": "http://x.example/sp",
        "name": "n",
        "status": "draft",
        "description": "d",
        "code": "name",
        "base": ["Organization"],
        "type": "string",
        "expression": "Organization.name",
        "derivedFrom": "http://hl7.org/fhir/SearchParameter/Organization-name",
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # "the details in the search parameter must be consistent with the definition from which it is defined"
        ({}, None),
        ({"derivedFrom": "http://hl7.org/fhir/SearchParameter/Organization-name|4.0.1"}, None),
        ({"type": "token"}, "type"),
        ({"base": ["Patient"]}, "base"),
        ({"base": ["Organization", "Patient"]}, "base"),
        ({"type": "token", "derivedFrom": "http://elsewhere.example/SearchParameter/Organization-name"}, None),
        ({"type": "token", "derivedFrom": "http://hl7.org/fhir/SearchParameter/clinical-code"}, None),
        ({"type": "token", "derivedFrom": "http://hl7.org/fhir/SearchParameter/Resource-id"}, None),
        # "A composite search parameter that combines a search on two values together."
        ({"type": "composite", "derivedFrom": "http://x.example/other"}, "component"),
        ({"type": "composite", "component": [PART], "derivedFrom": "http://x.example/other"}, "component"),
        ({"type": "composite", "component": [PART, PART], "derivedFrom": "http://x.example/other"}, None),
    ],
)
def test_a_search_parameter_agrees_with_what_it_is_derived_from(changes: Json, expected: str | None) -> None:
    found = errors(validate_r4(search_parameter(**changes)))
    assert found == ({("business-rule", f"SearchParameter.{expected}")} if expected else set())


@pytest.mark.parametrize(("kind", "is_right"), [("token", True), ("date", False)])
def test_a_server_names_the_type_of_an_official_parameter(kind: str, is_right: bool) -> None:
    # "It SHALL be the same as the type in the search parameter definition."
    official = "http://hl7.org/fhir/SearchParameter/AllergyIntolerance-clinical-status|4.0.1"
    offered = {"name": "clinical-status", "definition": official, "type": kind}
    made = _filled({"resourceType": "CapabilityStatement", "url": "http://x.example", "status": "draft"})
    made["rest"] = [{"mode": "server", "resource": [{"type": "AllergyIntolerance", "searchParam": [offered]}]}]
    place = "CapabilityStatement.rest[0].resource[0].searchParam[0].type"
    assert flags(made) == (set() if is_right else {("business-rule", place)})
    assert errors(validate_r4(made)) == set()
