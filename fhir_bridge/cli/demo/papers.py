"""The papers of the story: the Consent that the patient's agent writes, the AuditEvents that she reads."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from fhir_bridge.cli.demo.timeline import ACT_CODE

TOPICS = {
    "SDV": "sexual assault, abuse or violence",
    "VIO": "violence",
    "DVD": "domestic violence",
    "PSY": "mental health",
    "MH": "mental health",
    "ETH": "substance abuse",
    "ETHUD": "alcohol use",
    "OPIOIDUD": "opioid use",
    "SUD": "substance use",
    "SEX": "sexual and reproductive health",
    "HIV": "HIV",
}
"""Names of v3-ActCode sensitivity labels, in the order in which the story prefers them."""


def consent(patient: str, institution_id: str, label: str) -> dict[str, Any]:
    """Return a Consent as R4 and IHE PCF draw it: opt out, but permit one institution, but not one label."""
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": _concept("http://terminology.hl7.org/CodeSystem/consentscope", "patient-privacy"),
        "category": [_concept("http://loinc.org", "59284-0")],
        "patient": {"reference": f"Patient/{patient}"},
        "dateTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "policyRule": _concept(ACT_CODE, "OPTOUT"),
        "provision": {
            "type": "permit",
            "actor": [
                {
                    "role": _concept("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "IRCP"),
                    "reference": {"reference": f"Organization/{institution_id}"},
                }
            ],
            "provision": [{"type": "deny", "securityLabel": [{"system": ACT_CODE, "code": label}]}],
        },
    }


def audit_row(event: Mapping[str, Any], people: Mapping[str, str], charts: Mapping[str, str]) -> tuple[str, ...]:
    """Return when, who, what was asked, of which chart, how many records were shown, and why.

    Args:
        event: An AuditEvent as IHE BALP draws it.
        people: Names of practitioners, patients and organizations by reference.
        charts: Names of charts by the reference of their patient.
    """
    who = [str(a.get("who", {}).get("reference", "")) for a in event.get("agent", []) if a.get("requestor")]
    purposes = [coding["code"] for purpose in event.get("purposeOfEvent", []) for coding in purpose["coding"]]
    entities = event.get("entity", [])
    asked = [_asked(entity) for entity in entities] + [_asked_by_id(entity) for entity in entities]
    of = [charts.get(str(entity.get("what", {}).get("reference")), "") for entity in entities]
    details = [detail for entity in entities for detail in entity.get("detail", [])]
    records = [str(detail["valueString"]) for detail in details if detail["type"] == "records"]
    names = [people.get(name, name) for name in who]
    return str(event["recorded"])[11:19], _first(names), _first(asked), _first(of), _first(records), _first(purposes)


def _concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def _asked(entity: Mapping[str, Any]) -> str:
    """The request as it was recorded, ids shortened for the screen."""
    return _short(unquote(base64.b64decode(entity["query"]).decode())) if "query" in entity else ""


def _asked_by_id(entity: Mapping[str, Any]) -> str:
    is_resource = entity.get("role", {}).get("code") == "4"  # object-role: domain resource
    return _short(f"GET {entity['what']['reference']}") if is_resource and "what" in entity else ""


def _short(text: str) -> str:
    return re.sub(r"[a-z2-7]{32}", lambda found: found[0][:6] + "…", text)


def _first(words: list[str]) -> str:
    return next((word for word in words if word), "")
