"""Check that a document holds what its Composition refers to.

For the validator. FHIR R4 documents.html lists the references of the Composition whose targets "SHALL be included in
the bundle", and bundle.html#references says how a reference finds its entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhir_bridge.fhir.reference_text import ParsedReference, ReferenceKind, parse_reference
from fhir_bridge.fhir.run import Place, Run

_MISSING = "names no entry of this document, which must hold what its Composition refers to"


def check_document(bundle: dict[str, Any], place: Place, run: Run) -> None:
    """Report each listed reference of the Composition, which is the first entry, that finds no entry.

    One that finds several is "ambiguous", and not judged.
    """
    entries = bundle.get("entry", ())
    composition = entries[0].get("resource") if entries else None
    if type(composition) is not dict or composition.get("resourceType") != "Composition":
        return
    versions: dict[str, set[Any]] = {}
    for entry in entries:
        version = entry.get("resource", {}).get("meta", {}).get("versionId")
        versions.setdefault(entry.get("fullUrl", ""), set()).add(version)
    base = parse_reference(entries[0].get("fullUrl", "")).base
    start: Place = (((place, "entry"), 0), "resource")
    for text, where in _references(composition, start):
        parsed = parse_reference(text)
        if parsed.kind in (ReferenceKind.CONTAINED, ReferenceKind.CONDITIONAL):
            continue
        found = versions.get(_address(parsed, base, text))
        if found is None or (parsed.version is not None and parsed.version not in found):
            run.error("not-found", _MISSING, where)


def _address(parsed: ParsedReference, base: str | None, text: str) -> str:
    """Return the ``fullUrl`` that a reference asks for; a relative one is relative to that of its own entry."""
    if parsed.kind is ReferenceKind.RELATIVE:
        return f"{base}/{parsed.type}/{parsed.id}"
    return f"{parsed.base}/{parsed.type}/{parsed.id}" if parsed.kind is ReferenceKind.ABSOLUTE else text


def _references(composition: dict[str, Any], place: Place) -> Iterator[tuple[str, Place]]:
    """Yield the text of each reference of the list in documents.html with its place."""
    for holder, where in _holders(composition, place):
        for name in ("subject", "encounter", "author", "party", "custodian", "detail", "focus", "entry"):
            value = holder.get(name)
            at: Place = (where, name)
            listed = (
                [(each, (at, index)) for index, each in enumerate(value)] if type(value) is list else [(value, at)]
            )
            for reference, place_of_it in listed:
                text = reference.get("reference") if type(reference) is dict else None
                if type(text) is str:
                    yield text, (place_of_it, "reference")


def _holders(composition: dict[str, Any], place: Place) -> Iterator[tuple[dict[str, Any], Place]]:
    yield composition, place
    for name in ("attester", "event"):
        for index, part in enumerate(composition.get(name, ())):
            yield part, ((place, name), index)
    waiting = [(composition, place)]
    while waiting:
        holder, at = waiting.pop()
        for index, section in enumerate(holder.get("section", ())):
            where: Place = ((at, "section"), index)
            yield section, where
            waiting.append((section, where))
