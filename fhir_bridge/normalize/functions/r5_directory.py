"""Conversions from R5 of people, places and organisations: contacts, hours and endpoints.

Called by rules of ``core/r5``; each names the page of R4 that it follows. What they leave in its place, because R4
cannot say it, becomes an extension in the stage after them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.functions.editing import listed, on_body, swap


def _contacts(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """``telecom`` and ``address`` of a contact that is nothing else; who is behind a number stays with it."""
    telecom, addresses, left = [], [], []
    is_organization = body["resourceType"] == "Organization"
    for contact in listed(body.get("contact")):
        plain = {"telecom", "address"} if is_organization else {"telecom"}
        if "telecom" in contact and set(contact) <= plain:
            telecom += contact["telecom"]
            addresses += listed(contact.get("address"))
        else:
            left.append(contact)
    if telecom:
        swap(draft, by, body, place, telecom=[*listed(body.get("telecom")), *telecom], contact=left)
        if addresses:
            swap(draft, by, body, place, address=[*listed(body.get("address")), *addresses])


def _availability(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 healthcareservice.html, practitionerrole.html: times, and when there is nobody; location.html: hours."""
    if body["resourceType"] == "Location":
        hours = body.get("hoursOfOperation")
        if type(hours) is dict and set(hours) == {"availableTime"}:
            swap(draft, by, body, place, hoursOfOperation=list(_opening(hours["availableTime"])))
        return
    times, absences, left = [], [], []
    for each in listed(body.get("availability")):
        away = each.get("notAvailableTime", ())
        if all("description" in when for when in away) and set(each) <= {"availableTime", "notAvailableTime"}:
            times += each.get("availableTime", ())
            absences += away
        else:
            left.append(each)
    if times or absences:
        swap(draft, by, body, place, availableTime=times, notAvailable=absences, availability=left)


_HOURS = {"availableStartTime": "openingTime", "availableEndTime": "closingTime"}


def _opening(times: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in times:
        yield {_HOURS.get(key, key): value for key, value in each.items()}


def _endpoint_payload(draft: Draft, by: By, body: dict[str, Any], place: str) -> None:
    """R4 endpoint.html: types and media types of payloads in two lists."""
    payloads = listed(body.get("payload"))
    if not payloads or not all(set(each) <= {"type", "mimeType"} for each in payloads):
        return
    types = [t for each in payloads for t in each.get("type", ())]
    media = [m for each in payloads for m in each.get("mimeType", ())]
    swap(draft, by, body, place, payloadType=types, payloadMimeType=media, payload=None)


contacts = on_body(_contacts)
availability = on_body(_availability)
endpoint_payload = on_body(_endpoint_payload)
