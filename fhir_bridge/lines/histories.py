"""Histories: of one record, of one type, of everything that a requester may see of a person or the directory.

For the answer line. Versions come from the permitted view like all else; what
was hidden leaves no gap.
"""

from __future__ import annotations

import asyncio

from fhir_bridge.errors import Issue, NotFound, TypeUnknown
from fhir_bridge.fhir.tables import r4
from fhir_bridge.lines.audit import AuditLine, Interaction
from fhir_bridge.lines.opening import Opening
from fhir_bridge.lines.pages import Pages, pinned
from fhir_bridge.lines.reply import NO_STORE, Reply
from fhir_bridge.lines.scoping import PERSON_PARAMETERS, Params, Scoping, require
from fhir_bridge.model.access import Requester
from fhir_bridge.model.scopes import readable_types
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.query import (
    SearchResult,
    history,
    history_of_record,
    history_of_view,
    read_history,
    render_history,
)

_ACCOUNTS = frozenset({"AuditEvent", "Provenance"})


class Histories:
    """Answers ``_history`` at all three levels."""

    def __init__(
        self, *, scoping: Scoping, opening: Opening, pages: Pages, audit: AuditLine, clock: Clock, base: str
    ) -> None:
        self._scoping = scoping
        self._opening = opening
        self._pages = pages
        self._audit = audit
        self._clock = clock
        self._base = base

    async def of_record(self, who: Requester, type_name: str, record_id: str, params: Params) -> Reply:
        """Answer ``GET [base]/Type/id/_history``, newest first, page by page.

        Raises:
            NotFound: Absent or hidden.
            QueryRefused: A parameter is not understood.
        """
        require(who, type_name, "history")
        asked = read_history(params, type_name if type_name in r4().resource_types() else None)
        now = self._clock.now()
        cursor = self._pages.opened(who, f"{type_name}/{record_id}/_history", params)
        sight, canonical = await self._scoping.of_record(who, type_name, record_id, now, pinned(cursor))
        versions = history(sight.view, type_name, canonical)
        result = history_of_record(versions, asked, after=None if cursor is None else cursor.after)
        await self._audit.record(who, Interaction("history", type_name, canonical), sight, result.found, now)
        if not versions:
            raise NotFound
        bodies = [asked.shape.of(type_name, body) for body in await self._opening.bodies(result.found)]
        # The links have the id that every requester knows the record by.
        target = f"{type_name}/{canonical}/_history"
        return Reply(200, self._rendered(who, target, params, result, bodies, sight.batch), NO_STORE)

    async def of_all(self, who: Requester, type_name: str | None, params: Params) -> Reply:
        """Answer ``GET [base]/Type/_history`` and ``GET [base]/_history``, newest first, page by page.

        Raises:
            QueryRefused: No patient is named where one is needed, or a parameter is not understood.
        """
        if type_name is not None and type_name not in r4().resource_types() - _ACCOUNTS:
            raise TypeUnknown([Issue("error", "not-supported", "the address names no type that has a history here")])
        require(who, type_name or "*", "history-type")
        criteria = [pair for pair in params if pair[0] not in PERSON_PARAMETERS]
        asked = read_history(criteria, type_name)
        now = self._clock.now()
        target = "_history" if type_name is None else f"{type_name}/_history"
        cursor = self._pages.opened(who, target, params)
        sight = await self._scoping.of_history(who, type_name, params, now, pinned(cursor))
        after = None if cursor is None else cursor.after
        result = history_of_view(sight.view, type_name, asked, may_read=readable_types(who), after=after)
        level = "history-system" if type_name is None else "history-type"
        interaction = Interaction(level, type_name or "Resource", query=params)
        recorded = self._audit.record(who, interaction, sight, result.found, now)
        _, opened = await asyncio.gather(recorded, self._opening.bodies(result.found))
        pairs = zip(result.found, opened, strict=True)
        bodies = [asked.shape.of(each.row.type, body) for each, body in pairs]
        return Reply(200, self._rendered(who, target, params, result, bodies, sight.batch), NO_STORE)

    def _rendered(
        self, who: Requester, target: str, params: Params, page: SearchResult, bodies: list[bytes], batch: int
    ) -> bytes:
        return render_history(
            page.found,
            bodies,
            base_url=self._base,
            self_link=self._pages.itself(target, params),
            next_link=self._pages.following(who, target, params, page.after, batch),
            total=page.total,
        )
