"""Which records tell of the same thing twice: each ground, and what must never pass for a twin."""

from __future__ import annotations

import json
from itertools import combinations, permutations
from typing import Any

import pytest
from msgspec import structs

from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.search import codes, extract
from fhir_bridge.fhir.timeline import dated
from fhir_bridge.model.ingest import pack_values
from fhir_bridge.query import alike, suspects
from fhir_bridge.query.events import event_of
from tests.unit.query.query_samples import observation as row_of
from tests.unit.query.query_samples import view_of

Json = dict[str, Any]
NPI = "http://hl7.org/fhir/sid/us-npi"
DIRECTORY = {"Practitioner/a": [f"{NPI}|1"], "Practitioner/b": [f"{NPI}|1"], "Practitioner/c": [f"{NPI}|2"]}


def glucose(record_id: str, **more: Any) -> Json:
    """A laboratory value of which everything that is compared is known."""
    return {
        "resourceType": "Observation",
        "id": record_id,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "2339-0"}]},
        "effectiveDateTime": "2026-03-01T10:00:00Z",
        "performer": [{"reference": "Practitioner/a"}],
        "valueQuantity": {"value": 95, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"},
        **more,
    }


def quantity(number: float, code: str = "mg/dL", **more: Any) -> Json:
    return {"value": number, "system": "http://unitsofmeasure.org", "code": code, **more}


def told(*resources: Json) -> list[tuple[str, list[str]]]:
    """Return ``(ground, ids)`` of the groups that are found among resources."""
    bodies = {f"{r['resourceType']}/{r['id']}": json.dumps(r).encode() for r in resources}
    rows = []
    for name, body in bodies.items():
        resource = parse(body)
        start, period = dated(resource)
        row = row_of(name.partition("/")[2], type_name=resource["resourceType"])
        rows.append(
            structs.replace(
                row,
                codes=codes(resource),
                dated_us=start,
                data_period_us=period,
                search=pack_values(extract(resource)),
            )
        )
    found = alike(suspects(view_of(*rows)), bodies, lambda name: DIRECTORY.get(name, []))
    return [(each.ground, [f.row.id for f in each.found]) for each in found]


def test_what_is_known_and_the_same_in_both_is_one_event() -> None:
    # The same person, as another institution's directory has it.
    assert told(glucose("1"), glucose("2", performer=[{"reference": "Practitioner/b"}], note=[{"text": "x"}])) == [
        ("clinical", ["1", "2"])
    ]


def test_the_same_content_under_two_ids_is_identical_whatever_is_unknown() -> None:
    bare = {k: v for k, v in glucose("1").items() if k not in ("performer", "valueQuantity")}
    assert told(bare, bare | {"id": "2", "meta": {"source": "elsewhere"}}) == [("identical", ["1", "2"])]


@pytest.mark.parametrize(
    "more",
    [
        {"performer": []},
        {"performer": [{"display": "Dr A"}]},
        {"performer": [{"reference": "Practitioner/c"}]},
        {"valueQuantity": quantity(96)},
        {"valueQuantity": quantity(95, "mmol/L")},
        {"valueQuantity": quantity(95, comparator="<")},
        {"valueQuantity": {"value": 95, "unit": "mg/dL"}},
        {"valueQuantity": None, "dataAbsentReason": {"text": "unknown"}},
        {"effectiveDateTime": "2026-03-01T10:00:01Z"},
        {"effectiveDateTime": "2026-03-01"},
        {"code": {"text": "Glucose"}},
        {"code": {"coding": [{"system": "http://loinc.org", "code": "2345-7"}]}},
        {
            "code": {
                "coding": [
                    {"system": "http://loinc.org", "code": "2339-0"},
                    {"system": "http://snomed.info/sct", "code": "1"},
                ]
            },
            "effectivePeriod": {"start": "2026-03-01T10:00:00Z"},
            "effectiveDateTime": None,
        },
        {"status": "entered-in-error"},
    ],
    ids=str,
)
def test_what_differs_or_is_not_known_has_no_twin(more: Json) -> None:
    other = {k: v for k, v in (glucose("2") | {"note": [{"text": "n"}]} | more).items() if v is not None}
    assert told(glucose("1"), other) == []


def test_numbers_agree_at_the_precision_of_the_coarser_and_groups_do_not_chain() -> None:
    def with_value(name: str, number: float) -> Json:
        return glucose(name, valueQuantity=quantity(number), note=[{"text": name}])

    assert told(with_value("1", 95), with_value("2", 95.4)) == [("clinical", ["1", "2"])]
    assert told(with_value("1", 95.1), with_value("2", 95.4)) == []
    # 95.1 and 95.4 are both 95 to who wrote 95, and are two values all the same.
    groups = told(with_value("1", 95.1), with_value("2", 95), with_value("3", 95.4))
    assert all(len(ids) == 2 for _, ids in groups)


def test_two_codes_of_one_system_are_two_things_though_another_code_is_shared() -> None:
    def coded(name: str, snomed: str) -> Json:
        both = [
            {"system": "http://loinc.org", "code": "2339-0"},
            {"system": "http://snomed.info/sct", "code": snomed},
        ]
        return glucose(name, code={"coding": both}, note=[{"text": name}])

    assert told(coded("1", "33747003"), coded("2", "33747003")) == [("clinical", ["1", "2"])]
    assert told(coded("1", "33747003"), coded("2", "52302001")) == []


