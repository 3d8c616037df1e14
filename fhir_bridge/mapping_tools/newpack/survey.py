"""Count what a sample feed is made of: types, code systems, units, identifier systems, offsets, bases of URLs.

The survey is taken of the records as the rules of ``core`` leave them, in R4, so that what is counted under a path is
what a new rule will find there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fhir_bridge.errors import RecordRefused
from fhir_bridge.fhir.code_systems import is_standard
from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.tables import r4
from fhir_bridge.fhir.validate import is_refused, validate_r4, validate_stu3
from fhir_bridge.mapping_tools.newpack.walking import Found, walk
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import Ruleset, preview

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?P<offset>Z|[+-][0-9]{2}:[0-9]{2})?")
_BASE = re.compile(r"(?P<base>https?://[^\s?#]+?)/[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}(?:/_history/[^/]+)?")
_R5_KEYS = {"Encounter": "actualPeriod", "Condition": "participant", "MedicationRequest": "medication"}
_JUDGED_A_TYPE = 50


@dataclass(slots=True)
class CodeSeen:
    """One local code: how often, under which words, at which ``Type.path``."""

    count: int = 0
    displays: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)

    @property
    def display(self) -> str:
        """The words that stand beside it; of a concept's free text only what is the same each time."""
        if self.displays:
            return max(self.displays, key=lambda words: (self.displays[words], words))
        is_label = len(self.texts) == 1 and self.texts.total() > 1
        return next(iter(self.texts)) if is_label else ""


@dataclass(slots=True)
class Survey:
    """What was seen.

    Attributes:
        codes: System → code → what was seen of it; the empty system is a coding without one.
        identifiers: System → number of identifiers.
        identified: Resource type → number of identifiers at its top.
        units: Text of a unit that has no code → number of quantities.
        coded_units: UCUM codes that the sender states itself.
        quantities: ``Type``, path → number of quantities whose unit has no code.
        offsets: Offset of times → number; ``none`` for a time without one.
        bases: Base of absolute URLs that name records → number.
        refused: Why records could not be surveyed → number.
    """

    release: FhirVersion = FhirVersion.R4
    messages: int = 0
    types: Counter[str] = field(default_factory=Counter)
    codes: dict[str, dict[str, CodeSeen]] = field(default_factory=dict)
    identifiers: Counter[str] = field(default_factory=Counter)
    identified: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)
    coded_units: Counter[str] = field(default_factory=Counter)
    quantities: Counter[tuple[str, str]] = field(default_factory=Counter)
    offsets: Counter[str] = field(default_factory=Counter)
    bases: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def own_systems(self) -> list[str]:
        """Systems that are no standard's, the most used first."""
        found = [system for system in self.codes if not is_standard(system)]
        return sorted(found, key=lambda system: (-sum(c.count for c in self.codes[system].values()), system))


