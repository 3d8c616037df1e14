"""What the story reads out of answers: sources, dates, glucose, the stretch of timeline to show, the access log."""

from __future__ import annotations

import base64
from typing import Any

from fhir_bridge.cli.demo.papers import audit_row, consent
from fhir_bridge.cli.demo.timeline import Entry, by_source, entries, glucose, liveliest


def record(type_name: str, source: str, number: int = 0, **rest: Any) -> dict[str, Any]:
    tags = [{"system": "http://elsewhere", "code": "x"}, {"system": "urn:fhir-bridge:institution", "code": source}]
    return {"resourceType": type_name, "id": f"{source}{number}", "meta": {"tag": tags}, **rest}


def test_records_are_counted_by_the_institution_in_their_tag() -> None:
    bundle = {"entry": [{"resource": record("Condition", s)} for s in ("harbor", "cedar", "harbor")]}
    assert by_source(entries(bundle)) == {"harbor": 2, "cedar": 1}
    assert by_source(entries({})) == {}


def test_a_date_is_found_whatever_the_type_calls_it() -> None:
    assert Entry(record("Observation", "x", effectiveDateTime="2020-01-02T03:04:05Z")).date == "2020-01-02"
    assert Entry(record("Encounter", "x", period={"start": "2019-05-06T00:00:00Z"})).date == "2019-05-06"
    assert Entry(record("Procedure", "x", performedPeriod={"end": "2019"})).date == ""


def test_glucose_is_told_by_loinc_code_not_by_words() -> None:
    coded = record("Observation", "x", code={"coding": [{"system": "http://loinc.org", "code": "2339-0"}]})
    worded = record("Observation", "x", code={"text": "Glucose", "coding": [{"system": "urn:x", "code": "2339-0"}]})
    assert [e.resource for e in glucose([Entry(coded), Entry(worded)])] == [coded]


def test_the_stretch_shown_is_where_sources_alternate_most() -> None:
    order = ["a"] * 10 + ["a", "b", "a", "b"] + ["b"] * 10
    found = [
        Entry(record("Condition", source, n, recordedDate=f"2020-01-{n + 1:02}", code={"text": "t"}))
        for n, source in enumerate(order)
    ]
    assert [e.source for e in liveliest(found, 4)] == ["a", "b", "a", "b"]
    assert liveliest(found[:2], 4) == found[:2]
    assert liveliest([], 4) == []


def test_the_consent_permits_one_institution_and_denies_one_label() -> None:
    body = consent("p1", "org1", "SDV")
    assert body["policyRule"]["coding"][0]["code"] == "OPTOUT"
    assert body["provision"]["type"] == "permit"
    assert body["provision"]["actor"][0]["reference"] == {"reference": "Organization/org1"}
    (inner,) = body["provision"]["provision"]
    assert (inner["type"], inner["securityLabel"][0]["code"]) == ("deny", "SDV")


def test_an_audit_event_is_read_as_who_asked_what_of_which_chart() -> None:
    query = base64.b64encode(b"GET Patient/" + b"a" * 32 + b"/$everything?x=a%7Cb").decode()
    event = {
        "recorded": "2026-11-23T17:00:01.000Z",
        "purposeOfEvent": [{"coding": [{"code": "TREAT"}]}],
        "agent": [
            {"requestor": False, "who": {"identifier": {"value": "client"}}},
            {"requestor": True, "who": {"reference": "Practitioner/7"}},
        ],
        "entity": [
            {"query": query},
            {"what": {"reference": "Patient/c1"}, "role": {"code": "1"}, "detail": [_detail("records", "12")]},
        ],
    }
    row = audit_row(event, {"Practitioner/7": "Dr. A"}, {"Patient/c1": "harbor"})
    assert row == ("17:00:01", "Dr. A", "GET Patient/aaaaaa…/$everything?x=a|b", "harbor", "12", "TREAT")


def _detail(name: str, text: str) -> dict[str, str]:
    return {"type": name, "valueString": text}
