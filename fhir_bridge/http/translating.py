"""The routes of ``$translate``: codes by the code maps of the institution that asks."""

from __future__ import annotations

from fastapi import Request, Response

from fhir_bridge.http.bodies import body_of
from fhir_bridge.http.caller import requester_of, services_of
from fhir_bridge.http.errors import as_response
from fhir_bridge.http.routes import Routes

router = Routes()


@router.get("/ConceptMap/$translate")
async def translate(request: Request) -> Response:
    """Tell which codes stand for a code, by the asker's own code maps and those of the core."""
    who = await requester_of(request)
    params = list(request.query_params.multi_items())
    return as_response(await services_of(request).translate.by_query(who, params))


@router.post("/ConceptMap/$translate")
async def translate_by_post(request: Request) -> Response:
    """Tell which codes stand for a code, a Coding or a CodeableConcept."""
    who = await requester_of(request)
    services = services_of(request)
    return as_response(await services.translate.by_body(who, await body_of(request, services.max_body_bytes)))
