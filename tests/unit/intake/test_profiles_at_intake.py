"""An institution's profiles at the door: errors refuse with place and profile, warnings become flags."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.adapters.workers import WorkerRooms
from fhir_bridge.intake import Limits, examine, receive
from fhir_bridge.lines.pure import process
from fhir_bridge.model.ingest import FhirVersion, Received, Refusal, SourceContext, Validated
from tests.unit.fhir.profile_samples import folder_of, loaded, profile, told, url

NAMED = profile("Patient", {"path": "Patient.name", "min": 1})
NAMELESS = {"resourceType": "Patient", "id": "p1", "gender": "female"}


def received(body: Any, version: FhirVersion = FhirVersion.R4) -> Received:
    return Received("northgate", version, json.dumps(body).encode(), datetime(2026, 1, 1, tzinfo=UTC))


def bundle(kind: str, *resources: Any) -> Any:
    entries = [
        {"resource": each, "request": {"method": "PUT", "url": f"{each['resourceType']}/{each['id']}"}}
        for each in resources
    ]
    return {"resourceType": "Bundle", "type": kind, "entry": entries}


def test_an_error_refuses_the_record_and_names_place_and_profile(tmp_path: Path) -> None:
    reception = receive(received(NAMELESS), Limits(), loaded(tmp_path, NAMED))
    assert told(reception.refused) == [("error", "Patient.name")]
    assert url("p") in reception.refused[0].diagnostics


def test_a_warning_is_a_flag_of_the_record(tmp_path: Path) -> None:
    (entry,) = receive(received(NAMELESS), Limits(), loaded(tmp_path, NAMED, severity="warning")).entries
    assert isinstance(entry, Validated)
    assert told(entry.flags) == [("warning", "Patient.name")]


def test_one_entry_of_a_batch_is_refused_with_its_place_in_the_message(tmp_path: Path) -> None:
    named = NAMELESS | {"id": "p2", "name": [{"text": "Zzcanary"}]}
    profiles = loaded(tmp_path, NAMED)
    first, second = receive(received(bundle("batch", NAMELESS, named)), Limits(), profiles).entries
    assert isinstance(first, Refusal)
    assert told(first.issues) == [("error", "Bundle.entry[0].resource.name")]
    assert isinstance(second, Validated)
    assert receive(received(bundle("transaction", NAMELESS, named)), Limits(), profiles).refused


def test_a_malformed_record_is_not_judged_by_profiles(tmp_path: Path) -> None:
    reception = receive(received(NAMELESS | {"gender": ["female"]}), Limits(), loaded(tmp_path, NAMED))
    assert told(reception.refused) == [("error", "Patient.gender")]


def test_what_comes_as_stu3_is_not_judged_by_profiles_of_r4(tmp_path: Path) -> None:
    (entry,) = receive(received(NAMELESS, FhirVersion.STU3), Limits(), loaded(tmp_path, NAMED)).entries
    assert isinstance(entry, Validated)


def test_search_results_can_be_examined_though_they_are_not_taken(tmp_path: Path) -> None:
    results = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": NAMELESS}]}
    body = json.dumps(results).encode()
    assert examine(body, FhirVersion.R4) == []
    found = examine(body, FhirVersion.R4, loaded(tmp_path, NAMED))
    assert told(found) == [("error", "Bundle.entry[0].resource.name")]
    assert told(examine(b"{", FhirVersion.R4)) == [("error", "")]


@pytest.mark.parametrize("mode", ["error", "warning"])
async def test_a_worker_judges_by_the_packs_profiles_as_this_process_does(tmp_path: Path, mode: str) -> None:
    folder_of(tmp_path / "package", [NAMED])
    head = f"institution: northgate\nprofiles:\n  - {{package: package, mode: {mode}, apply: ['{url('p')}']}}\n"
    (tmp_path / "source.yaml").write_text(head)
    source = SourceContext("northgate", "i", FhirVersion.R4, bytes(32), str(tmp_path), mode)
    rooms = WorkerRooms(1, Limits())
    try:
        there = await rooms.process(received(NAMELESS), source)
    finally:
        await rooms.close()
    here = process(received(NAMELESS), source, Limits())
    assert there.refused == here.refused
    assert [record.flags for record in there.records] == [record.flags for record in here.records]
    if mode == "error":
        assert told(there.refused) == [("error", "Patient.name")]
    else:
        assert ("warning", "Patient.name") in told(there.records[0].flags)
