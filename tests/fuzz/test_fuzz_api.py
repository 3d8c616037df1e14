"""Ask a running service whatever its own description allows, and whatever it does not; ``API_CASES`` says how often.

schemathesis makes the requests from ``/openapi.json`` and compares each answer
with it. To reach further than the first refusal, half of the requests name
records that there are, and half of the bodies are a valid one with changes.
``API_SEED`` asks for other requests.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from schemathesis import APIOperation, Case, GenerationMode, Response
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.bridge_world import consent, observation, patient
from tests.support.service import Service, running

CASES = int(os.environ.get("API_CASES", "600"))
SEED = int(os.environ.get("API_SEED", "0"))
ROUNDS = max(CASES // 2_000, 2)
MAX_GROWTH_KB = 200 << 10
TOKEN_S = 120.0
_CONFORMANCE = [status_code_conformance, response_headers_conformance, response_schema_conformance]
_AT_THE_EDGES = ["not_a_server_error", "content_type_conformance", "unsupported_method", "missing_required_header"]
_OUR_FAULTS = "unforeseen|unexpected|rooms failed|commit failed|Traceback|integrity"
"""What the log says of a request that the code was not ready for."""
_NOT_YET = {"decision_receipt", "decision_opening"}
"""What answers 503 for a while by design: the ledger does not hold the decision yet."""
_VALID = {
    "Resource": [patient("p1"), observation("o1", of="p1"), consent("Patient/p1", deny="harbor")],
    "Consent": [
        consent("Patient/p1", deny="harbor"),
        {"resourceType": "Consent", "sourceAttachment": {"title": "x"}},
    ],
    "Bundle": [
        {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [{"resource": patient("p2"), "request": {"method": "PUT", "url": "Patient/p2"}}],
        }
    ],
}
_VALID["Emergency"] = [
    {"resourceType": "Parameters", "parameter": [{"name": "reason", "valueString": "unconscious, no history known"}]}
]
_CRITERIA = (
    ("identifier", "https://northgate.example.org/mrn|p1"),
    ("patient", "p1"),
    ("code", "8867-4"),
    ("date", "ge2026-01-01"),
    ("subject:Patient.birthdate", "lt2000"),
    ("_has:Observation:patient:code", "8867-4"),
    ("_lastUpdated", "gt2020"),
)


@schemathesis.serializer("application/fhir+ndjson", "*/*")
def as_it_is(_context: Any, value: Any) -> bytes:
    """Send lines and messages as their bytes; schemathesis writes neither by itself."""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode(errors="replace")


@dataclass
class Asked:
    """A running service, who asks it, and what was answered."""

    service: Service
    names: dict[str, str]
    """``local`` or canonical ids of records that there are, by type."""
    askers: dict[str, dict[str, str]] = field(default_factory=dict)
    renewed: float = 0.0
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    session: requests.Session = field(default_factory=requests.Session)

    def headers(self, asker: str) -> dict[str, str]:
        """Return the headers of an asker, with a token that holds for a while."""
        if time.monotonic() - self.renewed > TOKEN_S:
            self.renewed = time.monotonic()
            staff = {"practitioner": "dr-1", "purpose": "ETREAT", "role": _DOCTOR}
            self.askers |= {
                "nobody": {},
                "northgate": self.service.token("northgate"),
                "harbor": self.service.token("harbor", **staff),
                "doctor": self.service.token("northgate", **staff),
                "agent": self.service._token(Path(self.names["agent"]), {}),
            }
        return self.askers[asker]


_DOCTOR = "http://terminology.hl7.org/CodeSystem/practitioner-role|doctor"
_ASKERS = ("northgate", "northgate", "harbor", "doctor", "agent", "nobody")


@pytest.mark.timeout(0)
def test_every_answer_is_one_that_the_description_tells(tmp_path: Path) -> None:
    with running(tmp_path / "data") as service:
        asked = _begun(service)
        told = asked.session.get(f"{service.base_url}/openapi.json").json()
        schema = schemathesis.openapi.from_dict(told)
        operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
        before_kb = _resident_kb(service)
        # In rounds, so that what one operation writes is there for all the others.
        for number in range(ROUNDS):
            for operation in operations:
                _ask(asked, operation, max(CASES // len(operations) // ROUNDS, 1), SEED + number)
        grown_kb = _resident_kb(service) - before_kb
        log = service.log.read_text(errors="replace")
    print(f"{asked.statuses.total()} answers, {grown_kb >> 10} MiB grown, by status: {_by_status(asked.statuses)}")
    there = {f"{method.upper()} {path}" for path, item in told["paths"].items() for method in item}
    assert {name for name, _ in asked.statuses} == there
    assert not re.findall(_OUR_FAULTS, log)
    assert grown_kb < MAX_GROWTH_KB


@pytest.mark.skipif("API_CASES" not in os.environ, reason="takes a minute: make fuzz-api")
def test_the_edges_of_every_parameter_are_answered_as_the_description_tells(tmp_path: Path) -> None:
    """What schemathesis tries one by one: limits, types, left-out parameters, methods that are not described."""
    with running(tmp_path / "data") as service:
        token = _begun(service).headers("northgate")["Authorization"]
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{service.base_url}/openapi.json"]
        command += ["-H", f"Authorization: {token}", "--phases", "examples,coverage", "--continue-on-failure"]
        command += ["--checks", ",".join([each.__name__ for each in _CONFORMANCE] + _AT_THE_EDGES), "--no-color"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        log = service.log.read_text(errors="replace")
    print(done.stdout[-600:])
    assert done.returncode == 0, done.stdout[-4000:]
    assert not re.findall(_OUR_FAULTS, log)


def _ask(asked: Asked, operation: APIOperation[Any, Any, Any, Any], cases: int, number: int) -> None:
    @seed(number)
    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(_cases(asked, operation), st.sampled_from(_ASKERS))
    def each(case: Case[Any], asker: str) -> None:
        answer = case.call(base_url=asked.service.base_url, session=asked.session, headers=asked.headers(asker))
        asked.statuses[operation.label, answer.status_code] += 1
        if "content-location" in answer.headers:
            asked.names["job"] = answer.headers["content-location"][0].rpartition("/")[2]
        if asker != "nobody" and "x-request-id" in answer.headers:
            asked.names["request"] = answer.headers["x-request-id"][0]
        _check(case, answer)

    each()


def _check(case: Case[Any], answer: Response) -> None:
    name = case.operation.definition.raw["operationId"].removeprefix("head_")
    later = answer.status_code == 503 and name in _NOT_YET
    assert answer.status_code < 500 or later, f"{case.operation.label}: {answer.status_code} {answer.text}"
    is_bare = not answer.content and answer.status_code in (200, 201) and case.method != "GET"
    # A written record comes back without a body where that is preferred; then it has no type.
    checks = _CONFORMANCE if is_bare else [*_CONFORMANCE, content_type_conformance]
    try:
        case.validate_response(answer, checks=checks)
    except FailureGroup as failed:
        raise AssertionError("\n".join(str(each) for each in failed.exceptions)) from None
    if answer.status_code >= 400 and case.method != "HEAD":
        told = answer.json()
        kind = "error" if case.path == "/token" and answer.status_code < 500 else "issue"
        assert kind in told, told


def _cases(asked: Asked, operation: APIOperation[Any, Any, Any, Any]) -> SearchStrategy[Case[Any]]:
    made = operation.as_strategy(GenerationMode.POSITIVE)
    if any((operation.path_parameters, operation.query, operation.headers, operation.body)):
        made |= operation.as_strategy(GenerationMode.NEGATIVE)
    return st.builds(_nearer, made, st.randoms(use_true_random=False), st.just(asked))


def _nearer(case: Case[Any], random: Any, asked: Asked) -> Case[Any]:
    """Return a case that sometimes names what there is, sends what is nearly valid and asks what can be answered."""
    names = asked.names
    if "record_id" in case.path_parameters and random.random() < 0.5:
        type_name = random.choice(["Patient", "Observation", "Consent", "Organization"])
        if "type_name" in case.path_parameters:
            case.path_parameters["type_name"] = type_name
        case.path_parameters["record_id"] = random.choice([names[type_name], _passing(random)])
        if "version" in case.path_parameters and random.random() < 0.7:
            case.path_parameters["version"] = names["version"]
    if "request" in (case.query or {}) and random.random() < 0.5:
        case.query["request"] = names.get("request", "")
    if "criteria" in {each.name for each in case.operation.query} and random.random() < 0.5:
        case.query = dict([random.choice(_CRITERIA)]) | ({"patient": "p1"} if random.random() < 0.7 else {})
    body = re.search(r"requestBodies/(\w+)", json.dumps(case.operation.definition.raw.get("requestBody", {})))
    if "job" in case.path_parameters and random.random() < 0.7:
        case.path_parameters["job"] = names.get("job", "")
    if body and body[1] in ("Lines", "Message") and random.random() < 0.7:
        case.body = "\n".join(json.dumps(each) for each in _VALID["Resource"])
        case.headers.pop("Content-Encoding", None)
        if "sha256" in case.path_parameters:
            case.path_parameters["sha256"] = hashlib.sha256(case.body.encode()).hexdigest()
    valid = _VALID.get(body[1] if body else "")
    if valid and isinstance(case.body, dict) and random.random() < 0.6:
        chosen = dict(random.choice(valid))
        if "id" in chosen and random.random() < 0.5:
            chosen["id"] = _passing(random)
        if random.random() < 0.5:
            chosen |= {random.choice(sorted(chosen)): value for value in list(case.body.values())[:1]}
        case.body = chosen
        if random.random() < 0.6:
            # Most made-up conditions and encodings are refused before the body is looked at.
            case.headers.clear()
            case.query.clear()
        if "type_name" in case.path_parameters and random.random() < 0.8:
            case.path_parameters["type_name"] = chosen["resourceType"]
            if "record_id" in case.path_parameters and "id" in chosen:
                case.path_parameters["record_id"] = chosen["id"]
    return case


def _passing(random: Any) -> str:
    """Return one of a few local ids that are created, changed and deleted as it comes."""
    return f"passing-{random.randrange(5)}"


def _begun(service: Service) -> Asked:
    """Send what can be asked about, enrol an agent, and remember how it is called."""
    ids = service.add_institutions(["northgate", "harbor"])
    for resource in (patient("p1", birthDate="1980-02-03"), observation("o1", of="p1"), observation("o2", of="p1")):
        service.ingest("northgate", json.dumps(resource).encode())
    done = service.order("/patients", {"institution": "northgate", "patient": "p1"})
    names = {"Patient": done["patient"], "Organization": ids["northgate"], "agent": done["credentials"]}
    asked = Asked(service, names)
    asked.session.trust_env = False
    agent = asked.headers("agent")
    signed = consent(f"Patient/{names['Patient']}", permit=f"Organization/{ids['harbor']}")
    written = service.http.post("/fhir/Consent", json=signed, headers=agent)
    assert written.status_code == 201, written.text
    seen = service.get("Observation/o1", asked.headers("northgate")).json()
    names |= {"Consent": written.json()["id"], "Observation": seen["id"], "version": seen["meta"]["versionId"]}
    return asked


def _resident_kb(service: Service) -> int:
    text = Path(f"/proc/{service.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found
    return int(found[1])


def _by_status(statuses: Counter[tuple[str, int]]) -> dict[int, int]:
    found: Counter[int] = Counter()
    for (_, status), count in statuses.items():
        found[status] += count
    return dict(sorted(found.items()))
