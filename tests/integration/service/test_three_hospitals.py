"""All three hospitals through the real service, over each bus: what comes out is what the truth says went in.

41,834 entries are sent. Counts and values are taken from ``$everything`` over
HTTP, asked by northgate with every patient's full consent.
"""

from __future__ import annotations

import asyncio
import csv
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from fhir_bridge.model.ids import canonical_id
from tests.support.hospitals import (
    FOLDER,
    VERSIONS,
    Lane,
    Number,
    directory,
    harbor_values,
    lanes,
    links,
    patients,
    sent_resources,
    truth_counts,
)
from tests.support.kafka_broker import KafkaBroker
from tests.support.kafka_sending import produce
from tests.support.service import Service, consent, load, running
from tests.support.state import committed, id_key

LOAD_LIMIT_S = 600.0
UCUM = "http://unitsofmeasure.org"
VALID_UCUM = {"pH": "[pH]"}
"""The truth carries the generator's spelling; UCUM has no unit ``pH``, its code is ``[pH]``."""
HARBOR_OBSERVATIONS = "https://harbor.example.org/codes/obs"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A service that holds all three hospitals, and every person's timeline as northgate is given it."""

    service: Service
    timelines: Mapping[str, list[Json]]
    quarantined: Counter[tuple[str, str]]

    def served(self) -> Iterator[tuple[str, Json]]:
        """Yield (hospital, resource) of all timelines."""
        for timeline in self.timelines.values():
            for resource in timeline:
                yield hospital_of(resource), resource


