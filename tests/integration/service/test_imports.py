"""Imports by the real service: a hospital's past by $import, killed on the way, beside others, within bounds.

Counts per person come from the truth; what each import must have counted comes
from the lines themselves, decoded by the standard library.
"""

from __future__ import annotations

import gzip
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.hospitals import directory, lanes, links, patients, sent_resources, truth_counts
from tests.support.service import Service, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ASYNC = {"Content-Type": "application/fhir+ndjson", "Prefer": "respond-async"}
KILLS = 5
LIMIT_S = 600.0
LARGE_BYTES = 200 << 20
ABOVE_IDLE_BYTES = 48 << 20
Json = dict[str, Any]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path / "data") as started:
        started.add_institutions(["harbor", "northgate"])
        yield started


def past_of(hospital: str) -> list[bytes]:
    """Return everything a hospital sends as lines: its directory, then each patient's bundles in their order."""
    return [directory(hospital), *(line for lane in lanes(hospital) for line in lane.messages)]


def begin(service: Service, body: Any, institution: str, **headers: str) -> str:
    who = service.token(institution)
    answer = service.http.post("/fhir/$import", content=body, headers={**who, **ASYNC, **headers})
    assert answer.status_code == 202, answer.text
    return str(answer.headers["content-location"])


def status(service: Service, address: str, institution: str) -> httpx.Response:
    answer = service.http.get(address, headers=service.token(institution))
    assert answer.status_code in (200, 202), answer.text
    return answer


def ended(service: Service, address: str, institution: str) -> Json:
    deadline = time.monotonic() + LIMIT_S
    while (answer := status(service, address, institution)).status_code == 202:
        assert time.monotonic() < deadline, service.log_tail()
        time.sleep(0.2)
    manifest: Json = answer.json()
    return manifest


def done(answer: httpx.Response) -> int:
    return int(answer.headers["x-progress"].split()[0])


def counts(manifest: Json) -> Counter[tuple[str, str]]:
    listed = manifest["extension"]["urn:fhir-bridge:import"]["counts"]
    return Counter({(each["outcome"], each["type"]): each["count"] for each in listed})


def entries_of(lines: list[bytes]) -> Counter[str]:
    """Return how many entries of each type the lines hold."""
    return Counter(entry["resource"]["resourceType"] for line in lines for entry in json.loads(line)["entry"])


def distinct(hospital: str) -> Counter[str]:
    """Return how many records of each type the lines are about."""
    made = {name for name, _ in sent_resources(hospital).items()}
    for entry in json.loads(directory(hospital))["entry"]:
        made.add((entry["resource"]["resourceType"], entry["resource"]["id"]))
    return Counter(name for name, _ in made)


def test_a_hospitals_past_is_its_truth_though_the_service_is_killed_again_and_again(service: Service) -> None:
    lines = past_of("northgate")
    body = gzip.compress(b"\n".join(lines), 1)
    address = begin(service, body, "northgate", **{"Content-Encoding": "gzip"})
    kills: list[int] = []
    while len(kills) < KILLS:
        answer = status(service, address, "northgate")
        if answer.status_code == 200:
            break
        if done(answer) >= len(lines) * (len(kills) + 1) // (KILLS + 2):
            service.kill()
            kills.append(done(answer))
            service.start()
            after = status(service, address, "northgate")
            assert after.status_code == 200 or done(after) >= kills[-1], "what was counted is durable"
    assert len(kills) == KILLS, kills
    first = ended(service, address, "northgate")
    assert first["error"] == []
    assert first["extension"]["urn:fhir-bridge:import"]["linesDone"] == len(lines)
    of_type: Counter[str] = Counter()
    for (_, name), count in counts(first).items():
        of_type[name] += count
    assert of_type == entries_of(lines), "each entry is counted once"
    created = Counter({name: count for (outcome, name), count in counts(first).items() if outcome == "created"})
    assert created == distinct("northgate"), "each record is created once"
    assert_truth(service, "northgate")

    again = ended(service, begin(service, body, "northgate", **{"Content-Encoding": "gzip"}), "northgate")
    assert {outcome for outcome, _ in counts(again)} <= {"unchanged", "updated"}
    assert counts(again).total() == counts(first).total()
    assert_truth(service, "northgate")
    assert list((service.data / "imports").iterdir()) == []
    assert service.fsck() == []


