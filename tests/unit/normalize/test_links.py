"""Ids and references: local names become canonical ones, and nothing is named that a consent may hide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fhir_bridge.fhir.value_set_files import packaged_sets
from fhir_bridge.model.ids import canonical_id
from fhir_bridge.model.ingest import FhirVersion, Interaction, Reception, Validated
from fhir_bridge.normalize import (
    InTurn,
    Ruleset,
    StoredVersion,
    explain_changes,
    load_ruleset,
    normalize,
    renormalised,
)
from fhir_bridge.normalize.draft import copied
from tests.support.lineage_judge import check
from tests.unit.normalize.bench import KEY, MAPPINGS, SOURCE, body, entry, message, observation, pack, patient, run

UUID = "0f9c7a3e-1111-4222-8333-944455556666"


@pytest.fixture(scope="module")
def northgate() -> Ruleset:
    return load_ruleset(MAPPINGS / "northgate")


def canonical(type_name: str, local: str) -> str:
    return f"{type_name}/{canonical_id(KEY, type_name, local)}"


@pytest.mark.parametrize(
    "text",
    [
        "Encounter/e1",
        "Encounter/e1/_history/3",
        "https://northgate.example.org/fhir/Encounter/e1",
        f"Encounter/{canonical_id(KEY, 'Encounter', 'e1')}",
        f"https://bridge.example/fhir/Encounter/{canonical_id(KEY, 'Encounter', 'e1')}",
    ],
)
def test_every_way_to_name_an_own_record_becomes_its_canonical_id(northgate: Ruleset, text: str) -> None:
    (record,) = run(observation(encounter={"reference": text}), ruleset=northgate).records
    assert body(record)["encounter"] == {"reference": canonical("Encounter", "e1")}
    assert canonical("Encounter", "e1") in record.row.references


def test_a_urn_of_the_message_becomes_the_id_of_the_entry_that_bears_it(northgate: Ruleset) -> None:
    sent = observation(encounter={"reference": f"urn:uuid:{UUID}"})
    visit = {"resourceType": "Encounter", "id": "e7", "status": "finished", "class": {"code": "AMB"}}
    records = run(
        sent, {**visit, "subject": sent["subject"]}, ruleset=northgate, urls={1: f"urn:uuid:{UUID}"}
    ).records
    assert body(records[0])["encounter"]["reference"] == canonical("Encounter", "e7")


@pytest.mark.parametrize("text", [f"urn:uuid:{UUID}", "https://elsewhere.example/fhir/Encounter/9"])
def test_what_cannot_be_resolved_stays_and_is_reported(northgate: Ruleset, text: str) -> None:
    (record,) = run(observation(encounter={"reference": text}), ruleset=northgate).records
    assert body(record)["encounter"] == {"reference": text}
    assert [(f.code, f.expression) for f in record.flags] == [("not-found", "Observation.encounter")]


def test_a_conditional_reference_becomes_logical_and_keeps_the_name_of_a_practitioner(northgate: Ruleset) -> None:
    sent = {"reference": "Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|99", "display": "Dr. Who"}
    (record,) = run(observation(performer=[sent]), ruleset=northgate).records
    assert body(record)["performer"] == [
        {
            "type": "Practitioner",
            "identifier": {"system": "http://hl7.org/fhir/sid/us-npi", "value": "99"},
            "display": "Dr. Who",
        }
    ]


def test_a_conditional_reference_to_an_entry_of_the_message_becomes_literal(northgate: Ruleset) -> None:
    sent = observation(subject={"reference": "Patient?identifier=urn:mrn|7"})
    person = patient("p9", identifier=[{"system": "urn:mrn", "value": "7"}])
    records = run(sent, person, ruleset=northgate).records
    assert body(records[0])["subject"] == {"reference": canonical("Patient", "p9")}
    assert records[0].chart == records[1].chart


def test_a_conditional_reference_that_two_entries_fit_is_not_guessed(northgate: Ruleset) -> None:
    sent = observation(subject={"reference": "Patient?identifier=urn:mrn|7"})
    people = [patient(p, identifier=[{"system": "urn:mrn", "value": "7"}]) for p in ("p8", "p9")]
    done = run(sent, *people, ruleset=northgate)
    assert [q.index for q in done.quarantined] == [0]


DISPLAYS = [
    ({"reference": "Condition/c1", "display": "Opioid abuse"}, False),
    ({"reference": "Patient/p1", "display": "Canary"}, False),
    ({"reference": "https://elsewhere.example/fhir/Condition/c1", "display": "Opioid abuse"}, False),
    ({"reference": f"urn:uuid:{UUID}", "display": "Opioid abuse"}, True),
    ({"identifier": {"value": "1"}, "display": "Opioid abuse"}, False),
    ({"type": "Condition", "display": "Opioid abuse"}, False),
    ({"reference": "Organization/o1", "display": "The clinic"}, True),
    ({"identifier": {"value": "1"}, "type": "Organization", "display": "The clinic"}, True),
    ({"display": "words only"}, True),
]


@pytest.mark.parametrize(("reference", "is_kept"), [d for d in DISPLAYS if "urn" not in str(d[0])])
def test_a_display_towards_a_clinical_record_is_removed(
    northgate: Ruleset, reference: dict[str, Any], is_kept: bool
) -> None:
    (record,) = run(observation(focus=[reference]), ruleset=northgate).records
    assert ("display" in body(record)["focus"][0]) is is_kept
    removed = [c for c in explain_changes(record) if c.element == "Observation.focus[0].display"]
    assert [c.before for c in removed] == ([] if is_kept else [reference["display"]])


def test_an_unresolved_urn_keeps_no_display(northgate: Ruleset) -> None:
    sent = observation(focus=[{"reference": f"urn:uuid:{UUID}", "display": "Opioid abuse"}])
    (record,) = run(sent, ruleset=northgate).records
    assert b"Opioid" not in record.content


def test_references_of_contained_resources_and_extensions_are_rewritten(northgate: Ruleset) -> None:
    sent = observation(
        contained=[{"resourceType": "Specimen", "id": "s", "subject": {"reference": "Patient/p1"}}],
        specimen={"reference": "#s", "display": "blood"},
        extension=[{"url": "urn:x", "valueReference": {"reference": "Device/d1"}}],
    )
    (record,) = run(sent, ruleset=northgate).records
    found = body(record)
    assert found["contained"][0]["subject"]["reference"] == canonical("Patient", "p1")
    assert found["extension"][0]["valueReference"]["reference"] == canonical("Device", "d1")
    assert found["specimen"] == {"reference": "#s", "display": "blood"}
    assert set(record.row.references) == {canonical("Patient", "p1"), canonical("Device", "d1")}


@pytest.mark.parametrize(
    ("resource", "url", "local"),
    [
        ({"resourceType": "Patient", "id": "p1"}, f"urn:uuid:{UUID}", "p1"),
        ({"resourceType": "Patient"}, f"urn:uuid:{UUID}", UUID),
        ({"resourceType": "Patient"}, "https://a.example/fhir/Patient/77", "77"),
    ],
)
def test_the_local_id_is_the_resource_id_else_the_one_of_the_full_url(
    northgate: Ruleset, resource: dict[str, Any], url: str, local: str
) -> None:
    (record,) = run(resource, ruleset=northgate, urls={0: url}).records
    assert (record.local_id, f"Patient/{record.id}") == (local, canonical("Patient", local))


def test_without_any_id_the_bytes_name_the_record(northgate: Ruleset) -> None:
    one, other = (run({"resourceType": "Patient", "active": a}, ruleset=northgate).records[0] for a in (True, False))
    again = run({"resourceType": "Patient", "active": True}, ruleset=northgate).records[0]
    assert one.id == again.id != other.id


def test_another_key_gives_unrelated_ids(northgate: Ruleset) -> None:
    from dataclasses import replace

    reception = message(patient())
    one = normalize(reception, SOURCE, northgate).records[0]
    other = normalize(reception, replace(SOURCE, id_key=bytes(32)), northgate).records[0]
    assert one.id != other.id
    assert one.chart.chart != other.chart.chart


def test_references_follow_a_type_that_r4_renamed(northgate: Ruleset) -> None:
    (record,) = run(observation(basedOn=[{"reference": "ProcedureRequest/r1"}]), ruleset=northgate).records
    assert body(record)["basedOn"][0]["reference"] == canonical("ServiceRequest", "r1")


def test_a_deletion_names_the_canonical_id_and_no_content(northgate: Ruleset) -> None:
    deletion = Validated(0, Interaction("DELETE", "Observation", "o1"), None, b"{}", None)
    person = Validated(1, Interaction("DELETE", "Patient", "p1"), None, b"{}", None)
    records = normalize(Reception("batch", (deletion, person)), SOURCE, northgate).records
    assert [f"{r.type}/{r.id}" for r in records] == [canonical("Observation", "o1"), canonical("Patient", "p1")]
    assert all(r.row.deleted and r.content == b"" for r in records)
    assert [r.chart.chart != "" for r in records] == [False, True]


def test_entries_that_intake_refused_are_passed_over(northgate: Ruleset) -> None:
    from fhir_bridge.model.ingest import Refusal

    reception = Reception("batch", (Refusal(0, ()), entry(patient(), index=1)))
    assert [r.index for r in normalize(reception, SOURCE, northgate).records] == [1]


ALIASES = """institution: x
maps: {systems: {file: codes/systems.csv}}
"""
KNOWN = "code,target_code\nurn:oid:1.2.3,https://x.example.org/mrn\nNPI,http://hl7.org/fhir/sid/us-npi\n"


def renaming(tmp_path: Path, head: str = "") -> Ruleset:
    do = "do:\n  - identifier: {path: identifier, systems: systems}\n"
    text = f"rule: r\non: [Patient, Practitioner]\n{head}why: t\n{do}"
    return load_ruleset(pack(tmp_path / "x", text, ALIASES, codes__systems_csv=KNOWN))


MRN = {"system": "urn:oid:1.2.3", "value": "7"}


def test_a_reference_by_the_senders_name_of_a_system_finds_the_record_that_goes_by_another(tmp_path: Path) -> None:
    sent = observation(subject={"reference": "Patient?identifier=urn:oid:1.2.3|7"})
    done = run(patient(identifier=[MRN]), sent, ruleset=renaming(tmp_path))
    assert body(done.records[1])["subject"] == {"reference": canonical("Patient", "p1")}
    assert not done.wanted


def test_a_patient_that_is_stored_is_asked_for_by_the_system_that_it_is_stored_under(tmp_path: Path) -> None:
    sent = observation(subject={"reference": "Patient?identifier=urn:oid:1.2.3|7"})
    assert run(sent, ruleset=renaming(tmp_path)).wanted == ("https://x.example.org/mrn|7",)


@pytest.mark.parametrize(
    "reference",
    [
        {"reference": "Practitioner?identifier=NPI|1", "display": "Dr. A"},
        {"type": "Practitioner", "identifier": {"system": "NPI", "value": "1"}, "display": "Dr. A"},
    ],
)
def test_a_reference_that_stays_one_by_identifier_names_the_canonical_system(
    tmp_path: Path, reference: dict[str, Any]
) -> None:
    (record,) = run(observation(performer=[reference]), ruleset=renaming(tmp_path)).records
    told = {"type": "Practitioner", "identifier": {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1"}}
    made = body(record)
    assert made["performer"] == [told | {"display": "Dr. A"}]
    check(observation(performer=[reference]), record.original, made, explain_changes(record))


NPI, LICENCE = "http://hl7.org/fhir/sid/us-npi", "https://x.example.org/licences"
SHARED = """institution: x
maps: {people: {file: codes/people.csv}, houses: {file: codes/houses.csv}}
"""


def knowing(tmp_path: Path) -> Ruleset:
    """Practitioners and Organizations agree on NPI; L is a licence of a Practitioner, and a house's own number."""
    text = "".join(
        f"- {{rule: {name}, on: {on}, why: t, do: [identifier: {{path: identifier, systems: {name}}}]}}\n"
        for name, on in (("people", "[Patient, Practitioner]"), ("houses", "Organization"))
    )
    files = {
        "codes__people_csv": f"{KNOWN}L,{LICENCE}\n",
        "codes__houses_csv": f"code,target_code\nNPI,{NPI}\nL,https://x.example.org/houses\n",
    }
    return load_ruleset(pack(tmp_path / "x", text, SHARED, **files))


