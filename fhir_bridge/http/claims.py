"""The route of messages that are too large for the bus."""

from __future__ import annotations

from fastapi import Request, Response

from fhir_bridge.http.bodies import body_of
from fhir_bridge.http.caller import requester_of, services_of
from fhir_bridge.http.errors import as_response
from fhir_bridge.http.routes import Routes

router = Routes()


@router.put("/$claim/{sha256}")
async def put_claim(request: Request, sha256: str) -> Response:
    """Hold a message until a record of the sender's topic claims it."""
    who = await requester_of(request)
    services = services_of(request)
    body = await body_of(request, services.max_body_bytes)
    return as_response(await services.claims.put(who, sha256, body, request.headers.get("content-type", "")))
