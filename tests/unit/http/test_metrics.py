"""Metrics: who may read them, what their labels can be, that they count what happened and tell nothing of anybody."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from fhir_bridge.http import open_routes
from tests.support.bridge_world import BASE, World, bundle, consent, fresh, observation, patient, running

ROOT = Path(__file__).parents[3]
CANARY = "kanarienvogel"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
_LABELS = {
    "outcome": {"taken", "refused", "quarantined"},
    "status": {"1xx", "2xx", "3xx", "4xx", "5xx"},
    "institution": {"northgate", "harbor", "other"},
    "part": {"ledger", "vault", "keys", "bus", "lines", "disk"},
    "table": {"records", "segments", "letters", "documents", "audits", "batches"},
}


async def _samples(world: World) -> Samples:
    page = (await world.control.get("/metrics")).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def _value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"fhir_bridge_{name}", tuple(sorted(labels.items()))), 0.0)


async def test_the_public_port_has_no_metrics(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        for path in ("/metrics", "/fhir/metrics", "/health/metrics"):
            answer = await world.http.get(path, headers=await world.token())
            assert answer.status_code in (400, 404)
            assert "fhir_bridge_" not in answer.text


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1:9464", 200), ("localhost", 200), ("evil.example", 400)])
async def test_the_loopback_port_has_one_page_for_this_machine(tmp_path: Path, host: str, status: int) -> None:
    async with (
        running(fresh(tmp_path)) as world,
        httpx.AsyncClient(transport=httpx.ASGITransport(world.bridge.metrics), base_url=BASE) as http,
    ):
        answer = await http.get("/metrics", headers={"Host": host})
        assert answer.status_code == status
        assert ("fhir_bridge_ready" in answer.text) is (status == 200)
        for path in ("/status", "/letters", "/fhir/Patient", "/openapi.json", "/docs"):
            assert (await http.get(path, headers={"Host": "localhost"})).status_code == 404


async def test_messages_are_counted_by_what_became_of_them(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        before = await _samples(world)
        sent = bundle(("PUT", "Patient/p1", patient("p1")), ("PUT", "Observation/o1", observation("o1", of="p1")))
        await world.send(sent)
        await world.send(b"no json", "harbor")
        after = await _samples(world)

    def grown(name: str, **labels: str) -> float:
        return _value(after, name, **labels) - _value(before, name, **labels)

    assert grown("messages_total", institution="northgate", outcome="taken") == 1
    assert grown("messages_total", institution="harbor", outcome="refused") == 1
    assert grown("entries_total", outcome="taken") == 2
    assert grown("message_bytes_total") == len(json.dumps(sent)) + len(b"no json")
    assert grown("vault_commit_seconds_count") == grown("commit_group_messages_count") == 2
    assert grown("anchor_seconds_count") == 1
    assert grown("dead_letters_open") == 1
    assert grown("vault_rows", table="records") == 2
    assert _value(after, "queue_bytes") == _value(after, "unanchored_batches") == 0
    assert _value(after, "bus_reading") == _value(after, "ready", part="ledger") == 1
    assert ("fhir_bridge_bus_lag_messages", (("institution", "harbor"),)) in after


async def test_answers_are_counted_under_their_routes(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who, before = await world.token(), await _samples(world)
        await world.http.get("/fhir/Patient/p1", headers=who)
        await world.http.get(f"/fhir/{CANARY}/{CANARY}", headers=who)
        await world.http.get(f"/{CANARY}")
        after = await _samples(world)
    for labels, grown in (
        ({"interaction": "read", "status": "2xx"}, 1),
        ({"interaction": "read", "status": "4xx"}, 1),
        ({"interaction": "none", "status": "4xx"}, 1),
    ):
        assert _value(after, "answers_total", **labels) - _value(before, "answers_total", **labels) == grown
    count = "answer_seconds_count"
    assert _value(after, count, interaction="read") - _value(before, count, interaction="read") == 2


async def test_labels_come_from_closed_lists_and_nothing_of_a_patient_is_in_them(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        before = await _samples(world)
        await world.send(patient(CANARY, name=[{"family": CANARY}]))
        who = await world.token()
        await world.http.get(f"/fhir/Patient/{CANARY}", headers=who)
        await world.http.get("/fhir/Patient", params={"identifier": CANARY}, headers=who)
        await world.http.get(f"/fhir/Patient/{CANARY}/$everything", headers={"Authorization": f"Bearer {CANARY}"})
        interactions = {"none"} | set(_route_names(world))
        page, samples = (await world.control.get("/metrics")).text, await _samples(world)
        chart = await world.patient_id(CANARY)
    assert CANARY not in page.lower()
    assert chart not in page
    for (name, labels), value_now in samples.items():
        # Other tests of this process have counted under their own institutions.
        if name.startswith("fhir_bridge_") and value_now != before.get((name, labels)):
            for label, value in labels:
                assert label == "le" or value in _LABELS.get(label, interactions), (name, label, value)


async def test_a_hidden_record_moves_the_metrics_as_an_absent_one_does(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", of="p1"))
        await world.send(consent("Patient/p1", deny="harbor"))
        hidden = await world.patient_id("p1")
        who = await world.token("harbor")
        moved = []
        for asked in (hidden, hidden[::-1]):
            before = await _samples(world)
            for path in (f"Patient/{asked}", f"Patient/{asked}/$everything", f"Observation?patient={asked}"):
                await world.http.get(f"/fhir/{path}", headers=who)
            after = await _samples(world)
            moved.append({key: value - before.get(key, 0) for key, value in after.items() if _is_count(key[0])})
    assert moved[0] == moved[1]
    assert any(moved[0].values())


def test_dashboard_and_alerts_use_names_that_there_are(names: set[str]) -> None:
    board = json.loads((ROOT / "deploy/grafana/fhir-bridge.json").read_text("utf-8"))
    rules = YAML(typ="safe").load((ROOT / "deploy/prometheus/fhir-bridge-alerts.yaml").read_text("utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    used = {name for expression in asked for name in re.findall(r"\b(?:fhir_bridge|process)_[a-z_]+", expression)}
    assert len(used) > 15
    assert used <= names, used - names


@pytest.fixture
async def names(tmp_path: Path) -> set[str]:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.http.get("/health/ready")
        return {name for name, _ in await _samples(world)}


def _is_count(name: str) -> bool:
    return name.endswith(("_total", "_count")) and name.startswith("fhir_bridge_")


def _route_names(world: World) -> Iterator[str]:
    for route in [*world.bridge.http.routes, *open_routes.router.routes]:
        endpoint = getattr(route, "endpoint", None)
        if endpoint is not None:
            yield endpoint.__name__
