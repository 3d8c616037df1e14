"""The lines as the entrance sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fhir_bridge.lines.answer import AnswerLine
from fhir_bridge.lines.audit import AuditLine
from fhir_bridge.lines.claims import Claims
from fhir_bridge.lines.decision_receipts import DecisionReceipts
from fhir_bridge.lines.delegation import DelegationLine
from fhir_bridge.lines.emergency import EmergencyLine
from fhir_bridge.lines.guardianship import GuardianshipLine
from fhir_bridge.lines.importing import ImportLine
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.notary import Notary
from fhir_bridge.lines.translating import TranslateLine
from fhir_bridge.lines.write import WriteLine
from fhir_bridge.ports.access import Issuer, TokenVerifier
from fhir_bridge.ports.ambient import Clock, Randomness


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may call; ``base_url`` is without a trailing slash and without ``/fhir``.

    ``value_sets`` names those in force, as ``url|version``.
    """

    base_url: str
    ingest: IngestLine
    write: WriteLine
    imports: ImportLine
    claims: Claims
    answer: AnswerLine
    translate: TranslateLine
    decision_receipts: DecisionReceipts
    emergency: EmergencyLine
    delegation: DelegationLine
    guardianship: GuardianshipLine
    notary: Notary
    issuer: Issuer
    verifier: TokenVerifier
    clock: Clock
    randomness: Randomness
    audit: AuditLine
    max_body_bytes: int
    max_body_s: int
    readiness: Callable[[], Awaitable[dict[str, bool]]]
    value_sets: Callable[[], Sequence[str]]
