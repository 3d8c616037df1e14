"""The network's own directory: one Organization for each institution, as consents name it. Public among members."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fhir_bridge.fhir.json import render
from fhir_bridge.lines.registry import Institution
from fhir_bridge.model.ids import INSTITUTION_SYSTEM


def find_organizations(institutions: Iterable[Institution], params: Sequence[tuple[str, str]]) -> list[bytes]:
    """Return the Organizations that ``_id`` or ``identifier`` name; none when anything else is asked."""
    if len(params) != 1 or params[0][0] not in ("_id", "identifier"):
        return []
    wanted = params[0][1]
    return [organization(each) for each in institutions if wanted in (each.id, f"{INSTITUTION_SYSTEM}|{each.name}")]


def organization(institution: Institution) -> bytes:
    """Return the Organization resource of an institution."""
    return render(
        {
            "resourceType": "Organization",
            "id": institution.id,
            "identifier": [{"system": INSTITUTION_SYSTEM, "value": institution.name}],
            "active": True,
            "name": institution.name,
        }
    )
