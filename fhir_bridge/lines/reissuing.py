"""Write successors of stored records, chart by chart, by the ordinary way in, as often as it takes.

For what judges stored records again: by other value sets (``relabelling``), by other rules (``backfilling``). Each
successor is sealed, anchored and indexed like any other version. A run that ends in the middle, however it ends, goes
on by itself at the next start, or by the next run: that it was begun is durable before its first chart, and judging a
chart twice changes nothing.

Invariants:
    * a version is written only over the version that was judged (``If-Match``), so what a sender sends meanwhile
      stays the newest;
    * one run of a kind at a time;
    * a chart that fails is counted by the public code of what went wrong, and does not keep the others from it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from msgspec import structs

from fhir_bridge.errors import BridgeError, SetupWrong, Unavailable
from fhir_bridge.fhir.value_sets import LabelSets
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.model.ingest import ChartRef, FhirVersion, Normalized, Processed, Received
from fhir_bridge.ports.ambient import Clock
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.telemetry import logger

_AT_ONCE = 100
_RUN = "begun"
_TAKEN = ("200", "412")
"""What may become of a successor: stored, or passed over because a newer version came meanwhile."""


@dataclass(slots=True)
class Reissued:
    """How far a run has come; ``failed`` names the public code of what went wrong and how many charts it kept."""

    charts: int
    done: int = 0
    versions: int = 0
    failed: dict[str, int] = field(default_factory=dict)


Progress = TypeVar("Progress", bound=Reissued)


class Task(Protocol[Progress]):
    """What one kind of run does."""

    async def begin(self) -> tuple[Sequence[ChartRef], Progress]:
        """Return the charts that wait, and the progress to count in."""
        ...

    async def chart(self, chart: ChartRef, progress: Progress) -> int:
        """Do one chart, durably; return how many versions that took. Doing it again changes nothing."""
        ...


class Runs(Generic[Progress]):
    """The runs of one kind: begun, resumed after a crash, one at a time."""

    def __init__(self, name: str, *, vault: Vault, collection: str, task: Task[Progress], busy: str) -> None:
        """Take the collection that remembers an unfinished run, and what a second run beside it is told."""
        self._name = name
        self._log = logger(name)
        self._vault = vault
        self._collection = collection
        self._task = task
        self._busy = busy
        self._running = asyncio.Lock()
        self._resumed: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Go on, beside everything else, with a run that was cut off; begin none that nobody began."""
        if await self.is_begun():
            self._resumed = asyncio.create_task(self._resume(), name=self._name)

    async def stop(self) -> None:
        """Stop what goes on by itself; the next start takes it up."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await resumed

    @property
    def is_resuming(self) -> bool:
        """Tell that a run which was cut off was there at the start, and nobody has taken it over."""
        return self._resumed is not None

    async def is_begun(self) -> bool:
        """Tell that a run has not come to its end."""
        return await self._vault.document(self._collection, _RUN) is not None

    async def run(
        self, documents: Callable[[], Awaitable[Sequence[Document]]] | None = None
    ) -> AsyncGenerator[Progress, None]:
        """Do every chart that waits; yield at the beginning and after each how far this run has come.

        What goes on by itself since the start gives way to this run.

        Args:
            documents: Gives what is to be committed together with the news that a run has begun.

        Raises:
            SetupWrong: A run is under way.
        """
        await self.stop()
        if self._running.locked():
            raise SetupWrong(self._busy)
        async with contextlib.aclosing(self._run(documents)) as run:
            async for progress in run:
                yield progress

    async def _resume(self) -> None:
        try:
            told = [progress async for progress in self._run(None)][-1]
        except Exception as error:
            self._log.error("the run did not go on", code=getattr(error, "code", type(error).__name__))
        else:
            self._log.info("the run went on to its end", charts=told.done, versions=told.versions)

    async def _run(
        self, documents: Callable[[], Awaitable[Sequence[Document]]] | None
    ) -> AsyncGenerator[Progress, None]:
        async with self._running:
            also = [] if documents is None else await documents()
            await self._vault.commit(Work(documents=[Document(self._collection, _RUN, b""), *also]), None)
            waiting, progress = await self._task.begin()
            yield progress
            for chart in waiting:
                await self._one(chart, progress)
                yield progress
            await self._vault.commit(Work(documents=[Document(self._collection, _RUN, None)]), None)

    async def _one(self, chart: ChartRef, progress: Progress) -> None:
        try:
            progress.versions += await self._task.chart(chart, progress)
            progress.done += 1
        except BridgeError as error:
            self._log.error("a chart failed", code=error.code)
            progress.failed[error.code] = progress.failed.get(error.code, 0) + 1


async def reissue(
    ingest: IngestLine, clock: Clock, institution: str, records: Sequence[Normalized], sets: LabelSets
) -> int:
    """Put successors on the line; return how many were taken, fewer if other value sets came into force meanwhile.

    Args:
        records: Each names by ``If-Match`` the version that it follows.
        sets: The value sets that labelled them.

    Raises:
        Unavailable: One was neither taken nor passed over.
    """
    written = 0
    for start in range(0, len(records), _AT_ONCE):
        some = records[start : start + _AT_ONCE]
        numbered = tuple(structs.replace(record, index=number) for number, record in enumerate(some))
        received = Received(institution, FhirVersion.R4, b"", clock.now())
        done = await ingest.push_reissued(received, Processed("batch", numbered, sets=sets.digest.hex()))
        if done.refused:
            return written
        if any(not outcome.status.startswith(_TAKEN) for outcome in done.outcomes):
            raise Unavailable("a successor of a version was not taken")
        written += sum(outcome.status.startswith("200") for outcome in done.outcomes)
    return written
