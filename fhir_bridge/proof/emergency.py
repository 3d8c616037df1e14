"""Write the AuditEvent by which a patient learns that emergency access was opened.

For the emergency line, which has it stored in each chart before anything is
open. It holds what 42 CFR 2.51(c) asks for: to whom and at which institution,
by whom, when, and the nature of the emergency, in the words of who asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import instant
from fhir_bridge.proof import vocabulary as v
from fhir_bridge.proof.audit import Access, audit_event


@dataclass(frozen=True, slots=True)
class Emergency:
    """An opened emergency access: by whom, why, from when to when."""

    requester: Requester
    reason: str
    at: datetime
    until: datetime


def emergency_event(emergency: Emergency, patient: str | None, *, event_id: str) -> dict[str, Any]:
    """Return the R4 AuditEvent (DICOM "Emergency Override Started") for one chart.

    Args:
        patient: Canonical Patient id of the chart; None if the id that was asked for stands for nobody.
    """
    access = Access(
        requester=emergency.requester,
        interaction="operation",
        request="POST Patient/$emergency-access",
        outcome="0",
        at=emergency.at,
        height=0,
        evaluator="",
        basis="emergency",
        patient=patient,
    )
    event = audit_event(access, event_id=event_id)
    del event["meta"]
    event["type"] = v.SECURITY_ALERT
    event["subtype"] = [v.EMERGENCY_STARTED]
    details = [{"type": "reason", "valueString": emergency.reason}]
    details.append({"type": "until", "valueString": instant(emergency.until)})
    event["entity"] = [
        {name: value for name, value in entity.items() if name != "detail"} | {"detail": details}
        for entity in event["entity"]
        if "query" not in entity
    ]
    return event