def resources_in(message: bytes) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the resources of a message with their ``fullUrl``.

    Raises:
        RecordRefused: It is not strict JSON.
    """
    body = parse(message)
    if body.get("resourceType") != "Bundle":
        yield body, ""
        return
    entries = body.get("entry")
    for entry in entries if type(entries) is list else ():
        if type(entry) is dict and type(entry.get("resource")) is dict:
            yield entry["resource"], str(entry.get("fullUrl") or "")


def release_of(resources: Iterable[dict[str, Any]]) -> FhirVersion:
    """Return the release that the resources have fewest faults in; R4 where it makes no difference."""
    judged: Counter[str] = Counter()
    faults: Counter[FhirVersion] = Counter()
    for resource in resources:
        name = str(resource.get("resourceType"))
        if judged[name] >= _JUDGED_A_TYPE:
            continue
        judged[name] += 1
        if _is_r5(resource, name):
            return FhirVersion.R5
        faults[FhirVersion.R4] += is_refused(validate_r4(resource))
        faults[FhirVersion.STU3] += is_refused(validate_stu3(resource))
    return FhirVersion.STU3 if faults[FhirVersion.STU3] < faults[FhirVersion.R4] else FhirVersion.R4


def _is_r5(resource: dict[str, Any], name: str) -> bool:
    found = resource.get(_R5_KEYS.get(name, ""))
    return found is not None or (name == "Encounter" and type(resource.get("class")) is list)


def take(survey: Survey, resource: dict[str, Any], full_url: str, core: Ruleset) -> dict[str, Any] | None:
    """Count one resource; return it in R4, or None if the rules of ``core`` cannot bring it there."""
    _count_base(survey, full_url)
    try:
        body = preview(resource, survey.release, core).body
    except RecordRefused as refusal:
        survey.refused[f"{resource.get('resourceType')}: {refusal.issues[0].diagnostics}"] += 1
        return None
    survey.types[body["resourceType"]] += 1
    for found in walk(body, r4()):
        _count(survey, found)
    return body


def _count(survey: Survey, found: Found) -> None:
    value = found.value
    match found.type_name:
        case "Coding" if type(value) is dict and type(value.get("code")) is str and not _is_aside(found.path):
            _count_code(survey, found)
        case "CodeableConcept" if (
            type(value) is dict and type(value.get("text")) is str and not _is_aside(found.path)
        ):
            _count_text(survey, value)
        case "Identifier" if type(value) is dict and type(value.get("system")) is str:
            survey.identifiers[value["system"]] += 1
            survey.identified[found.owner] += found.path == "identifier"
        case "dateTime" | "instant" if type(value) is str:
            match = _TIME.fullmatch(value)
            if match is not None:
                survey.offsets[match["offset"] or "none"] += 1
        case "Reference" if type(value) is dict and type(value.get("reference")) is str:
            _count_base(survey, value["reference"])
        case _ if found.type_name in _QUANTITIES and type(value) is dict:
            _count_unit(survey, found)


_QUANTITIES = frozenset({"Quantity", "Age", "Count", "Distance", "Duration", "SimpleQuantity"})


def _is_aside(path: str) -> bool:
    """Tags and what stands in extensions are no rule's business from the start."""
    return path.startswith("meta") or "xtension" in path


def _count_code(survey: Survey, found: Found) -> None:
    value = found.value
    seen = survey.codes.setdefault(str(value.get("system") or ""), {}).setdefault(value["code"], CodeSeen())
    seen.count += 1
    seen.places[f"{found.owner}.{found.path.removesuffix('.coding')}"] += 1
    display = value.get("display")
    if type(display) is str:
        seen.displays[display] += 1


def _count_text(survey: Survey, concept: dict[str, Any]) -> None:
    for coding in concept.get("coding", ()):
        if type(coding) is dict and type(coding.get("code")) is str and "display" not in coding:
            codes = survey.codes.setdefault(str(coding.get("system") or ""), {})
            codes.setdefault(coding["code"], CodeSeen()).texts[concept["text"]] += 1


def _count_unit(survey: Survey, found: Found) -> None:
    value = found.value
    if type(value.get("code")) is str:
        survey.coded_units[value["code"]] += 1
        return
    unit = value.get("unit")
    if type(unit) is not str or _is_aside(found.path):
        return
    survey.units[unit] += 1
    if not found.key.endswith("Quantity"):
        return
    survey.quantities[found.owner, found.path] += 1
    code = found.holder.get("code")
    for coding in code.get("coding", ()) if type(code) is dict else ():
        if type(coding) is dict and type(coding.get("code")) is str:
            seen = survey.codes.setdefault(str(coding.get("system") or ""), {}).setdefault(coding["code"], CodeSeen())
            seen.units[unit] += 1


def _count_base(survey: Survey, url: str) -> None:
    match = _BASE.fullmatch(url)
    if match is not None:
        survey.bases[match["base"]] += 1
