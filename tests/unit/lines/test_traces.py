"""Traces: which spans a request and a message make, whose trace they go on with, and what is never in them."""

from __future__ import annotations

import ast
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from fhir_bridge import tracing
from fhir_bridge.errors import SetupWrong
from tests.support.bridge_world import bundle, consent, fresh, observation, patient, running
from tests.support.collector import Collector, collecting, told, tree

ROOT = Path(__file__).parents[3]
CANARY = "Kanarienvogel"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
"""Of the example in W3C Trace Context, section 3.2.3."""
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
NUMBERS = {"status", "partition", "offset", "messages"}
TEXTS = {
    "method": {"method"},
    "route": {"route"},
    "request": {"scope['state']['question']"},
    "institution": {"received.institution", "message.institution"},
    "bus": {"message.position.bus"},
    "outcome": {"'failed'", "'refused' if done.result().refused else 'taken'"},
    "code": {"tracing.code_of(error)", "code_of(error)"},
}
"""Every expression whose value a span may tell as text: names of ours, codes, and a request's id."""
NAMES = {
    *("'ingest'", "'rooms'", "'seal'", "'commit'", "'anchor'", "'message'", "'decision'", "'record access'"),
    *("'vault commit'", "_SUBMIT", "method", "f'{method} {route}'"),
}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("FHIR_BRIDGE_OTLP_URL", found.url)
        yield found


async def test_a_post_makes_the_spans_of_a_messages_life(tmp_path: Path, collector: Collector) -> None:
    async with running(fresh(tmp_path)) as world:
        sent = bundle(("PUT", "Patient/p1", patient("p1")), ("PUT", "Observation/o1", observation("o1", of="p1")))
        await world.send(patient("p0"))
        answer = await world.http.post("/fhir", json=sent, headers=await world.token())
        assert answer.status_code == 200
    spans = collector.trace_of("POST /fhir")
    assert tree(spans) == [
        ("POST /fhir", ""),
        ("anchor", "ingest"),
        ("commit", "ingest"),
        ("ingest", "POST /fhir"),
        ("ledger submit", "anchor"),
        ("rooms", "ingest"),
        ("seal", "ingest"),
        ("vault commit", "commit"),
    ]
    of = {each.name: each for each in spans}
    assert told(of["POST /fhir"]) == {
        "http.request.method": "POST",
        "http.route": "/fhir",
        "http.response.status_code": 200,
        "fhir_bridge.request": answer.headers["x-request-id"],
    }
    assert told(of["ingest"]) == {"fhir_bridge.institution": "northgate", "fhir_bridge.outcome": "taken"}
    assert of["POST /fhir"].kind == Span.SPAN_KIND_SERVER
    ended = [of[name].end_time_unix_nano for name in ("rooms", "seal", "vault commit", "commit", "anchor", "ingest")]
    assert ended == sorted(ended)


async def test_a_read_makes_a_decision_and_records_itself(tmp_path: Path, collector: Collector) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.http.get("/fhir/Patient/p1?_summary=true", headers=await world.token())
    spans = collector.trace_of("GET /fhir/{type_name}/{record_id}")
    assert tree(spans) == [
        ("GET /fhir/{type_name}/{record_id}", ""),
        ("commit", "record access"),
        ("decision", "GET /fhir/{type_name}/{record_id}"),
        ("record access", "GET /fhir/{type_name}/{record_id}"),
        ("vault commit", "commit"),
    ]


async def test_an_import_goes_on_behind_its_request_and_outside_of_its_trace(
    tmp_path: Path, collector: Collector
) -> None:
    async with running(fresh(tmp_path)) as world:
        asked = {**await world.token(), "Content-Type": "application/fhir+ndjson", "Prefer": "respond-async"}
        lines = b"\n".join(json.dumps(patient(f"p{number}")).encode() for number in range(3))
        begun = await world.http.post("/fhir/$import", content=lines, headers={**asked, "traceparent": TRACEPARENT})
        while (status := await world.http.get(begun.headers["Content-Location"], headers=asked)).status_code == 202:
            await asyncio.sleep(0.01)
        assert status.json()["extension"]["urn:fhir-bridge:import"]["linesDone"] == 3
    assert {each.name for each in collector.spans if each.trace_id.hex() == TRACE} == {
        "POST /fhir/$import",
        "vault commit",
    }
    assert not [each for each in collector.spans if each.name in ("ingest", "rooms")]


