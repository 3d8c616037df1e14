"""Read FHIR JSON strictly enough that nothing which could change an outcome is passed over.

For compiling consents only. A non-modifier ``extension`` may be ignored (FHIR
R4 extensibility.html); everything else that is not listed is a problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_BASE = frozenset({"id", "extension"})

KNOWN_TOP = _BASE | frozenset(
    [
        "resourceType",
        "meta",
        "language",
        "text",
        "contained",
        "identifier",
        "status",
        "scope",
        "category",
        "patient",
        "dateTime",
        "performer",
        "organization",
        "sourceAttachment",
        "sourceReference",
        "policy",
        "policyRule",
        "verification",
        "provision",
    ]
)
KNOWN_PROVISION = _BASE | frozenset(
    [
        "type",
        "period",
        "actor",
        "action",
        "securityLabel",
        "purpose",
        "class",
        "code",
        "dataPeriod",
        "data",
        "provision",
    ]
)
KNOWN_ACTOR = _BASE | {"role", "reference"}
KNOWN_DATA = _BASE | {"meaning", "reference"}
KNOWN_PERIOD = _BASE | {"start", "end"}


@dataclass(slots=True)
class Problems:
    """What could not be understood, each as a place and a reason.

    ``base_url`` is our own; absolute references below it are ours, others name nobody.
    """

    base_url: str | None = None
    found: list[str] = field(default_factory=list)

    def add(self, place: str, reason: str) -> None:
        """Note one problem."""
        self.found.append(f"{place} {reason}")


def refuse_unknown(item: Mapping[str, Any], known: frozenset[str], place: str, problems: Problems) -> None:
    """Note every element outside ``known``, ``modifierExtension`` and ``implicitRules`` among them."""
    for name in item:
        if name not in known:
            shown = name if name.isascii() and name.strip("_").isalpha() and len(name) < 40 else "an element"
            problems.add(f"{place}.{shown}", "is not understood")


def objects(item: Mapping[str, Any], name: str, place: str, problems: Problems) -> list[dict[str, Any]]:
    """Return a repeating element's objects; anything else in it, or an empty list, is a problem."""
    value = item.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        problems.add(f"{place}.{name}", "is not a list of objects")
        return []
    return value


def codings(concept: object, place: str, problems: Problems) -> list[tuple[str, str]]:
    """Return ``(system, code)`` of a CodeableConcept; one without any, or with a half one, is a problem."""
    listed = concept.get("coding") if isinstance(concept, dict) else None
    if not isinstance(listed, list) or not listed:
        problems.add(place, "has no coding")
        return []
    return [pair for each in listed if (pair := coding(each, place, problems)) is not None]


def coding(value: object, place: str, problems: Problems) -> tuple[str, str] | None:
    """Return ``(system, code)`` of a Coding; both must be there."""
    if isinstance(value, dict):
        system, code = value.get("system"), value.get("code")
        if isinstance(system, str) and isinstance(code, str) and system and code:
            return system, code
    problems.add(place, "needs both system and code")
    return None