def assert_truth(service: Service, hospital: str) -> None:
    """Compare each person's timeline, as the hospital itself is given it, with the truth."""
    service.order("/links", {"rows": [row for row in links() if row["institution"] == hospital]})
    who = service.token(hospital, practitioner="dr-a")
    for patient in (each for each in patients() if each.hospital == hospital):
        asked = {"patient": patient.local_id, "institution": hospital}
        found = service.ask("/patients/resolve", **asked)["patient"]
        pages = service.entries(f"Patient/{found}/$everything", who, _count="1000")
        types = Counter(json.loads(page)["resourceType"] for page in pages)
        types.pop("Patient")
        assert dict(types) == truth_counts()[patient.person][hospital], patient.person


def test_others_are_answered_while_an_import_runs(service: Service) -> None:
    lines = past_of("northgate")

    def put(number: int) -> float:
        resource = {"resourceType": "Patient", "id": f"live-{number}", "gender": "female"}
        begun = time.monotonic()
        answer = service.http.put(f"/fhir/Patient/live-{number}", json=resource, headers=who)
        assert answer.status_code == 201, answer.text
        return time.monotonic() - begun

    who = service.token("harbor")
    alone = [put(number) for number in range(20)]
    address = begin(service, b"\n".join(lines), "northgate")
    beside: list[float] = []
    while status(service, address, "northgate").status_code == 202 and len(beside) < 100:
        who = service.token("harbor")
        beside.append(put(100 + len(beside)))
        queued = gauge(service, "fhir_bridge_queue_bytes")
        assert queued < 8 << 20, "an import does not fill the queue"
    assert len(beside) > 20, "the import was over before anything could be measured"
    ended(service, address, "northgate")
    who = service.token("harbor")
    alone += [put(number) for number in range(20, 40)]
    print(f"median alone {statistics.median(alone):.3f} s, beside {statistics.median(beside):.3f}, {max(beside):.3f}")
    # In seconds on a machine with nothing else to do; on a busy one by what it takes alone, before and after.
    assert statistics.median(beside) < max(0.5, 20 * statistics.median(alone))
    assert max(beside) < max(5.0, 10 * max(alone))


def gauge(service: Service, name: str) -> float:
    page = service.control.get("/metrics").good().decode()
    (value,) = [line.split()[1] for line in page.splitlines() if line.startswith(name + " ")]
    return float(value)


def test_memory_does_not_grow_with_the_body(service: Service) -> None:
    """The records come again and again, so that what grows is the import's and not that of the charts."""
    who, large = service.token("northgate"), 10 << 10
    records = [
        json.dumps(
            {"resourceType": "Patient", "id": f"p{n}", "name": [{"text": f"{n:x}" * (large // len(f"{n:x}"))}]}
        )
        for n in range(64)
    ]
    for record in records:
        assert service.http.post("/fhir/Patient", content=record, headers=who | {"Content-Type": "application/json"})
    ended(service, begin(service, "\n".join(records * 20).encode(), "northgate"), "northgate")
    block = ("\n".join(records) + "\n").encode()
    idle = peak(service)
    lines = 0

    def pieces() -> Iterator[bytes]:
        nonlocal lines
        for _ in range(LARGE_BYTES // len(block)):
            lines += len(records)
            yield block

    begun = time.monotonic()
    address = begin(service, pieces(), "northgate")
    received, took = peak(service), time.monotonic() - begun
    manifest = ended(service, address, "northgate")
    over = peak(service)
    print(
        f"{lines} lines, {LARGE_BYTES >> 20} MiB: idle {idle >> 20} MiB, received {received >> 20} in {took:.1f} s,"
        f" taken {over >> 20} in {time.monotonic() - begun:.1f} s"
    )
    assert counts(manifest) == {("unchanged", "Patient"): lines}
    assert max(received, over) - idle < ABOVE_IDLE_BYTES


def peak(service: Service) -> int:
    """Return the most bytes of memory the process has held since this was asked last (Linux, proc(5))."""
    folder = Path(f"/proc/{service.pid}")
    (line,) = [each for each in (folder / "status").read_text().splitlines() if each.startswith("VmHWM")]
    (folder / "clear_refs").write_text("5")
    return int(line.split()[1]) << 10


def test_a_sender_who_goes_away_leaves_nothing(service: Service) -> None:
    record = json.dumps({"resourceType": "Patient", "id": "p1"}).encode() + b"\n"

    folder = service.data / "imports"

    def breaking() -> Iterator[bytes]:
        for _ in range(200):
            yield record * 100
        wait_until(lambda: bool(list(folder.glob("*.db"))))
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        begin(service, breaking(), "harbor")
    wait_until(lambda: not list(folder.iterdir()))
    assert gauge(service, "fhir_bridge_vault_bytes") > 0
    answer = service.get("Patient/p1", service.token("harbor"))
    assert answer.status_code == 404
    assert "unforeseen" not in service.log_tail()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
