"""What became of the lines of imports, written in the very commit that takes them.

Each commit of the ingest line that holds lines of an import also holds what
became of them and the new totals. So a count is right whatever was killed
when: a line counts if, and only if, what it says is in the vault.

Everything is sealed under the import's own key and dies with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from fhir_bridge.errors import IntegrityBroken, Issue
from fhir_bridge.lines.jobs import IMPORT, Job
from fhir_bridge.model.ingest import Outcome
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.seal import open_blob, seal_blob

TOTALS = "import-totals"
"""Job → sealed :class:`Totals`."""
RESULTS = "import-results"
"""``job/page/first line of a commit`` → sealed :class:`LineResult` of each line."""

_PAGE_LINES = 100
_GONE_AT_ONCE = 1_000
UNTYPED = "unknown"
"""What stands for the type of a resource in a count, where a line was refused before that could be told."""


class LineResult(msgspec.Struct, array_like=True, frozen=True):
    """What became of one line; ``refused`` and ``status`` say why it was refused as a whole."""

    line: int
    kind: str
    status: str
    refused: tuple[Issue, ...]
    outcomes: tuple[Outcome, ...]


class Totals(msgspec.Struct, frozen=True):
    """Counts over all lines up to and including ``through``.

    ``counts`` is outcome → type → entries; outcomes are created, updated, unchanged, deleted, quarantined, refused.
    ``answers`` are lines of which something was taken, ``problems`` entries refused or quarantined.
    """

    through: int = 0
    lines: int = 0
    answers: int = 0
    problems: int = 0
    counts: dict[str, dict[str, int]] = {}


@dataclass(slots=True)
class _Open:
    """Totals of an import under way: as committed, and as a commit that may or may not have come about has them."""

    institution: str
    key: bytes = field(repr=False)
    committed: Totals
    proposed: Totals | None = None

    def settle(self, line: int) -> None:
        """Learn that a line is committed, and so whatever was proposed up to it."""
        if self.proposed is not None and self.proposed.through <= line:
            self.committed, self.proposed = self.proposed, None


class ImportBook:
    """Counts and results of every import; an outbox of the ingest line."""

    def __init__(self, vault: Vault, keys: KeyStore, randomness: Randomness) -> None:
        self._vault = vault
        self._keys = keys
        self._randomness = randomness
        self._open: dict[str, _Open] = {}

    async def open(self, job: str, institution: str) -> int:
        """Begin to count a job's lines, or go on; return the number of the last line in the vault, 0 at first."""
        self.close(job)
        totals = await self.totals(job, institution)
        name = _key_name(job, institution)
        self._open[job] = _Open(institution, self._keys.ensure([name])[name], totals)
        return totals.through

    def settle(self, job: str, line: int) -> None:
        """Learn that a line of an open job is committed."""
        if job in self._open:
            self._open[job].settle(line)

    def close(self, job: str) -> None:
        """Count no further lines of a job."""
        self._open.pop(job, None)

    async def totals(self, job: str, institution: str) -> Totals:
        """Return what is committed of a job."""
        if job in self._open:
            return self._open[job].committed
        sealed = await self._vault.document(TOTALS, job)
        if sealed is None:
            return Totals()
        key = self._keys.get(_key_name(job, institution))
        return msgspec.msgpack.decode(open_blob(key, TOTALS, job, sealed), type=Totals)

    async def results(self, job: str, institution: str) -> AsyncIterator[LineResult]:
        """Yield what became of each line, in their order.

        Raises:
            IntegrityBroken: Some are not there, or not any more: the job was removed meanwhile.
        """
        key = self._keys.get(_key_name(job, institution))
        totals, found = await self.totals(job, institution), 0
        for page in range(totals.through // _PAGE_LINES + 1):
            for place, sealed in await self._vault.documents(RESULTS, f"{job}/{page:010d}/"):
                some = msgspec.msgpack.decode(open_blob(key, RESULTS, place, sealed), type=list[LineResult])
                found += len(some)
                for each in some:
                    yield each
        if found != totals.lines:
            raise IntegrityBroken("results of an import are not there")

    async def forget(self, job: str, institution: str) -> None:
        """Delete a job's counts and results, then erase their key; repeatable."""
        last = (await self.totals(job, institution)).through
        self.close(job)
        gone: list[Document] = []
        for page in range(last // _PAGE_LINES + 1):
            found = await self._vault.documents(RESULTS, f"{job}/{page:010d}/")
            gone += [Document(RESULTS, place, None) for place, _ in found]
            if len(gone) >= _GONE_AT_ONCE:
                await self._vault.commit(Work(documents=gone), None)
                gone = []
        await self._vault.commit(Work(documents=[*gone, Document(TOTALS, job, None)]), None)
        self._keys.erase_all([_key_name(job, institution)])

    # --- as an outbox

    def untold(self, batch: int, jobs: Sequence[Job]) -> Iterator[Document]:
        """Return what belongs into the commit of these jobs, so that their lines are counted with it."""
        by_import: dict[str, list[LineResult]] = {}
        kinds: dict[str, list[dict[str, dict[str, int]]]] = {}
        for job in jobs:
            position = job.received.position
            if position is not None and position.bus == IMPORT and position.stream in self._open:
                by_import.setdefault(position.stream, []).append(_result(job, position.offset))
                kinds.setdefault(position.stream, []).append(_counted(job))
        for name, results in by_import.items():
            yield from self._told(name, results, kinds[name])

    def wake(self) -> None:
        """Do nothing: nobody is told."""

    def _told(
        self, name: str, results: Sequence[LineResult], counts: Sequence[dict[str, dict[str, int]]]
    ) -> Iterator[Document]:
        book = self._open[name]
        # Lines come in their order, so one behind what was proposed shows that the proposal was committed; one that
        # was in it comes again because it was not.
        book.settle(results[0].line - 1)
        book.proposed = _added(book.committed, results, counts)
        place = f"{name}/{results[0].line // _PAGE_LINES:010d}/{results[0].line:012d}"
        for collection, where, value in (
            (TOTALS, name, msgspec.msgpack.encode(book.proposed)),
            (RESULTS, place, msgspec.msgpack.encode(results)),
        ):
            yield Document(collection, where, seal_blob(book.key, collection, where, value, self._randomness))


def is_problem(outcome: Outcome) -> bool:
    """Tell whether an entry was refused or quarantined."""
    return outcome.status.startswith("202") or not outcome.status.startswith("2")


def _key_name(job: str, institution: str) -> KeyName:
    return KeyName(KeyKind.MESSAGE, institution, f"import/{job}")


def _result(job: Job, line: int) -> LineResult:
    return LineResult(line, job.kind, job.status, job.refused, tuple(job.outcomes))


def _counted(job: Job) -> dict[str, dict[str, int]]:
    """Return outcome → type → entries of one line."""
    if job.refused:
        return {"refused": {UNTYPED: 1}}
    changed = {(each.row.id, each.row.version) for each in job.changed}
    counts: dict[str, dict[str, int]] = {}
    for outcome in job.outcomes:
        types = counts.setdefault(_became(outcome, changed), {})
        types[outcome.type or UNTYPED] = types.get(outcome.type or UNTYPED, 0) + 1
    return counts


def _became(outcome: Outcome, changed: set[tuple[str, str]]) -> str:
    if is_problem(outcome):
        return "quarantined" if outcome.status.startswith("202") else "refused"
    if (outcome.id, outcome.version) not in changed:
        return "unchanged"
    return {"201": "created", "204": "deleted"}.get(outcome.status[:3], "updated")


def _added(totals: Totals, results: Sequence[LineResult], counts: Sequence[dict[str, dict[str, int]]]) -> Totals:
    sums = {outcome: dict(types) for outcome, types in totals.counts.items()}
    for each in counts:
        for outcome, types in each.items():
            of_outcome = sums.setdefault(outcome, {})
            for name, count in types.items():
                of_outcome[name] = of_outcome.get(name, 0) + count
    problems = [1 if each.refused else sum(map(is_problem, each.outcomes)) for each in results]
    answers = [not each.refused and any(o.status.startswith("2") for o in each.outcomes) for each in results]
    return Totals(
        through=results[-1].line,
        lines=totals.lines + len(results),
        answers=totals.answers + sum(answers),
        problems=totals.problems + sum(problems),
        counts=sums,
    )