@pytest.mark.parametrize(
    ("element", "reference", "system"),
    [
        ("subject", {"identifier": MRN}, "https://x.example.org/mrn"),
        ("performer", {"identifier": {"system": "NPI", "value": "1"}}, NPI),
        # Of those whom performer allows, a Practitioner's licence and an Organization's number have this name.
        ("performer", {"identifier": {"system": "L", "value": "1"}}, "L"),
        ("performer", {"type": "Practitioner", "identifier": {"system": "L", "value": "1"}}, LICENCE),
        ("performer", {"type": "Group", "identifier": {"system": "NPI", "value": "1"}}, "NPI"),
        ("performer", {"reference": "Practitioner/d", "identifier": {"system": "L", "value": "1"}}, LICENCE),
        ("performer", {"reference": "https://e.org/x", "identifier": {"system": "L", "value": "1"}}, "L"),
        ("performer", {"reference": "https://e.org/x", "identifier": {"system": "NPI", "value": "1"}}, NPI),
        ("subject", {"reference": "Patient/p1", "identifier": MRN}, "https://x.example.org/mrn"),
        ("subject", {"reference": "Patient/p1", "type": "Patient", "identifier": MRN}, "https://x.example.org/mrn"),
        ("subject", {"reference": "Device/d", "identifier": MRN}, "urn:oid:1.2.3"),
        # Anything may be a focus.
        ("focus", {"identifier": MRN}, "https://x.example.org/mrn"),
        ("focus", {"identifier": {"system": "L", "value": "1"}}, "L"),
        ("encounter", {"identifier": MRN}, "urn:oid:1.2.3"),
        (
            "performer",
            {"reference": "Patient?identifier=urn:oid:1.2.3|9", "identifier": MRN},
            "https://x.example.org/mrn",
        ),
    ],
)
def test_an_identifier_without_a_type_means_what_all_types_agree_on(
    tmp_path: Path, element: str, reference: dict[str, Any], system: str
) -> None:
    held: Any = [reference] if element in ("performer", "focus") else reference
    sent = observation(**{"subject": {"reference": "Patient/p1"}, element: copied(held)})
    done = run(patient(), sent, ruleset=knowing(tmp_path))
    record = done.records[1]
    made = body(record)
    found = made[element][0] if isinstance(held, list) else made[element]
    assert found["identifier"]["system"] == system
    sent = observation(**{"subject": {"reference": "Patient/p1"}, element: held})
    check(sent, record.original, made, explain_changes(record))


