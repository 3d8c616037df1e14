"""Every code that says what a record is, for consents that name codes.

R4's ``Consent.provision.code`` applies to a record in which the code is found. Here that means the elements that
say what the record is, contains or was made for, in the record and in what it contains; codes that only qualify
(status, interpretation, body site) are left out, so that a permit for one test does not open every "final" result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# Element names that hold such a concept wherever R4 has them at the top of a type or one level down.
_NAMING_TEXT = """
    code category type class subType medicationCodeableConcept vaccineCode reasonCode serviceType specialty
    productOrService diagnosisCodeableConcept procedureCodeableConcept itemCodeableConcept
    valueCodeableConcept conclusionCode targetDisease orderDetail procedureCode reason usedCode
    topic modality programCode protocolApplied substance productCodeableConcept complication
    outcomeCodeableConcept scope
"""
_NAMING = frozenset(_NAMING_TEXT.split())
# Parts in which the names above count as well.
_PARTS_TEXT = """
    component item procedure diagnosis ingredient event reaction protocolApplied detail activity series
    supportingInfo condition evidence investigation finding consumedItem
"""
_PARTS = frozenset(_PARTS_TEXT.split())
_CROSS_VERSION = re.compile(r"http://hl7\.org/fhir/\d\.\d/StructureDefinition/extension-")


def codes(resource: dict[str, Any]) -> tuple[str, ...]:
    """Return ``system|code`` of every coding in the elements that say what a valid R4 resource is, each once."""
    return tuple(dict.fromkeys(_codes(resource)))


def _codes(holder: dict[str, Any]) -> Iterator[str]:
    for key, value in holder.items():
        if key == "contained":
            for resource in value:
                yield from _codes(resource)
            continue
        if key == "extension":
            yield from _of_other_releases(value)
            continue
        named, part = key in _NAMING, key in _PARTS
        if not named and not part:
            continue
        for item in value if type(value) is list else (value,):
            if type(item) is not dict:
                continue
            if named:
                yield from _codings(item)
            if part:
                yield from _codes(item)


def _of_other_releases(extensions: list[dict[str, Any]]) -> Iterator[str]:
    """What R4 has no element for is named by the address of HL7's cross-version extension."""
    for each in extensions:
        if _CROSS_VERSION.match(each["url"]):
            yield from _foreign(each["url"].rpartition(".")[2], each)


def _foreign(name: str, extension: dict[str, Any]) -> Iterator[str]:
    if name in _NAMING or f"{name}CodeableConcept" in _NAMING:
        for key in ("valueCodeableConcept", "valueCoding"):
            if key in extension:
                yield from _codings(extension[key])
    for child in extension.get("extension", ()):
        # A CodeableReference is an extension with its concept and its reference.
        if child["url"] == "concept":
            yield from _foreign(name, child)
        elif name in _PARTS:
            yield from _foreign(child["url"], child)


def _codings(concept: dict[str, Any]) -> Iterator[str]:
    for coding in concept.get("coding", (concept,)):
        code = coding.get("code")
        if type(code) is str:
            yield f"{coding.get('system', '')}|{code}"
