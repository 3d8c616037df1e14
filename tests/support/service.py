"""The real service in a process of its own, as an operator runs it, with an operator's and a client's means.

Started with ``python -m fhir_bridge.cli.main serve``; fed through the control
socket; asked over HTTP with tokens from its token endpoint. It can be killed
at any moment and started again on the same data.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from fhir_bridge.adapters.access import request_token
from fhir_bridge.adapters.ambient import SystemRandomness
from tests.support.hospitals import MAPPINGS, ROOT, VERSIONS, Lane, Patient, directory, lanes, links, patients
from tests.support.ports import free_port

START_LIMIT_S = 180.0
ANSWER_LIMIT_S = 300.0
TOKEN_RENEWED_S = 120.0
"""A token holds five minutes, which is less than some modules take on a busy machine."""
IN_FLIGHT = 8
FHIR_JSON = "application/fhir+json"
_POLL_S = 0.02


class Service:
    """One data directory and the process that serves it."""

    def __init__(self, data: Path, *, kafka: str | None = None, **settings: str) -> None:
        self.data = data
        self.port = free_port()
        self._stands_by = False
        self.log = data.with_name(data.name + ".log")
        self._kafka = kafka
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._tokens: dict[str, tuple[float, dict[str, str]]] = {}
        # The environment of whoever runs the tests (proxies, SSL files) is none of the service's business.
        self.http = httpx.Client(base_url=self.base_url, timeout=ANSWER_LIMIT_S, trust_env=False)
        self.control = Control(data / "control.sock")

    @property
    def base_url(self) -> str:
        """Root of the public API."""
        return f"http://127.0.0.1:{self.port}"

    def successor(self) -> Service:
        """Return another process for the same data and address, which stands by until this one has ended."""
        other = Service(self.data, kafka=self._kafka, **self._settings)
        other.port, other._stands_by = self.port, True
        other.log = self.log.with_name(f"{self.log.name}.{secrets.token_hex(2)}")
        other.http = httpx.Client(base_url=other.base_url, timeout=ANSWER_LIMIT_S, trust_env=False)
        return other

    # --- life

    def start(self) -> Service:
        """Start the process and wait until it serves."""
        self.launch()
        self.wait_ready()
        return self

    def launch(self, **settings: str) -> None:
        """Start the process, with these settings changed from now on, and wait for nothing."""
        self._settings |= settings
        command = [sys.executable, "-m", "fhir_bridge.cli.main", "serve"]
        command += ["--data", str(self.data), "--port", str(self.port)]
        command += ["--kafka", self._kafka] if self._kafka else []
        command += ["--standby"] if self._stands_by else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **self._settings}
            )

    def wait_ready(self) -> None:
        """Wait until both entrances answer."""
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if not self.is_running:
                raise RuntimeError(f"the service ended at once: {self.log_tail()}")
            if self._answers():
                return
            time.sleep(_POLL_S)
        raise RuntimeError(f"the service was not ready within {START_LIMIT_S:.0f} s: {self.log_tail()}")

    @property
    def pid(self) -> int:
        """Number of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End the process as loss of power would (SIGKILL)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)

    def stop(self) -> None:
        """End the process in order (SIGTERM) and insist on exit code 0; a second call does nothing."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        code = process.wait(90)
        assert code == 0, f"exit code {code}: {self.log_tail()}"

    def close(self) -> None:
        """End the process whatever state it is in."""
        if self.is_running:
            self.kill()
        self.http.close()

    def log_tail(self) -> str:
        """Return the end of what the service wrote."""
        return self.log.read_text(errors="replace")[-4000:]

    # --- operator

    def order(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST JSON to the control API and return its answer."""
        return json.loads(self.control.post(path, json.dumps(body).encode()).good())

    def ask(self, path: str, **params: str) -> Any:
        """GET from the control API."""
        return json.loads(self.control.get(path, **params).good())

    def add_institutions(self, names: Sequence[str] = tuple(VERSIONS)) -> dict[str, str]:
        """Admit hospitals with their rule packs; return public ids by name."""
        return {
            name: self.order(
                "/institutions",
                {"name": name, "fhir_version": VERSIONS[name], "ruleset_dir": str(MAPPINGS / name)},
            )["id"]
            for name in names
        }

    def ingest(self, institution: str, message: bytes) -> dict[str, Any]:
        """Bring one message through the bus and the line; return what became of it."""
        summary: dict[str, Any] = json.loads(self.control.post("/ingest", message, institution=institution).good())
        return summary

    def fsck(self, *, deep: bool = True) -> list[dict[str, str]]:
        """Return the findings of a check while the service runs."""
        answer = self.control.post("/fsck", json.dumps({"deep": deep}).encode()).good()
        lines = [json.loads(line) for line in answer.splitlines()]
        assert "done" in lines[-1]
        return [line["finding"] for line in lines if "finding" in line]

    # --- client

    def token(self, institution: str, **extras: str) -> dict[str, str]:
        """Return the headers of an institution's system."""
        return self._token(self.data / "credentials" / f"{institution}.json", extras)

    def lasting_token(self, institution: str) -> dict[str, str]:
        """Return the same as :meth:`token`, of a token that holds for minutes yet; for whoever asks for long."""
        made_s, headers = self._tokens.get(institution, (-TOKEN_RENEWED_S, {}))
        if time.monotonic() - made_s >= TOKEN_RENEWED_S:
            made_s, headers = time.monotonic(), self.token(institution)
            self._tokens[institution] = made_s, headers
        return headers

    def enrol(self, patient: Patient) -> tuple[str, dict[str, str]]:
        """Give a patient an agent; return the canonical Patient id and the agent's headers."""
        done = self.order("/patients", {"institution": patient.hospital, "patient": patient.local_id})
        return done["patient"], self._token(Path(done["credentials"]), {})

    def get(self, path: str, headers: Mapping[str, str], **params: str) -> httpx.Response:
        """GET from the FHIR API, whatever the answer."""
        return self.http.get(f"/fhir/{path}", headers=dict(headers), params=params)

    def entries(self, path: str, headers: Mapping[str, str], **params: str) -> Iterator[bytes]:
        """Yield the exact resources of a searchset, page after page."""
        answer = _good(self.get(path, headers, **params))
        while True:
            bundle = json.loads(answer.content)
            yield from resources_of(answer.content)
            following = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
            if not following:
                return
            answer = _good(self.http.get(following[0], headers=dict(headers)))

    def _token(self, file: Path, extras: Mapping[str, str]) -> dict[str, str]:
        credentials = json.loads(file.read_text())
        token = request_token(self.http, credentials, datetime.now(UTC), SystemRandomness(), **extras)
        return {"Authorization": f"Bearer {token}"}

    def _answers(self) -> bool:
        try:
            return self.control.get("/status").status == 200 and self.http.get("/health/ready").is_success
        except (OSError, HTTPException, httpx.TransportError):
            return False