async def test_the_senders_trace_is_gone_on_with(tmp_path: Path, collector: Collector) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.http.get("/health/live", headers={"traceparent": TRACEPARENT, "tracestate": f"x={CANARY}"})
        put = world.bridge.reader._bus.put
        await put("northgate", json.dumps(patient("p1")).encode(), [("traceparent", TRACEPARENT.encode())])
        await world.send(patient("p2"))
    continued = [each for each in collector.spans if each.trace_id.hex() == TRACE]
    firsts = {each.name: each for each in continued if each.parent_span_id.hex() == PARENT}
    assert set(firsts) == {"GET /health/live", "message"}
    assert {"ingest", "rooms", "commit", "anchor"} <= {each.name for each in continued}
    assert told(firsts["message"])["messaging.system"] == "spool"
    assert firsts["message"].kind == Span.SPAN_KIND_CONSUMER
    assert all(not each.trace_state for each in collector.spans)
    assert CANARY.encode() not in b"".join(collector.bodies)


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "00-" + "0" * 32 + f"-{PARENT}-01")],
        [("traceparent", f"00-{TRACE}-{'0' * 16}-01")],
        [("traceparent", f"ff-{TRACE}-{PARENT}-01")],
        [("traceparent", f"00-{TRACE.upper()}-{PARENT}-01")],
        [("traceparent", CANARY * 1000)],
        [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)],
    ],
)
async def test_what_is_no_traceparent_begins_a_trace_of_ours(
    tmp_path: Path, collector: Collector, headers: list[tuple[str, str]]
) -> None:
    async with running(fresh(tmp_path)) as world:
        assert (await world.http.get("/health/live", headers=headers)).status_code == 200
    (span,) = [each for each in collector.spans if each.name == "GET /health/live"]
    assert not span.parent_span_id
    assert span.trace_id.hex() != TRACE


async def test_messages_of_one_commit_each_have_it_and_are_linked(tmp_path: Path, collector: Collector) -> None:
    async with running(fresh(tmp_path)) as world:
        put = world.bridge.reader._bus.put
        ingest = world.bridge.services.ingest
        async with ingest.committing:
            for number in range(4):
                await put("northgate", json.dumps(patient(f"p{number}")).encode())
            while ingest.load.messages < 4:
                await asyncio.sleep(0.01)
            # All but the first wait for its commit; their rooms must be done, or each is committed by itself.
            while not all(job.processed.done() for job in ingest._waiting):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
    commits = [each for each in collector.spans if each.name == "commit"]
    assert len({each.trace_id for each in commits}) == len(commits) == 4
    firsts = {each.span_id: told(each)["fhir_bridge.messages"] for each in commits if not each.links}
    linked = [link.span_id for each in commits for link in each.links]
    assert len(linked) > 1
    assert {each: 1 + linked.count(each) for each in firsts} == firsts


async def test_nothing_of_a_patient_or_a_stranger_is_in_a_span(tmp_path: Path, collector: Collector) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await world.token()
        await world.send(patient(CANARY, name=[{"family": CANARY}]))
        await world.send(observation("o1", of=CANARY, note=[{"text": CANARY}]))
        await world.send(json.dumps({"resourceType": CANARY, CANARY: CANARY}).encode())
        await world.send(consent(f"Patient/{CANARY}", deny="harbor"))
        agent = await world.enrol(CANARY)
        chart = await world.patient_id(CANARY)
        for path in (f"Patient/{CANARY}", f"Patient/{chart}", f"{CANARY}/{CANARY}", f"Patient/{chart}/$everything"):
            for asker in (who, agent, {"Authorization": f"Bearer {CANARY}"}, {CANARY: CANARY, "Accept": CANARY}):
                await world.http.get(f"/fhir/{path}", params={"name": CANARY}, headers=asker)
        await world.http.put(f"/fhir/Patient/{CANARY}", content=CANARY, headers=who | {"Content-Type": CANARY})
        await world.http.request(CANARY.upper(), f"/{CANARY}")
        await world.http.post("/token", data={"client_assertion": CANARY})
    sent = b"".join(collector.bodies)
    assert len(collector.spans) > 40
    assert CANARY.lower().encode() not in sent.lower()
    assert chart.encode() not in sent
    for span in collector.spans:
        assert span.status.message == ""
        assert not span.events


