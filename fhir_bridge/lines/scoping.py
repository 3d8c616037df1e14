"""Which permitted view a question is about: one record's surroundings, one person, or the directory.

For the answer line. What a client names may be canonical or the requester's
own local id; whatever is absent or hidden comes out as an empty view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from fhir_bridge.errors import Issue, NotPermitted
from fhir_bridge.fhir.search import parameters_of
from fhir_bridge.lines.conditional import patients_with
from fhir_bridge.lines.people import Behind, People, Sight
from fhir_bridge.lines.registry import Registry
from fhir_bridge.model.access import PermittedView, Requester
from fhir_bridge.model.ids import DIRECTORY_TYPES
from fhir_bridge.model.ingest import ChartRef
from fhir_bridge.model.scopes import allows, readable_types
from fhir_bridge.ports.vault import Vault
from fhir_bridge.query import QueryRefused, history

Params = Sequence[tuple[str, str]]

PERSON_PARAMETERS = frozenset({"patient", "subject", "patient:Patient", "subject:Patient"})
"""Parameters that name the person a search is about."""


class Scoping:
    """Finds the view for a question."""

    def __init__(self, *, vault: Vault, registry: Registry, people: People) -> None:
        self._vault = vault
        self._registry = registry
        self._people = people

    async def of_record(
        self, who: Requester, type_name: str, record_id: str, now: datetime, batch: int | None = None
    ) -> tuple[Sight, str]:
        """Return the view around a record and the canonical id it has there; an empty view if there is none.

        An id that means a hidden record still may be the requester's own id of another one: hidden is as good as
        absent here too, or who writes under a guessed id would learn whether somebody else has it.
        """
        candidates = list(dict.fromkeys(self._people.ids(who, type_name, record_id)))
        charts = await self._people.charts_of_records(candidates)

        def is_seen(sight: Sight, name: str) -> bool:
            return any(chart.rows.versions(name) for chart in sight.view.charts)

        homes = {candidate: charts.get(candidate) for candidate in candidates}
        sight, seen = await self._first_seen(who, type_name, homes, is_seen, now, batch)
        return sight, seen or record_id

    async def of_version(self, who: Requester, record_id: str, now: datetime) -> tuple[Sight, str | None]:
        """Return the view around a record of which nothing but the canonical id is known, and the record's type.

        An empty view and None if it may not be seen, or is of a type that the token's scopes do not let be read.
        """
        home = await self._people.chart_of_record(record_id)
        other = self._registry.stand_in(record_id)
        nothing = await self._people.view(who, [], instant=now)
        if home is not None:
            chart, name = home, record_id
        elif other is not None:
            # A record that is there, as the hidden one is.
            chart, name = other, str(other.patient_id)
        else:
            return nothing, None
        type_name = await self._people.type_of_record(chart, name)
        sight = await self._people.view(who, self._people.around(chart), instant=now)
        versions = history(sight.view, type_name, name)
        may_read = readable_types(who)(type_name)
        if home is not None and versions and may_read:
            return sight, type_name
        # What the token's scopes leave out no consent withheld: then the patient is told of the question alone.
        withheld = f"{type_name}/{name}" if may_read else ""
        looked_for = f"{type_name}/{record_id}" if home is None else withheld
        behind = Behind(sight, chart.chart, looked_for, is_stand_in=home is None)
        return replace(nothing, behind=(behind,)), None

    async def of_person(
        self, who: Requester, patient: str, now: datetime, batch: int | None
    ) -> tuple[Sight, str | None]:
        """Return the view of a person whose Patient the requester may see, and that Patient's canonical id.

        A Patient that is hidden is as good as absent: the view is empty and the id None.
        """
        named = patient.removeprefix("Patient/")
        homes = {name: self._registry.chart_of_patient(name) for name in self._people.ids(who, "Patient", named)}

        def is_seen(sight: Sight, name: str) -> bool:
            return name in sight.view.current

        return await self._first_seen(who, "Patient", homes, is_seen, now, batch)

    async def _first_seen(
        self,
        who: Requester,
        type_name: str,
        homes: Mapping[str, ChartRef | None],
        is_seen: Callable[[Sight, str], bool],
        now: datetime,
        batch: int | None,
    ) -> tuple[Sight, str | None]:
        """Return the view around the first candidate that may be seen, and that one; an empty view and None if none.

        Where none is seen, each was looked for in a view, in that of a stand-in if it is in no chart: what is hidden
        and what is absent take the same steps, so that their answers take the same time.
        """
        stand_ins = {candidate: self._registry.stand_in(candidate) for candidate in homes}
        behind: list[Behind] = []
        for candidate, home in homes.items():
            if home is not None:
                sight = await self._people.view(who, self._people.around(home), instant=now, batch=batch)
                if is_seen(sight, f"{type_name}/{candidate}"):
                    return sight, candidate
                behind.append(Behind(sight, home.chart, f"{type_name}/{candidate}"))
        for candidate, home in homes.items():
            other = stand_ins[candidate]
            if home is None and other is not None:
                sight = await self._people.view(who, self._people.around(other), instant=now, batch=batch)
                # Asked about a record that is there, as the hidden one is.
                is_seen(sight, f"Patient/{other.patient_id}")
                behind.append(Behind(sight, other.chart, f"{type_name}/{candidate}", is_stand_in=True))
        nothing = await self._people.view(who, [], instant=now, batch=batch)
        return replace(nothing, behind=tuple(behind)), None

    async def of_search(
        self, who: Requester, type_name: str, params: Params, now: datetime, batch: int | None
    ) -> tuple[Sight, Params]:
        """Return the view a search is about, and the criteria that remain for it.

        A search that follows references sees the directory beside the person.

        Raises:
            QueryRefused: No patient is named where one is needed, or several.
        """
        beside = None
        if type_name not in DIRECTORY_TYPES and any(_follows(name) for name, _ in params):
            # Before the person's view: between that one's decisions and the answer nothing is waited for.
            beside = await self._people.view(who, self._people.directories(), instant=now, batch=batch)
        sight, rest = await self._of_search(who, type_name, params, now, batch)
        return within_scopes(who, sight if beside is None else _joined(sight, beside), type_name), rest

    async def _of_search(
        self, who: Requester, type_name: str, params: Params, now: datetime, batch: int | None
    ) -> tuple[Sight, Params]:
        criteria = [(name, self._any_id(who, type_name, value) if name == "_id" else value) for name, value in params]
        if type_name in DIRECTORY_TYPES:
            return await self._people.view(who, self._people.directories(), instant=now, batch=batch), criteria
        named = [value for name, value in params if name in PERSON_PARAMETERS]
        rest = [(name, value) for name, value in criteria if name not in PERSON_PARAMETERS]
        if type_name == "Patient" and not named:
            return await self._patients(who, params, now, batch), rest
        patient = _one_patient(named, who)
        if patient is None:
            return await self._by_id(who, type_name, params, now, batch), rest
        sight, _ = await self.of_person(who, patient, now, batch)
        return sight, rest + _about_person(type_name, params, sight)

    async def of_history(
        self, who: Requester, type_name: str | None, params: Params, now: datetime, batch: int | None
    ) -> Sight:
        """Return the view that a history of a type, or of everything, is about.

        Raises:
            QueryRefused: No patient is named where one is needed, or several.
        """
        if type_name in DIRECTORY_TYPES:
            return await self._people.view(who, self._people.directories(), instant=now, batch=batch)
        patient = _one_patient([value for name, value in params if name in PERSON_PARAMETERS], who)
        if patient is None:
            raise QueryRefused([Issue("error", "required", "name a patient: patient=ID", "patient")])
        sight, _ = await self.of_person(who, patient, now, batch)
        return sight

    def _any_id(self, who: Requester, type_name: str, value: str) -> str:
        """Return alternatives for ids of ``_id``: each as it is, and as the requester's own local id."""
        wanted = (each for text in value.split(",") for each in self._people.ids(who, type_name, text))
        return ",".join(dict.fromkeys(wanted))

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
        sight, _ = await self.of_record(who, type_name, wanted[0], now, batch)
        return sight


