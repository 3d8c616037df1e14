"""Read ``Bundle.entry.request``: what the sender wants done with an entry.

FHIR R4 http.html#trules. Of its interactions those are taken that write: create, update and delete by id. Reading,
patching and conditional update or delete inside a bundle are refused by name.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.bundles import EntryParts
from fhir_bridge.fhir.reference_text import ReferenceKind, parse_reference
from fhir_bridge.model.ingest import Interaction

_METHODS = frozenset({"POST", "PUT", "DELETE"})
_ETAG = re.compile(r'(?:W/)?"([A-Za-z0-9.\-]{1,64})"')
_TYPE = re.compile(r"[A-Z][A-Za-z]+")


def read_request(entry: EntryParts, kind: str, place: str, issues: list[Issue]) -> Interaction | None:
    """Return what an entry asks for; None, with the reason added to ``issues``, when it cannot be taken.

    Args:
        kind: ``transaction``, ``batch`` or ``collection``; the last has no requests.
        place: Path of the entry.
        issues: Findings of the entry so far, to add to.
    """
    resource = entry.resource if type(entry.resource) is dict else None
    has_request = "request" in entry.value
    if kind == "collection":
        return _of_collection(resource, has_request, place, issues)
    if not has_request:
        text = f"bdl-3: an entry of a {kind} needs a request"
        issues.append(Issue("error", "required", text, f"{place}.request"))
        return None
    method, url = entry.method, entry.url
    if method is None or url is None:
        return None  # The structure is wrong, which the validation of the Bundle has said.
    if method not in _METHODS:
        text = f"only {', '.join(sorted(_METHODS))} are taken in a bundle"
        issues.append(Issue("error", "not-supported", text, f"{place}.request.method"))
        return None
    if resource is None and method != "DELETE":
        issues.append(Issue("error", "required", "this method needs a resource", f"{place}.resource"))
        return None
    return _of_request(entry, method, url, resource, place, issues)


def _of_collection(
    resource: dict[str, Any] | None, has_request: bool, place: str, issues: list[Issue]
) -> Interaction | None:
    if has_request:
        text = "bdl-3: an entry of a collection has no request"
        issues.append(Issue("error", "invariant", text, f"{place}.request"))
        return None
    if resource is None:
        issues.append(Issue("error", "required", "the entry holds no resource", f"{place}.resource"))
        return None
    name, local_id = resource.get("resourceType"), resource.get("id")
    if type(name) is not str or (local_id is not None and type(local_id) is not str):
        return None
    return Interaction("POST" if local_id is None else "PUT", name, local_id)


def _of_request(
    entry: EntryParts, method: str, url: str, resource: dict[str, Any] | None, place: str, issues: list[Issue]
) -> Interaction | None:
    target = _target(method, url, place, issues)
    if target is None:
        return None
    type_name, url_id = target
    local_id = resource.get("id") if resource is not None else None
    if resource is not None and method != "DELETE":
        if resource.get("resourceType") != type_name:
            text = "request.url names another type than the resource"
            issues.append(Issue("error", "invalid", text, f"{place}.request.url"))
            return None
        if method == "PUT" and local_id != url_id:
            text = "id must be present and equal to the id in request.url"
            issues.append(Issue("error", "invalid", text, f"{place}.resource.id"))
            return None
    if_match = _if_match(entry, place, issues)
    chosen = url_id if method != "POST" else local_id
    # Interned, for they are held as long as the message is, and of 60,000 entries every second says the same.
    return Interaction(
        method=sys.intern(method),
        type=sys.intern(type_name),
        id=chosen if type(chosen) is str else None,
        if_match=if_match,
        if_none_exist=entry.if_none_exist if method == "POST" else None,
    )


def _target(method: str, url: str, place: str, issues: list[Issue]) -> tuple[str, str | None] | None:
    """Type and id of ``request.url``: ``Type`` for POST, ``Type/id`` for PUT and DELETE."""
    where = f"{place}.request.url"
    if method == "POST":
        if _TYPE.fullmatch(url):
            return url, None
        issues.append(Issue("error", "invalid", "request.url of a POST must be a resource type", where))
        return None
    parsed = parse_reference(url)
    if parsed.kind is ReferenceKind.CONDITIONAL:
        text = "conditional update and delete are not taken; name the id"
        issues.append(Issue("error", "not-supported", text, where))
    elif parsed.kind is not ReferenceKind.RELATIVE or parsed.version is not None or parsed.type is None:
        issues.append(Issue("error", "invalid", "request.url must be Type/id", where))
    else:
        return parsed.type, parsed.id
    return None


def _if_match(entry: EntryParts, place: str, issues: list[Issue]) -> str | None:
    if entry.if_none_match is not None:
        text = "ifNoneMatch is not taken; use ifNoneExist with POST"
        issues.append(Issue("error", "not-supported", text, f"{place}.request.ifNoneMatch"))
    if entry.if_match is None:
        return None
    match = _ETAG.fullmatch(entry.if_match)
    if match is None:
        text = 'must be a weak entity tag, W/"version"'
        issues.append(Issue("error", "value", text, f"{place}.request.ifMatch"))
        return None
    return match[1]
