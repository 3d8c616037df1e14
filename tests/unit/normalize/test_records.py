"""What a normalised record looks like: stamped, indexed, deterministic, idempotent."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from fhir_bridge.fhir.json import parse, render
from fhir_bridge.fhir.value_set_files import packaged_sets
from fhir_bridge.model.ids import INSTITUTION_SYSTEM, canonical_id, content_digest
from fhir_bridge.model.ingest import FhirVersion, stamped
from fhir_bridge.normalize import Ruleset, explain_changes, load_ruleset, normalize
from tests.unit.normalize.bench import KEY, MAPPINGS, SOURCE, body, entry, message, observation, patient, rules, run


@pytest.fixture(scope="module")
def northgate() -> Ruleset:
    return load_ruleset(MAPPINGS / "northgate")


def test_version_and_time_are_put_right_after_the_brace_of_meta(northgate: Ruleset) -> None:
    (record,) = run(patient(), ruleset=northgate).records
    prefix = f'{{"resourceType":"Patient","id":"{canonical_id(KEY, "Patient", "p1")}","meta":{{'
    assert record.content[: record.stamp_at].decode() == prefix
    done = parse(stamped(record, version="v1", last_updated=datetime(2026, 1, 2, tzinfo=UTC)))
    assert (done["meta"]["versionId"], done["meta"]["lastUpdated"]) == ("v1", "2026-01-02T00:00:00.000Z")


def test_what_the_sender_claims_about_origin_and_version_does_not_stand(northgate: Ruleset) -> None:
    claimed = {
        "versionId": "7",
        "lastUpdated": "2020-01-01T00:00:00Z",
        "source": "urn:fhir-bridge:institution:harbor",
        "profile": ["urn:p"],
        "tag": [{"system": INSTITUTION_SYSTEM, "code": "harbor"}, {"system": "urn:t", "code": "x"}],
        "security": [{"system": "urn:s", "code": "R"}],
    }
    (record,) = run(patient(meta=claimed), ruleset=northgate).records
    assert body(record)["meta"] == {
        "source": "urn:fhir-bridge:institution:northgate",
        "profile": ["urn:p"],
        "security": [{"system": "urn:s", "code": "R"}],
        "tag": [{"system": "urn:t", "code": "x"}, {"system": INSTITUTION_SYSTEM, "code": "northgate"}],
    }
    assert record.row.source_updated_us == int(datetime(2020, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    assert record.row.labels == ("urn:s|R",)
    before = {c.element: c.before for c in explain_changes(record)}
    assert before["Patient.meta.versionId"] == "7"


def test_the_index_row_says_what_search_and_consent_need(northgate: Ruleset) -> None:
    sent = observation(effectiveDateTime="2020-03", meta={"lastUpdated": "2021-01-01T00:00:00Z"})
    (record,) = run(sent, ruleset=northgate).records
    row = record.row
    march = int(datetime(2020, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000
    april = int(datetime(2020, 4, 1, tzinfo=UTC).timestamp()) * 1_000_000
    assert (row.dated_us, row.data_period_us) == (march, (march, april))
    assert row.codes == ("http://loinc.org|8310-5",)
    assert ("http://loinc.org", "8310-5") in [tuple(v) for v in row.values_of("code")]
    assert (row.type, row.origin, row.author, row.version, row.deleted) == (
        "Observation",
        "northgate",
        "institution",
        "",
        False,
    )
    assert row.content == content_digest(KEY, record.content)


def test_record_numbers_of_a_patient_are_listed_and_of_nobody_else(northgate: Ruleset) -> None:
    numbers = [{"system": "urn:mrn", "value": "7"}, {"value": "8"}, {"system": "urn:empty"}]
    records = run(patient(identifier=numbers), observation(identifier=numbers), ruleset=northgate).records
    assert [r.identifiers for r in records] == [("urn:mrn|7", "|8"), ()]


NUMBERS = ("1.10", "37.200", "1e2", "-0", "0.000", "100000000000000000000", "1E-3", "5")


NORTHGATE = load_ruleset(MAPPINGS / "northgate")


@given(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=5))
@settings(deadline=None)
def test_untouched_numbers_keep_their_text(numbers: list[str]) -> None:
    parts = ",".join(f'{{"code":{{"text":"x"}},"valueQuantity":{{"value":{n}}}}}' for n in numbers)
    about = '"status":"final","code":{"text":"x"},"subject":{"reference":"Patient/p"}'
    text = f'{{"resourceType":"Observation","id":"o",{about},"component":[{parts}]}}'
    (record,) = run(text.encode(), ruleset=NORTHGATE).records
    assert f'"component":[{parts}]'.encode() in record.content
    assert record.original == text.encode()


def test_the_same_message_gives_the_same_bytes_and_leaves_its_input_alone(northgate: Ruleset) -> None:
    reception = message(observation(encounter={"reference": "Encounter/e"}), patient())
    before = render([e.resource for e in reception.entries])  # type: ignore[union-attr]
    assert normalize(reception, SOURCE, northgate) == normalize(reception, SOURCE, northgate)
    assert render([e.resource for e in reception.entries]) == before  # type: ignore[union-attr]


@pytest.mark.parametrize("pack", ["northgate", "harbor"])
def test_normalising_what_was_normalised_and_stamped_changes_no_content(pack: str) -> None:
    ruleset = load_ruleset(MAPPINGS / pack)
    sent = observation(
        code={"coding": [{"system": "https://harbor.example.org/codes/obs", "code": "VS1578"}]},
        valueQuantity={"value": 100, "unit": "deg F"},
        performer=[{"reference": "Practitioner?identifier=urn:npi|1", "display": "Dr. Who"}],
        focus=[{"reference": "Condition/c", "display": "x"}],
    )
    (first,) = run(sent, ruleset=ruleset).records
    served = stamped(first, version="v", last_updated=datetime(2026, 1, 2, tzinfo=UTC))
    (second,) = run(served, ruleset=ruleset).records
    assert (second.content, second.id, second.chart) == (first.content, first.id, first.chart)
    assert structs.replace(second.row, source_updated_us=None) == first.row
    assert {c.element for c in explain_changes(second)} == {
        "Observation.meta.versionId",
        "Observation.meta.lastUpdated",
    }


def test_lineage_gives_back_the_changes_with_numbers_as_they_stood() -> None:
    ruleset = load_ruleset(MAPPINGS / "harbor")
    text = (
        b'{"resourceType":"Observation","id":"o","status":"final","subject":{"reference":"Patient/p"},"code":{"coding":'
        b'[{"system":"https://harbor.example.org/codes/obs","code":"VS1578"}]},"valueQuantity":'
        b'{"value":98.60,"unit":"deg F"}}'
    )
    (record,) = run(text, ruleset=ruleset).records
    (change,) = [c for c in explain_changes(record) if c.rule == "harbor/observation-units"]
    assert (change.element, render(change.before)) == ("Observation.valueQuantity", b'{"value":98.60,"unit":"deg F"}')
    assert change.reason


def test_lineage_tells_what_a_rule_saw_whatever_rules_after_it_edit(tmp_path: Path) -> None:
    """A translated concept holds the sender's coding on, and a later rule writes into that very coding."""
    steps = (
        "  - translate: {path: code, map: m}\n"
        "  - set: {path: \"code.coding.where(code = 'G').display\", value: later}\n"
        "  - unit: {path: value, to: g}\n"
        "  - set: {path: value.unit, value: gram}"
    )
    source = "institution: x\nextends: core\nmaps: {m: {file: codes/m.csv}}\n"
    (tmp_path / "x" / "codes").mkdir(parents=True)
    table = "system,code,target_system,target_code\nhttp://h.example,G,http://loinc.org,2345-7\n"
    (tmp_path / "x" / "codes" / "m.csv").write_text(table)
    sent: dict[str, Any] = {
        "resourceType": "Observation",
        "id": "o",
        "status": "final",
        "code": {"coding": [{"system": "http://h.example", "code": "G", "display": "first"}]},
        "subject": {"reference": "Patient/p"},
        "valueQuantity": {"value": 2, "unit": "kg"},
    }
    found = run(patient("p"), sent, ruleset=rules(tmp_path / "x", steps, source=source)).records[1]
    told = {change.element: change for change in reversed(explain_changes(found))}
    assert told["Observation.code"].before == sent["code"]
    assert told["Observation.code"].after["coding"][1] == sent["code"]["coding"][0]
    assert told["Observation.valueQuantity"].after["unit"] == "g"


