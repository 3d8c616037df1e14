"""Fuzz the decoder and the intake with atheris: whatever comes, it is taken or refused with reasons.

    python -m tests.fuzz.intake [FOLDER] [-runs=N] [any option of libFuzzer]

The seeds are what once ended a run, the broken inputs, and small messages of the
hospitals; what libFuzzer finds worth keeping goes into FOLDER. The mutations
change bytes of JSON text, or values, names and places of the decoded JSON. An
exception that is not a refusal, and memory beyond libFuzzer's limit, end the run
and leave the input in a file.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import atheris

with atheris.instrument_imports(include=["fhir_bridge"]):
    from fhir_bridge.intake import Limits, receive
    from fhir_bridge.model.ingest import FhirVersion, Interaction, Received, Refusal

from tests.support.hospitals import BROKEN, SMALL, VERSIONS, lanes

NOW: Final = datetime(2026, 3, 1, tzinfo=UTC)
LIMITS: Final = Limits(1 << 20, 1_000, 64)
RELEASES: Final = (FhirVersion.R4, FhirVersion.R4, FhirVersion.STU3, FhirVersion.R4B, FhirVersion.R5)
INTERACTIONS: Final = (None, None, Interaction("PUT", "Patient", "one"), Interaction("POST", "Observation"))
LONGEST: Final = 16 << 10
ODD: Final[tuple[Any, ...]] = (
    None, True, 0, -1, 10**400, 1.5, "", " ", "\0", "é", "2023-02-30", "urn:uuid:", "Patient/", "<div/>",
    [], {}, [None], [[]], {"resourceType": "Bundle"}, {"reference": "#"},
    {"extension": [{"url": "x"}]}, [{"resourceType": "Patient"}],
)  # fmt: skip

FOUND: Final = (
    b'{"resourceType": "Observation", "status": "final", "code": {"text": "one"},'
    b' "valueQuantity": {"value": -5, "code": ["mg/dL"]}}',
)
"""Inputs that once ended a run, so that every later run begins with them."""


def one_input(data: bytes) -> None:
    """Take one message: the first byte chooses release and interaction, the rest is the body."""
    choice = data[0] if data else 0
    body = data[1:]
    received = Received(
        "fuzz",
        RELEASES[choice % len(RELEASES)],
        body,
        NOW,
        interaction=INTERACTIONS[choice // 16 % len(INTERACTIONS)],
    )
    reception = receive(received, LIMITS)
    issues = list(reception.refused)
    for entry in reception.entries:
        if isinstance(entry, Refusal):
            issues += entry.issues
        else:
            assert entry.original in body
    assert all(issue.code and issue.diagnostics for issue in issues)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change the decoded JSON somewhere, or the bytes if it is none."""
    rng = random.Random(seed)
    try:
        value = json.loads(data[1:]) if rng.random() < 0.7 else None
    except (ValueError, RecursionError):
        value = None
    places = list(_places(value))
    if not places:
        changed: bytes = atheris.Mutate(data, max_size)
        return changed
    for _ in range(rng.randint(1, 3)):
        holder, key = rng.choice(places)
        _change(holder, key, rng, rng.choice(places))
    try:
        return data[:1] + json.dumps(value).encode()[: max_size - 1]
    except (ValueError, RecursionError):
        return data


def _change(holder: Any, key: Any, rng: random.Random, other: tuple[Any, Any]) -> None:
    try:
        taken = other[0][other[1]]
        match rng.randrange(5):
            case 0:
                holder[key] = rng.choice(ODD)
            case 1:
                holder[key] = json.loads(json.dumps(taken))
            case 2:
                del holder[key]
            case 3:
                holder[key] = [holder[key]]
            case _ if isinstance(holder, dict):
                holder[str(other[1])] = holder.pop(key)
    except (KeyError, IndexError, ValueError):
        return


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def write_seeds(folder: Path) -> None:
    """Write the seeds into a new folder."""
    seeds = [*FOUND]
    seeds += [file.read_bytes() for file in sorted(BROKEN.iterdir()) if file.suffix in (".json", ".xml")]
    for name in VERSIONS:
        for lane in lanes(name, SMALL[:1]):
            for message in lane.messages[:3]:
                whole = json.loads(message)
                seeds += [json.dumps(entry["resource"]).encode() for entry in whole["entry"][:40]]
                seeds.append(json.dumps({**whole, "entry": whole["entry"][:2]}).encode())
    folder.mkdir(parents=True)
    for number, seed in enumerate(seeds):
        if len(seed) < LONGEST:
            (folder / f"seed-{number:04}").write_bytes(b"\0" + seed)


def main() -> None:
    """Run libFuzzer over the seeds and what it has kept."""
    places = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    folder = Path(places[0] if places else ".build/fuzz/intake")
    if not folder.is_dir():
        write_seeds(folder)
    options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    given = [sys.argv[0], str(folder), f"-max_len={LONGEST}", "-rss_limit_mb=1024", "-timeout=20", *options]
    atheris.Setup(given, one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
