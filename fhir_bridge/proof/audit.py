"""Write the AuditEvent of one access, after IHE BALP 1.1.

For the answer line, which stores it sealed in the chart it concerns before the
first byte of the answer leaves. Only the patient and an auditor see it, so it
names the consents that had a say; nothing of it reaches a requester.

Invariants:
    * one event for one chart: a question over three charts is three events, each
      telling nothing of the other two;
    * no resource content enters: what was asked, not what was answered.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import instant
from fhir_bridge.proof import vocabulary as v

_ACTIONS = {"create": "C", "read": "R", "vread": "R", "update": "U", "delete": "D"}
_PROFILES = {
    "C": "PatientCreate",
    "R": "PatientRead",
    "U": "PatientUpdate",
    "D": "PatientDelete",
    "E": "PatientQuery",
}


@dataclass(frozen=True, slots=True)
class Access:
    """One access to one chart.

    Attributes:
        interaction: Code of restful-interaction: ``read``, ``search-type``, ``history-instance``, ``operation`` …
        request: Method, path and query as asked.
        outcome: AuditEvent.outcome: ``0`` success, ``4`` minor failure, ``8`` serious failure.
        patient: Canonical Patient id of the chart; None for an institution's directory.
        record: ``Type/id`` of a single record, or None for a search.
        count: How many records of this chart the answer held.
        consents: ``(id, version)`` of consents that had a say.
        basis: Why, as :class:`Decision` states it.
        site: Our public base URL.
        network_policy: Version of the policies beside consents that the decision rests on.
        attested: ``(id, institution)`` of those consents that rest on an institution's word.
    """

    requester: Requester
    interaction: str
    request: str
    outcome: str
    at: datetime
    height: int
    evaluator: str
    basis: str
    patient: str | None
    record: str | None = None
    count: int | None = None
    consents: Sequence[tuple[str, str]] = ()
    client_address: str = ""
    request_id: str = ""
    site: str = ""
    network_policy: str = ""
    attested: Sequence[tuple[str, str]] = ()


def audit_event(access: Access, *, event_id: str) -> dict[str, Any]:
    """Return the R4 AuditEvent of an access.

    Args:
        event_id: Random id, unlike any that a counter would give.
    """
    action = _ACTIONS.get(access.interaction, "E")
    return {
        "resourceType": "AuditEvent",
        "id": event_id,
        "meta": {"profile": [f"{v.PROFILES}IHE.BasicAudit.{_PROFILES[action]}"]},
        "type": v.REST,
        "subtype": _subtypes(access.interaction),
        "action": action,
        "recorded": instant(access.at),
        "outcome": access.outcome,
        **({"purposeOfEvent": _purpose(access.requester)} if access.requester.purpose else {}),
        "agent": [_client(access), _server(access), *_people(access.requester)],
        "source": {
            "site": access.site or "fhir-bridge",
            "observer": {"identifier": {"system": v.SOFTWARE_SYSTEM, "value": "fhir-bridge"}},
            "type": [v.APPLICATION_SERVER],
        },
        "entity": _entities(access, action),
    }


def _subtypes(interaction: str) -> list[dict[str, str]]:
    """BALP asks a search to carry the code ``search`` itself besides the kind of search."""
    codes = ["search", interaction] if interaction.startswith("search-") else [interaction]
    return [{"system": v.INTERACTION, "code": code} for code in codes]


def _purpose(requester: Requester) -> list[dict[str, Any]]:
    system, _, code = requester.purpose.rpartition("|")
    return [v.concept({"system": system or v.ACT_REASON, "code": code})]


def _client(access: Access) -> dict[str, Any]:
    # 5 is an URI, 2 an IP address (network-type); without either the field is left out.
    network = {"network": {"address": access.client_address, "type": "2"}} if access.client_address else {}
    return {
        "type": v.concept(v.CLIENT),
        "who": {"identifier": {"system": v.CLIENT_SYSTEM, "value": access.requester.client_id}},
        "requestor": False,
        **network,
    }


def _server(access: Access) -> dict[str, Any]:
    network = {"network": {"address": access.site, "type": "5"}} if access.site else {}
    return {
        "type": v.concept(v.SERVER),
        "who": {"identifier": {"system": v.SOFTWARE_SYSTEM, "value": "fhir-bridge"}},
        "requestor": False,
        **network,
    }


def _people(requester: Requester) -> list[dict[str, Any]]:
    """Return the user who gets the data, and the institution the user acts for."""
    agents: list[dict[str, Any]] = []
    organization = f"Organization/{requester.institution_id}" if requester.institution_id else None
    user = _user(requester) or organization
    if user is not None:
        roles = [
            v.concept({"system": system, "code": code} if system else {"code": code})
            for system, _, code in (role.rpartition("|") for role in requester.roles)
        ]
        agents.append(
            {
                "type": v.concept(v.RECIPIENT),
                **({"role": roles} if roles else {}),
                "who": {"reference": user},
                "requestor": True,
                **({"purposeOfUse": _purpose(requester)} if requester.purpose else {}),
            }
        )
    if organization is not None and user != organization:
        agents.append({"type": v.concept(v.PROVIDER), "who": {"reference": organization}, "requestor": False})
    return agents


def _user(requester: Requester) -> str | None:
    if requester.delegate is not None:
        return f"RelatedPerson/{requester.delegate}"
    if requester.patient is not None:
        return f"Patient/{requester.patient.removeprefix('Patient/')}"
    if requester.practitioner is not None:
        return f"Practitioner/{requester.practitioner.removeprefix('Practitioner/')}"
    return None


def _entities(access: Access, action: str) -> list[dict[str, Any]]:
    details = [("height", str(access.height)), ("evaluator", access.evaluator), ("basis", access.basis)]
    if access.network_policy:
        details.append(("policies", access.network_policy))
    if access.requester.attested_by is not None:
        details.append(("guardian", f"attested by institution {access.requester.attested_by}"))
    if access.count is not None:
        details.append(("records", str(access.count)))
    entities: list[dict[str, Any]] = []
    if access.record is not None:
        entities.append(
            {"what": {"reference": access.record}, "type": v.SYSTEM_OBJECT, "role": v.ROLE_DOMAIN_RESOURCE}
        )
    if action == "E":
        query = base64.b64encode(access.request.encode()).decode()
        entities.append({"type": v.SYSTEM_OBJECT, "role": v.ROLE_QUERY, "query": query})
    subject = {"what": {"reference": f"Patient/{access.patient}"}} if access.patient else {}
    entities.append(
        {
            **subject,
            "type": v.PERSON if access.patient else v.SYSTEM_OBJECT,
            "role": v.ROLE_PATIENT if access.patient else v.ROLE_DOMAIN_RESOURCE,
            "detail": [{"type": name, "valueString": text} for name, text in details],
        }
    )
    words = dict(access.attested)
    for consent, version in access.consents:
        entity: dict[str, Any] = {"what": {"reference": f"Consent/{consent}/_history/{version}"}}
        entity["type"] = v.CONSENT_TYPE
        if consent in words:
            entity["detail"] = [{"type": "basis", "valueString": f"attested by institution {words[consent]}"}]
        entities.append(entity)
    if access.request_id:
        entities.append({"what": {"identifier": {"value": access.request_id}}, "type": v.REQUEST_ID})
    return entities
