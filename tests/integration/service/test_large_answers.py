"""A large answer over a real connection: chunked, the same bytes as its pages, and visibly broken when cut off."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hospitals import Patient
from tests.support.service import Service, consent, running

pytestmark = pytest.mark.timeout(900)

RECORDS = 48
_NOTE = "word " * 60_000
"""48 records of 300 kB are more than the buffers of a connection hold, so the service waits for its reader."""

_PATIENT = Patient("large", "northgate", "large", "", "")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data: Path = tmp_path_factory.mktemp("large") / "data"
    settings = {"FHIR_BRIDGE_ANSWER_STREAM_ABOVE": "10", "FHIR_BRIDGE_ANSWER_STREAM_BLOCK": "4"}
    with running(data, **settings) as opened:
        opened.add_institutions(["northgate", "harbor"])
        opened.ingest("northgate", json.dumps({"resourceType": "Patient", "id": "large"}).encode())
        for number in range(RECORDS):
            body = {
                "resourceType": "Observation",
                "id": f"o{number}",
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
                "subject": {"reference": "Patient/large"},
                "note": [{"text": f"{number} {_NOTE}"}],
            }
            opened.ingest("northgate", json.dumps(body).encode())
        yield opened


def test_a_stream_is_chunked_and_gives_what_its_pages_give(service: Service) -> None:
    who = service.token("northgate")
    patient = service.ask("/patients/resolve", patient="large", institution="northgate")["patient"]
    answer = service.get(f"Patient/{patient}/$everything", who)
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    whole = [each["resource"] for each in answer.json()["entry"]]
    assert len(whole) == RECORDS + 1
    paged = [json.loads(each) for each in service.entries(f"Patient/{patient}/$everything", who, _count="9")]
    assert whole == paged


def test_a_reader_whose_answer_is_withdrawn_under_way_gets_no_end_of_it(service: Service) -> None:
    patient, agent = service.enrol(_PATIENT)
    institutions = {each["name"]: each["id"] for each in service.ask("/institutions")}
    made = service.http.post("/fhir/Consent", json=consent(patient, institutions["harbor"]), headers=agent)
    assert made.status_code == 201
    token = service.token("harbor")["Authorization"]
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        slow.settimeout(60)
        slow.connect(("127.0.0.1", service.port))
        asked = f"GET /fhir/Patient/{patient}/$everything HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n"
        slow.sendall(asked.encode())
        received = bytearray(slow.recv(1 << 12))
        assert received.startswith(b"HTTP/1.1 200")
        assert service.http.delete(f"/fhir/Consent/{made.json()['id']}", headers=agent).is_success
        while more := slow.recv(1 << 20):
            received += more
    assert b"transfer-encoding: chunked" in received[:500].lower()
    assert not received.endswith(b"0\r\n\r\n")
    assert 0 < received.count(b'"fullUrl"') < RECORDS
    assert service.get(f"Patient/{patient}/$everything", {"Authorization": token}).status_code == 404
    assert service.is_running


def test_reindex_by_the_command_while_serving(service: Service) -> None:
    from typer.testing import CliRunner

    from fhir_bridge.cli.main import app

    done = CliRunner().invoke(app, ["reindex", "--data", str(service.data), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["segments"] == 0
    assert service.ask("/status")["index"]["is_of_today"] is True
