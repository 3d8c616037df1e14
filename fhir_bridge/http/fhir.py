"""FHIR RESTful interactions (R4 http.html): each route hands bytes to a line and sends what it replies."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl

from fastapi import Request, Response

from fhir_bridge.http.bodies import body_of, message_of
from fhir_bridge.http.caller import question_of, requester_of, services_of
from fhir_bridge.http.errors import as_response
from fhir_bridge.http.formats import require_formats
from fhir_bridge.http.routes import Routes
from fhir_bridge.lines.reply import Held
from fhir_bridge.lines.write import Sent
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import Interaction

router = Routes()
Params = list[tuple[str, str]]


@router.post("")
@router.post("/")
async def bundle(request: Request) -> Response:
    """Take a transaction, batch or collection bundle."""
    who = await requester_of(request)
    body = await message_of(request, services_of(request).max_body_bytes)
    content_type = request.headers.get("content-type", "")
    return as_response(await services_of(request).write.bundle(who, body, content_type))


@router.get("/Patient/{record_id}/$everything")
async def everything(request: Request, record_id: str) -> Response:
    """Return one timeline of a person: all permitted records of all linked charts."""
    who = await requester_of(request)
    return as_response(await services_of(request).answer.everything(who, record_id, _query(request)))


@router.get("/Patient/{record_id}/$duplicates")
async def duplicates(request: Request, record_id: str) -> Response:
    """Tell which of a person's permitted records tell of the same thing twice, and how that is known."""
    who = await requester_of(request)
    return as_response(await services_of(request).answer.duplicates.of_person(who, record_id, _query(request)))


@router.get("/{type_name}/{record_id}/_history/{version}/$receipt")
async def version_receipt(request: Request, type_name: str, record_id: str, version: str) -> Response:
    """Return the receipt of one version of a record."""
    who = await requester_of(request)
    return as_response(await services_of(request).answer.receipt(who, type_name, record_id, version))


@router.get("/{type_name}/{record_id}/$receipt")
async def receipt(request: Request, type_name: str, record_id: str) -> Response:
    """Return the receipt of the current version of a record."""
    who = await requester_of(request)
    return as_response(await services_of(request).answer.receipt(who, type_name, record_id, None))


@router.get("/{type_name}/{record_id}/_history/{version}")
async def vread(request: Request, type_name: str, record_id: str, version: str) -> Response:
    """Read one version."""
    who = await requester_of(request)
    return as_response(await services_of(request).answer.vread(who, type_name, record_id, version, _query(request)))


@router.get("/{type_name}/{record_id}/_history")
async def history(request: Request, type_name: str, record_id: str) -> Response:
    """Return the versions of a record, newest first."""
    who = await requester_of(request)
    return as_response(await services_of(request).answer.history(who, type_name, record_id, _query(request)))


@router.get("/_history")
async def history_of_system(request: Request) -> Response:
    """Return the versions of everything the requester may see of one person, newest first."""
    who = await requester_of(request)
    return as_response(await services_of(request).answer.history_of_all(who, None, _query(request)))


@router.get("/{type_name}/_history")
async def history_of_type(request: Request, type_name: str) -> Response:
    """Return the versions of one type of records, newest first."""
    who = await requester_of(request)
    return as_response(await services_of(request).answer.history_of_all(who, type_name, _query(request)))


@router.post("/{type_name}/_search")
async def search_by_post(request: Request, type_name: str) -> Response:
    """Search with the criteria in the body, where no log of addresses sees them."""
    who, params = await _by_form(request, await requester_of(request))
    answer = services_of(request).answer
    return as_response(await answer.search(who, type_name, params, lenient=_is_lenient(request)))


@router.post("/Patient/{record_id}/{type_name}/_search")
async def search_compartment_by_post(request: Request, record_id: str, type_name: str) -> Response:
    """Search one type in a Patient's compartment with the criteria in the body."""
    who, params = await _by_form(request, await requester_of(request))
    answer, lenient = services_of(request).answer, _is_lenient(request)
    return as_response(await answer.in_compartment(who, record_id, type_name, params, lenient=lenient))