def test_what_a_rule_says_of_some_records_alone_is_not_said_of_references(tmp_path: Path) -> None:
    by = renaming(tmp_path, head="when: gender = 'male'\n")
    sent = observation(performer=[{"reference": "Practitioner?identifier=NPI|1"}])
    (record,) = run(sent, ruleset=by).records
    assert body(record)["performer"][0]["identifier"]["system"] == "NPI"


@pytest.mark.parametrize("release", [FhirVersion.R4, FhirVersion.STU3])
def test_a_rule_of_one_release_says_nothing_of_references_in_another(tmp_path: Path, release: FhirVersion) -> None:
    by, source = renaming(tmp_path, head="from: STU3\n"), replace(SOURCE, fhir_version=release)
    of = "https://x.example.org/mrn" if release is FhirVersion.STU3 else MRN["system"]
    sent = observation(
        subject={"reference": "Patient?identifier=urn:oid:1.2.3|7"},
        performer=[{"type": "Patient", "identifier": MRN}],
    )
    done = run(patient(identifier=[MRN]), sent, ruleset=by, source=source)
    assert [i["system"] for i in body(done.records[0])["identifier"]] == [of]
    assert body(done.records[1])["performer"][0]["identifier"]["system"] == of
    assert body(done.records[1])["subject"] == {"reference": canonical("Patient", "p1")}
    assert run(sent, ruleset=by, source=source).wanted == (f"{of}|7",)
    whole = replace(message(patient(identifier=[MRN]), sent), whole=lambda e: replace(e, resource=copied(e.resource)))
    in_turn = InTurn(whole, source, by, packaged_sets(), same_as={}, patients={})
    assert [made.content for made in in_turn.records()] == [made.content for made in done.records]
    record = done.records[1]
    again = renormalised(
        StoredVersion(record.row, record.content, record.original, record.lineage, record.ruleset),
        record.chart,
        replace(SOURCE, fhir_version=FhirVersion.R4),
        by,
        packaged_sets(),
    )
    assert again.content == record.content


