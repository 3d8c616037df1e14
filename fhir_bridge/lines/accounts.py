"""Who saw a record and where it came from: AuditEvents for the patient, Provenance for whoever sees the record.

For the answer line. Both are made from sealed evidence, not stored as records;
each question is itself recorded like any other access.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from fhir_bridge.errors import Issue, NotFound
from fhir_bridge.fhir.json import parse, render
from fhir_bridge.fhir.search import extract
from fhir_bridge.fhir.timeline import dated
from fhir_bridge.lines.audit import AuditLine, Interaction
from fhir_bridge.lines.evidence import Evidence
from fhir_bridge.lines.pages import Pages
from fhir_bridge.lines.people import People
from fhir_bridge.lines.reply import NO_STORE, Reply
from fhir_bridge.lines.scoping import PERSON_PARAMETERS, Params, Scoping, require
from fhir_bridge.model.access import ChartView, Current, PermittedView, PlainPart, Requester
from fhir_bridge.model.index import Records
from fhir_bridge.model.ingest import ChartRef, IndexRow, pack_values
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.query import QueryRefused, history, read_shape, render_searchset, search, vread

_PROVENANCE_CONTROLS = frozenset({"_format", "_pretty", "_summary", "_elements"})


class Accounts:
    """Answers for the two types that tell about records."""

    def __init__(
        self,
        *,
        people: People,
        scoping: Scoping,
        evidence: Evidence,
        audit: AuditLine,
        clock: Clock,
        pages: Pages,
        base: str,
    ) -> None:
        self._people = people
        self._scoping = scoping
        self._evidence = evidence
        self._audit = audit
        self._clock = clock
        self._pages = pages
        self._base = base

    async def audit_events(self, who: Requester, params: Params, page_size: int) -> Reply:
        """Answer the patient who asks who saw what, newest first; an institution's answer is always empty.

        Raises:
            QueryRefused: A parameter is unknown or has a bad value.
        """
        now = self._clock.now()
        named = [value for name, value in params if name in PERSON_PARAMETERS]
        patient = named[0] if named else who.patient or ""
        charts = self._people.own_person(who, patient)
        events = [(_row(body), body) for body in await self._audit.events(charts)]
        bodies = {row.id: body for row, body in events}
        cursor = self._pages.opened(who, "AuditEvent", params)
        criteria = [pair for pair in params if pair[0] not in PERSON_PARAMETERS]
        if not any(name == "_sort" for name, _ in criteria):
            criteria.append(("_sort", "-date"))
        after = None if cursor is None else cursor.after
        view = _view_of_events([row for row, _ in events])
        result = search(view, "AuditEvent", criteria, now=now, base_url=self._base, after=after, page_size=page_size)
        empty = await self._people.view(who, [], instant=now)
        await self._audit.record(who, Interaction("search", "AuditEvent"), empty, (), now)
        body = render_searchset(
            result.found,
            [result.shape.of("AuditEvent", bodies[each.row.id]) for each in result.found],
            base_url=self._base,
            self_link=self._pages.itself("AuditEvent", params),
            next_link=self._pages.following(who, "AuditEvent", params, result.after, empty.batch),
            total=result.total,
        )
        return Reply(200, body, NO_STORE)

    async def audit_event(self, who: Requester, patient: str, event_id: str) -> Reply:
        """Return one AuditEvent of the patient who asks.

        Raises:
            NotFound: There is none of this id in the patient's charts.
        """
        now = self._clock.now()
        charts = self._people.person_of(who, patient)
        named = b'"id":%b' % render(event_id)
        # The id is the second member of what we wrote, so that no text further on can pass for it.
        found = [event for event in await self._audit.events(charts) if named in event[:96]]
        empty = await self._people.view(who, [], instant=now)
        await self._audit.record(who, Interaction("read", "AuditEvent", event_id), empty, (), now)
        if not found:
            raise NotFound
        return Reply(200, found[0], NO_STORE)

    async def provenances(self, who: Requester, params: Params) -> Reply:
        """Return the Provenance of every version of one record that the requester may see."""
        now = self._clock.now()
        shape = read_shape(params, "Provenance")
        targets = [value for name, value in params if name not in _PROVENANCE_CONTROLS]
        is_named = any(name == "target" for name, _ in params)
        if not is_named or len(targets) != 1 or targets[0].count("/") != 1:
            raise QueryRefused([Issue("error", "required", "search Provenance by target=Type/id", "target")])
        type_name, record_id = targets[0].split("/")
        require(who, type_name, "read")
        sight, canonical = await self._scoping.of_record(who, type_name, record_id, now)
        found = history(sight.view, type_name, canonical)
        await self._audit.record(who, Interaction("search", "Provenance"), sight, found[:1], now)
        made = [await self._evidence.provenance(each.chart, each.row) for each in found if not each.row.deleted]
        bodies = [shape.of("Provenance", body) for body in made]
        return Reply(200, plain_searchset(self._base, "Provenance", params, bodies), NO_STORE)

    async def provenance(self, who: Requester, provenance_id: str) -> Reply:
        """A Provenance id is ``<record id>-<version>``; it is seen by whoever may see that version."""
        record_id, _, version = provenance_id.rpartition("-")
        now = self._clock.now()
        sight, type_name = await self._scoping.of_version(who, record_id, now)
        found = vread(sight.view, type_name or "Basic", record_id, version)
        if found is not None and found.row.deleted:
            found = None
        seen = () if found is None else (found,)
        await self._audit.record(who, Interaction("read", "Provenance", provenance_id), sight, seen, now)
        if found is None:
            raise NotFound
        return Reply(200, await self._evidence.provenance(found.chart, found.row), NO_STORE)


def _view_of_events(rows: Sequence[IndexRow]) -> PermittedView:
    """Return the view of a person's access log, every event of which is the person's to see."""
    none = ChartRef("", "", None)
    records = Records.of(none, rows)
    view = ChartView(none.chart, none.institution, records, records)
    return PermittedView((view,), Current([PlainPart({f"{row.type}/{row.id}": (none, row) for row in rows})]))


def _row(body: bytes) -> IndexRow:
    event = parse(body)
    start, period = dated(event)
    return IndexRow(
        type="AuditEvent",
        id=event["id"],
        version="1",
        deleted=False,
        origin="",
        author="",
        last_updated_us=start or 0,
        source_updated_us=None,
        dated_us=start,
        labels=(),
        codes=(),
        data_period_us=period,
        search=pack_values(extract(event)),
        references=(),
        content=b"",
    )


def plain_searchset(base: str, type_name: str, params: Params, bodies: Sequence[bytes]) -> bytes:
    """Return a searchset of bodies that have no index rows."""
    link = f"{base}/{type_name}" + (f"?{urlencode(list(params))}" if params else "")
    entries = [
        b'{"fullUrl":%b,"resource":%b,"search":{"mode":"match"}}' % (_full_url(base, body), body) for body in bodies
    ]
    head = {"resourceType": "Bundle", "type": "searchset", "total": len(bodies)}
    start = render(head | {"link": [{"relation": "self", "url": link}]})
    return start if not entries else start[:-1] + b',"entry":[' + b",".join(entries) + b"]}"


def _full_url(base: str, body: bytes) -> bytes:
    named = parse(body)
    return render(f"{base}/{named['resourceType']}/{named['id']}")
