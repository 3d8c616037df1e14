"""The doors by which a patient's agent names a delegate and ends a delegation."""

from __future__ import annotations

from fastapi import Request, Response

from fhir_bridge.http.bodies import body_of
from fhir_bridge.http.caller import requester_of, services_of
from fhir_bridge.http.errors import as_response
from fhir_bridge.http.routes import Routes

router = Routes()
_BODY_LIMIT = 64 << 10


@router.post("/Patient/{record_id}/$delegate")
async def delegate(request: Request, record_id: str) -> Response:
    """Let somebody act for the patient in an own name, with an own key, for a scope and a period."""
    who = await requester_of(request)
    return as_response(
        await services_of(request).delegation.name(who, record_id, await body_of(request, _BODY_LIMIT))
    )


@router.post("/Patient/{record_id}/$end-delegation")
async def end_delegation(request: Request, record_id: str) -> Response:
    """End a delegation at once."""
    who = await requester_of(request)
    return as_response(await services_of(request).delegation.end(who, record_id, await body_of(request, _BODY_LIMIT)))
