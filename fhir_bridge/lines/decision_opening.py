"""The opening of a decision: one JSON text that holds all a second party needs to decide again, offline.

docs/formats/decisions.md writes it down; :mod:`fhir_bridge.lines.deciding_again` reads it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, Final

from fhir_bridge.consent import ConsentList, compiled, needs_rows, open_policies
from fhir_bridge.consent.matching import AUTHOR_PARAMETERS
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.proof.decision import ChartGrounds

FORMAT: Final = "fhir-bridge/decision-opening/1"
LISTS: Final = ("owner", "institution", "kept")


def opening_text(receipt: str, grounds: bytes, charts: Sequence[dict[str, Any]]) -> bytes:
    """Return the text that the patient keeps and hands on."""
    told = {"format": FORMAT, "receipt": receipt, "grounds": _b64(grounds), "charts": list(charts)}
    return json.dumps(told, indent=2).encode() + b"\n"


def opened_chart(
    salt: bytes,
    content: bytes,
    grounds: ChartGrounds,
    lists: Sequence[bytes | None],
    policies: bytes,
    own: Sequence[IndexRow],
    every: Sequence[IndexRow],
    states: tuple[str | None, str | None],
) -> dict[str, Any]:
    """Return one chart's part of an opening.

    Args:
        own: The chart's rows as of the decision.
        every: The rows of all the person's charts, needed only where a consent names related data.
        states: Receipts of the consent path's and the policies' state at the decision's height, as far as kept.
    """
    named = {(kind, name) for kind, name, _ in grounds.shown} | set(grounds.withheld)
    entries = [entry for each in lists if each is not None for entry in ConsentList.decode(each).entries]
    network = open_policies(policies, grounds.policies)
    rules = [compiled(entry.body, grounds.base_url or None) for entry in entries]
    rules += [each.policy for each in (*network.bases, *network.defaults)]
    is_related = any(needs_rows(each) for each in rules)
    return {
        "salt": _b64(salt),
        "content": _b64(content),
        "lists": {name: None if each is None else _b64(each) for name, each in zip(LISTS, lists, strict=True)},
        "policies": _b64(policies),
        "records": [_record(row) for row in own if (row.type, row.id) in named],
        "related": [[row.type, row.id, list(row.references)] for row in every if row.references]
        if is_related
        else [],
        "consent_state": states[0],
        "policy_state": states[1],
    }


def _record(row: IndexRow) -> dict[str, Any]:
    """Return what consents can look at in a record."""
    return {
        "type": row.type,
        "id": row.id,
        "version": row.version,
        "deleted": row.deleted,
        "origin": row.origin,
        "author": row.author,
        "labels": list(row.labels),
        "codes": list(row.codes),
        "data_period_us": row.data_period_us,
        "references": list(row.references),
        "authors": {name: list(found) for name in AUTHOR_PARAMETERS if (found := row.values_of(name))},
    }


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
