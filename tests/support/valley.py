"""Valley, a fourth hospital: harbor's feed with other codes, units, offsets and identifier systems.

Made by a fixed rule from the sample data, so that harbor's truth is valley's truth: each value is what the generator
wrote (truth/harbor-values), converted by valley's own factor and rounded as valley rounds. ``python -m
tests.support.valley FOLDER`` writes what the hospital hands over: ``feed.ndjson``, ``directory.json`` and
``dictionary.csv``.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from tests.support.hospitals import EIGHT, FOLDER, directory, harbor_values, lanes

Json = dict[str, Any]
ZONE = ZoneInfo("America/Denver")
ROOT_OID = "urn:oid:1.3.6.1.4.1.99999.4"
OBSERVATIONS, DIAGNOSES, CLASSES = f"{ROOT_OID}.1", f"{ROOT_OID}.2", f"{ROOT_OID}.3"
RECORD_NUMBERS, IDS, SSN = f"{ROOT_OID}.4", f"{ROOT_OID}.5", "urn:oid:2.16.840.1.113883.4.1"
_SYSTEMS = {
    "https://harbor.example.org/codes/obs": OBSERVATIONS,
    "https://harbor.example.org/codes/dx": DIAGNOSES,
    "https://harbor.example.org/codes/class": CLASSES,
    "https://harbor.example.org/mrn": RECORD_NUMBERS,
    "https://harbor.example.org/ids": IDS,
    "http://hl7.org/fhir/sid/us-ssn": SSN,
}
CLASS_CODES = {"OUT": "A", "ED": "N", "IN": "S", "HOME": "H"}
_SPELLINGS = {
    "mm[Hg]": "mmHg", "/min": "bpm", "%": "percent", "{score}": "pts", "10*3/uL": "K/uL",
    "10*6/uL": "M/uL",
    "mg/dL": "MG/DL", "g/dL": "g per dl", "kg/m2": "kg/m2", "U/L": "IU/L", "fL": "fl", "mmol/L": "mmol/l",
    "[pH]": "pH",
    "pH": "pH", "[in_i]": "in", "{#}": "number",
}  # fmt: skip
_RATES = {
    "2339-0": ("g/l", "g/L", "0.01", "0"), "2345-7": ("g/l", "g/L", "0.01", "0"),
    "2160-0": ("mg/l", "mg/L", "10", "0"), "38483-4": ("mg/l", "mg/L", "10", "0"),
    "2093-3": ("g/l", "g/L", "0.01", "0"), "2571-8": ("g/l", "g/L", "0.01", "0"),
    "8310-5": ("K", "K", "1", "273.15"), "29463-7": ("g", "g", "1000", "0"), "8302-2": ("m", "m", "0.01", "0"),
    "718-7": ("g/l", "g/L", "10", "0"), "4548-4": ("mmol/mol", "mmol/mol", "10.93", "-23.5"),
}  # fmt: skip
"""LOINC code → valley's unit, its UCUM code, factor and offset: local = canonical * factor + offset."""
_DECIMALS = {"29463-7": 0, "2160-0": 1, "38483-4": 1, "8302-2": 3, "4548-4": 0}
FORGOTTEN = ("8867-4", "6690-2", "72514-3")
"""LOINC codes of observations that valley sends and its dictionary has forgotten."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One code of valley's with its meaning; ``canonical`` is the UCUM unit of the standard."""

    kind: str
    code: str
    name: str
    system: str
    standard: str
    unit: str = ""
    ucum: str = ""
    canonical: str = ""
    factor: str = ""
    offset: str = ""


def patients_sent() -> list[str]:
    """Return the local ids of the patients in the feed."""
    return [lane.key for lane in lanes("harbor", EIGHT)]


def feed() -> list[Json]:
    """Return valley's bundles, one a person."""
    return [_altered(message) for lane in lanes("harbor", EIGHT) for message in lane.messages]


def dictionary() -> list[Entry]:
    """Return what valley hands over: every code but the forgotten ones."""
    return [entry for entry in _entries().values() if entry.standard not in FORGOTTEN]


def every_entry() -> list[Entry]:
    """Return every code that valley can send, those its dictionary has forgotten as well."""
    return list(_entries().values())


