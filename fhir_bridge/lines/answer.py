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
from urllib.parse import urlencode

from fhir_bridge.consent import OwnRecords
from fhir_bridge.errors import Issue, KeyMissing, NotFound, NotPermitted, TypeUnknown
from fhir_bridge.fhir.json import parse, render
from fhir_bridge.fhir.outcome import operation_outcome
from fhir_bridge.fhir.tables import r4
from fhir_bridge.lines.audit import AuditLine, Interaction
from fhir_bridge.lines.charts import ChartBook
from fhir_bridge.lines.conditional import patients_with
from fhir_bridge.lines.evidence import Evidence
from fhir_bridge.lines.grant import GrantLine
from fhir_bridge.lines.network import find_organizations
from fhir_bridge.lines.notary import Notary
from fhir_bridge.lines.people import People, Sight
from fhir_bridge.lines.registry import OPERATOR, Registry
from fhir_bridge.lines.reply import Reply, version_headers
from fhir_bridge.lines.staging import instant_of
from fhir_bridge.model.access import Found, Requester
from fhir_bridge.model.ids import DIRECTORY_TYPES
from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.model.scopes import allows, readable_types
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.vault import Vault
from fhir_bridge.query import (
    Cursor,
    QueryRefused,
    SearchResult,
    everything,
    history,
    open_cursor,
    read,
    render_history,
    render_searchset,
    seal_cursor,
    search,
    vread,
)
from fhir_bridge.seal import open_contents
from fhir_bridge.settings import AnswerSettings

Params = Sequence[tuple[str, str]]
_PERSON_PARAMETERS = frozenset({"patient", "subject", "patient:Patient", "subject:Patient"})
_FEW = 50
"""So many records are opened in less than a millisecond, which a thread's hand-over costs as well."""
_SECRET_CACHE = (("Cache-Control", "no-store"),)


