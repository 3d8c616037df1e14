"""The door by which a clinician opens emergency access; it looks the same on every patient."""

from __future__ import annotations

from fastapi import Request, Response

from fhir_bridge.errors import Issue, MessageTooLong
from fhir_bridge.http.caller import read_body, requester_of, services_of
from fhir_bridge.http.errors import as_response
from fhir_bridge.http.routes import Routes

router = Routes()
_BODY_LIMIT = 64 << 10


@router.post("/Patient/{record_id}/$emergency-access")
async def emergency_access(request: Request, record_id: str) -> Response:
    """Open a person's charts for a stated reason and a limited time."""
    who = await requester_of(request)
    body = await read_body(request, _BODY_LIMIT)
    if body is None:
        raise MessageTooLong([Issue("error", "too-long", f"this body may hold at most {_BODY_LIMIT} bytes")])
    return as_response(await services_of(request).emergency.open(who, record_id, body))
