"""Which of a person's records tell of the same thing twice: ``GET Patient/id/$duplicates``.

For the answer line. The links are R4 ``Linkage`` resources, made for each question from what its requester may see
and stored nowhere: a hidden record has no twin, and a link is undone by the record that made it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from fhir_bridge.errors import Issue, NotFound
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.tables import r4
from fhir_bridge.lines.audit import AuditLine, Interaction
from fhir_bridge.lines.opening import Opening
from fhir_bridge.lines.people import People
from fhir_bridge.lines.reply import NO_STORE, Reply
from fhir_bridge.lines.scoping import Params, Scoping, require, within_scopes
from fhir_bridge.model.access import Found, PermittedView, Requester
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.query import Alike, QueryRefused, alike, suspects

GROUND_SYSTEM = "urn:fhir-bridge:duplicate"
"""System of the ``meta.tag`` that says how the linked records are known to be one: see ``query.duplicates``."""

MAX_OPENED = 5_000
"""Records that may be opened for one question: about half a second's work."""

MAX_COMPARED = 200_000
"""Pairs of records that may be compared for one question: about a second's work.

Every two of a group are: of a number that a sender puts into all its records, some 600 of them.
"""

_CONTROLS = frozenset({"_type", "_format", "_pretty"})


class Duplicates:
    """Answers the question; opens no record but those that may have a twin."""

    def __init__(self, *, people: People, scoping: Scoping, opening: Opening, audit: AuditLine, clock: Clock) -> None:
        self._people = people
        self._scoping = scoping
        self._opening = opening
        self._audit = audit
        self._clock = clock

    async def of_person(self, who: Requester, patient: str, params: Params) -> Reply:
        """Return a collection of Linkages, one for each group of records that are alike.

        Raises:
            QueryRefused: A parameter is unknown, or too many records would have to be compared.
            NotFound: The patient is absent or hidden.
        """
        require(who, "Patient", "everything")
        types = _types(params)
        now = self._clock.now()
        directory = await self._people.view(who, self._people.directories(), instant=now)
        sight, canonical = await self._scoping.of_person(who, patient, now, None)
        if canonical is None:
            await self._audit.record(who, Interaction("duplicates", "Patient", patient), sight, (), now)
            raise NotFound
        groups = suspects(within_scopes(who, sight).view, types)
        found = list({_name(each): each for group in groups for each in group}.values())
        _refuse_costly(groups, len(found))
        told = await self._compared(groups, found, within_scopes(who, directory).view)
        shown = list({_name(each): each for group in told for each in group.found}.values())
        await self._audit.record(who, Interaction("duplicates", "Patient", canonical, params), sight, shown, now)
        return Reply(200, render(_collection(told)), NO_STORE)

    async def _compared(
        self, groups: Sequence[Sequence[Found]], found: Sequence[Found], directory: PermittedView
    ) -> Sequence[Alike]:
        bodies = await self._opening.bodies(found)
        named = dict(zip(map(_name, found), bodies, strict=True))
        return await asyncio.to_thread(alike, groups, named, lambda each: _identities(directory, each))


def _refuse_costly(groups: Sequence[Sequence[Found]], opened: int) -> None:
    pairs = sum(len(group) * (len(group) - 1) // 2 for group in groups)
    for count, what, limit in ((opened, "records", MAX_OPENED), (pairs, "pairs of records", MAX_COMPARED)):
        if count > limit:
            problem = f"{count} {what} would have to be compared, {limit} may be: name types with _type"
            raise QueryRefused([Issue("error", "too-costly", problem, "_type")])


def _types(params: Params) -> set[str]:
    for name, _ in params:
        if name not in _CONTROLS:
            raise QueryRefused([Issue("error", "not-supported", "only _type is known here", name)])
    types = {each for name, text in params if name == "_type" for each in text.split(",")}
    if not types <= r4().resource_types():
        raise QueryRefused([Issue("error", "invalid", "names no resource type of FHIR R4", "_type")])
    return types


def _name(found: Found) -> str:
    return f"{found.row.type}/{found.row.id}"


def _identities(directory: PermittedView, reference: str) -> Iterable[str]:
    place = directory.current.get(reference)
    tokens = () if place is None else place[1].values_of("identifier")
    return [f"{token[0]}|{token[1]}" for token in tokens if token[0]]


def _collection(groups: Sequence[Alike]) -> dict[str, Any]:
    entries = [{"fullUrl": f"urn:uuid:{_uuid(each)}", "resource": _linkage(each)} for each in groups]
    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "collection"}
    return bundle | ({"entry": entries} if entries else {})


def _linkage(group: Alike) -> dict[str, Any]:
    """Write a group as R4 ``Linkage``; which of the records is right is not ours to say, so all are alternates."""
    return {
        "resourceType": "Linkage",
        "meta": {"tag": [{"system": GROUND_SYSTEM, "code": group.ground}]},
        "active": True,
        "item": [{"type": "alternate", "resource": {"reference": _name(each)}} for each in group.found],
    }


def _uuid(group: Alike) -> str:
    """Return an address for one group in one answer; the same records have the same."""
    digest = hashlib.sha256("\n".join(map(_name, group.found)).encode()).digest()
    return str(UUID(bytes=digest[:16], version=4))
