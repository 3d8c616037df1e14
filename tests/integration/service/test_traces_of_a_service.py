"""Traces of a whole service: over TCP, with a collector that hangs, beside what the environment says to libraries."""

from __future__ import annotations

import json
import time
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.bridge_world import patient
from tests.support.collector import collecting
from tests.support.service import Service, running

CANARY = "Kanarienvogel"


def _use(service: Service) -> None:
    service.add_institutions(["northgate"])
    service.ingest("northgate", json.dumps(patient(CANARY, name=[{"family": CANARY}])).encode())
    who = service.token("northgate")
    for path in (
        f"Patient/{CANARY}",
        f"Patient?identifier=https://northgate.example.org/mrn|{CANARY}",
        f"{CANARY}/x/y",
    ):
        service.get(path, who)
    service.http.put(f"/fhir/Patient/{CANARY}", content=b'{"a":NaN}', headers=who)


def test_spans_arrive_and_say_nothing_of_the_environment_or_the_data(tmp_path: Path) -> None:
    said = {"OTEL_RESOURCE_ATTRIBUTES": f"host.name={CANARY}", "OTEL_SERVICE_NAME": CANARY}
    with collecting() as collector, running(tmp_path / "data", FHIR_BRIDGE_OTLP_URL=collector.url, **said) as service:
        _use(service)
        wanted = {f"{method} /fhir/{{type_name}}/{{record_id}}" for method in ("GET", "PUT")} | {
            "message",
            "vault commit",
        }
        collector.wait_until(lambda it: wanted <= {each.name for each in it.spans})
        service.stop()
    sent = b"".join(collector.bodies)
    assert CANARY.encode() not in sent
    resources = [each.resource for each in ExportTraceServiceRequest.FromString(collector.bodies[0]).resource_spans]
    told = {each.key for resource in resources for each in resource.attributes}
    assert told == {"service.name", "service.version"}


def test_no_variable_of_the_environment_makes_the_framework_tell_anything(tmp_path: Path) -> None:
    with collecting() as collector:
        said = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_EXPORTER": "otlp"}
        with running(tmp_path / "data", FASTAPI_OTEL_AUTO_CONFIGURE="true", **said) as service:
            _use(service)
            service.stop()
        assert collector.requests == 0


def test_a_collector_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with collecting() as collector, running(tmp_path / "data", FHIR_BRIDGE_OTLP_URL=collector.url) as service:
        collector.delay_s, before = 60, collector.requests
        _use(service)
        collector.wait_until(lambda it: it.requests > before)
        begun = time.monotonic()
        service.stop()
        assert time.monotonic() - begun < collector.delay_s / 2


def test_that_spans_do_not_arrive_is_said_once_and_that_they_do_again(tmp_path: Path) -> None:
    with collecting() as collector, running(tmp_path / "data", FHIR_BRIDGE_OTLP_URL=collector.url) as service:
        collector.status = 400
        _use(service)
        who = service.token("northgate")
        while collector.requests < 3:
            service.get(f"Patient/{CANARY}", who)
        collector.status = 200
        while not collector.bodies:
            service.get(f"Patient/{CANARY}", who)
        service.stop()
        lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    told = [each["event"] for each in lines if each["part"] == "tracing" or each["event"] == "library"]
    assert told == ["traces do not arrive", "traces arrive again"]