@dataclass(frozen=True, slots=True)
class ControlAnswer:
    """Status and body of the control API."""

    status: int
    body: bytes

    def good(self) -> bytes:
        """Return the body of a success; fail on anything else."""
        assert 200 <= self.status < 300, f"{self.status}: {self.body.decode()}"
        return self.body


class Control:
    """Speaks to a control socket, a connection for each request.

    Raises ``OSError`` or ``HTTPException`` when nobody answers; httpx would leak
    a socket each time a connection is refused.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, path: str, **params: str) -> ControlAnswer:
        """Send a GET."""
        return self._send("GET", path, None, params)

    def post(self, path: str, body: bytes, **params: str) -> ControlAnswer:
        """Send a POST."""
        return self._send("POST", path, body, params)

    def _send(self, method: str, path: str, body: bytes | None, params: Mapping[str, str]) -> ControlAnswer:
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, f"{path}?{urlencode(params)}" if params else path, body)
            answer = connection.getresponse()
            return ControlAnswer(answer.status, answer.read())
        finally:
            connection.close()


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("control", timeout=ANSWER_LIMIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextmanager
def running(data: Path, *, kafka: str | None = None, **settings: str) -> Iterator[Service]:
    """Serve a data directory; stop in order unless the test failed or killed it."""
    service = Service(data, kafka=kafka, **settings)
    try:
        yield service.start()
        service.stop()
    finally:
        service.close()


def load(service: Service, people: Sequence[str] | None = None, hospitals: Sequence[str] = tuple(VERSIONS)) -> Feeder:
    """Send directories, then all bundles of these people, then the links; fails if anything was refused."""
    for name in hospitals:
        service.ingest(name, directory(name))
    feeder = Feeder(service, [lane for name in hospitals for lane in lanes(name, people)])
    feeder.run()
    wanted = [row for row in links(people) if row["institution"] in hospitals]
    service.order("/links", {"rows": wanted})
    return feeder


@dataclass(frozen=True, slots=True)
class Answered:
    """A message and what its sender was told."""

    lane: Lane
    number: int
    summary: Mapping[str, Any]


class Feeder:
    """A sender that keeps each lane in order, has several messages in flight, and repeats what got no answer."""

    def __init__(self, service: Service, to_send: Sequence[Lane], *, in_flight: int = IN_FLIGHT) -> None:
        self._service = service
        self._lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        self.total = sum(len(lane.messages) for lane in to_send)
        for lane in sorted(to_send, key=lambda lane: -sum(map(len, lane.messages))):
            self._lanes.put(lane)
        self._in_flight = in_flight
        self._lock = threading.Lock()
        self.answered: list[Answered] = []
        self.unanswered = 0
        """Messages sent and not answered yet: uncommitted, or committed a moment ago."""
        self.resent = 0
        self._abandoned = threading.Event()

    def run(self) -> None:
        """Send everything; returns when all is answered."""
        with ThreadPoolExecutor(self._in_flight, "feeder") as threads:
            for done in [threads.submit(self._send_lanes) for _ in range(self._in_flight)]:
                done.result()

    def abandon(self) -> None:
        """Stop sending what has no answer yet; for a test that has failed."""
        self._abandoned.set()

    @property
    def refused(self) -> list[Answered]:
        """What was refused, in part or as a whole."""
        return [each for each in self.answered if each.summary["refused"]]

    def _send_lanes(self) -> None:
        while True:
            try:
                lane = self._lanes.get_nowait()
            except queue.Empty:
                return
            for number in range(len(lane.messages)):
                self._send(lane, number)

    def _send(self, lane: Lane, number: int) -> None:
        deadline = time.monotonic() + ANSWER_LIMIT_S
        while time.monotonic() < deadline and not self._abandoned.is_set():
            self._count(1)
            try:
                answer = self._service.control.post("/ingest", lane.messages[number], institution=lane.hospital)
            except (OSError, HTTPException):
                answer = None
            finally:
                self._count(-1)
            if answer is not None and answer.status not in (429, 503):
                summary = json.loads(answer.good())
                with self._lock:
                    self.answered.append(Answered(lane, number, summary))
                return
            self.resent += 1
            time.sleep(0.05)
        if not self._abandoned.is_set():
            raise RuntimeError("a message was never answered")

    def _count(self, change: int) -> None:
        with self._lock:
            self.unanswered += change


def resources_of(searchset: bytes) -> list[bytes]:
    """Cut the exact bytes of every resource out of a Bundle, without decoding numbers."""
    decoder = json.JSONDecoder()
    text = searchset.decode()
    found: list[bytes] = []
    at = text.find('"entry":[')
    while at != -1:
        at = text.find('"resource":', at)
        if at == -1:
            break
        start = at + len('"resource":')
        _, at = decoder.raw_decode(text, start)
        found.append(text[start:at].encode())
    return found


def patient_at(person: str, hospital: str) -> Patient:
    """Return one person's record at one hospital."""
    return next(p for p in patients() if p.person == person and p.hospital == hospital)


def consent(patient: str, *institutions: str, deny: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a Consent that permits institutions (public ids) everything but what ``deny`` describes."""
    code_system = "http://terminology.hl7.org/CodeSystem/"
    provision: dict[str, Any] = {
        "type": "permit",
        "actor": [
            {
                "role": {"coding": [{"system": code_system + "v3-ParticipationType", "code": "IRCP"}]},
                "reference": {"reference": f"Organization/{institution}"},
            }
            for institution in institutions
        ],
    }
    if deny is not None:
        provision["provision"] = [{"type": "deny", **deny}]
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"system": code_system + "consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{patient}"},
        "dateTime": "2026-11-23",
        "policyRule": {"coding": [{"system": code_system + "v3-ActCode", "code": "OPTOUT"}]},
        "provision": provision,
    }


def _good(answer: httpx.Response) -> httpx.Response:
    assert answer.is_success, f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}"
    return answer