class AnswerLine:
    """Answers reads, searches, timelines and requests for evidence."""

    def __init__(
        self,
        *,
        vault: Vault,
        keys: KeyStore,
        registry: Registry,
        book: ChartBook,
        grant: GrantLine,
        audit: AuditLine,
        notary: Notary,
        clock: Clock,
        randomness: Randomness,
        settings: AnswerSettings,
        base_url: str,
    ) -> None:
        self._vault = vault
        self._keys = keys
        self._registry = registry
        self._audit = audit
        self._clock = clock
        self._randomness = randomness
        self._settings = settings
        self._base = f"{base_url}/fhir"
        self._people = People(
            vault=vault,
            registry=registry,
            book=book,
            grant=grant,
            own_records=OwnRecords(settings.own_records),
            base_url=base_url,
        )
        self._evidence = Evidence(vault=vault, registry=registry, notary=notary)

    # --- one record

    async def read(self, who: Requester, type_name: str, record_id: str) -> Reply:
        """Answer ``GET [base]/Type/id``.

        Raises:
            NotFound: Absent or hidden.
            NotPermitted: The token's scopes do not cover it.
        """
        _require(who, type_name, "read")
        if type_name == "Provenance" and "-" in record_id:
            return await self._provenance_by_id(who, record_id)
        if type_name == "AuditEvent" and who.patient is not None:
            return await self._audit_event_by_id(who, who.patient, record_id)
        if type_name == "Organization":
            named = find_organizations(self._registry.institutions.values(), [("_id", record_id)])
            if named:
                return Reply(200, named[0])
        return await self._one(who, type_name, record_id, None, "read")

    async def vread(self, who: Requester, type_name: str, record_id: str, version: str) -> Reply:
        """Answer ``GET [base]/Type/id/_history/version``."""
        _require(who, type_name, "vread")
        return await self._one(who, type_name, record_id, version, "vread")

    async def history(self, who: Requester, type_name: str, record_id: str, params: Params) -> Reply:
        """Answer ``GET [base]/Type/id/_history``."""
        _require(who, type_name, "history")
        now = self._clock.now()
        sight, canonical = await self._sight_of(who, type_name, record_id, now)
        found = history(sight.view, type_name, canonical)
        interaction = Interaction("history", type_name, canonical)
        await self._audit.record(who, interaction, sight, found, now)
        if not found:
            raise NotFound
        bodies = await self._bodies(found)
        link = f"{self._base}/{type_name}/{canonical}/_history"
        body = render_history(found, bodies, base_url=self._base, self_link=link)
        return Reply(200, body, _SECRET_CACHE)

    async def receipt(self, who: Requester, type_name: str, record_id: str, version: str | None) -> Reply:
        """Answer ``GET [base]/Type/id/$receipt`` with the receipt of a version that the requester may see."""
        _require(who, type_name, "read")
        now = self._clock.now()
        sight, canonical = await self._sight_of(who, type_name, record_id, now)
        found = _version(sight, type_name, canonical, version)
        await self._audit.record(who, Interaction("receipt", type_name, canonical), sight, _some(found), now)
        if found is None:
            raise NotFound
        text = await self._evidence.receipt(found.chart, found.row)
        return Reply(200, text.encode(), _SECRET_CACHE, "application/json")

    async def body_of(self, who: Requester, type_name: str, record_id: str, version: str) -> bytes:
        """Return the body of a version that its author has just written; empty if it may not be shown to them."""
        sight, canonical = await self._sight_of(who, type_name, record_id, self._clock.now())
        found = vread(sight.view, type_name, canonical, version)
        return b"" if found is None or found.row.deleted else (await self._bodies([found]))[0]

    async def _one(self, who: Requester, type_name: str, record_id: str, version: str | None, action: str) -> Reply:
        now = self._clock.now()
        sight, canonical = await self._sight_of(who, type_name, record_id, now)
        found = _version(sight, type_name, canonical, version)
        await self._audit.record(who, Interaction(action, type_name, canonical), sight, _some(found), now)
        if found is None:
            raise NotFound
        if found.row.deleted:
            return Reply(410, _gone(), _SECRET_CACHE)
        headers = version_headers(found.row.version, instant_of(found.row.last_updated_us))
        return Reply(200, (await self._bodies([found]))[0], headers + _SECRET_CACHE)

    async def _sight_of(
        self, who: Requester, type_name: str, record_id: str, now: datetime, batch: int | None = None
    ) -> tuple[Sight, str]:
        """Return the view around a record and the canonical id it has there; an empty view if there is none."""
        for candidate in dict.fromkeys(self._people.ids(who, type_name, record_id)):
            chart = await self._people.chart_of_record(candidate)
            if chart is not None:
                around = self._people.around(chart)
                return await self._people.view(who, around, instant=now, batch=batch), candidate
        return await self._people.view(who, [], instant=now, batch=batch), record_id

    # --- many records

    async def everything(self, who: Requester, patient: str, params: Params) -> Reply:
        """Answer ``GET [base]/Patient/id/$everything``: one timeline, whichever of the person's ids is named."""
        _require(who, "Patient", "everything")
        now = self._clock.now()
        target = f"Patient/{patient}/$everything"
        cursor = self._cursor(who, target, params)
        sight, canonical = await self._person(who, patient, now, cursor)
        if canonical is None:
            await self._audit.record(who, Interaction("everything", "Patient", patient), sight, (), now)
            raise NotFound
        after = cursor.after if cursor is not None else None
        result = everything(_within_scopes(who, sight).view, params, after=after)
        recorded = self._audit.record(who, Interaction("everything", "Patient", canonical), sight, result.found, now)
        return await _both(recorded, self._searchset(who, target, params, result, sight, now))

    async def search(self, who: Requester, type_name: str, params: Params) -> Reply:
        """Answer ``GET [base]/Type?params`` within one person's view, or within the directory.

        Raises:
            QueryRefused: A parameter is unknown, has a bad value, or no patient is named where one is needed.
        """
        if type_name not in r4().resource_types():
            raise TypeUnknown([Issue("error", "not-supported", "the address names no resource type of FHIR R4")])
        _require(who, type_name, "search")
        now = self._clock.now()
        if type_name == "AuditEvent":
            return await self._audit_events(who, params, now)
        if type_name == "Provenance":
            return await self._provenances(who, params, now)
        if type_name == "Organization":
            named = find_organizations(self._registry.institutions.values(), params)
            if named:
                return Reply(200, self._plain_searchset(type_name, params, named))
        cursor = self._cursor(who, type_name, params)
        sight, criteria = await self._scope(who, type_name, params, now, cursor)
        result = search(
            sight.view,
            type_name,
            criteria,
            now=now,
            base_url=self._base,
            after=cursor.after if cursor is not None else None,
            page_size=self._settings.page_default,
        )
        recorded = self._audit.record(who, Interaction("search", type_name, query=params), sight, result.found, now)
        return await _both(recorded, self._searchset(who, type_name, params, result, sight, now))

    async def _scope(
        self, who: Requester, type_name: str, params: Params, now: datetime, cursor: Cursor | None
    ) -> tuple[Sight, Params]:
        """Return the view a search is about, and the criteria that remain for it."""
        batch = _pinned(cursor)
        criteria = [(name, self._any_id(who, type_name, value) if name == "_id" else value) for name, value in params]
        if type_name in DIRECTORY_TYPES:
            return await self._people.view(who, self._people.directories(), instant=now, batch=batch), criteria
        named = [value for name, value in params if name in _PERSON_PARAMETERS]
        rest = [(name, value) for name, value in criteria if name not in _PERSON_PARAMETERS]
        if type_name == "Patient" and not named:
            return await self._patients(who, params, now, batch), rest
        if not named and who.patient is not None:
            named = [who.patient]
        if not named:
            return await self._by_id(who, type_name, params, now, batch), rest
        if len(named) > 1 or "," in named[0]:
            raise QueryRefused([Issue("error", "not-supported", "name one patient at a time", "patient")])
        sight, _ = await self._person(who, named[0], now, cursor)
        return sight, rest

    def _any_id(self, who: Requester, type_name: str, value: str) -> str:
        """Return alternatives for ids of ``_id``: each as it is, and as the requester's own local id."""
        wanted = (each for text in value.split(",") for each in self._people.ids(who, type_name, text))
        return ",".join(dict.fromkeys(wanted))

    async def _person(
        self, who: Requester, patient: str, now: datetime, cursor: Cursor | None
    ) -> tuple[Sight, str | None]:
        """Return the view of a person whose Patient the requester may see, and that Patient's canonical id.

        A Patient that is hidden is as good as absent: the view is empty and the id None.
        """
        batch = _pinned(cursor)
        charts = self._people.person_of(who, patient)
        sight = await self._people.view(who, charts, instant=now, batch=batch)
        for candidate in self._people.ids(who, "Patient", patient.removeprefix("Patient/")):
            if f"Patient/{candidate}" in sight.view.current:
                return sight, candidate
        return await self._people.view(who, [], instant=now, batch=batch), None

    async def _patients(self, who: Requester, params: Params, now: datetime, batch: int | None) -> Sight:
        """Return the view for a search of Patients: the institution's own by identifier, or one by id."""
        if who.patient is not None:
            return await self._people.view(who, self._people.person_of(who, who.patient), instant=now, batch=batch)
        charts = []
        for name, value in params:
            if name == "identifier" and who.institution is not None:
                key = self._registry.id_key(who.institution)
                for patient in await patients_with(self._vault, key, value):
                    charts += [c for c in self._people.person_of(who, patient) if c.institution == who.institution]
            elif name == "_id":
                return await self._by_id(who, "Patient", params, now, batch)
        if not any(name == "identifier" for name, _ in params):
            problem = "search Patient by identifier=system|value or _id: there is no list of all patients"
            raise QueryRefused([Issue("error", "required", problem, "identifier")])
        return await self._people.view(who, charts, instant=now, batch=batch)

    async def _by_id(self, who: Requester, type_name: str, params: Params, now: datetime, batch: int | None) -> Sight:
        wanted = [value for name, value in params if name == "_id"]
        if len(wanted) != 1 or "," in wanted[0]:
            raise QueryRefused([Issue("error", "required", "name a patient: patient=ID", "patient")])
        sight, _ = await self._sight_of(who, type_name, wanted[0], now, batch)
        return sight

    async def _searchset(
        self, who: Requester, target: str, params: Params, result: SearchResult, sight: Sight, now: datetime
    ) -> Reply:
        bodies = await self._bodies(result.found)
        asked = [pair for pair in params if pair[0] != "_cursor"]
        link = f"{self._base}/{target}" + (f"?{urlencode(asked)}" if asked else "")
        following = None
        if result.after is not None:
            pinned = Cursor(result.after, {"batch": sight.batch})
            text = seal_cursor(pinned, self._cursor_key(), who, target, params, self._randomness)
            following = f"{self._base}/{target}?{urlencode([*asked, ('_cursor', text)])}"
        body = await asyncio.to_thread(
            render_searchset,
            result.found,
            bodies,
            base_url=self._base,
            self_link=link,
            next_link=following,
            total=result.total,
        )
        return Reply(200, body, _SECRET_CACHE)

    # --- evidence and accounting

    async def _audit_events(self, who: Requester, params: Params, now: datetime) -> Reply:
        """Answer the patient who asks who saw what; an institution's answer is always empty."""
        named = [value for name, value in params if name in _PERSON_PARAMETERS]
        patient = named[0] if named else who.patient or ""
        charts = self._people.person_of(who, patient)
        own = who.patient is not None and any(c.patient_id == who.patient for c in charts)
        bodies = await self._audit.events(charts) if own else []
        empty = await self._people.view(who, [], instant=now)
        await self._audit.record(who, Interaction("search", "AuditEvent"), empty, (), now)
        return Reply(200, self._plain_searchset("AuditEvent", params, bodies), _SECRET_CACHE)

    async def _audit_event_by_id(self, who: Requester, patient: str, event_id: str) -> Reply:
        now = self._clock.now()
        charts = self._people.person_of(who, patient)
        named = b'"id":%b' % render(event_id)
        # The id is the second member of what we wrote, so that no text further on can pass for it.
        found = [event for event in await self._audit.events(charts) if named in event[:96]]
        empty = await self._people.view(who, [], instant=now)
        await self._audit.record(who, Interaction("read", "AuditEvent", event_id), empty, (), now)
        if not found:
            raise NotFound
        return Reply(200, found[0], _SECRET_CACHE)

    async def _provenances(self, who: Requester, params: Params, now: datetime) -> Reply:
        targets = [value for name, value in params if name == "target"]
        if len(targets) != 1 or targets[0].count("/") != 1 or len(params) != 1:
            raise QueryRefused([Issue("error", "required", "search Provenance by target=Type/id", "target")])
        type_name, record_id = targets[0].split("/")
        _require(who, type_name, "read")
        sight, canonical = await self._sight_of(who, type_name, record_id, now)
        found = history(sight.view, type_name, canonical)
        await self._audit.record(who, Interaction("search", "Provenance"), sight, found[:1], now)
        bodies = [await self._evidence.provenance(each.chart, each.row) for each in found if not each.row.deleted]
        return Reply(200, self._plain_searchset("Provenance", params, bodies), _SECRET_CACHE)

    async def _provenance_by_id(self, who: Requester, provenance_id: str) -> Reply:
        """A Provenance id is ``<record id>-<version>``; it is seen by whoever may see that version."""
        record_id, _, version = provenance_id.rpartition("-")
        now = self._clock.now()
        may_read = readable_types(who)
        chart = await self._people.chart_of_record(record_id)
        charts = [] if chart is None else self._people.around(chart)
        sight = await self._people.view(who, charts, instant=now)
        rows = (
            Found(view.chart, row)
            for view in sight.view.charts
            for row in view.rows
            if row.id == record_id and row.version == version and not row.deleted and may_read(row.type)
        )
        found = next(rows, None)
        await self._audit.record(who, Interaction("read", "Provenance", provenance_id), sight, _some(found), now)
        if found is None:
            raise NotFound
        return Reply(200, await self._evidence.provenance(found.chart, found.row), _SECRET_CACHE)

    def _plain_searchset(self, type_name: str, params: Params, bodies: Sequence[bytes]) -> bytes:
        link = f"{self._base}/{type_name}" + (f"?{urlencode(list(params))}" if params else "")
        entries = [
            b'{"fullUrl":%b,"resource":%b,"search":{"mode":"match"}}' % (self._full_url(body), body)
            for body in bodies
        ]
        head = {"resourceType": "Bundle", "type": "searchset", "total": len(bodies)}
        start = render(head | {"link": [{"relation": "self", "url": link}]})
        return start if not entries else start[:-1] + b',"entry":[' + b",".join(entries) + b"]}"

    def _full_url(self, body: bytes) -> bytes:
        named = parse(body)
        return render(f"{self._base}/{named['resourceType']}/{named['id']}")

    # --- opening

    async def _bodies(self, found: Sequence[Found]) -> list[bytes]:
        """Open the normalised forms of what was found, in order; charts side by side."""
        by_chart: dict[str, list[int]] = {}
        for place, each in enumerate(found):
            if not each.row.deleted:
                by_chart.setdefault(each.chart, []).append(place)
        bodies = [b""] * len(found)
        opened = await asyncio.gather(
            *(self._open(chart, [found[place].row for place in places]) for chart, places in by_chart.items())
        )
        for places, contents in zip(by_chart.values(), opened, strict=True):
            for place, body in zip(places, contents, strict=True):
                bodies[place] = body
        return bodies

    async def _open(self, chart: str, rows: Sequence[IndexRow]) -> Sequence[bytes]:
        envelopes = await self._vault.normalised(chart, [(row.id, row.version) for row in rows])
        ref = self._registry.chart(chart)
        if ref is None:
            raise KeyMissing("a chart of the answer is not known")
        key = self._registry.chart_key(ref)
        if len(rows) <= _FEW:
            return open_contents(key, chart, rows, envelopes)
        return await asyncio.to_thread(open_contents, key, chart, rows, envelopes)

    def _cursor(self, who: Requester, target: str, params: Params) -> Cursor | None:
        text = next((value for name, value in params if name == "_cursor"), None)
        return None if text is None else open_cursor(text, self._cursor_key(), who, target, params)

    def _cursor_key(self) -> bytes:
        name = KeyName(KeyKind.INSTITUTION, OPERATOR, "cursor")
        return self._keys.ensure([name])[name]