def test_another_types_aliases_mean_nothing_for_a_reference(tmp_path: Path) -> None:
    sent = observation(performer=[{"reference": "Organization?identifier=NPI|1"}])
    (record,) = run(sent, ruleset=renaming(tmp_path)).records
    assert body(record)["performer"][0]["identifier"]["system"] == "NPI"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("identifier=urn:oid:1.2.3|7", "identifier=https%3A%2F%2Fx.example.org%2Fmrn%7C7"),
        ("?identifier=urn%3Aoid%3A1.2.3%7C7", "identifier=https%3A%2F%2Fx.example.org%2Fmrn%7C7"),
        ("identifier=urn:other|7", "identifier=urn:other|7"),
        ("identifier=urn:oid:1.2.3", "identifier=urn:oid:1.2.3"),
        (
            "identifier=urn:oid:1.2.3|7,urn:other|8,urn:oid:1.2.3|8",
            "identifier=https%3A%2F%2Fx.example.org%2Fmrn%7C7%2Curn%3Aother%7C8%2Chttps%3A%2F%2Fx.example.org%2Fmrn%7C8",
        ),
        # An escaped comma belongs to the value, an escaped backslash to neither.
        (
            r"identifier=urn:oid:1.2.3|7\,urn:oid:1.2.3|8",
            "identifier=https%3A%2F%2Fx.example.org%2Fmrn%7C7%5C%2Curn%3Aoid%3A1.2.3%7C8",
        ),
        (
            r"identifier=|7\\,urn:oid:1.2.3|8",
            "identifier=%7C7%5C%5C%2Chttps%3A%2F%2Fx.example.org%2Fmrn%7C8",
        ),
        # Whoever judges conditions refuses a modifier.
        ("identifier:exact=urn:oid:1.2.3|7", "identifier:exact=urn:oid:1.2.3|7"),
    ],
)
def test_a_condition_of_creation_asks_by_the_system_that_records_are_stored_under(
    tmp_path: Path, asked: str, meant: str
) -> None:
    sent = entry(patient(identifier=[MRN]), method="POST")
    sent = replace(sent, interaction=structs.replace(sent.interaction, if_none_exist=asked))
    done = normalize(Reception("transaction", (sent,)), SOURCE, renaming(tmp_path))
    assert done.records[0].interaction.if_none_exist == meant
