"""Consents that rest on an institution's word: a paper signed on its desk, or a guardian whom it attests.

For deciding and for whoever stores such a Consent. What makes a Consent one is
``meta.source``, which no sender sets: we overwrite it in whatever comes in. Its
tags say who attests and until when, so an auditor who is given the bytes knows
all that the evaluator knows.

Invariants:
    * a permit counts only in the attesting institution's own chart, while the attestation lasts, where network
      policy lets it, and if the list it stands in was put on the ledger by an attestation;
    * a denial counts like any other of the institution's list, and outlasts the attestation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from fhir_bridge.consent.remembering import by_body
from fhir_bridge.errors import BridgeError
from fhir_bridge.fhir.dates import interval
from fhir_bridge.fhir.json import parse
from fhir_bridge.model.ids import ATTESTED_BY, ATTESTED_UNTIL

PAPER_SOURCE: Final = "urn:fhir-bridge:paper:"
GUARDIAN_SOURCE: Final = "urn:fhir-bridge:guardian:"


class Reach(StrEnum):
    """What network policy lets guardians do: nothing, read the attesting institution's chart, or all linked ones.

    Whatever they may read, what they sign counts in the attesting institution's chart alone.
    """

    REFUSED = "refused"
    OWN_CHART = "own-chart"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class AttestationRules:
    """Whether permits on an institution's word count: of signed papers, and of guardians."""

    paper: bool = False
    guardians: Reach = Reach.REFUSED


@dataclass(frozen=True, slots=True)
class Attestation:
    """On whose word a Consent rests.

    Attributes:
        guardian: Who signed it; None for a paper.
        until_us: When the attestation ends, µs since 1970 UTC; None for a paper, which ends by withdrawal.
    """

    institution: str
    guardian: str | None
    until_us: int | None

    def has_ended(self, instant_us: int) -> bool:
        """Tell whether permits signed under it are over."""
        return self.guardian is not None and (self.until_us is None or instant_us >= self.until_us)

    def is_allowed(self, chart_institution: str, rules: AttestationRules) -> bool:
        """Tell whether network policy lets its permits count in a chart of an institution."""
        allowed = rules.paper if self.guardian is None else rules.guardians is not Reach.REFUSED
        return allowed and self.institution == chart_institution


@by_body
def attestation_of(body: bytes) -> Attestation | None:
    """Return on whose word a stored Consent rests; None for one that rests on no attestation."""
    try:
        meta = parse(body).get("meta")
    except BridgeError:
        return None
    source = meta.get("source") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(source, str):
        return None
    if source.startswith(PAPER_SOURCE):
        return Attestation(source.removeprefix(PAPER_SOURCE), None, None)
    if not source.startswith(GUARDIAN_SOURCE):
        return None
    tags = _ours(meta.get("tag"))
    until = interval(tags.get(ATTESTED_UNTIL, ""))
    guardian = source.removeprefix(GUARDIAN_SOURCE)
    return Attestation(tags.get(ATTESTED_BY, ""), guardian, None if until is None else until[0])


def attestation_tags(institution: str, until: str | None) -> list[dict[str, str]]:
    """Return the tags of a Consent on an institution's word; ``until`` is an instant with a zone."""
    tags = [{"system": ATTESTED_BY, "code": institution, "display": f"attested by institution {institution}"}]
    return tags if until is None else [*tags, {"system": ATTESTED_UNTIL, "code": until}]


def _ours(tags: Any) -> dict[str, str]:
    listed = tags if isinstance(tags, list) else []
    return {
        str(tag["system"]): str(tag["code"])
        for tag in listed
        if isinstance(tag, dict) and isinstance(tag.get("system"), str) and isinstance(tag.get("code"), str)
    }
