"""Conversions from R5 in which one element becomes several, or several one.

Called by rules of ``core/r5``; each names the page of R4 that it follows. What they leave in its place, because R4
cannot say it, becomes an extension in the stage after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.functions.cross_version import url_of
from fhir_bridge.normalize.functions.datatypes import IMPLIED
from fhir_bridge.normalize.verb_args import Act, Args

Edit = Callable[[Draft, By, dict[str, Any], str], None]
"""Edits one object of a draft, which stands at a place."""


def _on_body(edit: Edit) -> Callable[[Args], Act]:
    def made(args: Args) -> Act:
        by = args.bench.by
        return lambda draft: edit(draft, by, draft.body, str(draft.body["resourceType"]))

    return made


def _swap(draft: Draft, by: By, holder: dict[str, Any], place: str, **after: Any) -> None:
    """Set elements of an object, take away those that are None or empty, and put it on record."""
    before = {key: holder.get(key) for key in after}
    for key, value in after.items():
        if value in (None, [], {}):
            holder.pop(key, None)
        else:
            holder[key] = value
    for key in after:
        draft.changed(by, f"{place}.{key}", before[key], holder.get(key))


def _listed(value: Any) -> list[Any]:
    return value if type(value) is list else [] if value is None else [value]


def _codes(concept: Any) -> set[str]:
    codings = concept.get("coding", ()) if type(concept) is dict else ()
    return {coding["code"] for coding in codings if "code" in coding}


# R5 participant functions (provenance-participant-type) that R4 has as elements: who wrote it down, who says so.
_RECORDS = frozenset({"author", "enterer"})
_ASSERTS = frozenset({"informant"})


def _participants(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 condition.html, allergyintolerance.html: ``recorder`` and ``asserter``."""
    found: dict[str, Any] = {}
    left = []
    for each in _listed(body.get("participant")):
        codes = _codes(each.get("function"))
        key = "recorder" if codes & _RECORDS else "asserter" if codes & _ASSERTS else None
        if key is None or key in found or key in body or set(each) != {"function", "actor"} or len(codes) != 1:
            left.append(each)
        else:
            found[key] = each["actor"]
    if found:
        _swap(draft, by, body, place, **found, participant=left)


def _evidence(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 condition.html: ``evidence.code`` and ``evidence.detail``."""
    held = _listed(body.get("evidence"))
    if not any("concept" in each or "reference" in each for each in held):
        return
    made = []
    for each in held:
        part = {k: v for k, v in each.items() if k not in ("concept", "reference")}
        part |= {"code": [each["concept"]]} if "concept" in each else {}
        part |= {"detail": [each["reference"]]} if "reference" in each else {}
        made.append(part)
    _swap(draft, by, body, place, evidence=made)


def split(args: Args) -> Act:
    """Move the concepts, the references or both of a CodeableReference to elements beside it; the rest stays."""
    place, by = args.place("path"), args.bench.by
    names = {part: args.optional_text(part) for part in ("concept", "reference")}

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            left, moved = [], {name: [] for name in names.values() if name}  # type: dict[str, list[Any]]
            for each in _listed(found.value):
                rest = dict(each)
                for part, name in names.items():
                    if name is not None and part in rest:
                        moved[name].append(rest.pop(part))
                if rest:
                    left.append(rest)
            if not any(moved.values()):
                continue
            after = {name: [*_listed(found.parent.get(name)), *v] for name, v in moved.items() if v}
            if found.key not in after:
                after[found.key] = left if type(found.value) is list or not left else left[0]
            for name in after:
                # What goes to another element has that element's name in both releases' eyes.
                draft.renamed.setdefault((id(found.parent), name), name)
            _swap(draft, by, found.parent, found.place.removesuffix(f".{found.key}"), **after)

    return act


def into(args: Args) -> Act:
    """Move an element of the resource into a part of it, which is made where it lacks."""
    by, name, part = args.bench.by, args.sibling("path"), args.sibling("part")

    def act(draft: Draft) -> None:
        body = draft.body
        if name in body and name not in body.get(part, {}):
            held = body.get(part, {})
            value = body[name]
            made = {**held, name: value}
            if (id(held), part) in draft.renamed:
                draft.renamed[id(made), part] = draft.renamed[id(held), part]
            _swap(draft, by, body, body["resourceType"], **{part: made, name: None})

    return act


def _used_reasons(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 encounter.html: ``reasonCode`` and ``reasonReference``; what a reason is used as stands beside each."""
    concepts: list[Any] = []
    references: list[Any] = []
    left = []
    for reason in _listed(body.get("reason")):
        values = _listed(reason.get("value"))
        if not values:
            left.append(reason)
        notes = [
            {"url": url_of("R5", "Encounter.reason.use"), "valueCodeableConcept": u} for u in reason.get("use", ())
        ]
        for value in values:
            for key, target in (("concept", concepts), ("reference", references)):
                if key in value:
                    held = [*value[key].get("extension", ()), *notes]
                    target.append({**({"extension": held} if held else {}), **_without(value[key], "extension")})
    if concepts or references:
        _swap(draft, by, body, place, reasonCode=concepts, reasonReference=references, reason=left)


def _without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k != key}


