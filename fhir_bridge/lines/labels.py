"""The value sets in force, and by which labels each stored version is judged under them.

A chart that was there when sets came into force is *behind* until it has been labelled again
(:mod:`fhir_bridge.lines.relabelling`). Whoever asks about such a chart waits until its versions have been judged
under the sets in force, so a record is withheld by the newest sets from the moment they are in force.

Versions are never changed, so older ones keep in their bytes the labels that they were made with. Where the sets in
force say otherwise, what they say is *held* beside the chart, sealed under its key, and consents go by that.

Invariants:
    * who asks :meth:`Labels.held` and then :meth:`Labels.shown` gets no labels but those of the sets in force;
    * sets come into force between two commits, in one commit with the names of all charts that are then behind;
    * the digest of sets is on the ledger before they are in force.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import structs

from fhir_bridge.errors import IntegrityBroken
from fhir_bridge.fhir.value_set_files import packaged_sets
from fhir_bridge.fhir.value_sets import LabelSets
from fhir_bridge.lines.charts import ChartBook, OpenChart
from fhir_bridge.lines.notary import Notary
from fhir_bridge.lines.registry import Registry
from fhir_bridge.model.index import Records
from fhir_bridge.model.ingest import ChartRef, IndexRow, Normalized
from fhir_bridge.normalize import StoredVersion, is_settled, relabelled
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.seal import (
    LINEAGE,
    ORIGINAL,
    RecordPlace,
    open_blob,
    open_contents,
    open_normalised,
    open_part,
    seal_blob,
)

SETS = "label-sets"
"""Canonical bytes of sets by hex digest; under ``in-force`` the digest of those that are. Nobody's data."""
BEHIND = "labels-behind"
"""Charts that the sets in force have not labelled yet."""
HELD = "labels-held"
"""Per chart, sealed: version → labels, where the sets in force say otherwise than the version's own bytes."""
_IN_FORCE = "in-force"
_KEPT_CHARTS = 64
"""Charts with labels held beside them whose judged rows are kept for the next question."""
_INSTITUTION = "institution"

HeldLabels = Mapping[str, tuple[str, ...]]
"""Version id → labels."""
_NONE: HeldLabels = {}