def within_scopes(who: Requester, sight: Sight, searched: str | None = None) -> Sight:
    """Leave out the types that the token's scopes do not let the requester read, but for the one searched."""
    may_read = readable_types(who)
    if may_read("*"):
        return sight
    kept = sight.view.current.only(lambda name: name == searched or may_read(name))
    view = replace(sight.view, current=kept)
    return replace(sight, view=view)


def require(who: Requester, type_name: str, interaction: str) -> None:
    """Raise NotPermitted unless the token's scopes allow an interaction on a type."""
    if not allows(who, type_name, interaction):
        raise NotPermitted(f"the token's scopes do not allow this interaction on {type_name}")


def _one_patient(named: Sequence[str], who: Requester) -> str | None:
    """Return the patient that a question names, or whose agent asks; None if it is nobody's."""
    if len(named) > 1 or (named and "," in named[0]):
        raise QueryRefused([Issue("error", "not-supported", "name one patient at a time", "patient")])
    return named[0] if named else who.patient


def _about_person(type_name: str, params: Params, sight: Sight) -> list[tuple[str, str]]:
    """Return the parameter that named the person as a criterion: a record need not say whose chart it is in.

    Whichever of the person's ids was named, records of linked charts name another.
    """
    patients = ",".join(f"Patient/{chart.patient_id}" for chart in sight.charts if chart.patient_id is not None)
    kinds = parameters_of(type_name)
    named = (name for name, _ in params if name in PERSON_PARAMETERS)
    return [(name, patients) for name in named if patients and kinds.get(name.partition(":")[0]) == "reference"]


def _follows(name: str) -> bool:
    return "." in name or name.startswith(("_include", "_revinclude", "_has"))


def _joined(sight: Sight, beside: Sight) -> Sight:
    """Return both views as one; a chart of the first stands for itself."""
    known = {chart.chart for chart in sight.charts}
    charts = tuple(each for each in beside.view.charts if each.chart not in known)
    view = PermittedView(
        sight.view.charts + charts,
        sight.view.current.beside(beside.view.current),
        beside.view.loose | sight.view.loose,
    )
    decisions = tuple(each for each in beside.decisions if each.chart not in known)
    refs = tuple(each for each in beside.charts if each.chart not in known)
    return replace(sight, view=view, decisions=sight.decisions + decisions, charts=sight.charts + refs)
