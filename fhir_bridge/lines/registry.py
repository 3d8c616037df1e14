"""Who is who: institutions, charts and the links that make charts one person.

Kept in memory, stored as sealed documents of the vault. A link is a row beside
the records, never in their bytes, so it can be undone.

Invariants:
    * a chart belongs to exactly one institution and at most one person;
    * nothing stored here shows a local id, a name or a link on a stolen disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from fhir_bridge.errors import SetupWrong
from fhir_bridge.model.ids import canonical_id, chart_id, directory_id
from fhir_bridge.model.ingest import ChartRef, FhirVersion, SourceContext, Trial
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.seal import open_blob, seal_blob

OPERATOR = "operator"

FEED, IDENTIFIER, REVIEWED = "feed", "identifier", "reviewed"
ASSURANCES = (FEED, IDENTIFIER, REVIEWED)
"""On what ground a chart is linked: a cross-reference feed, a trusted identifier in common, somebody who looked."""


@dataclass(frozen=True, slots=True)
class Institution:
    """A member of the network, as registered here.

    ``id`` is public; ``ruleset`` is the hash of the pack in force, ``snapshot``
    where its copy lies below the folder of copies (empty: not copied yet), and
    ``ruleset_dir`` the folder that an engineer works in. ``signing_keys`` (JWK) verify what it sends by bus,
    which must be signed where there is any. ``receiving_keys`` are the numbers
    of those that open what is encrypted to us, the newest last.
    """

    name: str
    id: str
    fhir_version: FhirVersion
    ruleset_dir: str
    ruleset: str
    signing_keys: tuple[dict[str, Any], ...] = ()
    receiving_keys: tuple[int, ...] = ()
    must_encrypt: bool = False
    snapshot: str = ""
    trial: TrialInForce | None = None


@dataclass(frozen=True, slots=True)
class TrialInForce:
    """A ruleset that an institution tries beside the one in force, as :class:`fhir_bridge.model.ingest.Trial`."""

    ruleset: str
    snapshot: str
    share: int
    is_canary: bool
    since_us: int


@dataclass(frozen=True, slots=True)
class Link:
    """One row of a cross-reference feed: this local patient of this institution is that person."""

    person: str
    institution: str
    patient: str


class Registry:
    """Institutions, charts and persons of this node; ``sets`` is digest and file of the value sets in force.

    ``copies`` is the folder below which the copies of rule packs lie.
    """

    def __init__(self, vault: Vault, keys: KeyStore, randomness: Randomness) -> None:
        self._vault = vault
        self._keys = keys
        self._randomness = randomness
        self._changing = asyncio.Lock()
        self.institutions: dict[str, Institution] = {}
        self.sets = ("", "")
        self.copies = Path()
        self._charts: dict[str, ChartRef] = {}
        self._patients_charts: list[str] = []
        self._chart_of_patient: dict[str, str] = {}
        self._person_of: dict[str, str] = {}
        self._charts_of: dict[str, list[str]] = {}
        self._assurance: dict[str, str] = {}
        self._apart: set[frozenset[str]] = set()

    async def load(self) -> None:
        """Read everything from the vault; called once at start."""
        for _, value in await self._vault.documents("institutions"):
            institution = msgspec.json.decode(value, type=Institution)
            self.institutions[institution.name] = institution
        for chart, value in await self._vault.documents("charts"):
            self._hold(msgspec.json.decode(self._open("charts", chart, value), type=ChartRef))
        for chart, value in await self._vault.documents("links"):
            self._join(chart, *_read_link(self._open("links", chart, value)))
        for pair, value in await self._vault.documents("apart"):
            self._apart.add(frozenset(self._open("apart", pair, value).decode().split()))

    # --- institutions

    def institution(self, name: str) -> Institution:
        """Return a registered institution.

        Raises:
            SetupWrong: There is none of that name.
        """
        found = self.institutions.get(name)
        if found is None:
            raise SetupWrong(f"no institution is called {name!r}: see 'fhir-bridge institution list'")
        return found

    def id_key(self, institution: str) -> bytes:
        """Return the key of an institution's canonical ids."""
        name = KeyName(KeyKind.ID, institution)
        return self._keys.find(name) or self._keys.ensure([name])[name]

    def agent_key(self, home: ChartRef) -> bytes:
        """Return the key of the ids that a patient's agent gives to what it writes in its home chart.

        One for each chart, derived: neither the institution's own ids nor another patient's ever reach what an
        agent wrote, so to their writes and conditions it is as good as absent.
        """
        return blake3(b"fhir-bridge/agent-ids/2" + home.chart.encode(), key=self.id_key(home.institution)).digest()

    def guardian_key(self, home: ChartRef, guardian: str) -> bytes:
        """Return the key of the ids that one guardian gives, out of reach of agents and other guardians."""
        place = f"{home.chart}/{guardian}".encode()
        return blake3(b"fhir-bridge/guardian-ids/1" + place, key=self.id_key(home.institution)).digest()

    def source(self, name: str) -> SourceContext:
        """Return what the pure rooms need to know about a sender."""
        known = self.institution(name)
        return SourceContext(
            name,
            known.id,
            known.fhir_version,
            self.id_key(name),
            self.pack_dir(name),
            known.ruleset,
            *self.sets,
            self._trial(known.trial),
        )

    def pack_dir(self, name: str) -> str:
        """Return the folder that the pack in force is read from: its copy, which nobody edits, once there is one."""
        known = self.institution(name)
        return str(self.copies / known.snapshot) if known.snapshot else known.ruleset_dir

    def is_in_use(self, name: str, ruleset: str) -> bool:
        """Tell whether a pack may make records of an institution now; true for what no pack made (empty)."""
        known = self.institutions.get(name)
        if not ruleset or known is None or ruleset == known.ruleset:
            return True
        return known.trial is not None and known.trial.is_canary and known.trial.ruleset == ruleset

    def _trial(self, trial: TrialInForce | None) -> Trial | None:
        if trial is None:
            return None
        return Trial(trial.ruleset, str(self.copies / trial.snapshot), trial.share, trial.is_canary)

    async def add_institution(self, institution: Institution, also: Sequence[Document] = ()) -> None:
        """Store an institution, and ``also`` with it; one of the same name keeps its keys and what it agreed to."""
        async with self._changing:
            known = self.institutions.get(institution.name, institution)
            await self._store(
                replace(
                    institution,
                    signing_keys=known.signing_keys,
                    receiving_keys=known.receiving_keys,
                    must_encrypt=known.must_encrypt,
                ),
                also,
            )

    async def change_institution(
        self, name: str, changed: Callable[[Institution], Institution], also: Sequence[Document] = ()
    ) -> Institution:
        """Store what ``changed`` makes of an institution, one change after the other, and return it.

        Args:
            changed: Called in a thread; what it raises leaves the institution as it was.
            also: Stored in the same commit.

        Raises:
            SetupWrong: There is none of that name.
        """
        async with self._changing:
            known = self.institution(name)
            new = await asyncio.to_thread(changed, known)
            if new != known or also:
                await self._store(new, also)
            return new

    async def _store(self, institution: Institution, also: Sequence[Document] = ()) -> None:
        document = Document("institutions", institution.name, msgspec.json.encode(institution))
        await self._vault.commit(Work(documents=[document, *also]), None)
        self.institutions[institution.name] = institution

    def directory(self, institution: str) -> ChartRef:
        """Return the directory chart of an institution."""
        return ChartRef(institution, directory_id(self.id_key(institution)), None)

    # --- charts

    def chart(self, chart: str) -> ChartRef | None:
        """Return what is known of a chart pseudonym."""
        return self._charts.get(chart)

    def chart_of_patient(self, patient_id: str) -> ChartRef | None:
        """Return the chart of a canonical Patient id, or None."""
        chart = self._chart_of_patient.get(patient_id)
        return None if chart is None else self._charts[chart]

    def stand_in(self, record_id: str) -> ChartRef | None:
        """Return the chart that stands in for an unknown id's, always the same for one id; None without charts.

        It is drawn with a key, so that nobody can tell whether an id has a stand-in or is a record's.
        """
        known = self._patients_charts
        if not known:
            return None
        drawn = blake3(b"fhir-bridge/stand-in/1" + record_id.encode(), key=self._key()).digest()
        return self._charts[known[int.from_bytes(drawn[:8]) % len(known)]]

    def key_name(self, chart: ChartRef) -> KeyName:
        """Return the name of the key that everything in a chart is sealed under."""
        kind = KeyKind.DIRECTORY if chart.is_directory else KeyKind.CHART
        return KeyName(kind, chart.institution, chart.chart)

    def chart_key(self, chart: ChartRef) -> bytes:
        """Return a chart's key, made durable before anything is sealed with it."""
        name = self.key_name(chart)
        return self._keys.ensure([name])[name]

    def held_chart_key(self, chart: ChartRef) -> bytes | None:
        """Return a chart's key for reading, or None if it was erased; none is made."""
        return self._keys.find(self.key_name(chart))

    def chart_documents(self, charts: Iterable[ChartRef]) -> list[Document]:
        """Return the documents that make charts known which are not yet; store them with the first records."""
        return [self._chart_document(c) for c in charts if c.chart not in self._charts]

    def know(self, charts: Iterable[ChartRef]) -> None:
        """Hold charts whose documents have been committed."""
        for chart in charts:
            self._hold(chart)

    def all_charts(self) -> Sequence[ChartRef]:
        """Return every known chart."""
        return list(self._charts.values())

    # --- persons

    def linked(self, chart: ChartRef) -> Sequence[ChartRef]:
        """Return the charts of the same person, this one included, in a stable order."""
        person = self._person_of.get(chart.chart)
        if person is None:
            return [chart]
        return [self._charts[c] for c in sorted(self._charts_of[person])]

    def assurance(self, chart: ChartRef) -> str:
        """Return on what ground a chart is linked: one of :data:`ASSURANCES`; empty if it is not."""
        return self._assurance.get(chart.chart, "")

    def are_apart(self, one: ChartRef, two: ChartRef) -> bool:
        """Tell whether somebody has said that two charts, or two that are linked with them, are two humans'."""
        return bool(self._apart) and any(
            frozenset((mine.chart, theirs.chart)) in self._apart
            for mine, theirs in product(self.linked(one), self.linked(two))
        )

    async def link(self, links: Sequence[Link]) -> int:
        """Apply a cross-reference feed; return how many links are new or changed. Repeating it changes nothing."""
        joined = [(self.chart_for(each.institution, each.patient), self._person(each.person)) for each in links]
        async with self._changing:
            return await self._link(joined, FEED)

    async def join(self, one: ChartRef, two: ChartRef, assurance: str, *, merge: bool = False) -> int:
        """Say that two charts are one human's; return how many charts are linked with them now.

        Args:
            merge: Also where both are linked with others already, who then are all one human.

        Raises:
            SetupWrong: Both are linked with others, or somebody has said that they, or charts that they are linked
                with, are two humans'.
        """
        async with self._changing:
            if self.are_apart(one, two):
                raise SetupWrong(
                    "somebody has said that these, or charts linked with them, are two humans: take that back with "
                    "'person unlink'"
                )
            held = [self._person_of.get(chart.chart) for chart in (one, two)]
            if None not in held and held[0] != held[1] and not merge:
                raise SetupWrong(
                    "both are linked with other charts already: add --merge if all of them are one human"
                )
            person = held[0] or held[1] or self._randomness.token(16).hex()
            charts = {chart.chart: chart for each in (one, two) for chart in self.linked(each)}
            moved = [(c, person) for c in charts.values() if self._person_of.get(c.chart) != person]
            await self._link(moved, assurance)
            return len(self.linked(one))

    async def part(self, one: ChartRef, two: ChartRef) -> None:
        """Say that two charts are two humans', so that nobody suggests them again.

        Raises:
            SetupWrong: They are linked.
        """
        async with self._changing:
            if two.chart in {chart.chart for chart in self.linked(one)}:
                raise SetupWrong("these charts are linked: 'person unlink' one of them first")
            pair = sorted((one.chart, two.chart))
            name = blake3(" ".join(pair).encode(), key=self._key()).hexdigest()
            sealed = seal_blob(self._key(), "apart", name, " ".join(pair).encode(), self._randomness)
            await self._vault.commit(Work(documents=[Document("apart", name, sealed)]), None)
            self._apart.add(frozenset(pair))

    async def unlink(self, chart: ChartRef) -> int:
        """Undo a chart's link and what was said of it; return how many charts it was linked with."""
        async with self._changing:
            others = len(self.linked(chart)) - 1
            apart = {pair for pair in self._apart if chart.chart in pair}
            names = [blake3(" ".join(sorted(pair)).encode(), key=self._key()).hexdigest() for pair in apart]
            gone = [Document("apart", name, None) for name in names] + [Document("links", chart.chart, None)]
            await self._vault.commit(Work(documents=gone), None)
            self._apart -= apart
            self._leave(chart.chart)
            return others

    async def _link(self, joined: Sequence[tuple[ChartRef, str]], assurance: str) -> int:
        changed = [(chart, person) for chart, person in joined if self._person_of.get(chart.chart) != person]
        documents = self.chart_documents([chart for chart, _ in changed])
        documents += [self._seal("links", c, f"{person} {assurance}".encode()) for c, person in changed]
        if documents:
            await self._vault.commit(Work(documents=documents), None)
        for chart, person in changed:
            self._hold(chart)
            self._join(chart.chart, person, assurance)
        return len(changed)

    def chart_for(self, institution: str, local_patient: str) -> ChartRef:
        """Return the chart of a local patient id, whether anything of it has arrived or not."""
        self.institution(institution)
        key = self.id_key(institution)
        patient = canonical_id(key, "Patient", local_patient)
        return ChartRef(institution, chart_id(key, patient), patient)

    # --- sealed documents

    def _hold(self, chart: ChartRef) -> None:
        if chart.chart not in self._charts and not chart.is_directory:
            self._patients_charts.append(chart.chart)
        self._charts[chart.chart] = chart
        if chart.patient_id is not None:
            self._chart_of_patient[chart.patient_id] = chart.chart

    def _join(self, chart: str, person: str, assurance: str) -> None:
        self._leave(chart)
        # The list first: a comparison that runs in a thread meanwhile looks for it under the person.
        self._charts_of.setdefault(person, []).append(chart)
        self._person_of[chart] = person
        self._assurance[chart] = assurance

    def _leave(self, chart: str) -> None:
        before = self._person_of.pop(chart, None)
        self._assurance.pop(chart, None)
        if before is not None:
            self._charts_of[before].remove(chart)

    def _chart_document(self, chart: ChartRef) -> Document:
        return self._seal("charts", chart, msgspec.json.encode(chart))

    def _seal(self, collection: str, chart: ChartRef, content: bytes) -> Document:
        sealed = seal_blob(self._key(), collection, chart.chart, content, self._randomness)
        return Document(collection, chart.chart, sealed)

    def _open(self, collection: str, chart: str, value: bytes) -> bytes:
        return open_blob(self._key(), collection, chart, value)

    def _key(self) -> bytes:
        name = KeyName(KeyKind.INSTITUTION, OPERATOR)
        return self._keys.ensure([name])[name]

    def _person(self, feed_id: str) -> str:
        return blake3(b"fhir-bridge/person/1\0" + feed_id.encode(), key=self._key()).digest()[:16].hex()


def _read_link(content: bytes) -> tuple[str, str]:
    """Return person and assurance; links of earlier releases name no assurance and came from a feed."""
    person, _, assurance = content.decode().partition(" ")
    return person, assurance or FEED
