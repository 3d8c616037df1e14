"""Messages that are not FHIR: read by a source format, then judged like the entries of a batch.

Every part (a row) stands for itself: one that cannot be read, or whose resource is not valid, is refused alone, with
the place and the column in the sender's own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fhir_bridge.errors import Issue, RecordRefused
from fhir_bridge.fhir.profiles import Profiles
from fhir_bridge.fhir.validate import is_refused
from fhir_bridge.intake.limits import Limits
from fhir_bridge.intake.releases import validator_of
from fhir_bridge.model.ingest import FhirVersion, Interaction, Received, Reception, Refusal, Validated
from fhir_bridge.ports.formats import Drawn, SourceFormat

_FOREIGN = frozenset({"text/csv", "text/tab-separated-values"})
_NO_FORMAT = Issue(
    "error", "not-supported", "the rule pack of this institution describes no CSV: add 'csv' to its source.yaml"
)
_NOT_R4 = Issue("error", "not-supported", "CSV becomes R4: register the institution with --fhir-version R4")


def format_of(content_type: str, formats: Sequence[SourceFormat]) -> SourceFormat | None:
    """Return the format that reads messages of this content type; None for FHIR.

    Raises:
        RecordRefused: It is no FHIR, and nothing of the institution's reads it.
    """
    for each in formats:
        if each.takes(content_type):
            return each
    if content_type.partition(";")[0].strip().lower() in _FOREIGN:
        raise RecordRefused([_NO_FORMAT])
    return None


def receive_foreign(received: Received, source: SourceFormat, limits: Limits, profiles: Profiles | None) -> Reception:
    """Read and judge a message of a source format."""
    if received.interaction is not None:
        issue = Issue("error", "not-supported", "send CSV to the base of the service, not to a type or a record")
        return Reception("single", refused=(issue,))
    if received.fhir_version is not FhirVersion.R4:
        return Reception("single", refused=(_NOT_R4,))
    if len(received.body) > limits.max_bytes:
        issue = Issue("error", "too-long", f"a message may hold at most {limits.max_bytes} bytes")
        return Reception("single", refused=(issue,))
    try:
        parts = source.read(received.content, received.content_type, limits.max_entries)
    except RecordRefused as refusal:
        return Reception("single", refused=refusal.issues)
    return Reception("batch", tuple(judged(part, profiles) for part in parts))


def judged(part: Drawn, profiles: Profiles | None) -> Validated | Refusal:
    """Return a part as an entry: validated, or refused with every reason."""
    if part.resource is None:
        return Refusal(part.index, part.issues)
    found = validator_of(FhirVersion.R4, profiles)(part.resource)
    issues = tuple(_told(part, issue) for issue in found)
    if is_refused(list(issues)):
        return Refusal(part.index, issues)
    asked = Interaction("PUT", part.resource["resourceType"], part.resource["id"])
    return Validated(part.index, asked, None, part.original, part.resource, (*part.issues, *issues))


def _told(part: Drawn, issue: Issue) -> Issue:
    """Say of a finding where it stood for the sender: the row, and the column that the element was made of."""
    source = part.source_of(issue.expression)
    words = part.place if source is None else f"{part.place}, {source}"
    return replace(issue, diagnostics=f"{words}: {issue.diagnostics}")