def test_lineage_tells_the_reference_that_was_sent_also_of_an_element_that_moved() -> None:
    cedar = load_ruleset(MAPPINGS / "cedar")
    context = {"reference": "Encounter/e", "display": "Visit of the sender"}
    sent = {
        "resourceType": "Observation",
        "id": "o",
        "status": "final",
        "code": {"text": "x"},
        "subject": {"reference": "Patient/p"},
        "context": context,
    }
    source = replace(SOURCE, fhir_version=FhirVersion.STU3)
    found = run(patient("p"), sent, ruleset=cedar, source=source).records[1]
    told = {change.element: change for change in reversed(explain_changes(found))}
    assert told["Observation.context"].before == context
    assert told["Observation.encounter"].after == context


def test_the_ruleset_is_named_in_every_record(northgate: Ruleset) -> None:
    named = blake3(b"fhir-bridge/ruleset-and-sets/1\0" + bytes.fromhex(northgate.hash) + packaged_sets().digest)
    assert run(patient(), ruleset=northgate).records[0].ruleset == named.hexdigest()


def test_what_a_rule_makes_invalid_is_quarantined_with_the_place() -> None:
    ruleset = load_ruleset(MAPPINGS / "cedar")
    source = replace(SOURCE, fhir_version=FhirVersion.STU3)
    sent = {
        "resourceType": "AllergyIntolerance",
        "id": "a",
        "verificationStatus": "confirmed",
        "clinicalStatus": "active",
    }
    done = normalize(
        message({**sent, "patient": {"reference": "Patient/p"}, "onsetDateTime": "31 May"}), source, ruleset
    )
    assert [i.expression for i in done.quarantined[0].issues] == ["AllergyIntolerance.onsetDateTime"]


