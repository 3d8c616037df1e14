"""One import on its way through the ingest line, and the window that all imports share on it."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec

from fhir_bridge.errors import Issue, Unavailable
from fhir_bridge.lines.import_book import ImportBook
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.jobs import IMPORT
from fhir_bridge.lines.staging import instant_of
from fhir_bridge.model.ingest import Anchored, FhirVersion, Position, Processed, Received
from fhir_bridge.ports.imports import ImportStore, Line

_TOO_LONG = Issue("error", "too-long", "the line is longer than FHIR_BRIDGE_IMPORT_MAX_LINE_BYTES: split its Bundle")
_ERASED = Issue("error", "deleted", "the line was erased before it was taken")


class ImportJob(msgspec.Struct, frozen=True):
    """What the vault keeps of an import; ``state`` is running, ended or removed.

    Attributes:
        lines: Lines of the body that are not blank.
        digest: Keyed digest of the body, to recognise it when it is sent again.
        is_broken: Its lines could not be read any more, so it ended before the last one.
    """

    id: str
    institution: str
    version: FhirVersion
    received_at_us: int
    lines: int
    size: int
    digest: bytes
    state: str = "running"
    ended_at_us: int = 0
    height: int | None = None
    is_broken: bool = False


class Window:
    """So many lines and bytes of imports may be on the ingest line at once."""

    def __init__(self, lines: int, size: int) -> None:
        self._most_lines = lines
        self._most_bytes = size
        self._lines = self._bytes = 0
        self._moved = asyncio.Event()
        self._turn = asyncio.Lock()

    async def enter(self, size: int) -> None:
        """Wait until a line of this size has room; one beyond the window's bytes goes alone.

        In turn: else the small lines of one import would never leave room for a long one of another.
        """
        async with self._turn:
            while self._lines >= self._most_lines or (self._lines and self._bytes + size > self._most_bytes):
                self._moved.clear()
                await self._moved.wait()
            self._lines += 1
            self._bytes += size

    def leave(self, size: int) -> None:
        """Give the room of a line back."""
        self._lines -= 1
        self._bytes -= size
        self._moved.set()


class ImportRun:
    """Puts the lines of one job on the ingest line, from the first that the vault lacks to the last."""

    def __init__(
        self, job: ImportJob, store: ImportStore, book: ImportBook, ingest: IngestLine, window: Window
    ) -> None:
        self._job = job
        self._store = store
        self._book = book
        self._ingest = ingest
        self._window = window
        self._in_flight: set[asyncio.Future[Anchored]] = set()
        self._failure: BaseException | None = None
        self.height: int | None = None
        self.is_stopped = self.is_broken = False

    async def go(self) -> None:
        """Return when every line is committed and anchored, or the run was stopped.

        Raises:
            Unavailable: A store or the line does not answer; another run goes on from where the vault stands.
            IntegrityBroken: The lines cannot be read.
        """
        after = await self._book.open(self._job.id, self._job.institution)
        try:
            await self._put_all(after)
        except asyncio.CancelledError:
            # The service ends: what is on the line is counted with its commit, or comes again at the next start.
            raise
        except Exception:
            await self._settled()
            raise
        await self._settled()
        if self._failure is not None:
            raise self._failure

    async def _put_all(self, after: int) -> None:
        while self._goes_on():
            some = await self._store.read(self._job.id, after)
            if not some:
                return
            for line in some:
                await self._put(line)
                if not self._goes_on():
                    return
            after = some[-1].number

    def _goes_on(self) -> bool:
        return not self.is_stopped and self._failure is None

    async def stop(self) -> None:
        """Put no further line on the ingest line, and wait for those that are on it."""
        self.is_stopped = True
        await self._settled()

    async def _settled(self) -> None:
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    async def _put(self, line: Line) -> None:
        await self._window.enter(len(line.body))
        if not self._goes_on():
            self._window.leave(len(line.body))
            return
        try:
            done = self._submit(line)
        except BaseException:
            self._window.leave(len(line.body))
            raise
        self._in_flight.add(done)
        done.add_done_callback(partial(self._finished, line.number, len(line.body)))

    def _submit(self, line: Line) -> asyncio.Future[Anchored]:
        received = Received(
            self._job.institution,
            self._job.version,
            line.body,
            instant_of(self._job.received_at_us),
            position=Position(IMPORT, self._job.id, 0, line.number),
        )
        if line.is_too_long or line.is_erased:
            problem = _TOO_LONG if line.is_too_long else _ERASED
            return self._ingest.submit_processed(received, Processed("single", refused=(problem,)))
        return self._ingest.submit(received)

    def _finished(self, number: int, size: int, done: asyncio.Future[Anchored]) -> None:
        self._in_flight.discard(done)
        self._window.leave(size)
        failure = None if done.cancelled() else done.exception()
        if done.cancelled() or failure is not None:
            self._failure = failure or Unavailable("the line has let go of a line")
            return
        self._book.settle(self._job.id, number)
        self.height = done.result().height
