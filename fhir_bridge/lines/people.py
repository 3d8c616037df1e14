"""From what a client names to the charts it means, and from those to the permitted view.

The one choke point: a line reaches records through :meth:`People.view` and in
no other way. Whatever is absent, unknown or hidden comes out as the same None.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from fhir_bridge import metrics, tracing
from fhir_bridge.consent import (
    ChartFacts,
    ConsentList,
    Inputs,
    NetworkPolicies,
    Reach,
    as_of,
    judge,
    of_person,
    permitted_view,
)
from fhir_bridge.lines.charts import ChartBook, OpenChart
from fhir_bridge.lines.grant import GrantLine
from fhir_bridge.lines.labels import HeldLabels, Labels, labelled
from fhir_bridge.lines.past_lists import ConsentLists
from fhir_bridge.lines.registry import Registry
from fhir_bridge.model.access import Decision, PermittedView, Requester
from fhir_bridge.model.ids import canonical_id
from fhir_bridge.model.index import EveryRow
from fhir_bridge.model.ingest import ChartRef, IndexRow
from fhir_bridge.ports.vault import Vault


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a decision rests on: facts and lists, the owner's without what others signed; for whoever may ask why."""

    facts: ChartFacts
    lists: ConsentLists
    in_emergency: bool = False


Revised = Callable[[ConsentList], ConsentList]
"""What a chart's own list would be, had the patient signed a change of it."""


@dataclass(frozen=True, slots=True)
class Behind:
    """A view that was looked into for ``record`` (``Type/id``), and did not show it.

    ``chart`` holds the record; or it stands in for one where there is no such record, and nobody is told of it.
    An empty ``record`` is one that scopes left out, not consent.
    """

    sight: Sight
    chart: str
    record: str
    is_stand_in: bool = False


@dataclass(frozen=True, slots=True)
class Sight:
    """A permitted view with the decisions it rests on, one for each chart, and the batch it was taken at.

    Attributes:
        height: Of the ledger when the view was made, whether it shows anything or not.
        newest: The newest batch that was visible then: decisions look at the rows up to this one.
        behind: What was looked at and not shown; for the patient, never for whoever asked.
    """

    view: PermittedView
    decisions: tuple[Decision, ...]
    charts: tuple[ChartRef, ...]
    batch: int
    grounds: tuple[Grounds, ...] = ()
    height: int = 0
    newest: int = -1
    behind: tuple[Behind, ...] = ()

    def decision(self, chart: str) -> Decision:
        """Return the decision for one of the charts."""
        return next(each for each in self.decisions if each.chart == chart)


