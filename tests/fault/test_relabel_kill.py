"""kill -9 in the middle of labelling by new sets, again and again: the end is that of a run nobody disturbed.

Both runs start from the same data, so records, versions, index rows and lineage can be compared item by item. After
each kill, before anything else, the denied institution asks and finds nothing of what the new set calls sensitive.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import threading
import time
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import pytest

from fhir_bridge.lines.checking import Finding
from fhir_bridge.wiring import check
from tests.support.bridge_world import bundle, consent, observation, patient
from tests.support.hospitals import Patient
from tests.support.service import Service, running
from tests.support.state import autopsy, read_state, recorded, verify_every_receipt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_500)]

ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
KILLS = 4
PATIENTS = 6
RECORDS = 150
"""More than one push of the relabelling line, so that a kill can fall inside a chart."""
SETTINGS = {"FHIR_BRIDGE_INGEST_WORKERS": "1"}
LOAD = {
    "topics": {"HIV": "hiv"},
    "files": {
        "hiv": json.dumps(
            {
                "resourceType": "ValueSet",
                "url": "urn:test:hiv",
                "version": "2",
                "compose": {"include": [{"system": "http://loinc.org", "concept": [{"code": "8867-4"}]}]},
            }
        )
    },
}


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People whose heart rates harbor sees until they are called sensitive."""
    data = tmp_path_factory.mktemp("relabel") / "seed"
    with running(data, **SETTINGS) as service:
        harbor = service.add_institutions(("northgate", "harbor"))["harbor"]
        for number in range(PATIENTS):
            local = f"p{number}"
            service.ingest("northgate", json.dumps(patient(local)).encode())
            made = [("PUT", f"Observation/{local}-{n}", observation(f"{local}-{n}", local)) for n in range(RECORDS)]
            service.ingest("northgate", json.dumps(bundle(*made)).encode())
            canonical, agent = service.enrol(Patient("", "northgate", local, "", ""))
            body = consent(f"Patient/{canonical}", permit=f"Organization/{harbor}")
            body["provision"]["provision"] = [{"type": "deny", "securityLabel": [{"system": ACT, "code": "HIV"}]}]
            answer = service.http.post("/fhir/Consent", headers=agent, json=body)
            assert answer.status_code == 201, answer.text
        assert [shown(service, number, service.token("harbor")) for number in range(PATIENTS)] == [RECORDS] * PATIENTS
    return data


def shown(service: Service, number: int, who: Mapping[str, str]) -> int:
    asked = service.ask("/patients/resolve", patient=f"p{number}", institution="northgate")["patient"]
    answer = service.get("Observation", who, patient=asked, _summary="count")
    assert answer.status_code == 200, answer.text
    return int(answer.json()["total"])


def relabel(service: Service) -> None:
    """Start or take up the run; a service that is killed meanwhile ends it."""
    with contextlib.suppress(OSError, HTTPException, AssertionError):
        service.control.post("/labels/relabel", b"{}").good()


async def test_kills_in_the_middle_of_labelling_change_nothing(seed: Path) -> None:
    calm = seed.with_name("calm")
    shutil.copytree(seed, calm)
    with running(calm, **SETTINGS) as service:
        service.order("/labels", LOAD)
        relabel(service)
        assert service.ask("/labels")["charts_behind"] == 0
    wanted = read_state(calm)
    before = read_state(seed)
    assert sum(wanted.records.values()) == sum(before.records.values()) + PATIENTS * RECORDS

    data = seed.with_name("killed")
    shutil.copytree(seed, data)
    number = random.randrange(1 << 32)
    told = f"seed {number}"
    rng = random.Random(number)
    service = Service(data, **SETTINGS)
    try:
        service.start()
        before_labels = recorded(data)
        service.order("/labels", LOAD)
        made_at_kill = []
        for _ in range(KILLS):
            working = threading.Thread(target=relabel, args=(service,))
            stored = service.ask("/status")["counters"]["stored"]
            working.start()
            deadline = time.monotonic() + 120
            while service.ask("/status")["counters"]["stored"] == stored and time.monotonic() < deadline:
                if service.ask("/labels")["charts_behind"] == 0:
                    break
            time.sleep(rng.random() * 0.05)
            service.kill()
            working.join(60)
            # Before it starts: then it goes on by itself.
            with autopsy(data) as body:
                made_at_kill.append(recorded(body) - before_labels)
            service.start()
            who = service.token("harbor")
            assert [shown(service, person, who) for person in range(PATIENTS)] == [0] * PATIENTS, (told, made_at_kill)
        assert any(made < PATIENTS * RECORDS for made in made_at_kill), f"no kill fell into the work; {told}"
        deadline = time.monotonic() + 120
        while service.ask("/labels")["charts_behind"] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert service.ask("/labels")["charts_behind"] == 0, "it goes on by itself"
        relabel(service)
        service.stop()
    finally:
        service.close()
    state = read_state(data)
    assert state.lost(wanted) == set(), told
    assert state.doubled(wanted) == set(), told
    assert state.histories == wanted.histories, told
    assert [found for found in check(data, deep=True) if isinstance(found, Finding)] == [], told
    assert await verify_every_receipt(data) == sum(wanted.records.values()), told
