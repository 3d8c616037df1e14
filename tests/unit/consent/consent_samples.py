"""Consents, requests and rows for tests: made up, small, and in words that the tests can read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from fhir_bridge.consent import ChartFacts, ConsentEntry, ConsentList, OwnRecords, decide
from fhir_bridge.model.access import Decision, Requester
from fhir_bridge.model.ingest import ChartRef, IndexRow, pack_values

THO = "http://terminology.hl7.org/CodeSystem/"
ACT_REASON = f"{THO}v3-ActReason"
ACT_CODE = f"{THO}v3-ActCode"
CONFIDENTIALITY = f"{THO}v3-Confidentiality"
LOINC = "http://loinc.org"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
DAY_US = 86_400_000_000
ALWAYS = (-(2**62), 2**62)
CHART = ChartRef("northgate", "c1", "pat1")
HARBOR = Requester("client-h", institution="harbor", institution_id="org-harbor", practitioner="dr-h", groups=())
NORTHGATE = Requester(
    "client-n", institution="northgate", institution_id="org-northgate", practitioner="dr-n", groups=()
)

Json = dict[str, Any]


def coding(system: str, code: str) -> Json:
    """A Coding."""
    return {"system": system, "code": code}


def concept(system: str, code: str) -> Json:
    """A CodeableConcept."""
    return {"coding": [coding(system, code)]}


def consent(provision: Json | None = None, rule: str | None = None, **more: Any) -> Json:
    """A Consent; ``rule`` is OPTIN or OPTOUT, without one the policy is a text that nobody knows."""
    body: Json = {
        "resourceType": "Consent",
        "status": "active",
        "scope": concept(f"{THO}consentscope", "patient-privacy"),
        "category": [concept(LOINC, "59284-0")],
        "patient": {"reference": "Patient/pat1"},
        "dateTime": "2026-01-01",
    }
    if rule is not None:
        body["policyRule"] = concept(ACT_CODE, rule)
    else:
        body["policy"] = [{"uri": "http://example.org/policies/base.txt"}]
    if provision is not None:
        body["provision"] = provision
    return body | more


def provision(kind: str | None, *nested: Json, **elements: Any) -> Json:
    """A provision; ``kind`` None leaves the type away."""
    out: Json = {"type": kind} if kind else {}
    out |= elements
    if nested:
        out["provision"] = list(nested)
    return out


def actor(reference: str, role: Json | None = None) -> Json:
    """A recipient."""
    return {"role": role or concept(f"{THO}v3-ParticipationType", "IRCP"), "reference": {"reference": reference}}


def to(reference: str) -> Json:
    """Elements of a provision about one recipient."""
    return {"actor": [actor(reference)]}


def labels(*codes: str) -> Json:
    """Elements of a provision about labels: one-letter codes are confidentiality levels, others topics."""
    return {"securityLabel": [coding(CONFIDENTIALITY if len(c) == 1 else ACT_CODE, c) for c in codes]}


def label(code: str) -> str:
    """A row's label."""
    return f"{CONFIDENTIALITY if len(code) == 1 else ACT_CODE}|{code}"


def purposes(*codes: str) -> Json:
    """Elements of a provision about purposes of use."""
    return {"purpose": [coding(ACT_REASON, c) for c in codes]}


def entry(body: Json, number: int = 1, *, signed_at: int = 1, charts: tuple[str, ...] = ("c1",)) -> ConsentEntry:
    """An entry of a list; its status is the body's."""
    return ConsentEntry(
        f"consent-{number}", "v1", body["status"], ALWAYS, bytes(32), json.dumps(body).encode(), signed_at, charts
    )


def listed(*bodies: Json) -> ConsentList:
    """A list of consents signed in this order."""
    return ConsentList(tuple(entry(body, number, signed_at=number) for number, body in enumerate(bodies, start=1)))


def row(
    type_name: str = "Observation",
    record_id: str = "r1",
    *,
    labelled: tuple[str, ...] = (),
    codes: tuple[str, ...] = (),
    days: tuple[int, int] | None = None,
    references: tuple[str, ...] = (),
    origin: str = "northgate",
    author: str = "institution",
    deleted: bool = False,
    version: str = "v1",
    search: Json | None = None,
) -> IndexRow:
    """An index row; ``days`` is its clinical time in days since 1970."""
    period = None if days is None else (days[0] * DAY_US, days[1] * DAY_US)
    return IndexRow(
        type=type_name,
        id=record_id,
        version=version,
        deleted=deleted,
        origin=origin,
        author=author,
        last_updated_us=NOW_US,
        source_updated_us=None,
        dated_us=period[0] if period else None,
        labels=tuple(label(code) for code in labelled),
        codes=codes,
        data_period_us=period,
        search=pack_values(search or {}),
        references=references,
        content=b"",
    )


def decision(
    requester: Requester,
    *bodies: Json,
    restricting: ConsentList | None = None,
    chart: ChartRef = CHART,
    own_records: OwnRecords = OwnRecords.CLOSED_BY_PROVISION,
    rows: tuple[IndexRow, ...] = (),
    at: datetime = NOW,
) -> Decision:
    """Decide with the given consents of the patient."""
    facts = ChartFacts(chart, frozenset({"pat1"}), rows, own_records)
    return decide(requester, facts, listed(*bodies), restricting, instant=at, height=7)


def sees(requester: Requester, seen: IndexRow, *bodies: Json, **more: Any) -> bool:
    """Tell whether a requester may see a row under some consents."""
    return decision(requester, *bodies, **more).permits(seen)
