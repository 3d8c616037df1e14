"""Routes of imports: NDJSON in the body, a job in the background, its status and its files."""

from __future__ import annotations

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from fhir_bridge.errors import Issue
from fhir_bridge.http.bodies import pieces_of
from fhir_bridge.http.caller import requester_of, services_of
from fhir_bridge.http.errors import as_response
from fhir_bridge.http.routes import Routes
from fhir_bridge.lines.reply import outcome_reply

router = Routes()


@router.post("/$import")
async def start_import(request: Request) -> Response:
    """Import NDJSON from the body, each line a resource or a Bundle, as a background job."""
    who = await requester_of(request)
    imports, headers = services_of(request).imports, request.headers
    pieces = pieces_of(request, imports.settings.max_bytes, imports.settings.max_still_s)
    try:
        prefer = ",".join(headers.getlist("prefer"))
        reply = await imports.receive(who, headers.get("content-type", ""), prefer, pieces)
    except ClientDisconnect:
        # Nobody reads this; it only ends the request without calling it a failure of ours.
        reply = outcome_reply(400, [Issue("error", "incomplete", "the body broke off; nothing of it was taken")])
    return as_response(reply)


@router.get("/$import/{job}")
async def import_status(request: Request, job: str) -> Response:
    """Tell how far an import is, and what it has come to."""
    return as_response(await services_of(request).imports.status(await requester_of(request), job))


@router.delete("/$import/{job}")
async def cancel_import(request: Request, job: str) -> Response:
    """Cancel an import, or remove one that has ended."""
    return as_response(await services_of(request).imports.cancel(await requester_of(request), job))


async def import_file(request: Request) -> Response:
    """Return what was refused (``problems``), or what was answered (``answers``), line by line."""
    who = await requester_of(request)
    which = request.url.path.rpartition("/")[2]
    return as_response(await services_of(request).imports.file(who, request.path_params["job"], which))


for _which in ("problems", "answers"):
    # Not through the router: it serves NDJSON, so an Accept header without JSON is no reason to refuse.
    router.routes.append(Route(f"/fhir/$import/{{job}}/{_which}", import_file, methods=["GET"], name="import_file"))
