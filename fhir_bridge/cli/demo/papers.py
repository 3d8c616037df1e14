"""The papers of the story: the Consent that the patient's agent writes, the AuditEvents that she reads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

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


def audit_row(event: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Return when, who, what, why and outcome of an AuditEvent."""
    agents = [_name(agent.get("who", {})) for agent in event.get("agent", [])]
    purposes = [coding.get("code", "") for purpose in _purposes(event) for coding in purpose.get("coding", [])]
    did = next((subtype.get("code", "") for subtype in event.get("subtype", [])), event.get("action", ""))
    outcome = "ok" if event.get("outcome", "0") == "0" else f"refused ({event['outcome']})"
    return str(event.get("recorded", ""))[:19], _once(agents), str(did), _once(purposes), outcome


def _concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def _purposes(event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    of_agents = [purpose for agent in event.get("agent", []) for purpose in agent.get("purposeOfUse", [])]
    return [*event.get("purposeOfEvent", []), *of_agents]


def _name(who: Mapping[str, Any]) -> str:
    return str(who.get("display") or who.get("identifier", {}).get("value") or who.get("reference") or "")


def _once(words: list[str]) -> str:
    return ", ".join(dict.fromkeys(word for word in words if word))
