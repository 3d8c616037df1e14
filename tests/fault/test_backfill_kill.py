"""kill -9 in the middle of a backfill, again and again: the end is that of a run nobody disturbed, and of the truth.

All three directories start from the same keys. One has its records made again in peace, one under kills; into the
third everything comes under the right rules from the start, and its current records must be the same to the byte,
version and time aside.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.lines.checking import Finding
from fhir_bridge.wiring import check
from tests.support.bridge_world import bundle, observation, patient
from tests.support.service import Service, running
from tests.support.state import autopsy, read_state, recorded, verify_every_receipt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_500)]

KILLS = 2
ATTEMPTS = 5
PATIENTS = 2
RECORDS = 110
"""More than one push of a run, so that a kill can fall inside a chart."""
SETTINGS = {"FHIR_BRIDGE_INGEST_WORKERS": "1"}
RULE = """
rule: site/method
on: Observation
do: [{set: {path: method.text, value: %s}}]
why: the site's habit
"""


def register(service: Service, pack: Path, word: str) -> None:
    pack.mkdir(exist_ok=True)
    (pack / "source.yaml").write_text("institution: northgate\n")
    (pack / "rules.yaml").write_text(RULE % word)
    service.order("/institutions", {"name": "northgate", "fhir_version": "R4", "ruleset_dir": str(pack)})


def send_all(service: Service) -> None:
    for number in range(PATIENTS):
        local = f"p{number}"
        service.ingest("northgate", json.dumps(patient(local)).encode())
        made = [("PUT", f"Observation/{local}-{n}", observation(f"{local}-{n}", local)) for n in range(RECORDS)]
        service.ingest("northgate", json.dumps(bundle(*made)).encode())


def backfill(service: Service) -> None:
    """Start or take up the run; a service that is killed meanwhile ends it."""
    with contextlib.suppress(OSError, HTTPException, AssertionError):
        service.control.post("/map/backfill", b'{"institution": "northgate"}').good()


def current(service: Service) -> dict[str, Any]:
    """Every record as it is served, version and time taken out."""
    who, found = service.token("northgate"), {}
    for number in range(PATIENTS):
        asked = service.ask("/patients/resolve", patient=f"p{number}", institution="northgate")["patient"]
        answer = service.get("Observation", who, patient=asked, _count="1000")
        assert answer.status_code == 200, answer.text
        for entry in answer.json()["entry"]:
            record = entry["resource"]
            del record["meta"]["versionId"], record["meta"]["lastUpdated"]
            found[record["id"]] = record
    return found


def is_on_the_way(stored: int) -> bool:
    return 0 < stored < PATIENTS * RECORDS


def killed_on_the_way(seed: Path, place: Path, rng: random.Random) -> tuple[Service, list[int]]:
    """Return a service that was killed in its run, started again, and how many records were made at each kill.

    Where this process was held up until the run was over, all begins anew from a copy of ``seed``.
    """
    for attempt in range(ATTEMPTS):
        service = Service(place.with_name(f"{place.name}-{attempt}"), **SETTINGS)
        shutil.copytree(seed, service.data)
        try:
            stored_at_kill = list(_kills(service.start(), rng))
        except BaseException:
            service.close()
            raise
        if any(map(is_on_the_way, stored_at_kill)):
            break
        service.close()
    return service, stored_at_kill


def _kills(service: Service, rng: random.Random) -> Iterator[int]:
    before = recorded(service.data)
    for _ in range(KILLS):
        working = threading.Thread(target=backfill, args=(service,))
        start = recorded(service.data)
        working.start()
        deadline = time.monotonic() + 60
        while recorded(service.data) == start < before + PATIENTS * RECORDS and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        service.kill()
        working.join(60)
        # Before it starts: then it goes on by itself.
        with autopsy(service.data) as body:
            yield recorded(body) - before
        service.start()


async def test_kills_in_the_middle_of_a_backfill_change_nothing(tmp_path: Path) -> None:
    seed, pack = tmp_path / "seed", tmp_path / "pack"
    with running(seed, **SETTINGS) as service:
        register(service, pack, "wrong")
        service.ingest("northgate", json.dumps(patient("p0")).encode())
    truth, calm = tmp_path / "truth", tmp_path / "calm"
    shutil.copytree(seed, truth)
    with running(truth, **SETTINGS) as service:
        register(service, tmp_path / "right", "right")
        send_all(service)
        wanted_records = current(service)
    assert len(wanted_records) == PATIENTS * RECORDS

    with running(seed, **SETTINGS) as service:
        send_all(service)
        assert current(service) != wanted_records
        register(service, pack, "right")
    shutil.copytree(seed, calm)
    with running(calm, **SETTINGS) as service:
        backfill(service)
        assert current(service) == wanted_records
    wanted = read_state(calm)
    assert sum(wanted.records.values()) == sum(read_state(seed).records.values()) + PATIENTS * RECORDS

    number = random.randrange(1 << 32)
    told, rng = f"seed {number}", random.Random(number)
    service, stored_at_kill = killed_on_the_way(seed, tmp_path / "killed", rng)
    data = service.data
    try:
        assert any(is_on_the_way(stored) for stored in stored_at_kill), (told, stored_at_kill)
        deadline = time.monotonic() + 120
        while current(service) != wanted_records and time.monotonic() < deadline:
            time.sleep(0.2)
        assert current(service) == wanted_records, f"it goes on by itself; {told}"
        backfill(service)
        service.stop()
    finally:
        service.close()
    state = read_state(data)
    assert state.lost(wanted) == set(), told
    assert state.doubled(wanted) == set(), told
    assert state.histories == wanted.histories, told
    assert [found for found in check(data, deep=True) if isinstance(found, Finding)] == [], told
    assert await verify_every_receipt(data) == sum(wanted.records.values()), told