def _require(who: Requester, type_name: str, interaction: str) -> None:
    if not allows(who, type_name, interaction):
        raise NotPermitted(f"the token's scopes do not allow this interaction on {type_name}")


async def _both(recorded: Awaitable[None], made: Awaitable[Reply]) -> Reply:
    """Make an answer while its access is being written; neither leaves before both are done."""
    _, reply = await asyncio.gather(recorded, made)
    return reply


def _pinned(cursor: Cursor | None) -> int | None:
    return None if cursor is None else cursor.pinned.get("batch")


def _version(sight: Sight, type_name: str, record_id: str, version: str | None) -> Found | None:
    if version is None:
        return read(sight.view, type_name, record_id)
    return vread(sight.view, type_name, record_id, version)


def _some(found: Found | None) -> Sequence[Found]:
    return () if found is None else (found,)


def _within_scopes(who: Requester, sight: Sight) -> Sight:
    """Leave out the types that the token's scopes do not let the requester read."""
    may_read = readable_types(who)
    current = sight.view.current
    hidden = {name for name in {row.type for _, row in current.values()} if not may_read(name)}
    kept = {name: place for name, place in current.items() if place[1].type not in hidden} if hidden else current
    view = type(sight.view)(sight.view.charts, kept)
    return Sight(view, sight.decisions, sight.charts, sight.batch)


def _gone() -> bytes:
    return render(operation_outcome([Issue("error", "deleted", "this resource was deleted by its source")]))
