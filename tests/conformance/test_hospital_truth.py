"""The three hospitals against their truth: every record arrives, in the right chart, meaning what it meant.

The room alone: intake and normalisation, no store. Truth files: tests/data/hospitals/README.md.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.validate import is_refused, validate_r4
from fhir_bridge.intake import Limits, receive
from fhir_bridge.model.ids import canonical_id, chart_id
from fhir_bridge.model.ingest import FhirVersion, Normalized, Quarantined, Received, SourceContext
from fhir_bridge.normalize import load_ruleset, normalize, preview

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "hospitals"
FILES = {"northgate": "events.ndjson.gz", "harbor": "bundles.ndjson.gz", "cedar": "bundles-stu3.ndjson.gz"}
KEY = bytes(range(32))


@dataclass(frozen=True)
class Arrived:
    """What became of everything one hospital sent."""

    records: tuple[Normalized, ...]
    quarantined: tuple[Quarantined, ...]


def context(hospital: str) -> SourceContext:
    version = FhirVersion.STU3 if hospital == "cedar" else FhirVersion.R4
    return SourceContext(hospital, hospital, version, KEY)


def lines(hospital: str) -> Iterator[bytes]:
    with gzip.open(DATA / hospital / FILES[hospital]) as stream:
        yield from stream


@cache
def arrived(hospital: str) -> Arrived:
    source, ruleset = context(hospital), load_ruleset(ROOT / "mappings" / hospital)
    records: list[Normalized] = []
    quarantined: list[Quarantined] = []
    for line in lines(hospital):
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        done = normalize(receive(Received(hospital, source.fhir_version, line, moment), Limits()), source, ruleset)
        records += done.records
        quarantined += done.quarantined
    return Arrived(tuple(records), tuple(quarantined))


def truth(name: str) -> list[dict[str, Any]]:
    text = gzip.decompress((DATA / "truth" / name).read_bytes()).decode()
    if name.endswith(".csv.gz"):
        return list(csv.DictReader(io.StringIO(text)))
    return [json.loads(line, parse_float=Decimal, parse_int=Decimal) for line in text.splitlines()]


@pytest.mark.parametrize("hospital", FILES)
def test_every_record_that_was_sent_arrives_in_the_chart_of_its_patient(hospital: str) -> None:
    with (DATA / "truth" / "identity.csv").open(newline="") as stream:
        charts = {
            row["person"]: chart_id(KEY, canonical_id(KEY, "Patient", row["patient_id"]))
            for row in csv.DictReader(stream)
            if row["hospital"] == hospital
        }
    rows = [row for row in truth("resources.csv.gz") if row["hospital"] == hospital]
    expected = {(row["type"], row["id"]): charts[row["person"]] for row in rows}
    found = {(r.type, r.local_id): r.chart.chart for r in arrived(hospital).records if r.type != "Patient"}
    assert arrived(hospital).quarantined == ()
    assert {k: v for k, v in expected.items() if found.get(k) != v and k[0] != "Patient"} == {}
    assert set(found) - set(expected) == set()


@pytest.mark.parametrize("hospital", FILES)
def test_counts_by_type_are_those_of_the_truth(hospital: str) -> None:
    counts = json.loads((DATA / "truth" / "timeline-counts.json").read_text())
    expected: Counter[str] = Counter()
    for person in counts.values():
        expected.update(person.get(hospital, {}))
    found = Counter(t for t, _ in {(r.type, r.id) for r in arrived(hospital).records if r.type != "Patient"})
    expected.pop("Patient", None)
    assert found == expected


@pytest.mark.parametrize("hospital", FILES)
def test_a_sample_of_what_comes_out_is_valid_r4_and_stays_as_it_is(hospital: str) -> None:
    source, ruleset = context(hospital), load_ruleset(ROOT / "mappings" / hospital)
    for record in arrived(hospital).records[::23]:
        resource = parse(record.content)
        assert not is_refused(validate_r4(resource)), record.type
        assert preview(resource, FhirVersion.R4, ruleset).changes == ()
    assert source.institution == hospital


def test_every_harbor_value_is_the_one_before_it_was_altered() -> None:
    with (DATA / "harbor" / "dictionary.csv").open(newline="") as stream:
        factors = {row["standard_code"]: row["factor"] for row in csv.DictReader(stream)}
    wanted: dict[str, list[dict[str, Any]]] = {}
    for row in truth("harbor-values.ndjson.gz"):
        wanted.setdefault(row["id"], []).append(row)
    compared = 0
    for record in (r for r in arrived("harbor").records if r.type == "Observation"):
        resource = parse(record.content)
        holders = [resource, *resource.get("component", ())]
        for holder, expected in zip(holders, wanted[record.local_id], strict=True):
            coding = holder["code"]["coding"]
            assert (coding[0]["system"], coding[0]["code"]) == ("http://loinc.org", expected["loinc"])
            assert coding[1]["system"] == "https://harbor.example.org/codes/obs"
            if expected["value"] is not None:
                _same_value(holder["valueQuantity"], expected, factors[expected["loinc"]])
                compared += 1
    assert compared == sum(row["value"] is not None for rows in wanted.values() for row in rows) > 5_000


def _same_value(quantity: dict[str, Any], expected: dict[str, Any], factor: str) -> None:
    # UCUM writes [pH]; the generator's "pH" reads as picohenry.
    assert quantity["code"] == {"pH": "[pH]"}.get(expected["ucum"], expected["ucum"])
    original = quantity["extension"][0]["valueQuantity"]["value"] if "extension" in quantity else None
    if original is None:
        assert Decimal(quantity["value"]) == expected["value"]
        return
    last_digit = Decimal(1).scaleb(min(0, int(Decimal(original).as_tuple().exponent)))
    assert abs(Decimal(quantity["value"]) - expected["value"]) <= last_digit / 2 / Decimal(factor)
