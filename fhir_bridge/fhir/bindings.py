"""Check codes against value sets whose binding is required.

For the validator. Only sets that can be listed are here (FHIR R4 terminologies.html#required); BCP 13 media types,
SNOMED CT and LOINC answer lists are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fhir_bridge.fhir.run import Place, Run
from fhir_bridge.fhir.tables import Definitions, Element

Check = Callable[[Any, Place, Run], None]
Codes = Mapping[str, frozenset[str]]

# A longer list helps nobody; the value set's url does.
_LISTED = 30


def binding_check(element: Element, type_name: str, definitions: Definitions) -> Check | None:
    """Return the check of a required binding for a value of ``type_name``, or None without one."""
    if element.codes is None:
        return None
    codes = definitions.codes[element.codes]
    wrong = _allowed(element.codes, codes)
    match type_name:
        case "code" | "string" | "uri":
            return _bare(frozenset().union(*codes.values()), wrong)
        case "Coding":
            return _coding(codes, wrong)
        case "CodeableConcept":
            return _concept(codes, wrong)
    return None


def _bare(codes: frozenset[str], wrong: str) -> Check:
    def check(value: Any, place: Place, run: Run) -> None:
        if value not in codes:
            run.error("code-invalid", wrong, place)

    return check


def _coding(codes: Codes, wrong: str) -> Check:
    def check(value: Any, place: Place, run: Run) -> None:
        if "code" not in value or _is_in(value, codes):
            return
        # HL7's own STU3 examples leave the system out; the code alone still says which one is meant.
        meant = "system" not in value and any(value["code"] in found for found in codes.values())
        refuse = run.flag if meant else run.error
        refuse("code-invalid", wrong, (place, "code"))

    return check


def _concept(codes: Codes, wrong: str) -> Check:
    def check(value: Any, place: Place, run: Run) -> None:
        codings = value.get("coding", ())
        if any(_is_in(c, codes) for c in codings):
            return
        # An extension (data-absent-reason) may say why there is no code.
        if codings or "extension" not in value:
            run.error("code-invalid", wrong, place)

    return check


def _is_in(coding: dict[str, Any], codes: Codes) -> bool:
    return coding.get("code") in codes.get(coding.get("system", ""), ())


def _allowed(url: str, codes: Codes) -> str:
    every = sorted(code for found in codes.values() for code in found)
    if len(every) > _LISTED:
        return f"must be a code of {url}"
    systems = " or ".join(sorted(codes))
    return f"must be one of {', '.join(every)} of {systems}"