@pytest.fixture(scope="module", params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    base = tmp_path_factory.mktemp(request.param)
    if request.param == "embedded":
        with running(base / "data") as service:
            service.add_institutions()
            assert load(service).refused == []
            yield _asked(service)
        return
    broker = KafkaBroker(base / "kafka", **{"message.max.bytes": str(16 << 20)})
    broker.start()
    try:
        with running(base / "data", kafka=broker.bootstrap) as service:
            service.add_institutions()
            _send_through(service, broker, [Lane(name, "", (directory(name),)) for name in VERSIONS])
            _send_through(service, broker, [lane for name in VERSIONS for lane in lanes(name)])
            service.order("/links", {"rows": links()})
            yield _asked(service)
    finally:
        broker.stop()


def _send_through(service: Service, broker: KafkaBroker, to_send: list[Lane]) -> None:
    wanted = committed(service.data, "kafka") + asyncio.run(produce(broker.bootstrap, to_send))
    deadline = time.monotonic() + LOAD_LIMIT_S
    while committed(service.data, "kafka") < wanted:
        assert time.monotonic() < deadline, service.log_tail()
        time.sleep(0.1)


def _asked(service: Service) -> Loaded:
    """Enrol every person where they are first found, permit everything to northgate, and ask as northgate."""
    northgate = next(each["id"] for each in service.ask("/institutions") if each["name"] == "northgate")
    ids: dict[str, str] = {}
    for patient in patients():
        if patient.person not in ids:
            ids[patient.person], agent = service.enrol(patient)
            made = service.http.post("/fhir/Consent", headers=agent, json=consent(ids[patient.person], northgate))
            assert made.status_code == 201, made.text
    timelines = {}
    for person, record_id in ids.items():
        who = service.token("northgate", practitioner="dr-a")
        pages = service.entries(f"Patient/{record_id}/$everything", who, _count="1000")
        timelines[person] = [json.loads(page, parse_float=Number, parse_int=Number) for page in pages]
    return Loaded(service, timelines, _quarantined(service))


def _quarantined(service: Service) -> Counter[tuple[str, str]]:
    """Return how many entries our rules could not convert, by hospital and type, from the dead letters."""
    found: Counter[tuple[str, str]] = Counter()
    for listed in service.ask("/letters", reason="quarantined"):
        letter = service.ask(f"/letters/{listed['id']}")
        entries = json.loads(letter["message"])["entry"]
        for finding in letter["findings"]:
            found[letter["institution"], entries[finding["index"]]["resource"]["resourceType"]] += 1
    return found


def hospital_of(resource: Json) -> str:
    """Return the hospital a served resource says it is from."""
    (name,) = [tag["code"] for tag in resource["meta"]["tag"] if tag["system"] == "urn:fhir-bridge:institution"]
    return str(name)


def test_counts_per_person_hospital_and_type_are_the_truth(loaded: Loaded) -> None:
    assert not loaded.quarantined, "then the comparison below would have to leave them out by person"
    for person, wanted in truth_counts().items():
        counted: dict[str, Counter[str]] = {hospital: Counter() for hospital in wanted}
        for resource in loaded.timelines[person]:
            if resource["resourceType"] != "Patient":
                counted[hospital_of(resource)][resource["resourceType"]] += 1
        assert {hospital: dict(types) for hospital, types in counted.items()} == wanted, person
    assert sum(1 for _, r in loaded.served() if r["resourceType"] != "Patient") == 40_904


def test_nobody_is_served_twice_or_to_somebody_else(loaded: Loaded) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for _, resource in loaded.served():
        seen[resource["resourceType"], resource["id"]] += 1
    assert [name for name, times in seen.items() if times > 1] == []


def test_nothing_became_a_dead_letter(loaded: Loaded) -> None:
    assert loaded.service.ask("/letters") == []


def test_harbor_values_are_the_truth_within_the_rounding_told(loaded: Loaded) -> None:
    """local = canonical * factor + offset was rounded: half a unit of its last digit, times the inverse factor."""
    key = id_key(loaded.service.data, "harbor")
    served = {r["id"]: r for hospital, r in loaded.served() if hospital == "harbor"}
    sent = {local: bodies[-1] for (name, local), bodies in sent_resources("harbor").items() if name == "Observation"}
    factors = _factors()
    compared = converted = 0
    for truth in harbor_values():
        got = _part(served[canonical_id(key, "Observation", truth["id"])], truth)
        assert truth["loinc"] in _codes(got, "http://loinc.org"), truth
        if truth["value"] is None:
            continue
        local = _sent_part(sent[truth["id"]], got)
        factor = factors[_codes(local, HARBOR_OBSERVATIONS)[0]]
        quantity, given = got["valueQuantity"], Decimal(local["valueQuantity"]["value"])
        assert (quantity["system"], quantity["code"]) == (UCUM, VALID_UCUM.get(truth["ucum"], truth["ucum"])), truth
        tolerance = Decimal(5).scaleb(int(given.as_tuple().exponent) - 1) / abs(factor)
        wanted = Decimal(str(truth["value"]))
        assert abs(Decimal(quantity["value"]) - wanted) <= tolerance + abs(wanted) * Decimal("1e-9"), truth
        if factor == 1:
            assert quantity["value"] == local["valueQuantity"]["value"], "a number no rule touched keeps its text"
        compared += 1
        converted += factor != 1
    assert compared == sum(truth["value"] is not None for truth in harbor_values())
    assert converted > 500


def _factors() -> dict[str, Decimal]:
    with (FOLDER / "harbor" / "dictionary.csv").open(newline="", encoding="utf-8") as file:
        return {
            row["local_code"]: Decimal(row["factor"] or "1") for row in csv.DictReader(file) if row["kind"] == "obs"
        }


def _part(observation: Json, truth: Json) -> Json:
    """Return the observation itself, or its component of the code the truth names."""
    if not truth["component"]:
        return observation
    (found,) = [c for c in observation["component"] if truth["loinc"] in _codes(c, "http://loinc.org")]
    return dict(found)


def _sent_part(observation: Json, got: Json) -> Json:
    """Return the part as harbor sent it: the one with the same house code, which normalisation keeps."""
    house = _codes(got, HARBOR_OBSERVATIONS)
    parts = [observation, *observation.get("component", [])]
    return next(part for part in parts if _codes(part, HARBOR_OBSERVATIONS) == house)


def _codes(part: Json, system: str) -> list[str]:
    return [coding["code"] for coding in part["code"]["coding"] if coding.get("system") == system]


@pytest.mark.parametrize("hospital", ["northgate", "harbor"])
def test_numbers_no_rule_touches_keep_place_and_text(loaded: Loaded, hospital: str) -> None:
    """Harbor's own quantities are compared with the truth above; all else of both hospitals, here."""
    key = id_key(loaded.service.data, hospital)
    sent = {canonical_id(key, *name): bodies[-1] for name, bodies in sent_resources(hospital).items()}
    compared = 0
    for origin, resource in loaded.served():
        if origin == hospital:
            got, given = _numbers(resource), _numbers(sent[resource["id"]])
            if hospital == "harbor":
                got, given = _unmeasured(got), _unmeasured(given)
            assert got == given, (resource["resourceType"], resource["id"])
            compared += len(got)
    assert compared > 5_000


def test_numbers_of_cedar_keep_their_text_although_elements_move(loaded: Loaded) -> None:
    key = id_key(loaded.service.data, "cedar")
    sent = {canonical_id(key, *name): bodies[-1] for name, bodies in sent_resources("cedar").items()}
    compared = 0
    for origin, resource in loaded.served():
        if origin == "cedar":
            got = Counter(_numbers(resource).values())
            invented = got - Counter(_numbers(sent[resource["id"]]).values())
            assert not invented, (resource["resourceType"], resource["id"], invented)
            compared += got.total()
    assert compared > 1_000


def _numbers(value: Any, place: str = "") -> dict[str, str]:
    """Return every JSON number by its place, as text."""
    if isinstance(value, Number):
        return {place: str(value)}
    found: dict[str, str] = {}
    if isinstance(value, dict):
        for name, item in value.items():
            found |= _numbers(item, f"{place}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            found |= _numbers(item, f"{place}[{number}]")
    return found


def _unmeasured(numbers: dict[str, str]) -> dict[str, str]:
    return {place: text for place, text in numbers.items() if ".valueQuantity." not in place}


def test_no_name_and_no_local_id_is_in_the_log(loaded: Loaded) -> None:
    log = loaded.service.log.read_text(errors="replace")
    assert "serving" in log
    for patient in patients():
        for secret in (patient.local_id, patient.mrn, patient.family):
            assert secret not in log


def test_fsck_finds_nothing_while_the_service_runs(loaded: Loaded) -> None:
    assert loaded.service.fsck(deep=False) == []