def test_components_are_compared_each_with_its_own() -> None:
    def pressure(name: str, systolic: int, diastolic: int, *, turned: bool = False) -> Json:
        parts = [
            {
                "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                "valueQuantity": quantity(n, "mm[Hg]"),
            }
            for code, n in (("8480-6", systolic), ("8462-4", diastolic))
        ]
        body = glucose(name, component=parts[::-1] if turned else parts, note=[{"text": name}])
        del body["valueQuantity"]
        return body

    assert told(pressure("1", 120, 80), pressure("2", 120, 80, turned=True)) == [("clinical", ["1", "2"])]
    assert told(pressure("1", 120, 80), pressure("2", 80, 120)) == []


def test_a_common_number_makes_one_of_two_unless_they_tell_of_two_things() -> None:
    accession = [{"system": "urn:lab", "value": "A1"}]
    visit = {"resourceType": "Encounter", "id": "1", "status": "finished", "class": {"code": "AMB"}}
    assert told(
        visit | {"identifier": accession}, visit | {"id": "2", "status": "planned", "identifier": accession}
    ) == [("identifier", ["1", "2"])]
    one = glucose("1", identifier=accession, performer=[])
    assert told(one, one | {"id": "2", "note": [{"text": "n"}]}) == [("identifier", ["1", "2"])]
    other = {"coding": [{"system": "http://loinc.org", "code": "2951-2"}]}
    assert told(one, one | {"id": "2", "code": other}) == []
    assert (
        told(one | {"identifier": [{"value": "A1"}]}, one | {"id": "2", "identifier": [{"value": "A1"}], "note": []})
        == []
    )


def test_a_common_number_without_a_system_counts_for_nothing_and_never_across_a_denial() -> None:
    bare = glucose("1", identifier=[{"value": "A1"}], performer=[])
    assert told(bare, bare | {"id": "2", "note": [{"text": "n"}]}) == []
    numbered = glucose("1", identifier=[{"system": "urn:lab", "value": "A1"}])
    assert told(numbered, numbered | {"id": "2", "status": "entered-in-error"}) == []


def test_the_instant_of_recording_is_no_clinical_time() -> None:
    def recorded(name: str) -> Json:
        body = glucose(name, issued="2026-03-01T10:00:00Z", note=[{"text": name}])
        del body["effectiveDateTime"]
        return body

    assert told(recorded("1"), recorded("2")) == []


def test_events_of_two_times_are_two() -> None:
    one, two = (event_of(glucose("1", effectiveDateTime=day), lambda _: []) for day in ("2026-03-01", "2026-03-02"))
    assert one is not None
    assert two is not None
    assert one.equals(one)
    assert not one.equals(two)
    assert not one.may_be(two)


def test_what_was_not_done_is_no_twin_of_what_was() -> None:
    def dose(name: str, status: str) -> Json:
        return {
            "resourceType": "Immunization",
            "id": name,
            "status": status,
            "vaccineCode": {"coding": [{"system": "http://hl7.org/fhir/sid/cvx", "code": "140"}]},
            "occurrenceDateTime": "2026-03-01",
            "performer": [{"actor": {"identifier": {"system": NPI, "value": "1"}}}],
            "note": [{"text": name}],
        }

    assert told(dose("1", "completed"), dose("2", "completed")) == [("clinical", ["1", "2"])]
    assert told(dose("1", "completed"), dose("2", "not-done")) == []


@pytest.mark.parametrize(
    "more",
    [{"doNotPerform": True}, {"modifierExtension": [{"url": "urn:not", "valueBoolean": True}]}],
    ids=["doNotPerform", "modifierExtension"],
)
def test_what_a_modifier_turns_into_something_else_is_no_twin(more: Json) -> None:
    def order(name: str, **more: Any) -> Json:
        return {
            "resourceType": "MedicationRequest",
            "id": name,
            "status": "active",
            "intent": "order",
            "medicationCodeableConcept": {"coding": [{"system": "urn:rx", "code": "1"}]},
            "authoredOn": "2026-03-01T10:00:00Z",
            "requester": {"reference": "Practitioner/a"},
            "dosageInstruction": [{"doseAndRate": [{"doseQuantity": quantity(5, "mg")}]}],
            "note": [{"text": name}],
            "identifier": [{"system": "urn:orders", "value": "1"}],
            **more,
        }

    assert told(order("1"), order("2")) != []
    assert told(order("1"), order("2", **more)) == []
    assert told(order("1", **more), order("2", **more)) != []


def test_the_order_of_records_changes_nothing_and_every_two_of_a_group_are_alike() -> None:
    records = [
        glucose(str(n), valueQuantity=quantity(v), note=[{"text": str(n)}]) for n, v in enumerate((95, 95.2, 95, 97))
    ]
    expected = told(*records)
    assert expected
    assert all(told(*each) == expected for each in permutations(records))
    for ground, ids in expected:
        for pair in combinations(ids, 2):
            assert told(*(r for r in records if r["id"] in pair)) == [(ground, list(pair))]


def test_only_suspects_need_to_be_opened() -> None:
    rows = [row_of(str(n), date=f"2026-03-0{n + 1}", identifier=(("urn:test", str(n)),)) for n in range(3)]
    assert suspects(view_of(*rows)) == []
    same = [structs.replace(each, codes=("http://loinc.org|1",), data_period_us=(0, 1)) for each in rows]
    assert [[f.row.id for f in group] for group in suspects(view_of(*same))] == [["0", "1", "2"]]
    assert [[f.row.id for f in group] for group in suspects(view_of(*same, hidden=frozenset({"1"})))] == [["0", "2"]]
    assert suspects(view_of(*same), {"Condition"}) == []


def test_a_group_within_a_larger_one_is_not_told_twice() -> None:
    first = glucose("1")
    assert told(first, first | {"id": "2"}, glucose("3", note=[{"text": "n"}])) == [("clinical", ["1", "2", "3"])]
