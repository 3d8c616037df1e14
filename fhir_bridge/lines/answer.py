"""A question's way: consent → query → proof.

Every answer is made from a permitted view and recorded before its first byte
leaves. Absent and hidden take the same steps and give the same answer.

Invariants:
    * ``query`` is given a view and has no other way to records;
    * only the ciphertexts of what is shown are opened;
    * the AuditEvent of an answer is durable before the answer is returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import datetime

from fhir_bridge.errors import AnswerCutOff, Issue, NotFound, TypeUnknown
from fhir_bridge.fhir.compartment import is_in_patient_compartment
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.outcome import operation_outcome
from fhir_bridge.fhir.tables import r4
from fhir_bridge.lines.accounts import Accounts, plain_searchset
from fhir_bridge.lines.audit import AuditLine, Interaction
from fhir_bridge.lines.clients import Clients
from fhir_bridge.lines.decisions import Decisions
from fhir_bridge.lines.duplicates import Duplicates
from fhir_bridge.lines.evidence import Evidence
from fhir_bridge.lines.histories import Histories
from fhir_bridge.lines.labels import Labels
from fhir_bridge.lines.network import find_organizations
from fhir_bridge.lines.notary import Notary
from fhir_bridge.lines.opening import FEW, FEW_BYTES, Opening
from fhir_bridge.lines.pages import Pages, pinned
from fhir_bridge.lines.people import People, Sight
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.reply import NO_STORE, NOTHING_HELD, Held, Reply, version_headers
from fhir_bridge.lines.scoping import Params, Scoping, require, within_scopes
from fhir_bridge.lines.staging import instant_of
from fhir_bridge.lines.streaming import Again, stream
from fhir_bridge.model.access import Found, Requester
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.ports.keys import KeyStore
from fhir_bridge.ports.vault import Vault
from fhir_bridge.query import (
    SearchResult,
    Shape,
    everything,
    frame_searchset,
    read,
    read_shape,
    render_searchset,
    search,
    vread,
)
from fhir_bridge.query.refusals import shown
from fhir_bridge.settings import AnswerSettings


class AnswerLine:
    """Answers reads, searches, timelines and requests for evidence."""

    def __init__(
        self,
        *,
        vault: Vault,
        keys: KeyStore,
        registry: Registry,
        people: People,
        audit: AuditLine,
        notary: Notary,
        clock: Clock,
        randomness: Randomness,
        settings: AnswerSettings,
        labels: Labels,
        clients: Clients,
        base_url: str,
    ) -> None:
        self._labels = labels
        self._clients = clients
        self._registry = registry
        self._audit = audit
        self._clock = clock
        self._settings = settings
        self._base = f"{base_url}/fhir"
        self._scoping = Scoping(vault=vault, registry=registry, people=people)
        self._opening = Opening(vault=vault, registry=registry)
        self._evidence = Evidence(vault=vault, registry=registry, notary=notary)
        self.decisions = Decisions(
            people=people, scoping=self._scoping, registry=registry, audit=audit, clock=clock, randomness=randomness
        )
        self.duplicates = Duplicates(
            people=people, scoping=self._scoping, opening=self._opening, audit=audit, clock=clock
        )
        self._pages = Pages(keys=keys, randomness=randomness, base=self._base)
        self._histories = Histories(
            scoping=self._scoping,
            opening=self._opening,
            pages=self._pages,
            audit=audit,
            clock=clock,
            base=self._base,
        )
        self._accounts = Accounts(
            people=people,
            scoping=self._scoping,
            evidence=self._evidence,
            audit=audit,
            clock=clock,
            pages=self._pages,
            base=self._base,
        )

    # --- one record

    async def read(
        self,
        who: Requester,
        type_name: str,
        record_id: str,
        params: Params = (),
        held: Held = NOTHING_HELD,
    ) -> Reply:
        """Answer ``GET [base]/Type/id``: 304 without a body if the reader holds the version that it may see.

        Raises:
            NotFound: Absent or hidden.
            NotPermitted: The token's scopes do not cover it.
        """
        require(who, type_name, "read")
        if type_name == "Provenance" and "-" in record_id:
            return await self._accounts.provenance(who, record_id)
        if type_name == "AuditEvent" and who.patient is not None:
            return await self._accounts.audit_event(who, who.patient, record_id)
        if type_name == "Organization":
            named = find_organizations(self._registry.institutions.values(), [("_id", record_id)])
            if named:
                return Reply(200, named[0])
        return await self._one(who, type_name, record_id, None, "read", _shape(params, type_name), held)

    async def vread(self, who: Requester, type_name: str, record_id: str, version: str, params: Params = ()) -> Reply:
        """Answer ``GET [base]/Type/id/_history/version``."""
        require(who, type_name, "vread")
        return await self._one(who, type_name, record_id, version, "vread", _shape(params, type_name))

    async def history(self, who: Requester, type_name: str, record_id: str, params: Params) -> Reply:
        """Answer ``GET [base]/Type/id/_history``."""
        return await self._histories.of_record(who, type_name, record_id, params)

    async def history_of_all(self, who: Requester, type_name: str | None, params: Params) -> Reply:
        """Answer ``GET [base]/Type/_history``, or ``GET [base]/_history`` without a type."""
        return await self._histories.of_all(who, type_name, params)

    async def receipt(self, who: Requester, type_name: str, record_id: str, version: str | None) -> Reply:
        """Answer ``GET [base]/Type/id/$receipt`` with the receipt of a version that the requester may see."""
        require(who, type_name, "read")
        now = self._clock.now()
        sight, canonical = await self._scoping.of_record(who, type_name, record_id, now)
        found = _version(sight, type_name, canonical, version)
        await self._audit.record(who, Interaction("receipt", type_name, canonical), sight, _some(found), now)
        if found is None:
            raise NotFound
        text = await self._evidence.receipt(found.chart, found.row)
        return Reply(200, text.encode(), NO_STORE, "application/json")

    async def body_of(self, who: Requester, type_name: str, record_id: str, version: str) -> bytes:
        """Return the body of a version that its author has just written; empty if it may not be shown to them."""
        sight, canonical = await self._scoping.of_record(who, type_name, record_id, self._clock.now())
        found = vread(sight.view, type_name, canonical, version)
        return b"" if found is None or found.row.deleted else (await self._opening.bodies([found]))[0]

    async def _one(
        self,
        who: Requester,
        type_name: str,
        record_id: str,
        version: str | None,
        action: str,
        shape: Shape,
        held: Held = NOTHING_HELD,
    ) -> Reply:
        now = self._clock.now()
        sight, canonical = await self._scoping.of_record(who, type_name, record_id, now)
        found = _version(sight, type_name, canonical, version)
        recorded = self._audit.recording(who, Interaction(action, type_name, canonical), sight, _some(found), now)
        return await _both(recorded, self._shown(found, type_name, shape, held))

    async def _shown(self, found: Found | None, type_name: str, shape: Shape, held: Held) -> Reply:
        if found is None:
            raise NotFound
        if found.row.deleted:
            return Reply(410, _gone(), NO_STORE)
        updated = instant_of(found.row.last_updated_us)
        headers = version_headers(found.row.version, updated)
        if held.is_current(found.row.version, updated):
            return Reply(304, b"", headers + NO_STORE)
        body = (await self._opening.bodies([found]))[0]
        return Reply(200, shape.of(type_name, body), headers + NO_STORE)

    # --- many records

    async def everything(self, who: Requester, patient: str, params: Params) -> Reply:
        """Answer ``GET [base]/Patient/id/$everything``: one timeline, whichever of the person's ids is named."""
        require(who, "Patient", "everything")
        now = self._clock.now()
        target = f"Patient/{patient}/$everything"
        cursor = self._pages.opened(who, target, params)
        sight, canonical = await self._scoping.of_person(who, patient, now, pinned(cursor))
        if canonical is None:
            await self._audit.record(who, Interaction("everything", "Patient", patient), sight, (), now)
            raise NotFound
        after = cursor.after if cursor is not None else None
        result = everything(within_scopes(who, sight).view, params, after=after)
        recorded = self._audit.recording(
            who, Interaction("everything", "Patient", canonical), sight, result.found, now
        )

        async def again() -> Sight:
            return (await self._scoping.of_person(who, patient, self._clock.now(), None))[0]

        return await _both(
            recorded, self._searchset(who, target, params, result, sight, self._still(who, now, again))
        )

    async def search(self, who: Requester, type_name: str, params: Params, *, lenient: bool = False) -> Reply:
        """Answer ``GET [base]/Type?params`` within one person's view, or within the directory.

        Raises:
            QueryRefused: A parameter is unknown, has a bad value, or no patient is named where one is needed.
        """
        if type_name not in r4().resource_types():
            raise TypeUnknown([Issue("error", "not-supported", "the address names no resource type of FHIR R4")])
        require(who, type_name, "search")
        now = self._clock.now()
        if type_name == "AuditEvent":
            return await self._accounts.audit_events(who, params, self._settings.page_default)
        if type_name == "Provenance":
            return await self._accounts.provenances(who, params)
        if type_name == "Organization":
            named = find_organizations(self._registry.institutions.values(), params)
            if named:
                return Reply(200, plain_searchset(self._base, type_name, params, named))
        cursor = self._pages.opened(who, type_name, params)
        sight, criteria = await self._scoping.of_search(who, type_name, params, now, pinned(cursor))
        result = search(
            sight.view,
            type_name,
            criteria,
            now=now,
            base_url=self._base,
            after=cursor.after if cursor is not None else None,
            page_size=self._settings.page_default,
            lenient=lenient,
            find_set=self._labels.sets.find,
        )
        recorded = self._audit.recording(
            who, Interaction("search", type_name, query=params), sight, result.found, now
        )

        async def again() -> Sight:
            return (await self._scoping.of_search(who, type_name, params, self._clock.now(), None))[0]

        return await _both(
            recorded, self._searchset(who, type_name, params, result, sight, self._still(who, now, again))
        )

    async def in_compartment(
        self, who: Requester, patient: str, type_name: str, params: Params, *, lenient: bool = False
    ) -> Reply:
        """Answer ``GET [base]/Patient/id/Type?params``: what ``Type?patient=id&params`` answers.

        Raises:
            TypeUnknown: No type of R4's Patient compartment.
            QueryRefused: As for a search.
        """
        if not is_in_patient_compartment(type_name):
            problem = "the address names no resource type of the Patient compartment"
            raise TypeUnknown([Issue("error", "not-supported", problem)])
        return await self.search(who, type_name, [*params, ("patient", patient)], lenient=lenient)

    def _still(self, who: Requester, began: datetime, again: Again) -> Again:
        """Return ``again`` for a requester who may act no more if its client was ended since the answer began."""

        async def still() -> Sight:
            sight = await again()
            if not self._clients.still_acts(who.client_id, began, self._clock.now()):
                raise AnswerCutOff
            return sight

        return still

    async def _searchset(
        self, who: Requester, target: str, params: Params, result: SearchResult, sight: Sight, again: Again
    ) -> Reply:
        next_link = self._pages.following(who, target, params, result.after, sight.batch)
        self_link = self._pages.itself(target, params, result.ignored)
        outcome = _ignored(result.ignored)
        if len(result.found) > self._settings.stream_above:
            frame = frame_searchset(self_link=self_link, next_link=next_link, total=result.total, outcome=outcome)
            blocks = await stream(
                result,
                frame,
                opening=self._opening,
                again=again,
                base_url=self._base,
                block=self._settings.stream_block,
            )
            return Reply(200, b"", NO_STORE, stream=blocks)
        bodies = await self._opening.bodies(result.found)

        def rendered() -> bytes:
            return render_searchset(
                result.found,
                bodies if result.shape.is_whole else _shaped(result, bodies),
                base_url=self._base,
                self_link=self_link,
                next_link=next_link,
                total=result.total,
                outcome=outcome,
            )

        is_short = len(bodies) <= FEW and sum(map(len, bodies)) <= FEW_BYTES and result.shape.is_whole
        return Reply(200, rendered() if is_short else await asyncio.to_thread(rendered), NO_STORE)


