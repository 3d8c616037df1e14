"""Every code that says what a record is, for consents that name codes.

R4's ``Consent.provision.code`` applies to a record in which the code is found. Here that means the elements that
say what the record is, contains or was made for, in the record and in what it contains; codes that only qualify
(status, interpretation, body site) are left out, so that a permit for one test does not open every "final" result.
"""

from __future__ import annotations

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
    supportingInfo condition evidence investigation finding
"""
_PARTS = frozenset(_PARTS_TEXT.split())


def codes(resource: dict[str, Any]) -> tuple[str, ...]:
    """Return ``system|code`` of every coding in the elements that say what a valid R4 resource is, each once."""
    return tuple(dict.fromkeys(_codes(resource)))


def _codes(holder: dict[str, Any]) -> Iterator[str]:
    for key, value in holder.items():
        if key == "contained":
            for resource in value:
                yield from _codes(resource)
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


def _codings(concept: dict[str, Any]) -> Iterator[str]:
    for coding in concept.get("coding", (concept,)):
        code = coding.get("code")
        if type(code) is str:
            yield f"{coding.get('system', '')}|{code}"
