"""Ids and references: the sender's local names become canonical ones.

For the normaliser. A canonical id depends on the institution's key, the type and the local id alone, so a reference
is rewritten before its target has arrived. The bundle helps with what only it can tell: ``urn:uuid:`` names and
conditional references to its own entries.

Invariants:
    * a reference to a clinical record carries no display: it would name what a consent may hide;
    * what cannot be resolved stays as it was sent, with a flag; nothing is guessed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, urlencode

from blake3 import blake3
from msgspec import structs

from fhir_bridge.fhir.reference_text import ParsedReference, ReferenceKind, parse_reference
from fhir_bridge.fhir.releases import id_in_r4, type_in_r4
from fhir_bridge.model.ids import DIRECTORY_TYPES, canonical_id, is_canonical, is_of_network
from fhir_bridge.model.ingest import Body, Validated
from fhir_bridge.normalize.draft import By, Draft
from fhir_bridge.normalize.reference_places import Chain, FoundReference, walk, written

REFERENCES = By("core/references", "references name records by canonical id")
DISPLAY = By("core/reference-display", "a display towards a clinical record would name what a consent may hide")

_NONE: Mapping[str, str] = MappingProxyType({})
_UUID = re.compile(r"urn:uuid:([0-9a-fA-F-]{36})")
_TOKEN = re.compile(r"(?:[^,\\]|\\.?)+", re.DOTALL)
"""One of the values that commas part; ``\\,`` is none of them (R4 search.html#escaping)."""
_REST = re.compile(r".*/([A-Za-z]+)/([A-Za-z0-9.-]{1,64})")


class Links:
    """What one message's references can mean."""

    def __init__(
        self,
        id_key: bytes,
        base_urls: frozenset[str],
        same_as: Mapping[str, str] = MappingProxyType({}),
        patients: Mapping[str, str] = MappingProxyType({}),
        aliases: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        """Take what only the institution's pack and earlier messages can tell.

        Args:
            aliases: Type → system of identifiers that the sender uses → the canonical one.
        """
        self.wanted: set[str] = set()
        self._patients = patients
        self._aliases = aliases
        self._id_key = id_key
        self._same_as = same_as
        self._bases = set(base_urls)
        self._ids: dict[tuple[str, str], str] = {}
        self._by_url: dict[str, str] = {}
        self._by_identifier: dict[tuple[str, str, str], str] = {}
        self._read: dict[str, tuple[ParsedReference, str | None]] = {}

    def add(self, entry: Validated, type_name: str, local: str, resource: Body) -> str:
        """Make an entry known by its full URL and its identifiers; return its ``Type/id``."""
        target = f"{type_name}/{self.id_of(type_name, local)}"
        url = entry.full_url
        if url:
            self._by_url[url] = target
            end = f"/{entry.interaction.type}/{local.rpartition('/')[2]}"
            # fullUrl of an entry is the sender's own address for it (R4 bundle.html#bundle-unique).
            if url.startswith("http") and url.endswith(end):
                self._bases.add(url[: -len(end)])
        for identifier in _identifiers(resource):
            key = (type_name, *identifier)
            # Two entries with one identifier leave a conditional reference ambiguous.
            self._by_identifier[key] = target if self._by_identifier.get(key, target) == target else ""
        return target

    def remember(self, text: str, target: str) -> None:
        """Have the text of a reference mean what it meant when its message came."""
        self._by_url[text] = target

    def id_of(self, type_name: str, local: str) -> str:
        """Canonical id of a local one."""
        key = (type_name, local)
        found = self._ids.get(key)
        if found is None:
            made = canonical_id(self._id_key, type_name, local)
            found = self._ids[sys.intern(type_name), local] = self._same_as.get(made, made)
        return found

    def of_record(self, entry: Validated, type_name: str) -> Validated:
        """Return an entry whose condition of creation names the system by which records of its type go here."""
        query = entry.interaction.if_none_exist
        if query is None or type_name not in self._aliases:
            return entry
        pairs = parse_qsl(query.removeprefix("?"), keep_blank_values=True)
        named = [(key, self._of_token(type_name, value) if key == "identifier" else value) for key, value in pairs]
        if named == pairs:
            return entry
        return replace(entry, interaction=structs.replace(entry.interaction, if_none_exist=urlencode(named)))

    def _of_token(self, type_name: str, tokens: str) -> str:
        def named(token: re.Match[str]) -> str:
            system, bar, value = token[0].partition("|")
            return self._canonical(type_name, system) + bar + value if bar else token[0]

        return _TOKEN.sub(named, tokens)

    def rewrite(self, draft: Draft, found: Iterable[FoundReference]) -> tuple[str, ...]:
        """Rewrite every reference of a draft; return the distinct ``Type/id`` it now points to, in order.

        Every entry of the message must have been added before.

        Args:
            found: The references of the draft, all of them.
        """
        targets: dict[str, None] = {}
        for reference, chain, allowed in found:
            self._one(draft, reference, chain, allowed)
            text = reference.get("reference")
            if type(text) is str and ":" not in text and "#" not in text and "?" not in text:
                targets[text] = None
        return tuple(targets)

    def _one(self, draft: Draft, reference: dict[str, Any], chain: Chain, allowed: tuple[str, ...]) -> None:
        text = reference.get("reference")
        if type(text) is not str:
            self._name_system(draft, reference, chain, allowed)
            _hide_display(draft, reference, chain, _stated_type(reference, allowed), DISPLAY)
            return
        known = self._read.get(text)
        if known is None:
            parsed = parse_reference(text)
            known = self._read[text] = parsed, self._target(text, parsed)
        parsed, target = known
        if "identifier" in reference:
            said = target.partition("/")[0] if target else parsed.type and type_in_r4(parsed.type)
            self._name_system(draft, reference, chain, (said,) if said else allowed)
        if parsed.kind is ReferenceKind.CONTAINED:
            return
        if target is not None:
            if target != text:
                reference["reference"] = target
                draft.changed(REFERENCES, written(chain) + ".reference", text, target, is_safe=True)
            _hide_display(draft, reference, chain, target.partition("/")[0], DISPLAY)
        elif parsed.kind is ReferenceKind.CONDITIONAL and parsed.identifier and parsed.type:
            system, value = parsed.identifier
            _make_logical(draft, reference, chain, parsed.type, self._canonical(parsed.type, system or ""), value)
        else:
            _hide_display(draft, reference, chain, parsed.type or _only_directory(allowed), DISPLAY)
            draft.flag("not-found", "this reference cannot be resolved here", written(chain))

    def _target(self, text: str, parsed: ParsedReference) -> str | None:
        known = self._by_url.get(text)
        if known is not None:
            return known
        if parsed.type is not None and parsed.id is not None:
            own = parsed.base is None or parsed.base in self._bases or is_canonical(self._id_key, parsed.id)
            type_name, local = type_in_r4(parsed.type), id_in_r4(parsed.type, parsed.id)
            if parsed.base is None and is_of_network(type_name, parsed.id):
                return f"{type_name}/{parsed.id}"
            return f"{type_name}/{self.id_of(type_name, local)}" if own else None
        identifier = parsed.identifier
        if parsed.kind is ReferenceKind.CONDITIONAL and identifier and parsed.type:
            value = identifier[1]
            system = self._canonical(type_in_r4(parsed.type), identifier[0] or "")
            held = self._by_identifier.get((parsed.type, system, value))
            if held is None and parsed.type == "Patient" and system:
                return self._stored_patient(f"{system}|{value}")
            return held or None
        return None

    def _canonical(self, type_name: str, system: str) -> str:
        """The system by which records of a type go here, where the sender uses another for them."""
        return self._aliases.get(type_name, _NONE).get(system, system)

    def _name_system(self, draft: Draft, reference: dict[str, Any], chain: Chain, allowed: tuple[str, ...]) -> None:
        """A reference by identifier names the record by the system that the record itself has.

        Where no type is said, all types that it may point to and that know the sender's name must mean the same.
        """
        identifier = reference.get("identifier")
        before = identifier.get("system") if isinstance(identifier, dict) else None
        if not isinstance(identifier, dict) or type(before) is not str:
            return
        stated = reference.get("type")
        names = (stated,) if type(stated) is str else allowed or tuple(self._aliases)
        meant = {known[before] for name in names if before in (known := self._aliases.get(name, _NONE))}
        after = meant.pop() if len(meant) == 1 else before
        if after != before:
            identifier["system"] = after
            draft.changed(REFERENCES, f"{written(chain)}.identifier.system", before, after, is_safe=True)

    def _stored_patient(self, identifier: str) -> str | None:
        found = self._patients.get(identifier)
        if found is None:
            self.wanted.add(identifier)
            return None
        return f"Patient/{found}"


def name_types_of_r4(draft: Draft) -> None:
    """Give references R4's names of types and leave the sender's ids: what they look like without canonical ids."""
    for reference, chain, _allowed in walk(draft.body).references:
        text = reference.get("reference")
        if type(text) is not str:
            continue
        parsed = parse_reference(text)
        if parsed.type is None or type_in_r4(parsed.type) == parsed.type:
            continue
        head, sent, tail = text.rpartition(parsed.type + ("?" if parsed.id is None else f"/{parsed.id}"))
        reference["reference"] = f"{head}{type_in_r4(parsed.type)}{sent.removeprefix(parsed.type)}{tail}"
        draft.changed(REFERENCES, written(chain) + ".reference", text, reference["reference"], is_safe=True)


def local_id(entry: Validated, resource: Body | None) -> str:
    """The sender's id of a record: its own, else that of its full URL, else the digest of its bytes."""
    return id_in_r4(entry.interaction.type, _local_id(entry, resource))


def _local_id(entry: Validated, resource: Body | None) -> str:
    asked, stated = entry.interaction.id, None if resource is None else resource.get("id")
    # Where both are the same, the one that is held as long as the message is.
    if type(stated) is str and stated != asked:
        return stated
    if asked:
        return asked
    url = entry.full_url or ""
    match = _UUID.fullmatch(url)
    if match:
        return match[1].lower()
    match = _REST.fullmatch(url)
    if match and match[1] == entry.interaction.type:
        return match[2]
    return blake3((url or "").encode() + b"\0" + entry.original).hexdigest()


def _identifiers(resource: Body) -> Iterable[tuple[str, str]]:
    held = resource.get("identifier")
    for identifier in held if type(held) is list else [held]:
        if type(identifier) is dict and type(identifier.get("value")) is str:
            yield identifier.get("system") or "", identifier["value"]


def _stated_type(reference: Mapping[str, Any], allowed: tuple[str, ...]) -> str | None:
    """Type of a logical reference's target; None for a reference that is nothing but text."""
    if "identifier" not in reference:
        return "" if "type" in reference and reference["type"] not in DIRECTORY_TYPES else None
    stated = reference.get("type")
    if type(stated) is str:
        return stated
    return _only_directory(allowed)


def _only_directory(allowed: tuple[str, ...]) -> str:
    """A directory type when the element can point to nothing else, else no type at all."""
    return allowed[0] if allowed and all(name in DIRECTORY_TYPES for name in allowed) else ""


def _hide_display(draft: Draft, reference: dict[str, Any], chain: Chain, type_name: str | None, by: By) -> None:
    """Drop the display unless it names an organisation, a person who works there, or nothing but itself."""
    if "display" in reference and type_name is not None and type_name not in DIRECTORY_TYPES:
        for key in ("display", "_display"):
            draft.changed(by, f"{written(chain)}.{key}", reference.pop(key, None), None, is_safe=True)


def _make_logical(
    draft: Draft, reference: dict[str, Any], chain: Chain, type_name: str, system: str, value: str
) -> None:
    """A conditional reference becomes one by identifier, which index and search resolve."""
    before, place = reference.pop("reference"), written(chain)
    rest = {key: reference.pop(key) for key in list(reference)}
    reference["type"] = type_name
    reference["identifier"] = {"system": system, "value": value} if system else {"value": value}
    reference.update(rest)
    read = {"": f"{place}.reference"}
    for key in ("type", "identifier"):
        draft.changed(REFERENCES, f"{place}.{key}", rest.get(key), reference[key], is_safe=True, sources=read)
    draft.changed(REFERENCES, f"{place}.reference", before, None, is_safe=True)
    _hide_display(draft, reference, chain, type_name, DISPLAY)
