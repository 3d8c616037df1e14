"""A consent from a feed names a member of the network by its public id; that id is nobody's local one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from fhir_bridge.intake import receive
from fhir_bridge.model.ids import network_id
from fhir_bridge.model.ingest import FhirVersion, Interaction, Received, SourceContext
from fhir_bridge.normalize import load_ruleset, normalize

MAPPINGS = Path(__file__).parents[3] / "mappings"
KEY = b"k" * 32


def test_a_member_of_the_network_keeps_its_id_and_an_own_organization_does_not() -> None:
    member = network_id(b"p" * 32)
    consent = {
        "resourceType": "Consent",
        "status": "active",
        "scope": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]
        },
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": "Patient/p1"},
        "organization": [{"reference": "Organization/own"}],
        "policyRule": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTOUT"}]},
        "provision": {
            "type": "deny",
            "actor": [
                {
                    "role": {"coding": [{"code": "IRCP"}]},
                    "reference": {"reference": f"Organization/{member}"},
                }
            ],
        },
    }
    received = Received(
        "northgate",
        FhirVersion.R4,
        json.dumps(consent).encode(),
        datetime(2026, 1, 1, tzinfo=UTC),
        interaction=Interaction("POST", "Consent"),
    )
    source = SourceContext("northgate", "x", FhirVersion.R4, KEY, "")
    done = normalize(receive(received), source, load_ruleset(MAPPINGS / "northgate"))
    body = json.loads(done.records[0].content)
    assert body["provision"]["actor"][0]["reference"]["reference"] == f"Organization/{member}"
    assert body["organization"][0]["reference"] != "Organization/own"
