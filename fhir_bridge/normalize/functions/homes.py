"""Where in R4 the values of an element can stand, and what is kept beside them. For ``fit-to-r4``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fhir_bridge.fhir.tables import Element
from fhir_bridge.normalize.functions.cross_version import stem_of

Home = tuple[str, Element, str]
"""Key, element and datatype where a value can stand in R4."""


@dataclass(slots=True)
class Placing:
    """Where the values of one element go: homes in R4, each with what stands beside it and where it was, or an
    extension."""

    placed: dict[str, list[tuple[Any, Any, str]]] = field(default_factory=dict)
    extensions: list[dict[str, Any]] = field(default_factory=list)

    def is_full(self, home: Home, homes: list[Home]) -> bool:
        """Tell that a single element has its value, or another type of its choice has."""
        key, element, _kind = home
        if element.is_choice and any(k in self.placed for k, e, _t in homes if e is element and k != key):
            return True
        return key in self.placed and not element.many


def path_of(element: Element | None, path: str) -> str:
    """Return the path of an element without the type that a choice has in its key."""
    return path if element is None else f"{path.rpartition('.')[0]}.{stem_of(element)}"


def homes_of(key: str, origin: tuple[Element, str] | None, known: Mapping[str, tuple[Element, str]]) -> list[Home]:
    """Return the keys of R4 under which a value may stand, best first."""
    kind = origin[1] if origin else ""
    homes = [(key, *known[key])] if key in known else []
    if not homes:
        stem = stem_of(origin[0]) if origin else key
        choice = [(k, e, t) for k, (e, t) in known.items() if e.is_choice and stem_of(e) in (key, stem)]
        homes = sorted(choice, key=lambda home: home[2] != kind)
        if not homes and stem != key:
            # reasonCodeableConcept → reasonCode; valueQuantity → value.
            others = (stem, stem + "Code") if kind == "CodeableConcept" else (stem,)
            homes = [(k, *known[k]) for k in others if k in known]
    if kind == "CodeableReference":
        names = [key + end for end in ("Code", "CodeableConcept", "Reference", "Detail")]
        homes += [
            (k, *known[k]) for k in names if k in known and (homes == [] or k.endswith(("Detail", "Reference")))
        ]
        if not any(t == "CodeableConcept" for _k, _e, t in homes):
            homes += [(k, *known[k]) for k in names if k in known and known[k][1] == "CodeableConcept"]
    return list({home[0]: home for home in homes}.values())


def codes_of(value: Any) -> list[str]:
    """Return the code, or those of a concept."""
    if type(value) is str:
        return [value]
    codings = value.get("coding", ()) if type(value) is dict else ()
    return [c["code"] for c in codings if "code" in c]


def with_note(value: Any, sibling: Any, note: dict[str, Any]) -> tuple[Any, Any]:
    """Keep beside a value, as an extension, what it says less than the one before it."""
    if type(value) is dict:
        return {**value, "extension": [*value.get("extension", ()), note]}, sibling
    held = sibling or {}
    return value, {**held, "extension": [*held.get("extension", ()), note]}


def extend(holder: dict[str, Any], made: list[dict[str, Any]]) -> None:
    """Add extensions where FHIR puts them in every example: before the elements they add to."""
    if not made:
        return
    held = holder.pop("extension", [])
    first: dict[str, Any] = {k: holder.pop(k) for k in ("resourceType", "id", "meta") if k in holder}
    rest = dict(holder)
    holder.clear()
    holder.update({**first, "extension": [*held, *made], **rest})
