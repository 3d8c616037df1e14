"""Official examples and small valid resources, for the tests of ``fhir_bridge.fhir`` and ``fhir_bridge.intake``."""

import copy
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.json import parse

DATA = Path(__file__).parents[2] / "data"
BROKEN = DATA / "broken"

Json = dict[str, Any]


@cache
def _lines(release: str) -> tuple[bytes, ...]:
    return tuple(gzip.decompress((DATA / "hl7-examples" / f"{release}.ndjson.gz").read_bytes()).splitlines())


def examples(release: str) -> list[Json]:
    """Every official example of a release, decoded afresh so that a test may change it."""
    return [parse(line) for line in _lines(release)]


def example_bytes(release: str) -> tuple[bytes, ...]:
    """The same as bytes."""
    return _lines(release)


def observation(**changes: Any) -> Json:
    """A small valid R4 Observation; ``None`` takes an element away."""
    base: Json = {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-03-01T10:00:00Z",
    }
    return changed(base, changes)


def patient(**changes: Any) -> Json:
    """A small valid R4 Patient."""
    base: Json = {"resourceType": "Patient", "id": "p1", "name": [{"family": "Zzcanary"}], "gender": "female"}
    return changed(base, changes)


def changed(base: Json, changes: Json) -> Json:
    """A copy with elements set, or taken away by ``None``."""
    made = copy.deepcopy(base) | changes
    return {k: v for k, v in made.items() if v is not None}


def quantity(value: Any, unit: str, system: str = "http://unitsofmeasure.org") -> Json:
    """A Quantity whose number is decoded like any other."""
    return parse(json.dumps({"value": 0, "system": system, "code": unit}).replace(": 0,", f": {value},").encode())


def errors(issues: list[Issue]) -> set[tuple[str, str]]:
    """Code and place of what refuses."""
    return {(i.code, i.expression) for i in issues if i.severity == "error"}


def flags(issues: list[Issue]) -> set[tuple[str, str]]:
    """Code and place of what is flagged."""
    return {(i.code, i.expression) for i in issues if i.severity == "warning"}