def write(folder: Path) -> None:
    """Write feed, directory and dictionary into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feed.ndjson").write_text("".join(json.dumps(bundle) + "\n" for bundle in feed()), "utf-8")
    (folder / "directory.json").write_text(json.dumps(_altered(directory("harbor"))), "utf-8")
    with (folder / "dictionary.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=";", lineterminator="\r\n")
        writer.writerow(
            ["TYPE", "CODE", "DESCRIPTION", "VOCABULARY", "VOCABULARY_CODE", "UNIT", "UNIT_UCUM", "TARGET_UNIT",
             "SLOPE", "INTERCEPT"]
        )  # fmt: skip
        for e in dictionary():
            writer.writerow(
                [e.kind, e.code, e.name, e.system, e.standard, e.unit, e.ucum, e.canonical, e.factor, e.offset]
            )


@cache
def _entries() -> dict[str, Entry]:
    """Harbor's code → valley's entry."""
    with (FOLDER / "harbor" / "dictionary.csv").open(newline="", encoding="utf-8") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: (row["kind"], row["local_code"]))
    made = {}
    for number, row in enumerate(rows):
        is_measured = row["kind"] == "obs"
        system = "LOINC" if is_measured else "SNOMED CT"
        entry = Entry("LAB" if is_measured else "DIAG", f"{'T' if is_measured else 'D'}{4000 + 7 * number}",
                      row["local_name"], system, row["standard_code"])  # fmt: skip
        made[row["local_code"]] = _measured(entry, row["canonical_ucum"]) if is_measured else entry
    return made


def _measured(entry: Entry, canonical: str) -> Entry:
    unit, ucum, factor, offset = _RATES.get(entry.standard, ("", "", "", ""))
    unit = unit or _SPELLINGS.get(canonical, canonical)
    return Entry(
        entry.kind, entry.code, entry.name, entry.system, entry.standard, unit, ucum, canonical, factor, offset
    )


@cache
def _truths() -> dict[tuple[str, str], Json]:
    return {(truth["id"], truth["loinc"]): truth for truth in harbor_values()}


def _altered(message: bytes) -> Json:
    bundle: Json = _changed(json.loads(message, parse_float=_Text))
    for entry in bundle["entry"]:
        resource = entry["resource"]
        if resource["resourceType"] == "Observation":
            for part in (resource, *resource.get("component", ())):
                _measure(part, resource["id"])
    return bundle


def _changed(value: Any) -> Any:
    """Another system, another code of it, another offset, wherever they stand."""
    if isinstance(value, dict):
        made = {key: _changed(item) for key, item in value.items()}
        if value.get("system") in _SYSTEMS and "code" in value:
            code = value["code"]
            made["code"] = _entries()[code].code if code in _entries() else CLASS_CODES[code]
            made.pop("display", None)
        return made
    if isinstance(value, list):
        return [_changed(item) for item in value]
    return _changed_text(value) if isinstance(value, str) else value


class _Text(float):
    """A number of JSON whose text ``json`` writes again as Python would; harbor's fractions come back the same."""


def _changed_text(text: str) -> str:
    if text in _SYSTEMS:
        return _SYSTEMS[text]
    for old, new in _SYSTEMS.items():
        if text.startswith(tuple(f"{name}?identifier={old}|" for name in ("Location", "Organization"))):
            return text.replace(old, new)
    if len(text) >= 25 and text[10] == "T" and text[:4].isdigit() and text.endswith("+00:00"):
        return _local(text)
    return text


def _local(text: str) -> str:
    fraction = text[19:-6]
    moment = datetime.fromisoformat(text[:19] + "+00:00").astimezone(ZONE)
    offset = moment.isoformat()[19:]
    # Before standard time clocks were off by seconds, which FHIR cannot write.
    return text if len(offset) != 6 else moment.isoformat()[:19] + fraction + offset


def _measure(part: Json, record_id: str) -> None:
    quantity = part.get("valueQuantity")
    codes = {entry.code: entry for entry in _entries().values()}
    found = [codes[c["code"]] for c in part["code"].get("coding", ()) if c.get("system") == OBSERVATIONS]
    if quantity is None or not found:
        return
    entry = found[0]
    truth = _truths()[record_id, entry.standard]
    quantity["unit"] = entry.unit
    value = Decimal(str(truth["value"]))
    if entry.factor:
        local = value * Decimal(entry.factor) + Decimal(entry.offset)
        value = round(local, _DECIMALS.get(entry.standard, 2))
    quantity["value"] = int(value) if value == value.to_integral() else float(value)
    for given in part.get("referenceRange", ()):
        for end in ("low", "high"):
            given.pop(end, None)
    if "referenceRange" in part:
        part["referenceRange"] = [given for given in part["referenceRange"] if given] or [{"text": "see report"}]


def values() -> Iterator[tuple[Json, Decimal]]:
    """Yield each truth about a value in the feed, and how far from it rounding may take the value."""
    wanted = {e["resource"]["id"] for bundle in feed() for e in bundle["entry"]}
    by_standard = {entry.standard: entry for entry in _entries().values()}
    for truth in harbor_values():
        if truth["id"] in wanted and truth["value"] is not None:
            entry = by_standard[truth["loinc"]]
            digits = Decimal(1).scaleb(-_DECIMALS.get(entry.standard, 2))
            yield truth, digits / 2 / Decimal(entry.factor) if entry.factor else Decimal(0)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
