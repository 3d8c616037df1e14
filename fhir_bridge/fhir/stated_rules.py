"""Rules that R4 states in words, beside those that it states as invariants.

For the validator, of R4 alone: records of other releases are R4 before they are stored. Each rule names the sentence
of the standard that it follows. None refuses an official example.

Invariants:
    * what cannot be told from the resource and the official definitions is not judged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fhir_bridge.fhir.document_rules import check_document
from fhir_bridge.fhir.run import Place, Run
from fhir_bridge.fhir.tables import SearchParameter, TypeRow, search_parameters

Rule = Callable[[dict[str, Any], Place, Run], None]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_OFFICIAL = re.compile(r"http://hl7\.org/fhir/SearchParameter/(?P<base>[A-Z][A-Za-z]+)-(?P<name>[^|]+)(?:\|4\.0\.1)?")
_WHITESPACE = re.compile(r"\s+")


def rule_of(row: TypeRow) -> Rule | None:
    """Return what is to be checked of an object of a type once its structure is sound, or None."""
    named = _RULES.get(row.name)
    if named is None and row.kind == "resource" and {"url", "publisher"} <= row.elements.keys():
        return _defined
    return named


def _attachment(value: dict[str, Any], place: Place, run: Run) -> None:
    """``size``: "The number of bytes of data that make up this attachment (before base64 encoding ...)"."""
    data = value.get("data")
    if type(data) is not str:
        return
    plain = _WHITESPACE.sub("", data)
    size = value.get("size")
    if type(size) is int and size != len(plain) * 3 // 4 - plain.count("="):
        run.error("value", "is not the number of bytes of the data: a part of it may be missing", (place, "size"))
    told = value.get("hash")
    # "The calculated hash of the data using SHA-1". HL7's own DiagnosticReport/example-pgx has another.
    if type(told) is str and binascii.a2b_base64(told) != _sha1(plain):
        run.flag("value", "is not the SHA-1 of the data", (place, "hash"))


def _sha1(data: str) -> bytes:
    return hashlib.sha1(base64.b64decode(data), usedforsecurity=False).digest()


def _coding(value: dict[str, Any], place: Place, run: Run) -> None:
    """Flagged: "The identification of the code system that defines the meaning" is what these systems are not."""
    system = value.get("system")
    if type(system) is not str:
        return
    if "/ValueSet/" in system:
        run.flag("code-invalid", "names a value set, not the code system", (place, "system"))
    elif ":" not in system:
        run.flag("code-invalid", "is no absolute URI, so nobody else can tell the code system", (place, "system"))


def _bundle(value: dict[str, Any], place: Place, run: Run) -> None:
    """``fullUrl``: "The Absolute URL for the resource"."""
    for index, entry in enumerate(value.get("entry", ())):
        url = entry.get("fullUrl")
        if type(url) is str and not _SCHEME.match(url):
            where: Place = (((place, "entry"), index), "fullUrl")
            run.error("value", "must be an absolute URL, such as urn:uuid:…", where)
    if value.get("type") == "document" and run.entries:
        check_document(value, place, run)


def _defined(value: dict[str, Any], place: Place, run: Run) -> None:
    """``url`` of what can be published: "An absolute URI that is used to identify this ..."."""
    url = value.get("url")
    if type(url) is str and not _SCHEME.match(url):
        run.error("value", "must be an absolute URI", (place, "url"))


def _code_system(value: dict[str, Any], place: Place, run: Run) -> None:
    _defined(value, place, run)
    # content: "The resource doesn't define any new concepts; just provides additional designations and properties".
    if "supplements" in value and value.get("content") != "supplement":
        run.error("business-rule", "of a code system that supplements another must be supplement", (place, "content"))
    # HL7's own CodeSystem/snomedct defines a property twice.
    types: dict[Any, set[str]] = {}
    for each in value.get("property", ()):
        types.setdefault(each.get("code"), set()).add(f"value{each.get('type')}".lower())
    for concept, at in _concepts(value, place):
        for index, found in enumerate(concept.get("property", ())):
            where: Place = ((at, "property"), index)
            allowed = types.get(found.get("code"))
            if allowed is None:
                # "A code that is a reference to CodeSystem.property.code."
                run.error("business-rule", "is no property that this code system defines", (where, "code"))
            elif allowed.isdisjoint(key.removeprefix("_").lower() for key in found):
                run.error("business-rule", "the value is not of the type that the property has", where)


def _concepts(value: dict[str, Any], place: Place) -> Iterator[tuple[dict[str, Any], Place]]:
    """Yield every concept, nested ones too, with its place."""
    waiting = [(value, place)]
    while waiting:
        holder, at = waiting.pop()
        for index, concept in enumerate(holder.get("concept", ())):
            where: Place = ((at, "concept"), index)
            yield concept, where
            waiting.append((concept, where))


def _search_parameter(value: dict[str, Any], place: Place, run: Run) -> None:
    _defined(value, place, run)
    kind, bases = value.get("type"), value.get("base", ())
    # "A composite search parameter that combines a search on two values together."
    if kind == "composite" and len(value.get("component", ())) < 2:
        run.error("business-rule", "a composite must have two components or more", (place, "component"))
    # "If a derivedFrom is provided, then the details in the search parameter must be consistent with the definition".
    found = _official(value.get("derivedFrom"))
    if found is None:
        return
    base, original = found
    if kind != original.kind:
        run.error("business-rule", "is not the type of the definition that this is derived from", (place, "type"))
    if any(each != base for each in bases):
        run.error("business-rule", "is no base of the definition that this is derived from", (place, "base"))


def _offered_parameter(value: dict[str, Any], place: Place, run: Run) -> None:
    """Flagged, since three of HL7's examples differ: "It SHALL be the same as the type in the ... definition"."""
    found = _official(value.get("definition"))
    if found is not None and value.get("type") != found[1].kind:
        run.flag("business-rule", "is not the type in the search parameter's definition", (place, "type"))


def _official(url: object) -> tuple[str, SearchParameter] | None:
    """Return base and definition of an official search parameter whose URL names one base and its code, or None."""
    match = _OFFICIAL.fullmatch(url) if type(url) is str else None
    found = search_parameters().get(match["base"], {}).get(match["name"]) if match else None
    return (match["base"], found) if match and found is not None else None


_RULES: Mapping[str, Rule] = {
    "Attachment": _attachment,
    "Bundle": _bundle,
    "CapabilityStatement.rest.resource.searchParam": _offered_parameter,
    "CodeSystem": _code_system,
    "Coding": _coding,
    "SearchParameter": _search_parameter,
}

STATED_OTHERWISE: Mapping[str, str] = {"que-12": "enableWhen.count() > 1 implies enableBehavior.exists()"}
"""Invariants whose expression is not what R4 says of the element: enableBehavior "must be specified if more than one
enableWhen value is provided", and the expression counts from three."""
