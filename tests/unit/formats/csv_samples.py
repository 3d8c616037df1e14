"""A clinic that has nothing but CSV: its pack and a way to read its files without a service."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.intake import Limits, receive
from fhir_bridge.model.ingest import FhirVersion, Received, Reception, Refusal, Validated
from fhir_bridge.normalize import Ruleset, load_ruleset

CLINIC = """
institution: clinic
time_zone: Europe/Berlin
extends: core
constants: {labs: "https://clinic.example.org/codes/lab"}
csv:
  patients:
    file: "patients*.csv"
    type: Patient
    delimiter: ";"
    encoding: windows-1252
    empty: ["NULL", "-"]
    id: PatNr
    ignore: [Notiz]
    columns:
      PatNr: {path: identifier, system: "https://clinic.example.org/pat"}
      Nachname: name.family
      Vorname: {path: name.given, split: " "}
      Geburt: {path: birthDate, date: DD.MM.YYYY, required: true}
      Sex: {path: gender, codes: {m: male, w: female}}
      Telefon: {path: telecom.value, optional: true}
    constants:
      telecom.system: phone
      active: true
  labs:
    file: "labor*.csv"
    type: Observation
    delimiter: ";"
    id: [PatNr, Datum, Uhrzeit, Test]
    columns:
      PatNr: {path: subject, reference: Patient}
      Test: {path: code, system: "%source.labs", display: Name}
      Wert: {path: valueQuantity, decimal: comma, thousands: ".", unit_from: Einheit, else: valueString}
      Datum: {path: effectiveDateTime, date: "DD.MM.YYYY HH:mm", with: Uhrzeit}
    constants:
      status: final
"""
PATIENTS = "PatNr;Nachname;Vorname;Geburt;Sex;Notiz\r\n"
LABS = "PatNr;Datum;Uhrzeit;Test;Name;Wert;Einheit\r\n"

WIDE = """
institution: clinic
time_zone: Europe/Zurich
csv:
  labs:
    file: "labor*.csv"
    type: Observation
    delimiter: ";"
    empty: ["-"]
    id: [Auftrag, Test]
    spread:
      name: Test
      value: Wert
      columns:
        "Gluc (mmol/l)": {Test: GLU, Einheit: mmol/l}
        Na: {Einheit: mmol/l}
        Frei: {}
    columns:
      Pat: {path: subject, reference: Patient}
      Auftrag: {path: identifier, system: "urn:order"}
      Abnahme: {path: effectiveDateTime, date: "DD.MM.YYYY HH:mm"}
      Test: {path: code, system: "urn:labs"}
      Wert: {path: valueQuantity, decimal: comma, unit_from: Einheit%s}
    constants: {status: final}
"""
WIDE_HEAD = "Pat;Auftrag;Abnahme;Gluc (mmol/l);Na;Frei;Notiz\n"
WIDE_ROW = "7;A1;02.07.2026 08:10;5,60;<140;-;\n"


def pack(folder: Path, text: str = CLINIC) -> Ruleset:
    """Write a pack and load it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.yaml").write_text(text, "utf-8")
    return load_ruleset(folder)


def received(
    rules: Ruleset,
    body: bytes,
    kind: str = "text/csv",
    limits: Limits | None = None,
    **more: Any,
) -> Reception:
    """Bring one message through the first room."""
    given = {"fhir_version": FhirVersion.R4, **more}
    message = Received("clinic", body=body, received_at=datetime(2026, 4, 1, tzinfo=UTC), content_type=kind, **given)
    return receive(message, limits or Limits(), rules.profiles, rules.formats)


def resources(reception: Reception) -> list[dict[str, Any]]:
    """Return what was taken."""
    assert not reception.refused, reception.refused
    return [e.resource for e in reception.entries if isinstance(e, Validated) and e.resource is not None]


def told(reception: Reception) -> list[str]:
    """Return what was refused, in words."""
    issues: list[Issue] = list(reception.refused)
    for entry in reception.entries:
        issues += entry.issues if isinstance(entry, Refusal) else ()
    return [issue.diagnostics for issue in issues]