@dataclass(slots=True)
class _Shown:
    """A chart's visible rows as they are judged, kept while it is in use; ``taken`` of the source are in it."""

    source: Records
    held: HeldLabels
    records: Records
    taken: int = 0

    def follow(self, opened: OpenChart) -> None:
        """Put in what has become visible since; rows become visible in the order in which they came."""
        if self.taken == len(self.source):
            return
        names = {f"{row.type}/{row.id}" for _, row in opened.rows[self.taken : len(self.source)]}
        self.records.put({name: labelled(self.source.versions(name), self.held) for name in names})
        self.taken = len(self.source)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A chart under the sets in force: the versions whose labels differ, and what would replace current ones."""

    sets: LabelSets
    held: HeldLabels
    renewed: tuple[Normalized, ...]


class Labels:
    """Knows the sets in force and judges charts by them."""

    def __init__(
        self,
        *,
        vault: Vault,
        registry: Registry,
        book: ChartBook,
        notary: Notary,
        randomness: Randomness,
        folder: Path,
        committing: asyncio.Lock,
    ) -> None:
        """Take ``folder``, where worker processes find the sets, and the lock that each commit of records holds."""
        self._vault = vault
        self._registry = registry
        self._book = book
        self._notary = notary
        self._randomness = randomness
        self._folder = folder
        self._committing = committing
        self._behind: set[str] = set()
        self._holding: set[str] = set()
        self._held: dict[str, HeldLabels] = {}
        self._shown: OrderedDict[str, _Shown] = OrderedDict()
        self._judging: dict[str, asyncio.Task[Judgement]] = {}
        self.sets = packaged_sets()

    async def load(self) -> None:
        """Read the sets in force; in a vault without any, those of the package come into force."""
        self._behind = {chart for chart, _ in await self._vault.documents(BEHIND)}
        self._holding = {chart for chart, _ in await self._vault.documents(HELD)}
        digest = await self._vault.document(SETS, _IN_FORCE)
        if digest is None:
            await self._begin(packaged_sets())
            return
        encoded = await self._vault.document(SETS, digest.decode())
        if encoded is None:
            raise IntegrityBroken("the value sets in force are missing: run fsck")
        sets = LabelSets.decode(encoded)
        if sets.digest.hex() != digest.decode():
            raise IntegrityBroken("the value sets in force are others than those named: run fsck")
        await self._notary.register_policies(sets.digest)
        await asyncio.to_thread(self._write, sets)
        self._use(sets)

    @property
    def behind(self) -> Sequence[str]:
        """Charts that have not been labelled by the sets in force yet, in a stable order."""
        return sorted(self._behind)

    async def activate(self, sets: LabelSets) -> None:
        """Bring sets into force; every chart there is falls behind. Those in force already change nothing."""
        if sets.digest != self.sets.digest:
            await self._begin(sets)

    async def _begin(self, sets: LabelSets) -> None:
        digest = sets.digest.hex()
        await self._vault.commit(Work(documents=[Document(SETS, digest, sets.encoded)]), None)
        await asyncio.to_thread(self._write, sets)
        await self._notary.register_policies(sets.digest)
        async with self._committing:
            charts = [chart.chart for chart in self._registry.all_charts()]
            documents = [Document(BEHIND, chart, b"1") for chart in charts]
            documents.append(Document(SETS, _IN_FORCE, digest.encode()))
            await self._vault.commit(Work(documents=documents), None)
            self._behind.update(charts)
            self._use(sets)

    def _use(self, sets: LabelSets) -> None:
        self.sets = sets
        self._shown.clear()
        self._registry.sets = (sets.digest.hex(), str(self._file(sets)))
        self._judging.clear()

    def _file(self, sets: LabelSets) -> Path:
        return self._folder / f"{sets.digest.hex()}.json"

    def _write(self, sets: LabelSets) -> None:
        """Put the sets where workers read them; the vault's copy counts, this one is made anew at each start."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        unfinished = self._file(sets).with_suffix(".new")
        unfinished.touch(mode=0o600)
        unfinished.write_bytes(sets.encoded)
        unfinished.replace(self._file(sets))

    # --- how rows are judged

    async def held(self, chart: ChartRef) -> HeldLabels:
        """Return the labels that the sets in force give a chart's versions otherwise than their rows say.

        Raises:
            IntegrityBroken: A version that must be judged does not open; nothing of the chart may be shown.
        """
        name = chart.chart
        if name in self._behind:
            return (await self.judged(chart)).held
        return await self._found(chart) if name in self._holding else _NONE

    def shown(self, opened: OpenChart, records: Records, held: HeldLabels) -> Records:
        """Return the visible rows of a chart with the labels that the sets in force give them.

        Args:
            records: The visible rows of ``opened``.
            held: From :meth:`held`, with nothing waited for since.
        """
        if not held:
            return records
        name = records.chart.chart
        kept = self._shown.get(name)
        if kept is None or kept.source is not records or kept.held is not held or kept.taken > len(records):
            kept = self._shown[name] = _Shown(records, held, Records(records.chart))
        self._shown.move_to_end(name)
        if len(self._shown) > _KEPT_CHARTS:
            self._shown.popitem(last=False)
        kept.follow(opened)
        return kept.records

    async def judged(self, chart: ChartRef) -> Judgement:
        """Return a chart that is behind under the sets in force; worked out once, whoever asks."""
        task = self._judging.get(chart.chart)
        if task is None:
            task = self._judging[chart.chart] = asyncio.create_task(self._judge(chart, self.sets))
            task.add_done_callback(lambda done: self._forget(chart.chart, done))
        return await asyncio.shield(task)

    async def settle(self, chart: ChartRef, judgement: Judgement) -> bool:
        """Note that a chart's current versions bear their new labels; False if other sets have come into force.

        The caller has written what was to be renewed.
        """
        async with self._committing:
            if judgement.sets is not self.sets:
                return False
            held = self._sealed(chart, judgement.held) if judgement.held else None
            done = [Document(BEHIND, chart.chart, None), Document(HELD, chart.chart, held)]
            await self._vault.commit(Work(documents=done), None)
            self._behind.discard(chart.chart)
            self._judging.pop(chart.chart, None)
            self._held[chart.chart] = judgement.held
            (self._holding.add if judgement.held else self._holding.discard)(chart.chart)
            return True

    async def _found(self, chart: ChartRef) -> HeldLabels:
        held = self._held.get(chart.chart)
        if held is None:
            sealed = await self._vault.document(HELD, chart.chart)
            if sealed is None:
                raise IntegrityBroken("labels held beside a chart are missing: run fsck")
            opened = open_blob(self._registry.chart_key(chart), HELD, chart.chart, sealed)
            held = self._held[chart.chart] = msgspec.msgpack.decode(opened, type=dict[str, tuple[str, ...]])
        return held

    def _sealed(self, chart: ChartRef, held: HeldLabels) -> bytes:
        content = msgspec.msgpack.encode(dict(sorted(held.items())))
        return seal_blob(self._registry.chart_key(chart), HELD, chart.chart, content, self._randomness)

    def _forget(self, chart: str, done: asyncio.Task[Judgement]) -> None:
        """Let the next who asks try again after a failure."""
        failed = done.cancelled() or done.exception() is not None
        if failed and self._judging.get(chart) is done:
            del self._judging[chart]

    async def _judge(self, chart: ChartRef, sets: LabelSets) -> Judgement:
        key = self._registry.chart_key(chart)
        opened = await self._book.open(chart, key)
        rows = [row for _, row in opened.rows if not row.deleted and row.author == _INSTITUTION]
        current = {history[-1].version for history in opened.histories.values()}
        envelopes = await self._vault.normalised(chart.chart, [(row.id, row.version) for row in rows])
        doubtful = await asyncio.to_thread(_doubtful, key, chart.chart, rows, envelopes, sets)
        held: dict[str, tuple[str, ...]] = {}
        renewed: list[Normalized] = []
        for row in doubtful:
            again = relabelled(await self._stored(chart, row, key), sets, self._registry.id_key(row.origin))
            if again.row.content == row.content:
                continue
            held[row.version] = again.row.labels
            if row.version in current:
                renewed.append(again)
        return Judgement(sets, held, tuple(renewed))

    async def _stored(self, chart: ChartRef, row: IndexRow, key: bytes) -> StoredVersion:
        stored = await self._vault.record(chart.chart, row.id, row.version)
        if stored is None:
            raise IntegrityBroken("a version of the index is not in the vault: run fsck")
        place = RecordPlace.of(chart.chart, row)
        opened = open_normalised(key, place, stored.normalised)
        original, lineage = (
            open_part(key, place, part, envelope).content
            for part, envelope in ((ORIGINAL, stored.original), (LINEAGE, stored.lineage))
        )
        return StoredVersion(row, opened.content, original, lineage, opened.ruleset)


def labelled(rows: Sequence[IndexRow], held: HeldLabels) -> Sequence[IndexRow]:
    """Return rows with the labels that are held for them."""
    if not held:
        return rows
    return [structs.replace(row, labels=held[row.version]) if row.version in held else row for row in rows]


def _doubtful(
    key: bytes, chart: str, rows: Sequence[IndexRow], envelopes: Sequence[bytes], sets: LabelSets
) -> list[IndexRow]:
    """Return the rows whose labels these sets might change."""
    contents = open_contents(key, chart, rows, envelopes)
    return [row for row, content in zip(rows, contents, strict=True) if not is_settled(content, row.labels, sets)]
