"""Every faulty or tricky input ends as tests/data/broken/manifest.csv says: over HTTP and by bus.

Refused over HTTP: an OperationOutcome with the code and the place, and nothing
stored. Refused by bus: a dead letter that says the same and holds the message.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.faults import Fault, faults, good_resources
from tests.support.hospitals import BROKEN, Number
from tests.support.service import FHIR_JSON, Service, running

MANIFEST = list(csv.DictReader((BROKEN / "manifest.csv").read_text(encoding="utf-8").splitlines()))
JSON_FAULTS = ("json-", "type-", "xml-")
"""Faults of the whole message: there is no element to point to."""
FAULTS = list(faults())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("broken") / "data") as started:
        started.add_institutions(("northgate",))
        yield started


@pytest.fixture
def headers(service: Service) -> dict[str, str]:
    return service.lasting_token("northgate") | {"Content-Type": FHIR_JSON, "Prefer": "return=OperationOutcome"}


def send(service: Service, headers: dict[str, str], body: bytes) -> httpx.Response:
    """Send bundles to the base, a resource to its type, and what is not even that to any type."""
    try:
        type_name = json.loads(body)["resourceType"]
    except (ValueError, TypeError, KeyError):
        type_name = "Observation"
    if not isinstance(type_name, str):
        type_name = "Observation"
    path = "/fhir" if type_name == "Bundle" else f"/fhir/{type_name}"
    return service.http.post(path, headers=headers, content=body)


def stored(service: Service) -> tuple[int, int]:
    counts = service.ask("/status")["vault"]
    return counts["records"], counts["letters"]


def issues(answer: httpx.Response) -> list[dict[str, Any]]:
    outcome = answer.json()
    assert outcome["resourceType"] == "OperationOutcome"
    found: list[dict[str, Any]] = outcome["issue"]
    return found


def errors(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [issue for issue in found if issue["severity"] in ("error", "fatal")]


@pytest.mark.parametrize("row", [r for r in MANIFEST if r["expect"].startswith("reject")], ids=lambda r: r["file"])
def test_what_must_be_refused_is_refused_over_http_and_stores_nothing(
    service: Service, headers: dict[str, str], row: dict[str, str]
) -> None:
    before = stored(service)
    answer = send(service, headers, (BROKEN / row["file"]).read_bytes())
    if answer.is_success:
        assert row["expect"] != "reject", "only 'reject-or-…' may be taken"
        assert row["issue_code"] in {i["code"] for i in issues(answer)}, "taken, but then it must be flagged"
        return
    assert answer.status_code == 400
    found = errors(issues(answer))
    assert row["issue_code"] in {i["code"] for i in found}
    if not row["file"].startswith(JSON_FAULTS):
        assert any(i.get("expression") for i in found if i["code"] == row["issue_code"]), "the place is missing"
    assert stored(service) == before


@pytest.mark.parametrize("row", [r for r in MANIFEST if r["expect"].startswith("reject")], ids=lambda r: r["file"])
def test_what_must_be_refused_becomes_a_dead_letter_by_bus(service: Service, row: dict[str, str]) -> None:
    message = (BROKEN / row["file"]).read_bytes()
    records, _ = stored(service)
    summary = service.ingest("northgate", message)
    if not summary["refused"]:
        assert row["expect"] != "reject"
        return
    assert stored(service)[0] == records
    (letter_id,) = summary["dead_letters"]
    letter = service.ask(f"/letters/{letter_id}")
    assert letter["status"] == "open"
    codes = {i["code"] for finding in letter["findings"] for i in finding["issues"]}
    assert row["issue_code"] in codes
    assert _bytes(letter["message"]) == message
    again = service.ingest("northgate", message)
    assert again["dead_letters"] == [letter_id], "the same message is the same letter"


def _bytes(shown: str) -> bytes:
    prefix = "base64:"
    return base64.b64decode(shown.removeprefix(prefix)) if shown.startswith(prefix) else shown.encode()


@pytest.mark.parametrize("row", [r for r in MANIFEST if r["expect"] == "accept"], ids=lambda r: r["file"])
def test_what_must_be_accepted_comes_back_unchanged(
    service: Service, headers: dict[str, str], row: dict[str, str]
) -> None:
    message = (BROKEN / row["file"]).read_bytes()
    assert send(service, headers, message).is_success
    for sent in _resources(json.loads(message, parse_float=Number, parse_int=Number)):
        served = service.get(f"{sent['resourceType']}/{sent['id']}", headers)
        assert served.status_code == 200
        got = json.loads(served.content, parse_float=Number, parse_int=Number)
        assert _without_ids(got) == _without_ids(sent)


def _resources(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in body["entry"]] if body["resourceType"] == "Bundle" else [body]


def _without_ids(value: Any) -> Any:
    """Leave out what the bridge writes anew: ids, meta, and literal or conditional references."""
    if isinstance(value, list):
        return [_without_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    inner = {name: _without_ids(item) for name, item in value.items() if name not in ("meta", "reference")}
    if "resourceType" in value:
        del inner["id"]
    if "reference" in value:
        for name in ("display", "identifier", "type"):
            inner.pop(name, None)
    elif set(inner) <= {"identifier", "type", "display"}:
        inner = {}
    return inner


def test_a_bundle_sent_twice_makes_nothing_new(service: Service, headers: dict[str, str]) -> None:
    message = (BROKEN / "replay-same-bundle.json").read_bytes()
    first = send(service, headers, message)
    before = service.ask("/status")["vault"]
    second = send(service, headers, message)
    assert first.status_code == second.status_code == 200
    after = service.ask("/status")["vault"]
    assert (after["records"], after["batches"]) == (before["records"], before["batches"])
    assert {e["response"]["status"] for e in second.json()["entry"]} == {"200 OK"}
    etags = [[e["response"]["etag"] for e in answer.json()["entry"]] for answer in (first, second)]
    assert etags[0] == etags[1]


def test_a_bundle_of_two_patients_is_parted_by_patient(service: Service, headers: dict[str, str]) -> None:
    """Consent is judged by record, so each record must lie in its own patient's chart."""
    message = (BROKEN / "bundle-two-patients.json").read_bytes()
    assert send(service, headers, message).is_success
    resources = _resources(json.loads(message))
    owners = {r["id"] for r in resources if r["resourceType"] == "Patient"}
    assert len(owners) == 2
    for owner in owners:
        found = [json.loads(r) for r in service.entries(f"Patient/{owner}/$everything", headers, _count="1000")]
        assert sum(r["resourceType"] == "Patient" for r in found) == 1


