"""Write the AuditEvent by which a patient's charts tell who may act for the patient, and since when not.

For the delegation line, which has it stored before anything changes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fhir_bridge.model.access import Requester
from fhir_bridge.proof import vocabulary as v
from fhir_bridge.proof.audit import Access, audit_event


def delegation_event(
    who: Requester, at: datetime, patient: str | None, told: dict[str, str], *, event_id: str
) -> dict[str, Any]:
    """Return the R4 AuditEvent (DICOM "Security Roles Changed") for one chart.

    Args:
        told: What changed, by name: ``delegate``, ``name``, ``scope``, ``from``, ``until`` or ``ended``.
    """
    access = Access(who, "operation", "POST Patient/$delegate", "0", at, 0, "", "patient", patient)
    event = audit_event(access, event_id=event_id)
    del event["meta"]
    event["type"] = v.SECURITY_ALERT
    event["subtype"] = [v.SECURITY_ROLES_CHANGED]
    details = [{"type": name, "valueString": text} for name, text in told.items()]
    event["entity"] = [entity | {"detail": details} for entity in event["entity"] if "query" not in entity]
    return event
