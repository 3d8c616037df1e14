"""Give a value the datatype that R4 has for its element, where nothing is lost or what is can stand beside it.

For ``fit-to-r4``. What no cast fits has no home in the element and is kept as an extension; nothing is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from fhir_bridge.fhir.primitives import TESTS
from fhir_bridge.fhir.tables import Definitions, Element
from fhir_bridge.normalize.draft import copied
from fhir_bridge.normalize.functions.cross_version import keys_of


@dataclass(frozen=True, slots=True)
class Cast:
    """A value in R4's datatype; ``is_whole`` tells that it says all that the value before it said."""

    value: Any
    is_whole: bool = True


_URIS: Final = "urn:ietf:rfc:3986"
"""System of URIs that stand as a code or an identifier (R4 identifier-registry.html)."""

Part = tuple[str, Any, str | None]
"""Datatype, value, and where it stands in what it is a part of; None if it was put together anew."""

_QUANTITIES: Final = frozenset(
    {"Quantity", "SimpleQuantity", "MoneyQuantity", "Age", "Count", "Distance", "Duration"}
)


def parts_of(kind: str, value: Any) -> list[Part]:
    """Split a CodeableReference into its concept and its reference; anything else is one part."""
    if kind != "CodeableReference" or type(value) is not dict:
        return [(kind, value, "")]
    beside = {key: value[key] for key in ("id", "extension") if key in value}
    parts: list[Part] = []
    for key, part_kind in (("concept", "CodeableConcept"), ("reference", "Reference")):
        if key in value:
            part: Any = value[key]
            where: str | None = f".{key}"
            if beside and not parts:
                held = [*beside.get("extension", ()), *part.get("extension", ())]
                rest = {k: v for k, v in part.items() if k != "extension"}
                part, where = copied(({"extension": held} if held else {}) | rest), None
            parts.append((part_kind, part, where))
    return parts or [(kind, value, "")]


def cast(value: Any, old: str, new: str, element: Element | None, release: Definitions) -> Cast | None:
    """Return ``value`` of the datatype ``old`` as one of ``new``, or None where that cannot be.

    Args:
        element: The element as the sender's release has it; its binding names the system of a bare code.
    """
    if old == new:
        return Cast(value)
    if "." in new and type(value) is dict:
        # A part of R4 takes another part, or a datatype, that has elements of the same names.
        return Cast(value) if "." in old or value.keys() & keys_of("R4", new).keys() - {"id", "extension"} else None
    if old in _QUANTITIES and new in _QUANTITIES:
        return Cast(value)
    made = _CASTS.get((old, new))
    if made is not None:
        return made(value)
    if (old, new) in (("code", "CodeableConcept"), ("code", "Coding")) and type(value) is str:
        coding = _coding(value, element, release)
        return Cast(coding if new == "Coding" else {"coding": [coding]})
    test = TESTS.get(new)
    if test is None or old not in TESTS:
        return None
    if new == "date" and type(value) is str and "T" in value:
        return Cast(value[:10], is_whole=False)
    return Cast(value) if test(value) is None else None


def _coding(code: str, element: Element | None, release: Definitions) -> dict[str, Any]:
    systems = release.codes.get(element.codes, {}) if element is not None and element.codes else {}
    system = next((name for name, codes in systems.items() if code in codes), None)
    return {"system": system, "code": code} if system else {"code": code}


def _concept_to_coding(value: Any) -> Cast | None:
    codings = value.get("coding")
    return Cast(codings[0], is_whole=value == {"coding": codings[:1]}) if codings else None


def _concept_to_code(value: Any) -> Cast | None:
    codings = value.get("coding") or [{}]
    if "code" not in codings[0]:
        return None
    # The binding names the system; a display or a second coding would be lost.
    return Cast(codings[0]["code"], is_whole=set(value) == {"coding"} and set().union(*codings) <= {"system", "code"})


def _concept_to_text(value: Any) -> Cast | None:
    text = value.get("text") or next((c["display"] for c in value.get("coding", ()) if "display" in c), None)
    return None if text is None else Cast(text, is_whole=value == {"text": text})


def _identifier_to_text(value: Any) -> Cast | None:
    return Cast(value["value"], is_whole=set(value) == {"value"}) if "value" in value else None


def _reference_to_text(value: Any) -> Cast | None:
    return Cast(value["display"], is_whole=set(value) == {"display"}) if "display" in value else None


def _reference_to_canonical(value: Any) -> Cast | None:
    return Cast(value["reference"]) if set(value) == {"reference"} else None


def _whole_number(value: Any) -> Cast | None:
    number = int(value)
    return Cast(number) if 0 <= number < 2**31 else None


def _number_to_quantity(value: Any) -> Cast | None:
    return Cast({"value": value}) if type(value) is int or isinstance(value, Decimal) else None


_CASTS: Final[Mapping[tuple[str, str], Callable[[Any], Cast | None]]] = {
    ("string", "CodeableConcept"): lambda value: Cast({"text": value}),
    ("uri", "CodeableConcept"): lambda value: Cast({"coding": [{"system": _URIS, "code": value}]}),
    ("Coding", "CodeableConcept"): lambda value: Cast({"coding": [value]}),
    ("CodeableConcept", "Coding"): _concept_to_coding,
    ("CodeableConcept", "code"): _concept_to_code,
    ("CodeableConcept", "string"): _concept_to_text,
    ("Identifier", "string"): _identifier_to_text,
    ("Reference", "string"): _reference_to_text,
    ("Reference", "canonical"): _reference_to_canonical,
    ("Reference", "uri"): _reference_to_canonical,
    ("canonical", "Reference"): lambda value: Cast({"reference": value}),
    ("uri", "Reference"): lambda value: Cast({"identifier": {"system": _URIS, "value": value}}),
    ("Identifier", "Reference"): lambda value: Cast({"identifier": value}),
    ("string", "Annotation"): lambda value: Cast({"text": value}),
    ("string", "Expression"): lambda value: None,
    ("integer64", "unsignedInt"): _whole_number,
    ("Quantity", "decimal"): lambda value: (
        Cast(value["value"], set(value) == {"value"}) if "value" in value else None
    ),
    ("decimal", "Quantity"): _number_to_quantity,
}