class People:
    """Finds charts and opens views on them; ``in_emergency`` tells of open emergency access to a chart."""

    def __init__(
        self,
        *,
        vault: Vault,
        registry: Registry,
        book: ChartBook,
        labels: Labels,
        grant: GrantLine,
        policies: NetworkPolicies,
        in_emergency: Callable[[Requester, str, datetime], bool],
        base_url: str,
    ) -> None:
        self._vault = vault
        self._registry = registry
        self._book = book
        self._labels = labels
        self._grant = grant
        self._policies = policies
        self._in_emergency = in_emergency
        self._base_url = base_url

    def ids(self, who: Requester, type_name: str, record_id: str) -> tuple[str, ...]:
        """Return the canonical ids that an id may mean: itself, and the requester's own local id.

        As many look-ups for every id of one requester, so that a local and a canonical id cost the same.
        """
        home = None if who.patient is None else self._registry.chart_of_patient(who.patient)
        name = who.institution if home is None else home.institution
        if name is None or name not in self._registry.institutions:
            return record_id, record_id
        own = canonical_id(self._registry.id_key(name), type_name, record_id)
        if home is None:
            return record_id, own
        key = self._registry.agent_key(home)
        if who.attested_by is not None:
            key = self._registry.guardian_key(home, str(who.delegate))
        return record_id, canonical_id(key, type_name, record_id), own

    async def chart_of_record(self, record_id: str) -> ChartRef | None:
        """Return the chart that holds a record, or None."""
        held = await self._vault.charts_of([record_id])
        return self._registry.chart(held.get(record_id, ""))

    async def type_of_record(self, chart: ChartRef, record_id: str) -> str:
        """Return the type of a record in a chart, ``Basic`` if there is none; it may be hidden, so tell nobody."""
        opened = await self._book.open(chart, self._registry.chart_key(chart))
        history = opened.histories.get(record_id)
        return "Basic" if history is None else history[0].type

    async def charts_of_records(self, record_ids: Collection[str]) -> dict[str, ChartRef]:
        """Return the charts that hold records, by record id; ids of none are left out."""
        held = await self._vault.charts_of(record_ids)
        known = ((record_id, self._registry.chart(held.get(record_id, ""))) for record_id in record_ids)
        return {record_id: chart for record_id, chart in known if chart is not None}

    def person_of(self, who: Requester, patient: str) -> Sequence[ChartRef]:
        """Return the charts of the person that a Patient id names, canonical or own local; or none."""
        for candidate in self.ids(who, "Patient", patient.removeprefix("Patient/")):
            chart = self._registry.chart_of_patient(candidate)
            if chart is not None:
                return self._reached(who, self._registry.linked(chart))
        return ()

    def own_person(self, who: Requester, patient: str) -> Sequence[ChartRef]:
        """Return the charts of the asking patient's person if the id names one of them; else none.

        The same steps for every id that does not, whoever has it.
        """
        charts = () if who.patient is None else self.person_of(who, who.patient)
        names = self.ids(who, "Patient", patient.removeprefix("Patient/"))
        return charts if any(chart.patient_id in names for chart in charts) else ()

    def reaches_person(self, who: Requester) -> bool:
        """Tell whether a requester may know which charts a person has; the same for every person."""
        return who.attested_by is None or self._policies.attestation.guardians is Reach.PERSON

    def _reached(self, who: Requester, charts: Sequence[ChartRef]) -> Sequence[ChartRef]:
        """Return those of a person's charts that an attested guardian may know of; all of them to anybody else."""
        if self.reaches_person(who):
            return charts
        return [chart for chart in charts if chart.patient_id == who.patient]

    def around(self, chart: ChartRef) -> Sequence[ChartRef]:
        """Return the charts to look at for a record in ``chart``: the person's, or the directory alone."""
        return [chart] if chart.is_directory else self._registry.linked(chart)

    def directories(self) -> Sequence[ChartRef]:
        """Return the directory charts of all institutions that have sent anything to them."""
        found = [self._registry.directory(name) for name in sorted(self._registry.institutions)]
        return [chart for chart in found if self._registry.chart(chart.chart) is not None]

    async def view(
        self,
        who: Requester,
        charts: Sequence[ChartRef],
        *,
        instant: datetime,
        batch: int | None = None,
        revised: Revised | None = None,
    ) -> Sight:
        """Return what the requester may see of these charts now.

        Args:
            batch: Show the records as anchored up to this batch; the newest by default. Consent is always today's,
                and a record whose newest version may not be seen is not shown in an older one either.
            revised: Show what would be seen if the owner's lists were so; for the patient alone.
        """
        with tracing.spanned("decision"), metrics.timed(metrics.DECISION):
            return await self._view(who, charts, instant, batch, revised)

    async def _view(
        self,
        who: Requester,
        charts: Sequence[ChartRef],
        instant: datetime,
        batch: int | None,
        revised: Revised | None,
    ) -> Sight:
        opened, held = await self._opened(charts)
        # Decisions come after the last await: consent read now is in force at the moment the view is made.
        newest = self._book.visible_batch
        rows = [
            self._labels.shown(each, each.visible(newest), labels) for each, labels in zip(opened, held, strict=True)
        ]
        every_row = EveryRow(rows)
        up_to = newest if batch is None else min(batch, newest)
        lists = self._grant.lists_of(charts)
        grounds = [
            self._grounds(who, chart, each, every_row, revised, instant)
            for chart, each in zip(charts, lists, strict=True)
        ]
        decisions = [self._decide(who, each, instant) for each in grounds]
        view = permitted_view(zip(decisions, charts, rows, strict=True))
        if up_to < newest:
            earlier = [each.changed_since(up_to) for each in opened]
            versions = [labelled(each, labels) for (_, each), labels in zip(earlier, held, strict=True)]
            past = permitted_view(zip(decisions, charts, versions, strict=True))
            view = as_of(view, past, frozenset[str]().union(*(changed for changed, _ in earlier)))
        height = self._grant.height
        return Sight(view, tuple(decisions), tuple(charts), up_to, tuple(grounds), height, newest)

    async def past_rows(self, chart: ChartRef, batch: int) -> Sequence[IndexRow]:
        """Return all rows of a chart as of a batch, to tell a past decision again; labelled as they are now."""
        (opened,), (held,) = await self._opened([chart])
        return labelled(opened.as_of(batch), held)

    async def _opened(self, charts: Sequence[ChartRef]) -> tuple[list[OpenChart], list[HeldLabels]]:
        """Return charts opened, with the labels that the value sets in force give otherwise than their rows say."""
        while True:
            sets = self._labels.sets
            opened = [await self._book.open(chart, self._registry.chart_key(chart)) for chart in charts]
            held = [await self._labels.held(chart) for chart in charts]
            if self._labels.sets is sets:
                return opened, held

    def _grounds(
        self,
        who: Requester,
        chart: ChartRef,
        lists: ConsentLists,
        rows: Sequence[IndexRow],
        revised: Revised | None,
        instant: datetime,
    ) -> Grounds:
        policies = self._policies
        # All that are linked, whatever charts are looked at: what was signed as any of them counts.
        patients = frozenset([c.patient_id for c in self._registry.linked(chart) if c.patient_id is not None])
        facts = ChartFacts(chart, patients, rows, policies.own_records, f"{self._base_url}/fhir", policies)
        owner = None if lists.owner is None else of_person(lists.owner, patients)
        if revised is not None and owner is not None:
            owner = revised(owner)
        is_open = self._in_emergency(who, chart.chart, instant)
        return Grounds(facts, replace(lists, owner=owner), is_open)

    def _decide(self, who: Requester, grounds: Grounds, instant: datetime) -> Decision:
        facts, lists = grounds.facts, grounds.lists
        inputs = Inputs(
            who,
            facts,
            lists.owner,
            lists.institution,
            lists.is_sound,
            lists.is_attested,
            grounds.in_emergency,
            instant,
            lists.height,
        )
        return judge(inputs)
