"""Read an answer as a clinician would: what, when, how much, from where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fhir_bridge.model.ids import INSTITUTION_SYSTEM

LOINC = "http://loinc.org"
GLUCOSE = frozenset({"2339-0", "2345-7"})
ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"

_DATES = (
    "effectiveDateTime", "effectivePeriod", "period", "onsetDateTime", "performedPeriod", "performedDateTime",
    "occurrenceDateTime", "authoredOn", "started", "billablePeriod", "issued", "recordedDate", "date", "created",
)  # fmt: skip

_CLINICAL = frozenset({"Condition", "Encounter", "Immunization", "MedicationRequest", "Observation"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One resource of an answer."""

    resource: Mapping[str, Any]

    @property
    def type(self) -> str:
        """Resource type."""
        return str(self.resource["resourceType"])

    @property
    def place(self) -> str:
        """``Type/id``."""
        return f"{self.type}/{self.resource['id']}"

    @property
    def source(self) -> str:
        """Name of the institution it came from, or ``-`` for what the bridge serves itself."""
        tags = self.resource.get("meta", {}).get("tag", [])
        return next((str(tag["code"]) for tag in tags if tag.get("system") == INSTITUTION_SYSTEM), "-")

    @property
    def labels(self) -> frozenset[str]:
        """Sensitivity labels of v3-ActCode."""
        found = self.resource.get("meta", {}).get("security", [])
        return frozenset(str(label["code"]) for label in found if label.get("system") == ACT_CODE)

    @property
    def date(self) -> str:
        """When it happened, to the day where known, or an empty text."""
        for name in _DATES:
            value = self.resource.get(name)
            if isinstance(value, Mapping):
                value = value.get("start")
            if isinstance(value, str):
                return value[:10]
        return ""

    @property
    def words(self) -> str:
        """What it is about, as the record's own text says."""
        for name in ("code", "medicationCodeableConcept", "vaccineCode", "type", "category"):
            value = self.resource.get(name)
            for concept in value if isinstance(value, list) else [value]:
                text = _text(concept)
                if text:
                    return text
        return ""

    @property
    def quantity(self) -> str:
        """Value with unit, when it has one."""
        value = self.resource.get("valueQuantity", {})
        return f"{value['value']} {value.get('unit') or value.get('code', '')}" if "value" in value else ""

    def is_coded(self, system: str, codes: frozenset[str]) -> bool:
        """Tell whether ``code`` holds one of these codes."""
        codings = self.resource.get("code", {}).get("coding", []) if self.type == "Observation" else []
        return any(coding.get("system") == system and coding.get("code") in codes for coding in codings)


def entries(bundle: Mapping[str, Any]) -> list[Entry]:
    """Return the records of a bundle, in its order."""
    return [Entry(item["resource"]) for item in bundle.get("entry", [])]


def by_source(found: Sequence[Entry]) -> Counter[str]:
    """Count records by the institution they came from."""
    return Counter(entry.source for entry in found if entry.source != "-")


def glucose(found: Sequence[Entry]) -> list[Entry]:
    """Return glucose measurements, in order."""
    return [entry for entry in found if entry.is_coded(LOINC, GLUCOSE)]


def liveliest(found: Sequence[Entry], length: int) -> Sequence[Entry]:
    """Return the stretch of the clinical timeline in which its sources alternate most."""
    dated = [entry for entry in found if entry.type in _CLINICAL and entry.date and entry.words]
    turns = [a.source != b.source for a, b in pairwise(dated)]
    starts = range(max(len(dated) - length, 0) + 1)
    best = max(starts, key=lambda start: sum(turns[start : start + length - 1]))
    return dated[best : best + length]


def _text(concept: Any) -> str:
    if not isinstance(concept, Mapping):
        return ""
    displays = [coding.get("display") for coding in concept.get("coding", [])]
    return str(concept.get("text") or next((d for d in displays if d), ""))