@router.get("/{type_name}/{record_id}")
async def read(request: Request, type_name: str, record_id: str) -> Response:
    """Read the current version of a record, unless the reader holds it already."""
    who = await requester_of(request)
    held = Held(request.headers.get("if-none-match"), request.headers.get("if-modified-since"))
    return as_response(await services_of(request).answer.read(who, type_name, record_id, _query(request), held))


@router.get("/Patient/{record_id}/{type_name}")
async def search_compartment(request: Request, record_id: str, type_name: str) -> Response:
    """Search one type in a Patient's compartment."""
    who = await requester_of(request)
    answer, lenient = services_of(request).answer, _is_lenient(request)
    return as_response(await answer.in_compartment(who, record_id, type_name, _query(request), lenient=lenient))


@router.get("/{type_name}")
async def search(request: Request, type_name: str) -> Response:
    """Search one type, in one person's permitted view."""
    who = await requester_of(request)
    answer = services_of(request).answer
    return as_response(await answer.search(who, type_name, _query(request), lenient=_is_lenient(request)))


@router.post("/{type_name}")
async def create(request: Request, type_name: str) -> Response:
    """Create a record; ``If-None-Exist`` makes it conditional."""
    conditional = request.headers.get("if-none-exist")
    return await _write(request, Interaction("POST", type_name, if_none_exist=conditional))


@router.put("/{type_name}/{record_id}")
async def update(request: Request, type_name: str, record_id: str) -> Response:
    """Create or update the sender's own record under its local id; ``If-None-Match: *`` only creates."""
    # Any other value speaks of what a reader holds already and is no condition on a write.
    create_only = "*" if request.headers.get("if-none-match", "").strip() == "*" else None
    asked = Interaction("PUT", type_name, record_id, if_match=_if_match(request), if_none_match=create_only)
    return await _write(request, asked)


@router.delete("/{type_name}/{record_id}")
async def delete(request: Request, type_name: str, record_id: str) -> Response:
    """Mark the sender's own record deleted, or withdraw a patient's consent; its versions stay in the history."""
    return await _write(request, Interaction("DELETE", type_name, record_id, if_match=_if_match(request)))


@router.put("/{type_name}")
async def conditional_update(request: Request, type_name: str) -> Response:
    """Update the sender's own record that the criteria match, or create one."""
    return await _write_matching(request, Interaction("PUT", type_name, if_match=_if_match(request)))


@router.delete("/{type_name}")
async def conditional_delete(request: Request, type_name: str) -> Response:
    """Mark the sender's own record deleted that the criteria match."""
    return await _write_matching(request, Interaction("DELETE", type_name, if_match=_if_match(request)))


async def _write_matching(request: Request, interaction: Interaction) -> Response:
    who = await requester_of(request)
    headers = request.headers
    sent = Sent(await _body(request), headers.get("content-type", ""), headers.get("prefer", ""))
    return as_response(await services_of(request).write.conditional(who, interaction, _query(request), sent))


async def _write(request: Request, interaction: Interaction) -> Response:
    who = await requester_of(request)
    body = await _body(request)
    content_type = request.headers.get("content-type", "")
    prefer = request.headers.get("prefer", "")
    return as_response(await services_of(request).write.single(who, interaction, body, content_type, prefer))


async def _body(request: Request) -> bytes:
    return await body_of(request, services_of(request).max_body_bytes)


async def _by_form(request: Request, who: Requester) -> tuple[Requester, Params]:
    """Return who searches by POST, the form being part of the question, and the criteria of address and body."""
    body = await _body(request)
    form = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    require_formats(value for name, value in form if name == "_format")
    return replace(who, question=question_of(request, body)), _query(request) + form


def _query(request: Request) -> Params:
    return list(request.query_params.multi_items())


def _is_lenient(request: Request) -> bool:
    """Tell whether unknown parameters are to be ignored (R4 search.html#errors, RFC 7240)."""
    preferences = request.headers.get("prefer", "").replace(";", ",").split(",")
    return "handling=lenient" in (each.strip().lower() for each in preferences)


def _if_match(request: Request) -> str | None:
    value = request.headers.get("if-match")
    if value is None:
        return None
    return value.strip().removeprefix("W/").strip('"')
