"""In whose name a Consent is stored: the patient's agent or delegate, an attested guardian, or a clerk with a paper.

For whoever writes one. Each name has ids of its own, so that nobody's write
ever meets what somebody else wrote.

Invariants:
    * ``source`` and ``tags`` are ours: nothing that a sender states stands in their place;
    * what a guardian or a clerk writes says on whose word it rests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from fhir_bridge.consent import GUARDIAN_SOURCE, PAPER_SOURCE, attestation_tags
from fhir_bridge.fhir.json import parse
from fhir_bridge.lines.registry import Registry
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ids import INSTITUTION_SYSTEM
from fhir_bridge.model.ingest import ChartRef

AGENT: Final = "agent"
GUARDIAN: Final = "guardian"
PAPER: Final = "paper"
"""Values of ``IndexRow.author`` beside ``institution``; what the last two wrote stands in the institution's list."""

_AGENT_SOURCE: Final = "urn:fhir-bridge:agent"
_DELEGATE_SOURCE: Final = "urn:fhir-bridge:delegate:"


@dataclass(frozen=True, slots=True)
class Signatory:
    """A name to write under.

    Attributes:
        key: Key of the ids that it gives.
        source: ``meta.source`` of what it writes.
        tags: ``meta.tag`` beside the institution's.
    """

    author: str
    key: bytes
    source: str
    tags: tuple[dict[str, str], ...] = ()


def agent_of(who: Requester, home: ChartRef, registry: Registry) -> Signatory:
    """Return the name of a patient's own agent, or of a delegate whom the patient named."""
    source = _AGENT_SOURCE if who.delegate is None else f"{_DELEGATE_SOURCE}{who.delegate}"
    return Signatory(AGENT, registry.agent_key(home), source)


def guardian_of(guardian: str, until: str, home: ChartRef, registry: Registry) -> Signatory:
    """Return the name of a guardian whom the chart's institution attests until an instant with a zone."""
    tags = attestation_tags(home.institution, until)
    return Signatory(GUARDIAN, registry.guardian_key(home, guardian), f"{GUARDIAN_SOURCE}{guardian}", tuple(tags))


def clerk_of(home: ChartRef, registry: Registry) -> Signatory:
    """Return the name of an institution that enters a signed paper; its ids are the institution's own."""
    tags = attestation_tags(home.institution, None)
    return Signatory(PAPER, registry.id_key(home.institution), f"{PAPER_SOURCE}{home.institution}", tuple(tags))


def same_again(author: str, stored: bytes, by: Signatory) -> Signatory:
    """Return the name under which a stored Consent was written, for a new version of it that ``by`` asks for.

    An agent's stays the asker's to sign; what rests on an institution's word says so whoever withdraws it.
    """
    if author == AGENT:
        return by
    meta: dict[str, Any] = parse(stored)["meta"]
    tags = tuple(tag for tag in meta.get("tag", ()) if tag.get("system") != INSTITUTION_SYSTEM)
    return replace(by, author=author, source=str(meta["source"]), tags=tags)
