"""A patient's withdrawal of a consent: what says so, and which stored consent it means.

For the grant line, which refuses no withdrawal that names a consent of the
patient. Where a request says too little to be a Consent itself, the stored one
stays as it is but for its status.

Invariants:
    * nothing is withdrawn but what an agent of the same person wrote, and by the person's own agent what was attested
      for it; a guardian withdraws only what that guardian signed;
    * an id of nobody and an id of somebody else's record are told apart by nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fhir_bridge.errors import IntegrityBroken
from fhir_bridge.fhir.json import NotStrictJson, parse
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.signatories import AGENT, GUARDIAN, PAPER, Signatory
from fhir_bridge.lines.versions import place
from fhir_bridge.model.ids import canonical_id
from fhir_bridge.model.ingest import ChartRef, IndexRow, Received
from fhir_bridge.ports.vault import Vault
from fhir_bridge.seal import RecordPlace, open_normalised, open_segment

WITHDRAWN: Final = frozenset({"inactive", "rejected", "entered-in-error"})
"""Values of Consent.status (R4) that end a consent; ``draft`` and ``proposed`` are not yet one."""
_CONSENT: Final = "Consent"


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The current version of a signed consent, as stored in ``chart``, who wrote it, and the status it ends with."""

    chart: ChartRef
    author: str
    id: str
    body: bytes
    ends_as: str


@dataclass(frozen=True, slots=True)
class _Withdrawal:
    """What a request says: the consent's id, the status to end with (None: not said) and the body's id, if any."""

    id: str
    status: str | None = None
    body_id: str | None = None


async def find_withdrawn(
    received: Received, home: ChartRef, registry: Registry, vault: Vault, by: Signatory
) -> Withdrawn | None:
    """Return the consent of the person in ``home`` that a request withdraws, or None if it withdraws none.

    The address may hold the id that the agent gave, or the canonical one. Cost: reads the index of the chart that
    holds the consent.
    """
    said = _withdrawal_in(received)
    if said is None:
        return None
    own = canonical_id(by.key, _CONSENT, said.id)
    held = await vault.charts_of({own, said.id})
    authors = frozenset({AGENT, GUARDIAN, PAPER}) if by.author == AGENT else frozenset({by.author})
    linked = {chart.chart: chart for chart in registry.linked(home)}
    for candidate in dict.fromkeys((own, said.id)):
        chart = linked.get(held.get(candidate, ""))
        if chart is None or not _is_named(
            said.body_id, candidate, by.key if chart == home else registry.agent_key(chart)
        ):
            continue
        row = await _newest(chart, candidate, registry, vault)
        if row is not None and row.type == _CONSENT and row.author in authors and not row.deleted:
            body = await stored_body(chart, candidate, row.version, registry, vault)
            if by.author == AGENT or parse(body)["meta"]["source"] == by.source:
                return Withdrawn(chart, row.author, candidate, body, said.status or _status_after(body))
    return None


async def stored_body(chart: ChartRef, record_id: str, version: str, registry: Registry, vault: Vault) -> bytes:
    """Return the exact bytes of one version of a record; empty for a deletion.

    Raises:
        IntegrityBroken: It is not in the vault, or does not open.
    """
    record = await vault.record(chart.chart, record_id, version)
    if record is None:
        raise IntegrityBroken("a consent that a chart holds is not in the vault")
    where = RecordPlace(chart.chart, record_id, version, chart.institution)
    return open_normalised(registry.chart_key(chart), where, record.normalised).content


def _withdrawal_in(received: Received) -> _Withdrawal | None:
    """Return the withdrawal that a request states, valid FHIR otherwise or not; None if it states none."""
    asked = received.interaction
    if asked is None or asked.id is None or asked.type != _CONSENT:
        return None
    if asked.method == "DELETE":
        return _Withdrawal(asked.id)
    try:
        content = parse(received.content)
    except NotStrictJson:
        return None
    status, body_id = content.get("status"), content.get("id")
    if content.get("resourceType") != _CONSENT or not isinstance(status, str) or status not in WITHDRAWN:
        return None
    return _Withdrawal(asked.id, status, body_id if isinstance(body_id, str) else None)


def _is_named(body_id: str | None, record_id: str, key: bytes) -> bool:
    """Tell whether the id in a body, if there is one, means the record; a body about another one is no withdrawal."""
    return body_id in (None, record_id) or canonical_id(key, _CONSENT, str(body_id)) == record_id


def _status_after(body: bytes) -> str:
    """Return the status after a deletion; what was withdrawn before stays as it was."""
    status = str(parse(body).get("status"))
    return status if status in WITHDRAWN else "inactive"


async def _newest(chart: ChartRef, record_id: str, registry: Registry, vault: Vault) -> IndexRow | None:
    history: list[IndexRow] = []
    key = registry.chart_key(chart)
    for segment in await vault.segments(chart.chart):
        for row in open_segment(key, segment):
            if row.id == record_id:
                place(history, row)
    return history[-1] if history else None