@pytest.mark.parametrize("row", [r for r in MANIFEST if r["expect"] == "flag"], ids=lambda r: r["file"])
def test_what_must_be_flagged_is_stored_with_its_finding(
    service: Service, headers: dict[str, str], row: dict[str, str]
) -> None:
    message = (BROKEN / row["file"]).read_bytes()
    fresh = json.loads(message, parse_float=Number, parse_int=Number)["id"]
    answer = send(service, headers, message)
    assert answer.status_code in (200, 201)
    assert row["issue_code"] in {i["code"] for i in issues(answer)}
    assert service.get(f"Observation/{fresh}", headers).status_code == 200


def test_every_line_of_the_manifest_is_covered() -> None:
    assert len(MANIFEST) == 37
    assert {row["expect"] for row in MANIFEST} <= {"reject", "accept", "flag", "reject-or-convert", "reject-or-flag"}


# --- the same faults on other types


def test_the_good_resources_behind_the_variants_are_taken(service: Service, headers: dict[str, str]) -> None:
    """Else a variant could be refused for another reason than its fault."""
    for good in good_resources().values():
        answer = send(service, headers, json.dumps(good).encode())
        assert answer.is_success, (good["resourceType"], answer.text)
    assert len(good_resources()) > 9


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.type}-{fault.name}")
def test_the_fault_is_refused_on_other_types_too(service: Service, headers: dict[str, str], fault: Fault) -> None:
    before = stored(service)
    answer = send(service, headers, fault.message)
    assert answer.status_code == 400
    found = errors(issues(answer))
    assert fault.code in {i["code"] for i in found}
    if fault.place:
        places = [place for i in found if i["code"] == fault.code for place in i.get("expression", [])]
        assert any(place.startswith(fault.place) for place in places), places
    assert stored(service) == before
    summary = service.ingest("northgate", fault.message)
    assert fault.code in {i["code"] for i in summary["refused"]}
    assert len(summary["dead_letters"]) == 1
    assert stored(service)[0] == before[0]
