"""Packs and feeds for the tests of the mapping tools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fhir_bridge.mapping_tools.sample import Message

HOUSE = "https://house.example.org/codes"
SOURCE = f"""\
institution: house
time_zone: Europe/Paris
constants: {{mrn: https://house.example.org/mrn}}
maps:
  labs:
    file: codes/labs.csv
    where: {{kind: lab}}
    columns: {{code: local, target_code: loinc, target_display: words}}
    constants: {{system: "{HOUSE}", target_system: "http://loinc.org"}}
units:
  lab:
    file: codes/units.csv
    constants: {{system: "{HOUSE}"}}
"""
LABS = "kind,local,words,loinc\nlab,GLU,Glucose in blood,2339-0\nlab,TMP,Body temperature,8310-5\nother,XXX,,\n"
UNITS = "code,canonical,local_unit,factor\nTMP,Cel,deg,1\n"
RULES = """\
- rule: house/codes
  version: 1
  on: Observation
  do:
    - translate: {path: code, map: labs, unmapped: keep-and-report}
    - unit: {path: value, table: lab}
  why: "the house's dictionary"
- rule: house/notes
  version: 1
  on: Observation
  do:
    - remove: {path: note}
  why: "notes are for the ward"
- rule: house/method
  version: 1
  on: Observation
  do:
    - extension: {path: method, url: "urn:house:method", as: valueCodeableConcept}
  why: "the house uses method for the room"
- rule: house/cancelled
  version: 1
  on: Observation
  when: status = 'cancelled'
  do:
    - quarantine: {text: "the house cancels by mistake"}
  why: "asked in 2026-03"
"""


def house(folder: Path, rules: str = RULES, source: str = SOURCE, labs: str = LABS) -> Path:
    """Write a small pack."""
    (folder / "codes").mkdir(parents=True, exist_ok=True)
    (folder / "source.yaml").write_text(source)
    (folder / "rules.yaml").write_text(rules)
    (folder / "codes" / "labs.csv").write_text(labs)
    (folder / "codes" / "units.csv").write_text(UNITS)
    return folder


def observation(local: str, code: str, **more: Any) -> dict[str, Any]:
    """A result with a house code."""
    return {
        "resourceType": "Observation",
        "id": local,
        "status": "final",
        "code": {"coding": [{"system": HOUSE, "code": code, "display": f"House {code}"}]},
        "subject": {"reference": "Patient/p"},
        **more,
    }


def feed(*resources: Mapping[str, Any]) -> Iterator[Message]:
    """Each resource as a message of its own."""
    for number, resource in enumerate(resources, 1):
        yield Message(f"feed:{number}", json.dumps(resource).encode())


def bundle(*resources: Mapping[str, Any]) -> dict[str, Any]:
    """Resources as a collection."""
    entries = [
        {"fullUrl": f"urn:uuid:0000000{i}-0000-4000-8000-000000000000", "resource": r}
        for i, r in enumerate(resources)
    ]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}
