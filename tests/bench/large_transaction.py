"""Memory while a service takes very much at once: what the server and its workers hold above idle, at most.

One transaction, or an import, is one patient's records again and again under other ids, sent over HTTP; the memory of
the process tree is looked at twenty times a second. What processes share, as they do the message, is counted once.
"""

from __future__ import annotations

import base64
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from tests.bench.feeding import FEED, Figures, server_pid
from tests.bench.gauge import proportional
from tests.bench.hapi_ingest import transactions
from tests.bench.wire import over_tcp, post_all
from tests.support.hospitals import directory
from tests.support.service import FHIR_JSON, Service, running

AIMS = {f"{name}.above_idle_mib": "256 at 100 MB" for name in ("large_transaction", "large_import")}
_HEADERS = {"Content-Type": FHIR_JSON, "Accept": FHIR_JSON}
_LOOK_S = 0.05
_IMPORT_S = 600.0
_MIB = 1 << 20
_DOCUMENT_BYTES = 750_000
"""In base64 a million."""


@dataclass(slots=True)
class _Highest:
    """The most that was resident: of all processes together, and of each."""

    together: int = 0
    each: dict[int, int] = field(default_factory=dict)


class _Bundle(msgspec.Struct):
    entry: list[msgspec.Raw]


def large_transaction(megabytes: int) -> dict[str, Figures]:
    """Send one transaction of ``megabytes`` million bytes; return the highest memory of each process."""
    return {"large_transaction": _measured(*_of_size(megabytes * 1_000_000), _post)}


def large_documents(megabytes: int) -> dict[str, Figures]:
    """Send one transaction of so many documents of a million bytes each, as :func:`large_transaction` does."""
    return {"large_documents": _measured(*_of_documents(megabytes), _post)}


def large_import(megabytes: int) -> dict[str, Figures]:
    """Import ``megabytes`` million bytes of NDJSON, a transaction a line, as :func:`large_transaction` does."""
    lines: list[bytes] = []
    made = transactions()
    while sum(map(len, lines)) < megabytes * 1_000_000:
        lines.append(next(made))
    entries = sum(len(msgspec.json.decode(line, type=_Bundle).entry) for line in lines)
    return {"large_import": _measured(b"\n".join(lines), entries, _import)}


def _measured(body: bytes, entries: int, send: Callable[[Service, bytes], int]) -> Figures:
    limits = {
        "FHIR_BRIDGE_INGEST_MAX_MESSAGE_BYTES": str(256 * _MIB),
        "FHIR_BRIDGE_INGEST_QUEUE_MAX_BYTES": str(256 * _MIB),
        "FHIR_BRIDGE_INGEST_MAX_ENTRIES": "1000000",
    }
    with (
        TemporaryDirectory(prefix="fhir-bridge-bench-") as folder,
        running(Path(folder) / "data", **limits) as service,
    ):
        service.add_institutions([FEED])
        service.ingest(FEED, directory(FEED))
        pid = server_pid(service)
        _post(service, next(transactions()))
        idle = proportional(pid)
        begun = time.perf_counter()
        with _watched(pid) as highest:
            status = send(service, body)
        seconds = time.perf_counter() - begun
        workers = [size for member, size in highest.each.items() if member != pid]
        return {
            "bytes": len(body),
            "entries": entries,
            "status": status,
            "idle_mib": sum(idle.values()) // _MIB,
            "peak_mib": highest.together // _MIB,
            "above_idle_mib": (highest.together - sum(idle.values())) // _MIB,
            "server_above_idle_mib": (highest.each[pid] - idle[pid]) // _MIB,
            "worker_peak_mib": max(workers, default=0) // _MIB,
            "resources_per_s": round(entries / seconds),
        }


def _post(service: Service, body: bytes) -> int:
    headers = _HEADERS | service.token(FEED)
    (answer,) = post_all(over_tcp(service.port), "/fhir", headers, [body], in_flight=1)
    return answer.status


def _import(service: Service, body: bytes) -> int:
    headers = service.token(FEED) | {"Content-Type": "application/fhir+ndjson", "Prefer": "respond-async"}
    begun = service.http.post("/fhir/$import", content=body, headers=headers, timeout=_IMPORT_S)
    while (now := service.http.get(begun.headers["Content-Location"], headers=headers)).status_code == 202:
        time.sleep(0.5)
    return now.status_code


@contextmanager
def _watched(pid: int) -> Iterator[_Highest]:
    highest, over = _Highest(), threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_S):
            now = proportional(pid)
            highest.together = max(highest.together, sum(now.values()))
            for member, size in now.items():
                highest.each[member] = max(highest.each.get(member, 0), size)

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield highest
    finally:
        over.set()
        watching.join()


def _of_size(size: int) -> tuple[bytes, int]:
    entries: list[msgspec.Raw] = []
    held = 0
    for made in transactions():
        for entry in msgspec.json.decode(made, type=_Bundle).entry:
            if held >= size:
                whole = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
                return msgspec.json.encode(whole), len(entries)
            entries.append(entry)
            held += len(bytes(entry)) + 1
    raise AssertionError("transactions never end")


def _of_documents(count: int) -> tuple[bytes, int]:
    subject = {"resourceType": "Patient", "id": "p1", "identifier": [{"system": "urn:x-bench", "value": "p1"}]}
    resources: list[dict[str, Any]] = [subject]
    # Noise, since a scan does not compress; the same in each run.
    noise = random.Random(1)
    for number in range(count):
        data = base64.b64encode(noise.randbytes(_DOCUMENT_BYTES)).decode()
        resources.append(
            {
                "resourceType": "DocumentReference",
                "id": f"d{number}",
                "status": "current",
                "subject": {"reference": "Patient/p1"},
                "content": [{"attachment": {"contentType": "application/pdf", "data": data}}],
            }
        )
    entries = [
        {"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}} for r in resources
    ]
    whole = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    return msgspec.json.encode(whole), len(entries)
