"""Write the Provenance of a record version: who sent it, and what our rules changed.

For the answer line, at ``/fhir/Provenance?target=…``. It is generated from the
sealed lineage and never stored, so its id is ``<record id>-<version>``.

Invariants:
    * without ``whole`` no value of before or after is shown, only the element and
      the rule: removed values may name what a consent hides;
    * the same record version has the same Provenance, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fhir_bridge.fhir.json import render
from fhir_bridge.model.ids import INSTITUTION_SYSTEM
from fhir_bridge.model.ingest import Change, IndexRow, instant
from fhir_bridge.proof import vocabulary as v

CHANGE_EXTENSION = "urn:fhir-bridge:provenance-change"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def provenance(
    row: IndexRow,
    changes: Sequence[Change],
    *,
    ruleset: str,
    institution_id: str,
    whole: bool = False,
) -> dict[str, Any]:
    """Return the R4 Provenance of one record version.

    Args:
        row: Index row of the version, from a permitted view.
        changes: The lineage, from its own envelope.
        ruleset: BLAKE3 hash of the ruleset, hex.
        institution_id: Public id of the institution that sent the record.
        whole: The holder may read original and lineage; adds values before and after.
    """
    target = f"{row.type}/{row.id}/_history/{row.version}"
    deletion = {"activity": v.concept({"system": v.DATA_OPERATION, "code": "DELETE"})} if row.deleted else {}
    shown = [_change(change, whole) for change in changes]
    return {
        "resourceType": "Provenance",
        "id": f"{row.id}-{row.version}",
        **({"extension": shown} if shown else {}),
        "target": [{"reference": target}],
        "recorded": instant(_EPOCH + timedelta(microseconds=row.last_updated_us)),
        "policy": [f"{v.RULESET_PREFIX}{ruleset}"],
        **deletion,
        "agent": [
            _agent("author", {"reference": f"Organization/{institution_id}"}),
            _agent("assembler", {"identifier": {"system": v.SOFTWARE_SYSTEM, "value": "fhir-bridge"}}),
        ],
        "entity": [{"role": "source", "what": {"identifier": {"system": INSTITUTION_SYSTEM, "value": row.origin}}}],
    }


def _agent(role: str, who: dict[str, Any]) -> dict[str, Any]:
    return {"type": v.concept({"system": v.PARTICIPANT, "code": role}), "who": who}


def _change(change: Change, whole: bool) -> dict[str, Any]:
    parts = [("element", change.element), ("rule", change.rule)]
    if whole:
        parts.append(("reason", change.reason))
        for name, value in (("before", change.before), ("after", change.after)):
            if value is not None:
                parts.append((name, value if isinstance(value, str) else render(value).decode()))
    return {
        "url": CHANGE_EXTENSION,
        "extension": [{"url": name, "valueString": text} for name, text in parts if text],
    }