async def test_hidden_and_absent_make_the_same_spans(tmp_path: Path, collector: Collector) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        for number in range(5):
            await world.send(observation(f"o{number}", of="p1"))
            await world.send(patient(f"q{number}"))
        await world.send(consent("Patient/p1", deny="harbor"))
        hidden = await world.patient_id("p1")
        who = await world.token("harbor")
        asked = []
        for patient_id in (hidden, hidden[::-1]):
            for path in (
                f"Patient/{patient_id}",
                f"Patient/{patient_id}/$everything",
                f"Observation?patient={patient_id}",
            ):
                answer = await world.http.get(f"/fhir/{path}", headers=who)
                asked.append(answer.headers["x-request-id"])
    by_request = {
        told(each)["fhir_bridge.request"]: _trace_of(collector, each)
        for each in collector.spans
        if "fhir_bridge.request" in told(each)
    }
    made = [by_request[each] for each in asked]
    assert made[:3] == made[3:]
    assert len(made[0]) > 3


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["away", "refusing", "slow"])
async def test_a_collector_in_trouble_costs_spans_and_nothing_else(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    collector.status, collector.delay_s = (503, 0) if trouble == "refusing" else (200, 20 if trouble == "slow" else 0)
    if trouble == "away":
        monkeypatch.setenv("FHIR_BRIDGE_OTLP_URL", "http://127.0.0.1:9")
    async with running(fresh(tmp_path)) as world:
        who = await world.token()
        await world.send(patient("p1"))
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            begun = time.monotonic()
            assert (await world.http.get("/fhir/Patient/p1", headers=who)).status_code == 200
            assert time.monotonic() - begun < 5
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 5
    assert tracing.begin("rooms") is tracing.NOTHING


async def test_an_error_is_told_by_its_code_alone(tmp_path: Path, collector: Collector) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.http.post("/fhir/Patient", content=b"{", headers=await world.token())
        above = tracing.root("message", tracing.Kind.CONSUMER)
        with pytest.raises(SetupWrong), tracing.within(above), tracing.spanned("rooms"):
            raise SetupWrong(CANARY)
    refused = [each for each in collector.spans if told(each).get("fhir_bridge.outcome") == "refused"]
    assert len(refused) == 1
    (failed,) = [each for each in collector.spans if told(each).get("error.type") == "setup-wrong"]
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert CANARY.encode() not in b"".join(collector.bodies)


def test_a_url_that_is_none_stops_the_start() -> None:
    from fhir_bridge.adapters.otlp import OtlpTracer

    for url in ("localhost:4318", "ftp://host/", "http://"):
        with pytest.raises(SetupWrong, match="FHIR_BRIDGE_OTLP_URL"):
            OtlpTracer(url)


@pytest.mark.slow
def test_the_library_is_loaded_only_when_traces_are_on() -> None:
    # FastAPI brings the names of OpenTelemetry's API, which do nothing by themselves.
    code = "import sys, fhir_bridge.wiring, fhir_bridge.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf", "fhir_bridge.adapters.otlp")
    loaded = done.stdout.split()
    assert "fhir_bridge.tracing" in loaded
    assert not [each for each in loaded if each.startswith(heavy)]


def test_every_span_is_made_of_fixed_words_codes_and_numbers() -> None:
    calls = list(_calls())
    assert len(calls) > 15
    for place, call in calls:
        verb = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if verb != "note":
            assert ast.unparse(call.args[0]) in NAMES, place
        for field in call.keywords:
            assert field.arg in NUMBERS | set(TEXTS), place
            if field.arg in TEXTS:
                assert ast.unparse(field.value) in TEXTS[field.arg], place


def test_the_type_of_attributes_is_that_list() -> None:
    declared = {name: str(kind) for name, kind in tracing.Attributes.__annotations__.items()}
    assert {name for name, kind in declared.items() if "'int'" in kind} == NUMBERS
    assert {name for name, kind in declared.items() if "'str'" in kind} == set(TEXTS)


def _calls() -> Iterator[tuple[str, ast.Call]]:
    for file in sorted((ROOT / "fhir_bridge").rglob("*.py")):
        if file.name == "otlp.py":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            on, verb = ast.unparse(node.func.value), node.func.attr
            is_begun = on == "tracing" and verb in ("root", "begin", "spanned", "shared")
            if is_begun or (on in ("span", "each") and verb in ("note", "rename")):
                yield f"{file.name}:{node.lineno}", node


def _trace_of(collector: Collector, first: Span) -> list[tuple[str, str, list[str]]]:
    """Return names and attributes' names and values of a trace, without what differs between any two requests."""
    spans = [each for each in collector.spans if each.trace_id == first.trace_id]
    names = {each.span_id: each.name for each in spans}
    return sorted(
        (
            each.name,
            names.get(each.parent_span_id, ""),
            [f"{name}={value}" for name, value in told(each).items() if name != "fhir_bridge.request"],
        )
        for each in spans
    )
