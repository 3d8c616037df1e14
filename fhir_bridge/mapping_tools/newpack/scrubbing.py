"""Make an example of a record that nobody can be recognised by: codes, units, values and shapes stay.

Everything a person could be known by is replaced, not hashed: ids, record numbers, names, addresses, telephone
numbers, birth dates, days of the month, free text, documents, comments, narrative and the content of extensions.
What is kept: codes with their displays, units and measured values, systems, the month and the offset of times;
of every list the first three.

Invariants:
    * a text that is not known to be a code, a unit or a system is replaced;
    * the same id becomes the same other id throughout one pack, so that references still meet.
"""

from __future__ import annotations

import re
from typing import Any

from fhir_bridge.fhir.tables import Definitions
from fhir_bridge.mapping_tools.newpack.walking import Found, walk
from fhir_bridge.normalize.draft import copied

_DROPPED = frozenset({"text", "meta", "extension", "modifierExtension", "implicitRules", "photo"})
_DAY = re.compile(r"(?P<month>[0-9]{4}-[0-9]{2})-[0-9]{2}(?P<rest>.*)")
_TIME = re.compile(r"T[0-9]{2}:[0-9]{2}:[0-9]{2}")
_URN = re.compile(r"urn:(?:uuid|oid):.*")
_RELATIVE = re.compile(r"(?P<before>.*?)(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9\-.]{1,64})(?:/_history/.*)?")
_IDENTIFIER = re.compile(r"(?P<type>[A-Z][A-Za-z]+)\?identifier=(?P<system>[^|]*)\|.*")
_TEXT = "example text"
_MOST = 3


class Scrubber:
    """Replaces what identifies; one for a pack, so that one id is one other id in all its examples."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._ids: dict[tuple[str, str], str] = {}

    def scrubbed(self, resource: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of a resource without what identifies."""
        body: dict[str, Any] = copied(resource)
        _drop(body)
        _shorten(body)
        for found in list(walk(body, self._definitions)):
            self._replace(found)
        if type(body.get("id")) is str:
            body["id"] = self._id(str(body["resourceType"]), body["id"])
        made: dict[str, Any] = _pruned(body)
        return made

    def _replace(self, found: Found) -> None:
        value = found.value
        match found.type_name:
            case "HumanName":
                found.put(_name(value))
            case "Address":
                found.put({"country": "XX"} if "country" in value else {"text": "example address"})
            case "ContactPoint":
                found.put({k: v for k, v in value.items() if k in ("system", "use", "rank")} | {"value": "000-0000"})
            case "Identifier" if "value" in value:
                number = self._id("Identifier", f"{value.get('system')}|{value['value']}")
                found.put({k: v for k, v in value.items() if k in ("use", "type", "system")} | {"value": number})
            case "Reference":
                found.put(self._reference(value))
            case "Attachment":
                found.put(_attachment(value))
            case "Annotation":
                found.put({"text": _TEXT})
            case "CodeableConcept" if type(value) is dict:
                _concept(value)
            case _ if type(value) is str:
                self._replace_text(found)

    def _replace_text(self, found: Found) -> None:
        text = found.value
        match found.type_name:
            case "date" | "dateTime" | "instant":
                found.put(_date(text, found.key))
            case "string" | "markdown" if not _is_kept(found):
                found.put(_TEXT)
            case "base64Binary":
                found.put("ZXhhbXBsZQ==")
            case "uri" | "url" | "canonical" | "oid" | "uuid" if found.key not in ("system", "url"):
                found.put("urn:example")
            case "id" if found.key != "id":
                found.put("example")
            case "time":
                found.put("12:00:00")

    def _reference(self, value: dict[str, Any]) -> dict[str, Any]:
        made = {k: v for k, v in value.items() if k in ("reference", "type")}
        target = value.get("reference")
        if type(target) is str and not target.startswith("#"):
            made["reference"] = self._target(target)
        if type(value.get("identifier")) is dict:
            made["identifier"] = {
                k: v for k, v in value["identifier"].items() if k == "system"
            } | {"value": self._id("Identifier", str(value["identifier"]))}  # fmt: skip
        return made or {"display": "example"}

    def _target(self, target: str) -> str:
        by_identifier = _IDENTIFIER.fullmatch(target)
        if by_identifier is not None:
            number = self._id("Identifier", target)
            return f"{by_identifier['type']}?identifier={by_identifier['system']}|{number}"
        if _URN.fullmatch(target):
            number = self._id("urn", target).rpartition("-")[2]
            return f"urn:uuid:00000000-0000-4000-8000-{int(number):012d}"
        named = _RELATIVE.fullmatch(target)
        if named is not None:
            return f"{named['before']}{named['type']}/{self._id(named['type'], named['id'])}"
        return "urn:uuid:00000000-0000-4000-8000-000000000000"

    def _id(self, kind: str, found: str) -> str:
        number = sum(1 for known, _ in self._ids if known == kind) + 1
        return self._ids.setdefault((kind, found), f"example-{kind.lower()}-{number}")


def _drop(value: Any) -> None:
    """Take away what is known by its key alone: narrative, meta, extensions, and the ids of elements."""
    if type(value) is dict:
        for key in list(value):
            is_narrative = key == "text" and type(value[key]) is dict
            if key.startswith("_") or (key in _DROPPED and (key != "text" or is_narrative)):
                del value[key]
            else:
                _drop(value[key])
    elif type(value) is list:
        for each in value:
            _drop(each)


def _shorten(value: Any) -> None:
    """Cut long lists: the whole of somebody's answers or diagnoses could tell who it is."""
    if type(value) is dict:
        for each in value.values():
            _shorten(each)
    elif type(value) is list:
        del value[_MOST:]
        for each in value:
            _shorten(each)


def _pruned(value: Any) -> Any:
    """Leave out what has become empty."""
    if type(value) is dict:
        found = {k: _pruned(v) for k, v in value.items()}
        return {k: v for k, v in found.items() if v not in ({}, [])}
    return [v for v in map(_pruned, value) if v not in ({}, [])] if type(value) is list else value


def _name(value: Any) -> dict[str, Any]:
    made: dict[str, Any] = {k: v for k, v in value.items() if k == "use"} if type(value) is dict else {}
    return made | {"family": "Example", "given": ["Person"]}


def _attachment(value: Any) -> dict[str, Any]:
    kept = {k: v for k, v in value.items() if k in ("contentType", "language")} if type(value) is dict else {}
    return kept | {"title": _TEXT}


def _concept(value: dict[str, Any]) -> None:
    """Words beside codes stay where a code says the same; words alone are free text."""
    displays = [c.get("display") for c in value.get("coding", ()) if type(c) is dict]
    if "text" in value and value["text"] not in displays:
        value["text"] = _TEXT


def _date(text: str, key: str) -> str:
    if key == "birthDate":
        return f"{text[:3]}0-01-01"[: len(text)]
    match = _DAY.fullmatch(text)
    if match is None:
        return text
    return f"{match['month']}-15{_TIME.sub('T12:00:00', match['rest'])}"


def _is_kept(found: Found) -> bool:
    """Words of codes and units; those of names, addresses and references have gone with their whole by now."""
    return found.key in ("display", "unit") or (found.key == "text" and "coding" in found.holder)
