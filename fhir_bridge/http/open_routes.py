"""What needs no token: health, what the API is, discovery, keys, the token endpoint, the latest checkpoint."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from fhir_bridge.errors import MessageLate
from fhir_bridge.http.bodies import read_body
from fhir_bridge.http.caller import services_of
from fhir_bridge.http.errors import as_response
from fhir_bridge.http.formats import require_json
from fhir_bridge.lines.capability import capability_statement
from fhir_bridge.lines.reply import Reply
from fhir_bridge.ports.access import OAuthRefused

router = APIRouter()
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_FORM_LIMIT = 64 << 10


@router.api_route("/health/live", methods=["GET", "HEAD"])
async def live() -> JSONResponse:
    """Tell that the process answers."""
    return JSONResponse({"status": "live"})


@router.api_route("/health/ready", methods=["GET", "HEAD"])
async def ready(request: Request) -> JSONResponse:
    """Tell whether ledger, vault and keys can serve; 503 names the part that cannot."""
    parts = await services_of(request).readiness()
    status = 200 if all(parts.values()) else 503
    return JSONResponse({"status": "ready" if status == 200 else "not ready", "parts": parts}, status)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The OpenAPI description of this API."""
    return Response(request.app.state.description, media_type="application/json")


@router.get("/.well-known/smart-configuration")
@router.get("/fhir/.well-known/smart-configuration")
async def smart_configuration(request: Request) -> JSONResponse:
    """SMART App Launch discovery."""
    services = services_of(request)
    return JSONResponse(services.issuer.smart_configuration(services.base_url))


@router.get("/.well-known/jwks.json")
async def jwks(request: Request) -> JSONResponse:
    """Public keys of the built-in issuer."""
    return JSONResponse(services_of(request).issuer.jwks())


@router.post("/token")
async def token(request: Request) -> JSONResponse:
    """SMART Backend Services: client credentials with a signed assertion (RFC 7523)."""
    try:
        body = await read_body(request, _FORM_LIMIT)
    except MessageLate:
        return JSONResponse({"error": "invalid_request"}, 408, {**_NO_STORE, "Connection": "close"})
    if body is None:
        return JSONResponse({"error": "invalid_request"}, 413, _NO_STORE)
    form: dict[str, str] = {}
    for name, value in parse_qsl(bytes(body).decode("utf-8", "replace"), keep_blank_values=True):
        if name in form:
            problem = {"error": "invalid_request", "error_description": "a parameter is repeated"}
            return JSONResponse(problem, 400, _NO_STORE)
        form[name] = value
    try:
        granted = await services_of(request).issuer.token(form)
    except OAuthRefused as no:
        return JSONResponse({"error": no.error, "error_description": no.description}, no.status, _NO_STORE)
    return JSONResponse(granted, headers=_NO_STORE)


@router.get("/ledger/checkpoint")
async def checkpoint(request: Request) -> PlainTextResponse:
    """The latest signed tree head, as a C2SP signed note."""
    return PlainTextResponse(services_of(request).notary.checkpoint())


@router.api_route("/fhir/metadata", methods=["GET", "HEAD"], dependencies=[Depends(require_json)])
async def metadata(request: Request) -> Response:
    """The CapabilityStatement, generated from what the code does."""
    services = services_of(request)
    now, sets = services.clock.now(), services.value_sets()
    return as_response(Reply(200, capability_statement(services.base_url, now, sets, request.app.state.operations)))