async def _both(recorded: asyncio.Future[None], made: Awaitable[Reply]) -> Reply:
    """Make an answer while its access is being written; no answer leaves before that is done, a refusal neither."""
    try:
        return await made
    finally:
        await recorded


def _version(sight: Sight, type_name: str, record_id: str, version: str | None) -> Found | None:
    if version is None:
        return read(sight.view, type_name, record_id)
    return vread(sight.view, type_name, record_id, version)


def _some(found: Found | None) -> Sequence[Found]:
    return () if found is None else (found,)


def _ignored(names: Sequence[str]) -> bytes | None:
    """Name what a lenient search left out; None if that is nothing."""
    if not names:
        return None
    left = dict.fromkeys(map(shown, names))
    said = [Issue("warning", "not-supported", f"{name} is not supported here and was ignored") for name in left]
    return render(operation_outcome(said))


def _shape(params: Params, type_name: str) -> Shape:
    """Read how much of a record is wanted; a name that is no type finds nothing, whatever is wanted of it."""
    return read_shape(params, type_name if type_name in r4().resource_types() else None)


def _shaped(result: SearchResult, bodies: Sequence[bytes]) -> list[bytes]:
    return [result.shape.of(each.row.type, body) for each, body in zip(result.found, bodies, strict=True)]


def _gone() -> bytes:
    return render(operation_outcome([Issue("error", "deleted", "this resource was deleted by its source")]))
