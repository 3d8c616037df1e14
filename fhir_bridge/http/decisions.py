"""Routes of the operations on decisions: why, what if, and their receipts (docs/explain.md)."""

from __future__ import annotations

from fastapi import Request, Response

from fhir_bridge.http.bodies import body_of
from fhir_bridge.http.caller import requester_of, services_of
from fhir_bridge.http.errors import as_response
from fhir_bridge.http.routes import Routes
from fhir_bridge.lines.decisions import Decisions

router = Routes()


@router.get("/Patient/{record_id}/$explain")
async def explain_person(request: Request, record_id: str) -> Response:
    """Tell by which rules a person's records are open or closed to others."""
    who = await requester_of(request)
    return as_response(await _decisions(request).explain_person(who, record_id, _query(request)))


@router.get("/{type_name}/{record_id}/$explain")
async def explain(request: Request, type_name: str, record_id: str) -> Response:
    """Tell which rule decides on one record."""
    who = await requester_of(request)
    return as_response(await _decisions(request).explain(who, type_name, record_id, _query(request)))


@router.get("/Patient/{record_id}/$simulate")
async def simulate(request: Request, record_id: str) -> Response:
    """Tell what others see, or would see after a withdrawal."""
    who = await requester_of(request)
    return as_response(await _decisions(request).simulate(who, record_id, _query(request)))


@router.post("/Patient/{record_id}/$simulate")
async def simulate_draft(request: Request, record_id: str) -> Response:
    """Tell what others would see under the draft Consent in the body."""
    who = await requester_of(request)
    body = await body_of(request, services_of(request).max_body_bytes)
    return as_response(await _decisions(request).simulate(who, record_id, _query(request), body))


@router.get("/AuditEvent/$decision-receipt")
async def decision_receipt(request: Request) -> Response:
    """Return the receipt of the decision behind an answer, to whoever got the answer."""
    who = await requester_of(request)
    return as_response(await services_of(request).decision_receipts.receipt(who, _query(request)))


@router.get("/Patient/{record_id}/$decisions")
async def decisions(request: Request, record_id: str) -> Response:
    """List the decisions about a person, denials included, to the patient's agent."""
    who = await requester_of(request)
    return as_response(await services_of(request).decision_receipts.listed(who, record_id, _query(request)))


@router.get("/Patient/{record_id}/$decision-opening")
async def decision_opening(request: Request, record_id: str) -> Response:
    """Return what a decision rested on, to the patient's agent."""
    who = await requester_of(request)
    return as_response(await services_of(request).decision_receipts.opening(who, record_id, _query(request)))


def _decisions(request: Request) -> Decisions:
    return services_of(request).answer.decisions


def _query(request: Request) -> list[tuple[str, str]]:
    return list(request.query_params.multi_items())
