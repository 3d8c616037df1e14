"""Conversions from R5 of documents, audit events and claims.

Called by rules of ``core/r5``; each names the page of R4 that it follows. What they leave in its place, because R4
cannot say it, becomes an extension in the stage after them.
"""

from __future__ import annotations

from typing import Any

from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.functions.cross_version import url_of
from fhir_bridge.normalize.functions.editing import listed, on_body, swap, without

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
    for event in listed(body.get("event")):
        if "concept" in event:
            context.setdefault("event", []).append(event["concept"])
        if without(event, "concept"):
            left.append(without(event, "concept"))
    context |= {key: body[key] for key in ("period", "facilityType", "practiceSetting") if key in body}
    if context:
        swap(
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
    for index, content in enumerate(listed(body.get("content"))):
        profiles = listed(content.get("profile"))
        coding = next((p for p in profiles if set(p) == {"valueCoding"}), None)
        if coding is not None and "format" not in content:
            left = [p for p in profiles if p is not coding]
            swap(draft, by, content, f"{place}.content[{index}]", format=coding["valueCoding"], profile=left)


# What R4's Composition.relatesTo can say of the document it relates to (document-relationship-type).
_RELATIONS = frozenset({"replaces", "transforms", "signs", "appends"})


def _relations(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 composition.html: ``relatesTo`` is a code and what it points to."""
    made, left = [], []
    for each in listed(body.get("relatesTo")):
        if set(each) == {"type", "resourceReference"} and each["type"] in _RELATIONS:
            made.append({"code": each["type"], "targetReference": each["resourceReference"]})
        elif "code" in each:
            made.append(each)
        else:
            left.append(each)
    if left:
        url = url_of("R5", "Composition.relatesTo")
        notes = [{"url": url, "valueRelatedArtifact": each} for each in left]
        swap(draft, by, body, place, extension=[*listed(body.get("extension")), *notes])
    if body.get("relatesTo") != made:
        swap(draft, by, body, place, relatesTo=made)


# R4's audit-event-outcome: 0 success, 4, 8 and 12 failures.
_OUTCOMES = frozenset({"0", "4", "8", "12"})


def _outcome(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 auditevent.html: ``outcome`` is a code, ``outcomeDesc`` a text; what is neither stays."""
    held = body.get("outcome")
    if type(held) is not dict or held.get("code", {}).get("code") not in _OUTCOMES:
        return
    if not (set(held) <= {"code", "detail"} and set(held["code"]) <= {"system", "code", "display"}):
        # More than a code was said; it stays whole.
        return
    details = held.get("detail", ())
    text = details[0]["text"] if len(details) == 1 and set(details[0]) == {"text"} else None
    if details and text is None:
        return
    swap(draft, by, body, place, outcome=held["code"]["code"], outcomeDesc=text)


def _body_sites(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 claim.html: ``bodySite`` is one concept with ``subSite`` beside it."""
    for part in ("item", "addItem"):
        for index, item in enumerate(listed(body.get(part))):
            sites = listed(item.get("bodySite"))
            if len(sites) == 1 and len(listed(sites[0].get("site"))) == 1 and set(sites[0]["site"][0]) == {"concept"}:
                after = {"bodySite": sites[0]["site"][0]["concept"], "subSite": sites[0].get("subSite")}
                swap(draft, by, item, f"{place}.{part}[{index}]", **after)


document_context = on_body(_document_context)
document_format = on_body(_document_format)
relations = on_body(_relations)
outcome = on_body(_outcome)
body_sites = on_body(_body_sites)
