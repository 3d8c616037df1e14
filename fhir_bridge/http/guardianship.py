"""The doors by which an institution attests guardians and signed papers of its own patients."""

from __future__ import annotations

from fastapi import Request, Response

from fhir_bridge.http.bodies import body_of
from fhir_bridge.http.caller import requester_of, services_of
from fhir_bridge.http.errors import as_response
from fhir_bridge.http.routes import Routes

router = Routes()
_BODY_LIMIT = 64 << 10


@router.post("/Patient/{record_id}/$attest-guardian")
async def attest_guardian(request: Request, record_id: str) -> Response:
    """Let somebody act for the institution's own patient on the institution's word."""
    who = await requester_of(request)
    body = await body_of(request, _BODY_LIMIT)
    return as_response(await services_of(request).guardianship.attest(who, record_id, body))


@router.post("/Patient/{record_id}/$end-guardianship")
async def end_guardianship(request: Request, record_id: str) -> Response:
    """End a guardian's time at once."""
    who = await requester_of(request)
    body = await body_of(request, _BODY_LIMIT)
    return as_response(await services_of(request).guardianship.end(who, record_id, body))


@router.post("/Patient/{record_id}/$attest-consent")
async def attest_consent(request: Request, record_id: str) -> Response:
    """Take a Consent that the patient signed on paper, on the institution's word."""
    who = await requester_of(request)
    services = services_of(request)
    body = await body_of(request, services.max_body_bytes)
    outcome = await services.guardianship.attest_consent(who, record_id, body)
    return as_response(await services.write.written(who, outcome, request.headers.get("prefer", "")))