def each_alone(args: Args) -> Act:
    """Repeat a part for each value of one of its elements: R4 allows one ``condition`` in a ``diagnosis``."""
    by = args.bench.by
    part, _, name = args.place("path").text.rpartition(".")

    def act(draft: Draft) -> None:
        held = _listed(draft.body.get(part))
        if not any(len(_listed(each.get(name))) > 1 for each in held):
            return
        made = []
        for each in held:
            made += [{**each, name: [value]} for value in _listed(each.get(name))] or [each]
        _swap(draft, by, draft.body, draft.body["resourceType"], **{part: made})

    return act


def yes_no(args: Args) -> Act:
    """Say true and false by two codes."""
    place, by = args.place("path"), args.bench.by
    words = {True: args.text("yes"), False: args.text("no")}

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            if type(found.value) is bool:
                before, found.parent[found.key] = found.value, words[found.value]
                draft.changed(by, found.place, before, found.value)

    return act


def _comment(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 appointment.html: ``comment`` is a text; a note that is more than a text stays."""
    notes = _listed(body.get("note"))
    if len(notes) == 1 and set(notes[0]) == {"text"} and "comment" not in body:
        _swap(draft, by, body, place, comment=notes[0]["text"], note=None)


def _instructions(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 servicerequest.html: ``patientInstruction`` is one text."""
    held = body.get("patientInstruction")
    if type(held) is list and len(held) == 1 and set(held[0]) == {"instructionMarkdown"}:
        _swap(draft, by, body, place, patientInstruction=held[0]["instructionMarkdown"])


def _reported(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 medicationrequest.html: ``reported[x]`` is whether, or by whom."""
    sources = _listed(body.get("informationSource"))
    if sources and body.get("reported") is not False:
        first, *more = sources
        draft.changed(IMPLIED, f"{place}.reported", body.pop("reported", None), None)
        _swap(draft, by, body, place, reportedReference=first, informationSource=more)


def _included_structure(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 bodystructure.html: one ``location``; side and qualifiers are its qualifiers."""
    first, *more = _listed(body.get("includedStructure")) or [{}]
    if more or "structure" not in first or not set(first) <= {"structure", "laterality", "qualifier"}:
        return
    qualifiers = [*_listed(first.get("laterality")), *_listed(first.get("qualifier"))]
    _swap(draft, by, body, place, location=first["structure"], locationQualifier=qualifiers, includedStructure=None)


# R4 documentreference.html: ``context.encounter`` names visits, ``context.related`` the rest.
_VISITS = ("Encounter/", "EpisodeOfCare/")


def _document_context(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    context: dict[str, Any] = {}
    about = body.get("context")
    if type(about) is not list and about is not None:
        return
    for each in about or ():
        visit = str(each.get("reference", "")).startswith(_VISITS) or each.get("type") in (
            "Encounter",
            "EpisodeOfCare",
        )
        context.setdefault("encounter" if visit else "related", []).append(each)
    left = []
    for event in _listed(body.get("event")):
        if "concept" in event:
            context.setdefault("event", []).append(event["concept"])
        if _without(event, "concept"):
            left.append(_without(event, "concept"))
    context |= {key: body[key] for key in ("period", "facilityType", "practiceSetting") if key in body}
    if context:
        _swap(
            draft,
            by,
            body,
            place,
            context=context,
            event=left,
            period=None,
            facilityType=None,
            practiceSetting=None,
        )


def _document_format(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 documentreference.html: ``content.format`` is one Coding."""
    for index, content in enumerate(_listed(body.get("content"))):
        profiles = _listed(content.get("profile"))
        coding = next((p for p in profiles if set(p) == {"valueCoding"}), None)
        if coding is not None and "format" not in content:
            left = [p for p in profiles if p is not coding]
            _swap(draft, by, content, f"{place}.content[{index}]", format=coding["valueCoding"], profile=left)


def _contacts(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """``telecom`` and ``address`` of a contact that is nothing else; who is behind a number stays with it."""
    telecom, addresses, left = [], [], []
    is_organization = body["resourceType"] == "Organization"
    for contact in _listed(body.get("contact")):
        plain = {"telecom", "address"} if is_organization else {"telecom"}
        if "telecom" in contact and set(contact) <= plain:
            telecom += contact["telecom"]
            addresses += _listed(contact.get("address"))
        else:
            left.append(contact)
    if telecom:
        _swap(draft, by, body, place, telecom=[*_listed(body.get("telecom")), *telecom], contact=left)
        if addresses:
            _swap(draft, by, body, place, address=[*_listed(body.get("address")), *addresses])


def _availability(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 healthcareservice.html, practitionerrole.html: times, and when there is nobody; location.html: hours."""
    if body["resourceType"] == "Location":
        hours = body.get("hoursOfOperation")
        if type(hours) is dict and set(hours) == {"availableTime"}:
            _swap(draft, by, body, place, hoursOfOperation=list(_opening(hours["availableTime"])))
        return
    times, absences, left = [], [], []
    for each in _listed(body.get("availability")):
        away = each.get("notAvailableTime", ())
        if all("description" in when for when in away) and set(each) <= {"availableTime", "notAvailableTime"}:
            times += each.get("availableTime", ())
            absences += away
        else:
            left.append(each)
    if times or absences:
        _swap(draft, by, body, place, availableTime=times, notAvailable=absences, availability=left)


_HOURS = {"availableStartTime": "openingTime", "availableEndTime": "closingTime"}


def _opening(times: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in times:
        yield {_HOURS.get(key, key): value for key, value in each.items()}


def _endpoint_payload(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 endpoint.html: types and media types of payloads in two lists."""
    payloads = _listed(body.get("payload"))
    if not payloads or not all(set(each) <= {"type", "mimeType"} for each in payloads):
        return
    types = [t for each in payloads for t in each.get("type", ())]
    media = [m for each in payloads for m in each.get("mimeType", ())]
    _swap(draft, by, body, place, payloadType=types, payloadMimeType=media, payload=None)


def _membership(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 group.html: ``actual`` is true for listed members, false for a description of them."""
    known = {"enumerated": True, "definitional": False}
    if body.get("membership") in known and "actual" not in body:
        body["actual"] = known[body["membership"]]
        draft.changed(by, f"{place}.actual", None, body["actual"])
        draft.changed(by, f"{place}.membership", body.pop("membership"), None)


# R4's audit-event-outcome: 0 success, 4, 8 and 12 failures.
_OUTCOMES = frozenset({"0", "4", "8", "12"})


def _outcome(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 auditevent.html: ``outcome`` is a code, ``outcomeDesc`` a text; what is neither stays."""
    held = body.get("outcome")
    if type(held) is not dict or held.get("code", {}).get("code") not in _OUTCOMES:
        return
    details = held.get("detail", ())
    text = details[0]["text"] if len(details) == 1 and set(details[0]) == {"text"} else None
    if details and text is None:
        return
    _swap(draft, by, body, place, outcome=held["code"]["code"], outcomeDesc=text)


def _body_sites(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 claim.html: ``bodySite`` is one concept with ``subSite`` beside it."""
    for part in ("item", "addItem"):
        for index, item in enumerate(_listed(body.get(part))):
            sites = _listed(item.get("bodySite"))
            if (
                len(sites) == 1
                and len(_listed(sites[0].get("site"))) == 1
                and set(sites[0]["site"][0]) == {"concept"}
            ):
                after = {"bodySite": sites[0]["site"][0]["concept"], "subSite": sites[0].get("subSite")}
                _swap(draft, by, item, f"{place}.{part}[{index}]", **after)


def _schedules(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 nutritionorder.html: ``schedule`` is timings; what is taken as needed stays for an extension."""
    for part in ("oralDiet", "supplement"):
        for each in _listed(body.get(part)):
            schedule = each.get("schedule")
            if type(schedule) is dict and set(schedule) == {"timing"}:
                _swap(draft, by, each, f"{place}.{part}", schedule=schedule["timing"])
    for each in _listed(body.get("enteralFormula", {}).get("administration")):
        schedule = each.get("schedule")
        if type(schedule) is dict and set(schedule) == {"timing"} and len(schedule["timing"]) == 1:
            _swap(draft, by, each, f"{place}.enteralFormula.administration", schedule=schedule["timing"][0])


# What R4's Composition.relatesTo can say of the document it relates to (document-relationship-type).
_RELATIONS = frozenset({"replaces", "transforms", "signs", "appends"})


def _relations(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 composition.html: ``relatesTo`` is a code and what it points to."""
    made, left = [], []
    for each in _listed(body.get("relatesTo")):
        if set(each) == {"type", "resourceReference"} and each["type"] in _RELATIONS:
            made.append({"code": each["type"], "targetReference": each["resourceReference"]})
        elif "code" in each:
            made.append(each)
        else:
            left.append(each)
    if left:
        url = url_of("R5", "Composition.relatesTo")
        notes = [{"url": url, "valueRelatedArtifact": each} for each in left]
        _swap(draft, by, body, place, extension=[*_listed(body.get("extension")), *notes])
    if body.get("relatesTo") != made:
        _swap(draft, by, body, place, relatesTo=made)


# LOINC's answers to "which coordinate system": R4 counts from 0 or from 1 (molecularsequence.html).
_COUNTED_FROM = {"LA30100-4": 0, "LA30101-2": 0, "LA30102-0": 1}


def _coordinate_system(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 has one coordinate system for the whole; the parts keep theirs."""
    systems = [_codes(each.get("coordinateSystem")) for each in _listed(body.get("relative"))]
    found = {_COUNTED_FROM.get(code) for codes in systems for code in codes}
    if len(found) == 1 and None not in found and "coordinateSystem" not in body:
        _swap(draft, by, body, place, coordinateSystem=found.pop())


def _instance(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 substance.html: ``instance`` holds what R5 says of the package itself."""
    is_instance = body.get("instance")
    if type(is_instance) is not bool:
        return
    parts = {key: body[key] for key in ("expiry", "quantity") if key in body} if is_instance else {}
    if is_instance and not parts:
        parts = {"extension": [{"url": url_of("R5", "Substance.instance"), "valueBoolean": True}]}
    draft.changed(by, f"{place}.instance", body.pop("instance"), None)
    _swap(draft, by, body, place, instance=[parts] if parts else None, **dict.fromkeys(parts.keys() - {"extension"}))


outcome = _on_body(_outcome)
body_sites = _on_body(_body_sites)
schedules = _on_body(_schedules)
relations = _on_body(_relations)
coordinate_system = _on_body(_coordinate_system)
instance = _on_body(_instance)
participants = _on_body(_participants)
evidence = _on_body(_evidence)
used_reasons = _on_body(_used_reasons)
comment = _on_body(_comment)
instructions = _on_body(_instructions)
reported = _on_body(_reported)
included_structure = _on_body(_included_structure)
document_context = _on_body(_document_context)
document_format = _on_body(_document_format)
contacts = _on_body(_contacts)
availability = _on_body(_availability)
endpoint_payload = _on_body(_endpoint_payload)
membership = _on_body(_membership)
