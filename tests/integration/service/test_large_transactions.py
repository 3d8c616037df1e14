"""A transaction of many megabytes: memory that does not grow with it, and nothing of it there when it was cut off."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.bench.gauge import proportional
from tests.support.bridge_world import observation, patient
from tests.support.service import FHIR_JSON, Service, running
from tests.support.state import autopsy, recorded

LARGE_BYTES = 24 << 20
ABOVE_IDLE_BYTES = 100 << 20
"""Taken whole, it took four times as much."""
CANARY = "Kanarienvogel"
LIMITS = {"FHIR_BRIDGE_INGEST_MAX_ENTRIES": "100000"}
LIMIT_S = 120.0
ATTEMPTS = 5

pytestmark = pytest.mark.timeout(900)


def transaction(size: int, people: int, prefix: str = "o") -> tuple[bytes, int]:
    """Return a transaction of so many bytes, and how many records it makes."""
    entries: list[bytes] = []
    held = 0
    while held < size:
        who, name = f"{prefix}-p{len(entries) % people}", f"{prefix}{len(entries)}"
        made = (
            patient(who)
            if len(entries) < people
            else observation(name, who, note=[{"text": f"{CANARY} {name} " * 50}])
        )
        url = f"{made['resourceType']}/{made['id']}"
        entry = {"fullUrl": f"urn:test:{name}", "resource": made, "request": {"method": "PUT", "url": url}}
        entries.append(msgspec.json.encode(entry))
        held += len(entries[-1]) + 1
    whole = {"resourceType": "Bundle", "type": "transaction", "entry": [msgspec.Raw(each) for each in entries]}
    return msgspec.json.encode(whole), len(entries)


def send(service: Service, body: bytes) -> httpx.Response:
    headers = service.token("northgate") | {"Content-Type": FHIR_JSON}
    return service.http.post("/fhir", content=body, headers=headers, timeout=LIMIT_S)


def taken(pid: int) -> int:
    """Return the bytes that a process and all below it take; what they share is counted once."""
    return sum(proportional(pid).values())


@contextmanager
def watched(pid: int) -> Iterator[list[int]]:
    """Look how much memory is taken while the block runs."""
    over, seen = threading.Event(), [taken(pid)]

    def look() -> None:
        while not over.wait(0.05):
            seen.append(taken(pid))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


def test_memory_does_not_grow_with_a_transaction(tmp_path: Path) -> None:
    body, entries = transaction(LARGE_BYTES, people=20)
    with running(tmp_path / "data", **LIMITS) as service:
        service.add_institutions(("northgate",))
        warm, _ = transaction(6 << 20, people=3, prefix="w")
        assert send(service, warm).status_code == 200
        idle = taken(service.pid)
        with watched(service.pid) as seen:
            answer = send(service, body)
        assert answer.status_code == 200, answer.text[:500]
        print(f"{entries} entries, {LARGE_BYTES >> 20} MiB: idle {idle >> 20} MiB, at most {max(seen) >> 20}")
        assert len(answer.json()["entry"]) == entries
        assert max(seen) - idle < ABOVE_IDLE_BYTES
        # Several parts of a chart's index, and as many commitments as records.
        assert service.fsck(deep=True) == []


def nameless(service: Service) -> list[tuple[Path, int]]:
    """Return the files without a name that the service holds in its data directory, and their sizes."""
    found = []
    for held in Path(f"/proc/{service.pid}/fd").iterdir():
        try:
            target = os.readlink(held)
            if target.startswith(str(service.data)) and target.endswith(" (deleted)"):
                found.append((held, held.stat().st_size))
        except OSError:
            continue
    return found


def in_the_rooms(service: Service) -> bool:
    return any(size > 100_000 for _, size in nameless(service))


def being_sealed(service: Service) -> bool:
    return len(nameless(service)) == 2


def being_committed(service: Service) -> bool:
    log = service.data / "vault.db-wal"
    return len(nameless(service)) == 2 and log.exists() and log.stat().st_size > 1 << 20


@pytest.mark.parametrize("moment", [in_the_rooms, being_sealed, being_committed])
def test_a_kill_in_the_middle_leaves_nothing(tmp_path: Path, moment: Callable[[Service], bool]) -> None:
    with running(tmp_path / "data", **LIMITS) as service:
        service.add_institutions(("northgate",))
        body, entries, before = killed_at(moment, service)
        service.start()
        assert service.ask("/status")["vault"]["records"] == before
        assert service.ask("/letters") == []
        answer = send(service, body)
        assert answer.status_code == 200, answer.text[:500]
        assert {each["response"]["status"] for each in answer.json()["entry"]} == {"201 Created"}
        assert service.ask("/status")["vault"]["records"] == before + entries
    for file in (tmp_path / "data").rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes(), file


def killed_at(moment: Callable[[Service], bool], service: Service) -> tuple[bytes, int, int]:
    """Kill a service in the middle of a transaction; return that, its number of records, and how many there were.

    A moment may be over before this process sees it, or the commit before this process strikes; then another
    transaction is sent.
    """
    for attempt in range(ATTEMPTS):
        body, entries = transaction(6 << 20, people=3, prefix=f"try{attempt}-")
        before = recorded(service.data)
        sending = threading.Thread(target=_send_and_lose, args=(service, body))
        sending.start()
        while not (is_now := moment(service)) and sending.is_alive():
            time.sleep(0.002)
        if not is_now:
            continue
        os.kill(service.pid, signal.SIGSTOP)
        for file, size in nameless(service):
            assert CANARY.encode() not in file.read_bytes(), f"in plain text among {size} bytes"
        service.kill()
        sending.join()
        with autopsy(service.data) as left:
            held = recorded(left)
        if held == before:
            return body, entries, before
        assert held == before + entries, "a part of it is there"
        service.start()
    raise AssertionError("no transaction was cut off in its middle")


def _send_and_lose(service: Service, body: bytes) -> None:
    try:
        send(service, body)
    except httpx.TransportError:
        return
