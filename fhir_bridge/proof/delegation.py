"""Write the AuditEvent by which a patient's charts tell who may act for the patient, and since when not.

For the lines of delegates and guardians, which have it stored before anything changes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fhir_bridge.model.access import Requester
from fhir_bridge.proof import vocabulary as v
from fhir_bridge.proof.audit import Access, audit_event


def delegation_event(
    who: Requester,
    at: datetime,
    patient: str | None,
    told: dict[str, str],
    *,
    event_id: str,
    operation: str = "delegate",
) -> dict[str, Any]:
    """Return the R4 AuditEvent (DICOM "Security Roles Changed") for one chart.

    Args:
        told: What changed, by name: ``delegate`` or ``guardian``, ``name``, ``scope``, ``until``, ``ended`` …
        operation: By which it changed.
    """
    basis = "patient" if who.patient is not None else "attestation"
    access = Access(who, "operation", f"POST Patient/${operation}", "0", at, 0, "", basis, patient)
    event = audit_event(access, event_id=event_id)
    del event["meta"]
    event["type"] = v.SECURITY_ALERT
    event["subtype"] = [v.SECURITY_ROLES_CHANGED]
    details = [{"type": name, "valueString": text} for name, text in told.items()]
    event["entity"] = [entity | {"detail": details} for entity in event["entity"] if "query" not in entity]
    return event