R5 = replace(SOURCE, fhir_version=FhirVersion.R5)


def test_what_could_turn_around_unread_is_quarantined_not_passed_off_as_r4(northgate: Ruleset) -> None:
    order = {
        "resourceType": "Task",
        "id": "t",
        "status": "requested",
        "intent": "order",
        "for": {"reference": "Patient/p1"},
    }
    done = normalize(message(patient(), {**order, "doNotPerform": True}), R5, northgate)
    assert [(q.interaction.type, q.issues[0].code) for q in done.quarantined] == [("Task", "not-supported")]
    (_, kept) = normalize(message(patient(), {**order, "doNotPerform": False}), R5, northgate).records
    assert [e["url"].rpartition("/")[2] for e in body(kept)["extension"]] == ["extension-Task.doNotPerform"]


def test_two_types_that_become_basic_may_use_one_id(northgate: Ruleset) -> None:
    about = {"reference": "Patient/p1"}
    intake = {
        "resourceType": "NutritionIntake",
        "id": "1",
        "status": "completed",
        "subject": about,
        "consumedItem": [{"type": {"text": "meal"}, "nutritionProduct": {"concept": {"text": "soup"}}}],
    }
    transport = {
        "resourceType": "Transport",
        "id": "1",
        "status": "completed",
        "intent": "order",
        "for": about,
        "focus": {"reference": "NutritionIntake/1"},
        "requestedLocation": {"display": "ward"},
        "currentLocation": {"display": "hall"},
    }
    done = normalize(message(patient(), intake, transport), R5, northgate)
    assert done.quarantined == ()
    _, eaten, carried = done.records
    assert (eaten.type, carried.type) == ("Basic", "Basic")
    assert eaten.id != carried.id
    assert eaten.chart == carried.chart == done.records[0].chart
    focus = [e for e in body(carried)["extension"] if e["url"].endswith("extension-Transport.focus")]
    assert focus[0]["valueReference"]["reference"] == f"Basic/{eaten.id}"


def test_flags_of_intake_travel_along(northgate: Ruleset) -> None:
    from fhir_bridge.errors import Issue
    from fhir_bridge.model.ingest import Reception

    flag = Issue("warning", "business-rule", "implausible", "Observation.value")
    reception = Reception("single", (replace(entry(observation()), flags=(flag,)),))
    assert normalize(reception, SOURCE, northgate).records[0].flags == (flag,)


def shaped(resource: dict[str, Any]) -> dict[str, Any]:
    source = replace(SOURCE, fhir_version=FhirVersion.STU3)
    (record,) = normalize(message(resource), source, load_ruleset(MAPPINGS / "cedar")).records
    return body(record)  # type: ignore[no-any-return]


def test_an_element_without_home_in_r4_moves_to_the_cross_version_extension() -> None:
    found = shaped(patient(animal={"species": {"coding": [{"code": "dog"}]}}))
    assert found["extension"] == [
        {
            "url": "http://hl7.org/fhir/3.0/StructureDefinition/extension-Patient.animal",
            "extension": [{"url": "species", "valueCodeableConcept": {"coding": [{"code": "dog"}]}}],
        }
    ]


def test_an_stu3_encounter_keeps_its_length_unit_and_gets_coded_reason() -> None:
    found = shaped(
        {
            "resourceType": "Encounter",
            "id": "e",
            "status": "finished",
            "class": {"code": "AMB"},
            "subject": {"reference": "Patient/p"},
            "reason": [{"text": "cough"}],
            "diagnosis": [{"condition": {"reference": "Condition/c"}, "role": {"text": "AD"}}],
        }
    )
    assert found["reasonCode"] == [{"text": "cough"}]
    assert found["diagnosis"][0]["use"] == {"text": "AD"}


@pytest.mark.parametrize(("flag", "status"), [(False, "completed"), (True, "not-done")])
def test_not_given_is_a_status_and_given_says_nothing_new(flag: bool, status: str) -> None:
    sent = {"resourceType": "Immunization", "id": "i", "status": "completed", "notGiven": flag, "primarySource": True}
    found = shaped({**sent, "vaccineCode": {"text": "Td"}, "patient": {"reference": "Patient/p"}, "date": "2020"})
    assert (found["status"], "notGiven" in found) == (status, False)


def test_a_score_among_components_labels_the_panel(northgate: Ruleset) -> None:
    score = {"code": {"coding": [{"system": "http://loinc.org", "code": "75626-2"}]}, "valueInteger": 8}
    (record,) = run(observation(component=[score]), ruleset=northgate).records
    act = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
    assert record.row.labels == (f"{act}|ETH", f"{act}|ETHUD")
