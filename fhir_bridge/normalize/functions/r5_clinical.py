"""Conversions from R5 of clinical records in which one element becomes several, or several one.

Called by rules of ``core/r5``; each names the page of R4 that it follows. What they leave in its place, because R4
cannot say it, becomes an extension in the stage after them.
"""

from __future__ import annotations

from typing import Any

from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.functions.casts import parts_of
from fhir_bridge.normalize.functions.cross_version import url_of
from fhir_bridge.normalize.functions.datatypes import IMPLIED
from fhir_bridge.normalize.functions.editing import codes_of_concept, listed, on_body, swap, without

# R5 participant functions (provenance-participant-type) that R4 has as elements: who wrote it down, who says so.
_RECORDS = frozenset({"author", "enterer"})


_ASSERTS = frozenset({"informant"})


def _participants(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 condition.html, allergyintolerance.html: ``recorder`` and ``asserter``."""
    found: dict[str, Any] = {}
    left = []
    for each in listed(body.get("participant")):
        codes = codes_of_concept(each.get("function"))
        key = "recorder" if codes & _RECORDS else "asserter" if codes & _ASSERTS else None
        if key is None or key in found or key in body or set(each) != {"function", "actor"} or len(codes) != 1:
            left.append(each)
        else:
            found[key] = each["actor"]
    if found:
        swap(draft, by, body, place, **found, participant=left)


def _evidence(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 condition.html: ``evidence.code`` and ``evidence.detail``."""
    held = listed(body.get("evidence"))
    if not any("concept" in each or "reference" in each for each in held):
        return
    made = []
    for each in held:
        part = {k: v for k, v in each.items() if k not in ("concept", "reference")}
        part |= {"code": [each["concept"]]} if "concept" in each else {}
        part |= {"detail": [each["reference"]]} if "reference" in each else {}
        made.append(part)
    swap(draft, by, body, place, evidence=made)


def _used_reasons(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 encounter.html: ``reasonCode`` and ``reasonReference``; what a reason is used as stands beside each."""
    concepts: list[Any] = []
    references: list[Any] = []
    left = []
    for reason in listed(body.get("reason")):
        values = listed(reason.get("value"))
        if not values:
            left.append(reason)
        notes = [
            {"url": url_of("R5", "Encounter.reason.use"), "valueCodeableConcept": u} for u in reason.get("use", ())
        ]
        notes += reason.get("extension", ())
        for value in values:
            for kind, each, _ in parts_of("CodeableReference", value):
                held = [*each.get("extension", ()), *notes]
                made = {**({"extension": held} if held else {}), **without(each, "extension")}
                (references if kind == "Reference" else concepts).append(made)
    if concepts or references:
        swap(draft, by, body, place, reasonCode=concepts, reasonReference=references, reason=left)


def _comment(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 appointment.html: ``comment`` is a text; a note that is more than a text stays."""
    notes = listed(body.get("note"))
    if len(notes) == 1 and set(notes[0]) == {"text"} and "comment" not in body:
        swap(draft, by, body, place, comment=notes[0]["text"], note=None)


def _instructions(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 servicerequest.html: ``patientInstruction`` is one text."""
    held = body.get("patientInstruction")
    if type(held) is list and len(held) == 1 and set(held[0]) == {"instructionMarkdown"}:
        swap(draft, by, body, place, patientInstruction=held[0]["instructionMarkdown"])


def _reported(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 medicationrequest.html: ``reported[x]`` is whether, or by whom."""
    sources = listed(body.get("informationSource"))
    if sources and body.get("reported") is not False:
        first, *more = sources
        draft.changed(IMPLIED, f"{place}.reported", body.pop("reported", None), None)
        swap(draft, by, body, place, reportedReference=first, informationSource=more)


def _included_structure(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 bodystructure.html: one ``location``; side and qualifiers are its qualifiers."""
    first, *more = listed(body.get("includedStructure")) or [{}]
    if more or "structure" not in first or not set(first) <= {"structure", "laterality", "qualifier"}:
        return
    qualifiers = [*listed(first.get("laterality")), *listed(first.get("qualifier"))]
    swap(draft, by, body, place, location=first["structure"], locationQualifier=qualifiers, includedStructure=None)


def _schedules(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 nutritionorder.html: ``schedule`` is timings; what is taken as needed stays for an extension."""
    for part in ("oralDiet", "supplement"):
        held = body.get(part)
        for index, each in enumerate(listed(held)):
            schedule, where = each.get("schedule"), f"{place}.{part}[{index}]"
            if type(schedule) is dict and set(schedule) == {"timing"}:
                where = where if type(held) is list else f"{place}.{part}"
                swap(draft, by, each, where, schedule=schedule["timing"])
    for index, each in enumerate(listed(body.get("enteralFormula", {}).get("administration"))):
        schedule, where = each.get("schedule"), f"{place}.enteralFormula.administration[{index}]"
        if type(schedule) is dict and set(schedule) == {"timing"} and len(schedule["timing"]) == 1:
            swap(draft, by, each, where, schedule=schedule["timing"][0])


def _membership(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 group.html: ``actual`` is true for listed members, false for a description of them."""
    known = {"enumerated": True, "definitional": False}
    if body.get("membership") in known and "actual" not in body:
        body["actual"] = known[body["membership"]]
        draft.changed(by, f"{place}.actual", None, body["actual"], sources={"": f"{place}.membership"})
        draft.changed(by, f"{place}.membership", body.pop("membership"), None)


# LOINC's answers to "which coordinate system": R4 counts from 0 or from 1 (molecularsequence.html).
_COUNTED_FROM = {"LA30100-4": 0, "LA30101-2": 0, "LA30102-0": 1}


def _coordinate_system(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 has one coordinate system for the whole; the parts keep theirs."""
    systems = [codes_of_concept(each.get("coordinateSystem")) for each in listed(body.get("relative"))]
    found = {_COUNTED_FROM.get(code) for codes in systems for code in codes}
    if len(found) == 1 and None not in found and "coordinateSystem" not in body:
        swap(draft, by, body, place, coordinateSystem=found.pop())


def _instance(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 substance.html: ``instance`` holds what R5 says of the package itself."""
    is_instance = body.get("instance")
    if type(is_instance) is not bool:
        return
    parts: dict[str, Any] = {key: body[key] for key in ("expiry", "quantity") if key in body} if is_instance else {}
    if is_instance and not parts:
        parts = {"extension": [{"url": url_of("R5", "Substance.instance"), "valueBoolean": True}]}
    draft.changed(by, f"{place}.instance", body.pop("instance"), None)
    swap(draft, by, body, place, instance=[parts] if parts else None, **dict.fromkeys(parts.keys() - {"extension"}))


participants = on_body(_participants)
evidence = on_body(_evidence)
used_reasons = on_body(_used_reasons)
comment = on_body(_comment)
instructions = on_body(_instructions)
reported = on_body(_reported)
included_structure = on_body(_included_structure)
schedules = on_body(_schedules)
membership = on_body(_membership)
coordinate_system = on_body(_coordinate_system)
instance = on_body(_instance)
