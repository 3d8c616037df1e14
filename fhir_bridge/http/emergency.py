"""The door by which a clinician opens emergency access; it looks the same on every patient."""

from __future__ import annotations

from fastapi import Request, Response

from fhir_bridge.http.bodies import body_of
from fhir_bridge.http.caller import requester_of, services_of
from fhir_bridge.http.errors import as_response
from fhir_bridge.http.routes import Routes

router = Routes()
_BODY_LIMIT = 64 << 10


@router.post("/Patient/{record_id}/$emergency-access")
async def emergency_access(request: Request, record_id: str) -> Response:
    """Open a person's charts for a stated reason and a limited time."""
    who = await requester_of(request)
    body = await body_of(request, _BODY_LIMIT)
    return as_response(await services_of(request).emergency.open(who, record_id, body))
