"""Who appears in the story, and what their hospitals send: made-up people from the test data of a checkout."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fhir_bridge.cli.failing import SETUP, Failure

CHECKOUT = Path(__file__).parents[3]

HEROINE = "P0016"
"""Glucose at northgate in mg/dL and at harbor in mmol/l, sensitive records at harbor, charts at all three."""

TWINS = ("P0001", "P0002")
"""Same family name, birth date, address and sex; two people."""

PEOPLE = (HEROINE, *TWINS, "P0009")


@dataclass(frozen=True, slots=True)
class Hospital:
    """One of the three institutions and what it sends."""

    name: str
    fhir_version: str
    bundles: Path
    directory: Path
    ruleset: Path


@dataclass(frozen=True, slots=True)
class Chart:
    """A row of the cross-reference feed."""

    person: str
    hospital: str
    patient: str
    mrn: str
    name: str


@dataclass(frozen=True, slots=True)
class Cast:
    """Hospitals and people of the story."""

    hospitals: tuple[Hospital, ...]
    charts: tuple[Chart, ...]
    feed: Path
    practitioner: str

    def chart(self, person: str, hospital: str) -> Chart:
        """Return a person's chart at a hospital."""
        return next(c for c in self.charts if c.person == person and c.hospital == hospital)


def gather(work: Path) -> Cast:
    """Write the messages of the people who appear into ``work`` and return the cast.

    Raises:
        Failure: The program does not run from a checkout, which alone holds the data.
    """
    source = CHECKOUT / "tests" / "data" / "hospitals"
    if not source.is_dir():
        raise Failure("the demo needs a checkout's test data (clone the project, then 'make demo')", exit_code=SETUP)
    charts = tuple(_charts(source / "truth" / "identity.csv"))
    hospitals = (
        _hospital("northgate", "R4", source / "northgate" / "events.ndjson.gz", charts, work),
        _hospital("harbor", "R4", source / "harbor" / "bundles.ndjson.gz", charts, work),
        _hospital("cedar", "STU3", source / "cedar" / "bundles-stu3.ndjson.gz", charts, work),
    )
    feed = work / "identity.csv"
    _write_feed(feed, charts)
    return Cast(hospitals, charts, feed, _practitioner(hospitals[0].directory))


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the messages of a compressed NDJSON file."""
    with gzip.open(path, "rb") as lines:
        yield from lines


def _charts(identity: Path) -> Iterator[Chart]:
    with identity.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["person"] in PEOPLE:
                name = f"{row['given']} {row['family']}"
                yield Chart(row["person"], row["hospital"], row["patient_id"], row["mrn"], name)


def _hospital(name: str, version: str, bundles: Path, charts: Sequence[Chart], work: Path) -> Hospital:
    wanted = {chart.patient for chart in charts if chart.hospital == name}
    subset = work / f"{name}.ndjson"
    with subset.open("wb") as out:
        for line in read_lines(bundles):
            if _patient(json.loads(line)) in wanted:
                out.write(line)
    ruleset = CHECKOUT / "mappings" / name
    return Hospital(name, version, subset, bundles.parent / "directory.json.gz", ruleset)


def _patient(bundle: Mapping[str, Any]) -> str:
    resources = (entry["resource"] for entry in bundle["entry"])
    return str(next((r["id"] for r in resources if r["resourceType"] == "Patient"), ""))


def _write_feed(path: Path, charts: Sequence[Chart]) -> None:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(("person", "institution", "patient_id"))
        writer.writerows((chart.person, chart.hospital, chart.patient) for chart in charts)


def _practitioner(directory: Path) -> str:
    resources = (entry["resource"] for entry in json.loads(gzip.decompress(directory.read_bytes()))["entry"])
    return str(next(r["id"] for r in resources if r["resourceType"] == "Practitioner"))
