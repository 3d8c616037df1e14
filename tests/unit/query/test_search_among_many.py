"""What many records have alike is asked once for all of them, and gives what asking each of them gives."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, ClassVar

import pytest
from msgspec import structs

from fhir_bridge.consent import permitted_view
from fhir_bridge.model.access import Decision, Place, Predicate
from fhir_bridge.model.index import Places, Records
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.query.criteria import read_criteria
from tests.unit.consent.consent_samples import CHART, NOW, row

PEOPLE = ("Patient/a", "Patient/b")
CODES = ("|x", "http://loinc.org|1", "http://loinc.org|2")
CRITERIA: Sequence[Sequence[tuple[str, str]]] = [
    [("patient", "Patient/a")],
    [("patient", "Patient/a,Patient/b")],
    [("patient", "Patient/nobody")],
    [("patient", "Patient/a"), ("code", "http://loinc.org|1")],
    [("code", "1,2")],
    [("code:not", "http://loinc.org|1")],
    [("patient:missing", "true")],
    [("_id", "r1,r2")],
    [("patient", "Patient/b"), ("_id", "r3")],
    [],
]


def made(random: Random, number: int, version: str = "v1") -> IndexRow:
    """A row that is often like others: of one person, of one code."""
    search: dict[str, Any] = {}
    if random.random() < 0.9:
        search["patient"] = [random.choice(PEOPLE) if random.random() < 0.2 else PEOPLE[0]]
    code = random.choice(CODES[1:] if random.random() < 0.1 else CODES[1:2])
    search["code"] = [tuple(code.split("|"))]
    labels = ("N",) if random.random() < 0.5 else ()
    return row(record_id=f"r{number}", codes=(code,), labelled=labels, search=search, version=version)


def decided(permits: Predicate) -> Decision:
    return Decision(CHART.chart, permits, 1, "e", NOW)


@pytest.mark.parametrize("seed", range(60))
def test_among_many_finds_what_asking_each_finds(seed: int) -> None:
    random = Random(seed)
    records = Records(CHART)
    permits: Predicate = random.choice(
        [lambda _: True, lambda each: "N" in each.labels, lambda each: each.id != "r2"]
    )
    held: dict[str, IndexRow] = {}
    for step in range(12):
        for number in random.sample(range(8), random.randint(0, 3)):
            held[f"Observation/r{number}"] = made(random, number, f"v{step}")
            records.put({f"Observation/r{number}": [held[f"Observation/r{number}"]]})
        view = permitted_view([(decided(permits), CHART, records)])
        parts = view.of_type("Observation")
        for params in CRITERIA:
            criteria = read_criteria("Observation", params, view=view, base_url="", now_us=0)
            found = [name for places in parts for name in criteria.among(places)]
            each = [name for name, one in held.items() if permits(one) and criteria.matches(one)]
            assert sorted(found) == sorted(each), (step, params)


def test_what_is_alike_is_looked_for_once_and_follows_what_comes_in() -> None:
    class Counting(IndexRow, frozen=True, dict=True):
        asked: ClassVar[list[str]] = []

        def packed_values_of(self, name: str) -> bytes:
            Counting.asked.append(self.id)
            return super().packed_values_of(name)

    def place(number: int, person: str) -> Place:
        return CHART, Counting(**structs.asdict(row(record_id=f"r{number}", search={"patient": [person]})))

    places = Places()
    assert places.alike("patient") is None
    for number in range(100):
        places.add(f"Observation/r{number}", place(number, "Patient/a"))
    assert places.alike("patient") == ("Patient/a",)
    assert set(Counting.asked) == {f"r{number}" for number in range(100)}
    Counting.asked.clear()
    assert places.alike("patient") == ("Patient/a",)
    assert Counting.asked == [], "it is not looked for again"
    places.add("Observation/r5", place(5, "Patient/b"))
    assert places.alike("patient") is None
    places.drop("Observation/r5")
    places.drop("Observation/none")
    assert places.alike("patient") is None, "rather not known than wrong"
