"""The three made-up hospitals of tests/data/hospitals: what they send, and the truth about it.

Messages are given in lanes: what is in one lane must arrive in its order (one
patient at one hospital), lanes may overtake each other.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "data" / "hospitals"
BROKEN = ROOT / "tests" / "data" / "broken"
MAPPINGS = ROOT / "mappings"
VERSIONS = {"northgate": "R4", "harbor": "R4", "cedar": "STU3"}
MRN_SYSTEM = "https://{}.example.org/mrn"
_FILES = {"northgate": "events", "harbor": "bundles", "cedar": "bundles-stu3"}

SMALL = ("P0009", "P0017", "P0022")
"""Three people who are patients of all three hospitals and have few records (1,836)."""

EIGHT = (*SMALL, "P0010", "P0014", "P0018", "P0021", "P0023")
"""Eight people with 6,957 records between them."""


@dataclass(frozen=True, slots=True)
class Patient:
    """One person's record at one hospital, as truth/identity.csv has it."""

    person: str
    hospital: str
    local_id: str
    mrn: str
    family: str


@dataclass(frozen=True, slots=True)
class Lane:
    """Messages of one hospital that must keep their order; ``key`` is the local patient id, or empty."""

    hospital: str
    key: str
    messages: tuple[bytes, ...]


def patients() -> list[Patient]:
    """Return every patient of every hospital."""
    with (FOLDER / "truth" / "identity.csv").open(newline="", encoding="utf-8") as file:
        return [
            Patient(row["person"], row["hospital"], row["patient_id"], row["mrn"], row["family"])
            for row in csv.DictReader(file)
        ]


def directory(hospital: str) -> bytes:
    """Return the hospital's batch of Organizations, Practitioners and so on; send it first."""
    return gzip.decompress((FOLDER / hospital / "directory.json.gz").read_bytes())


def lanes(hospital: str, people: Collection[str] | None = None) -> list[Lane]:
    """Return the hospital's bundles, one lane for each of its patients."""
    wanted = {p.local_id: p for p in patients() if p.hospital == hospital and (not people or p.person in people)}
    sent: dict[str, list[bytes]] = {}
    for line in _lines(hospital):
        patient = _patient_of(line)
        if patient in wanted:
            sent.setdefault(patient, []).append(line)
    return [Lane(hospital, patient, tuple(messages)) for patient, messages in sorted(sent.items())]


def truth_counts() -> dict[str, dict[str, dict[str, int]]]:
    """Return person → hospital → type → number of resources, Patients left out."""
    counts: dict[str, dict[str, dict[str, int]]] = json.loads((FOLDER / "truth" / "timeline-counts.json").read_text())
    return counts


def harbor_values() -> list[dict[str, Any]]:
    """Return the canonical value of each harbor observation or component."""
    text = gzip.decompress((FOLDER / "truth" / "harbor-values.ndjson.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


def sent_resources(hospital: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return every resource sent, numbers as text, by (type, local id); several when it was sent several times."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in _lines(hospital):
        for entry in json.loads(line, parse_float=Number, parse_int=Number)["entry"]:
            resource = entry["resource"]
            found.setdefault((resource["resourceType"], resource["id"]), []).append(resource)
    return found


class Number(str):
    """A JSON number as its text."""

    __slots__ = ()


def links(people: Collection[str] | None = None) -> list[dict[str, str]]:
    """Return the rows of the cross-reference feed that makes charts one person."""
    return [
        {"person": p.person, "institution": p.hospital, "patient": p.local_id}
        for p in patients()
        if not people or p.person in people
    ]


@cache
def _lines(hospital: str) -> Sequence[bytes]:
    return gzip.decompress((FOLDER / hospital / f"{_FILES[hospital]}.ndjson.gz").read_bytes()).splitlines()


def _patient_of(line: bytes) -> str:
    first = json.loads(line)["entry"][0]["resource"]
    assert first["resourceType"] == "Patient", "the generator puts the Patient first"
    return str(first["id"])
