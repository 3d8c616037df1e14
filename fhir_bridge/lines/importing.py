"""Imports: a body of many lines, received whole, then taken line by line in the background.

    lines to disk, sealed → the job in the vault → 202 → lines to the ingest line → counts with each commit

For vendors who load a hospital's past. A job is one document of the vault; its
lines are in an :class:`~fhir_bridge.ports.imports.ImportStore` until the job
has ended; what became of them is in the :mod:`~fhir_bridge.lines.import_book`.

Invariants:
    * a job exists once every line of its body is durable, and not before: an upload that breaks off leaves nothing;
    * lines are put on the ingest line in their order, and after any end of the process from the first one that the
      vault lacks: each is committed once, and counted in that commit;
    * no more than a window of lines is on the ingest line at once, so that others wait for a window at the most;
    * only the institution that made a job finds it; for everybody else it is absent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import Context
from datetime import timedelta
from email.utils import format_datetime

import msgspec

from fhir_bridge import metrics
from fhir_bridge.errors import (
    AnswerCutOff,
    IntegrityBroken,
    Issue,
    NotFound,
    TooManyImports,
    Unavailable,
)
from fhir_bridge.fhir.json import render
from fhir_bridge.lines.import_book import ImportBook
from fhir_bridge.lines.import_receiving import Receiver, Whole, release_of, require_async
from fhir_bridge.lines.import_run import ImportJob, ImportRun, Window
from fhir_bridge.lines.import_words import (
    NDJSON,
    answers_of,
    manifest,
    problems_of,
    progress,
    removed,
)
from fhir_bridge.lines.ingest import IngestLine
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.reply import NO_STORE, Reply, outcome_reply
from fhir_bridge.lines.senders import sender_of_bundles
from fhir_bridge.lines.staging import instant_of
from fhir_bridge.lines.versions import microseconds
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.ports.imports import ImportStore
from fhir_bridge.ports.keys import KeyStore
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.settings import ImportSettings
from fhir_bridge.telemetry import logger

JOBS = "imports"
"""Job → :class:`ImportJob`; nothing in it is about a person."""

_log = logger("imports")
_BLOCK_BYTES = 64 << 10
_RETRY_S = 1.0
_TIDY_S = 600.0


class ImportLine:
    """Receives imports, runs them, tells of them."""

    def __init__(
        self,
        *,
        store: ImportStore,
        book: ImportBook,
        ingest: IngestLine,
        registry: Registry,
        vault: Vault,
        keys: KeyStore,
        clock: Clock,
        randomness: Randomness,
        settings: ImportSettings,
        base_url: str,
    ) -> None:
        self._store = store
        self._book = book
        self._ingest = ingest
        self._registry = registry
        self._vault = vault
        self._clock = clock
        self._randomness = randomness
        self.settings = settings
        self._base_url = base_url
        self._receiver = Receiver(store, keys, settings)
        self._window = Window(settings.in_flight_lines, settings.in_flight_bytes)
        self._jobs: dict[str, ImportJob] = {}
        self._receiving: dict[str, str] = {}
        self._beginning = asyncio.Lock()
        self._runs: dict[str, ImportRun] = {}
        self._leaving: set[str] = set()
        self._runners: dict[str, asyncio.Task[None]] = {}
        self._tidying: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up every job where it stands; remove what uploads that broke off have left."""
        for name, value in await self._vault.documents(JOBS):
            self._jobs[name] = msgspec.msgpack.decode(value, type=ImportJob)
        known = {job.id for job in self._jobs.values() if job.state == "running"}
        try:
            await self._store.tidy(known, self._registry.institutions)
            for job in [each for each in self._jobs.values() if each.state == "removed"]:
                await self._remove(job)
        except Unavailable as error:
            # A disk that is full must not keep the service from starting; what is left is no job's any more.
            _log.error("import is kept", code=error.code)
            self._jobs = {name: job for name, job in self._jobs.items() if job.state != "removed"}
        for institution in sorted({job.institution for job in self._jobs.values()}):
            self._wake(institution)
        self._tidying = asyncio.create_task(self._tidy_forever())

    async def stop(self) -> None:
        """Put no further lines on the ingest line; those on it go on, and the next start goes on behind them."""
        tasks = [*self._runners.values(), *([self._tidying] if self._tidying else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def load(self) -> dict[str, int]:
        """How many imports are being received, wait or run, and have ended and are kept."""
        ended = sum(job.state == "ended" for job in self._jobs.values())
        return {"receiving": len(self._receiving), "running": len(self._jobs) - ended, "ended": ended}

    # --- receiving

    async def receive(self, who: Requester, content_type: str, prefer: str, pieces: AsyncIterator[bytes]) -> Reply:
        """Receive a body whole and answer 202 with the job's address; refuse what no job can come of unread.

        Args:
            pieces: The body, decompressed, as it comes.

        Raises:
            NotPermitted: As for a bundle.
            RecordRefused: It is no NDJSON, or not asked for as a background job, or holds no line.
            MessageTooLong: More bytes than an import may hold.
            TooManyImports: The institution has as many under way as it may have.
            Unavailable: Nothing was taken; safe to retry.
        """
        institution = sender_of_bundles(who)
        version = release_of(content_type) or self._registry.institution(institution).fhir_version
        require_async(prefer)
        self._require_room(institution)
        name = self._randomness.token(16).hex()
        self._receiving[name] = institution
        try:
            whole = await self._receiver.take_in(name, institution, pieces)
            # One at a time, or a body that comes twice at once is not yet a job when it is looked for.
            async with self._beginning:
                job = self._same(institution, version, whole)
                job = job or await self._begin(name, institution, version, whole)
        except BaseException:
            # Shielded: a sender who goes away, or a stop of the service, must not leave half of a body behind.
            await asyncio.shield(self._undo(name))
            metrics.IMPORTS.labels("broken off").inc()
            raise
        finally:
            self._receiving.pop(name, None)
        if job.id != name:
            await self._drop(name)
        note = Issue("information", "informational", f"{job.lines} lines are received; ask at Content-Location")
        return outcome_reply(202, [note], (("Content-Location", self._address(job)), *NO_STORE))

    def _require_room(self, institution: str) -> None:
        coming = sum(each == institution for each in self._receiving.values())
        if len(self._waiting(institution)) + coming >= self.settings.max_jobs:
            raise TooManyImports(self.settings.max_jobs, 30)

    def _same(self, institution: str, version: FhirVersion, whole: Whole) -> ImportJob | None:
        """Return the job under way that this very body has made already: its sender may have missed the answer."""
        stays = [job for job in self._waiting(institution) if job.id not in self._leaving]
        same = [job for job in stays if (job.version, job.digest) == (version, whole.digest)]
        return same[0] if same else None

    async def _begin(self, name: str, institution: str, version: FhirVersion, whole: Whole) -> ImportJob:
        # Later than every one that waits, also where the clock was set back: they run in this order.
        waiting = [each.received_at_us + 1 for each in self._waiting(institution)]
        now = max(microseconds(self._clock.now()), *waiting, 0)
        job = ImportJob(name, institution, version, now, whole.lines, whole.size, whole.digest)
        await self._save(job)
        self._jobs[name] = job
        metrics.IMPORTS.labels("received").inc()
        _log.info("import received", messages=whole.lines)
        self._wake(institution)
        return job

    async def _undo(self, name: str) -> None:
        """Leave nothing of a body whose sender is not told 202, nor of a job that was saved all the same."""
        await self._drop(name)
        with suppress(Unavailable):
            await self._vault.commit(Work(documents=[Document(JOBS, name, None)]), None)

    async def _drop(self, name: str) -> None:
        self._book.close(name)
        # What cannot be removed now is removed at the next start: no job names it.
        with suppress(Unavailable, IntegrityBroken):
            await self._store.discard(name)

    # --- running

    def _wake(self, institution: str) -> None:
        runner = self._runners.get(institution)
        if runner is None or runner.done():
            # Of a context of its own: trace and id of the request that wakes it are not those of every line.
            self._runners[institution] = asyncio.create_task(self._run_all(institution), context=Context())

    async def _run_all(self, institution: str) -> None:
        """Run an institution's jobs one after the other, in the order they came: a later one may be the newer."""
        while waiting := [job for job in self._waiting(institution) if job.id not in self._leaving]:
            job = min(waiting, key=lambda each: (each.received_at_us, each.id))
            run = self._runs[job.id] = ImportRun(job, self._store, self._book, self._ingest, self._window)
            try:
                await run.go()
            except Unavailable as error:
                if not self._ingest.is_standing:
                    return
                _log.error("import waits", code=error.code)
                await asyncio.sleep(_RETRY_S)
                continue
            except Exception as error:
                _log.error("import broke off", code=getattr(error, "code", type(error).__name__))
                run.is_broken = True
            if job.id in self._jobs and self._jobs[job.id].state == "running" and not run.is_stopped:
                await self._end(job, run)

    def _waiting(self, institution: str) -> list[ImportJob]:
        return [job for job in self._jobs.values() if job.institution == institution and job.state == "running"]

    async def _end(self, job: ImportJob, run: ImportRun) -> None:
        now = microseconds(self._clock.now())
        while True:
            try:
                # A run that found every line in the vault, or that changed nothing since a start, knows of none.
                height = await self._ingest.anchored_height() if run.height is None else run.height
                ended = msgspec.structs.replace(
                    job, state="ended", ended_at_us=now, height=height, is_broken=run.is_broken
                )
                await self._save(ended)
                break
            except Unavailable as error:
                _log.error("import waits", code=error.code)
                await asyncio.sleep(_RETRY_S)
            if run.is_stopped:
                # It is being cancelled: a document that is written now might outlive that.
                return
        await self._drop(job.id)
        self._runs.pop(job.id, None)
        if job.id in self._jobs:
            self._jobs[job.id] = ended
            metrics.IMPORTS.labels("lost" if run.is_broken else "completed").inc()
            _log.info("import ended", messages=job.lines)

    # --- telling

    async def status(self, who: Requester, name: str) -> Reply:
        """Answer 202 with progress while a job runs, then 200 with its manifest.

        Raises:
            NotFound: There is no such job of this institution.
        """
        job = self._job_of(who, name)
        totals = await self._book.totals(job.id, job.institution)
        if job.state == "running":
            return progress(job, totals)
        expires = instant_of(job.ended_at_us) + timedelta(seconds=self.settings.keep_s)
        body = render(manifest(job, totals, self._base_url, self._address(job)))
        headers = (("Expires", format_datetime(expires, usegmt=True)), *NO_STORE)
        return Reply(200, body, headers, "application/json")

    async def file(self, who: Requester, name: str, which: str) -> Reply:
        """Return the NDJSON of an ended job: ``problems`` are OperationOutcomes, ``answers`` response Bundles.

        Raises:
            NotFound: There is no such job of this institution, or it has not ended.
        """
        job = self._job_of(who, name)
        if job.state != "ended":
            raise NotFound
        results = self._book.results(job.id, job.institution)
        made = problems_of(results) if which == "problems" else answers_of(results, self._base_url)
        return Reply(200, b"", NO_STORE, NDJSON, _whole(made))

    async def cancel(self, who: Requester, name: str) -> Reply:
        """Cancel a job, or remove one that has ended; what was taken stays.

        Raises:
            NotFound: There is no such job of this institution.
        """
        job = self._job_of(who, name)
        if name in self._leaving:
            raise NotFound
        self._leaving.add(name)
        try:
            if (run := self._runs.get(name)) is not None:
                await run.stop()
            # It may have come to its end meanwhile.
            job = self._jobs[name]
            totals = await self._book.totals(name, job.institution)
            await self._save(msgspec.structs.replace(job, state="removed"))
            self._jobs.pop(name, None)
            self._runs.pop(name, None)
        finally:
            self._leaving.discard(name)
            self._wake(job.institution)
        if job.state == "running":
            metrics.IMPORTS.labels("cancelled").inc()
            _log.info("import cancelled", messages=totals.lines)
        await self._remove(job)
        return removed(job, totals)

    def _job_of(self, who: Requester, name: str) -> ImportJob:
        institution = sender_of_bundles(who)
        job = self._jobs.get(name)
        if job is None or job.institution != institution:
            raise NotFound
        return job

    # --- keeping

    async def _save(self, job: ImportJob) -> None:
        await self._vault.commit(Work(documents=[Document(JOBS, job.id, msgspec.msgpack.encode(job))]), None)

    async def _remove(self, job: ImportJob) -> None:
        """Remove all that is kept of a job, its document last, so that a crash in between is made good at a start."""
        await self._store.discard(job.id)
        with suppress(IntegrityBroken):
            await self._book.forget(job.id, job.institution)
        await self._vault.commit(Work(documents=[Document(JOBS, job.id, None)]), None)
        self._jobs.pop(job.id, None)

    async def _tidy_forever(self) -> None:
        while True:
            before = microseconds(self._clock.now()) - self.settings.keep_s * 1_000_000
            for job in [each for each in self._jobs.values() if each.state == "ended"]:
                if job.ended_at_us < before:
                    try:
                        await self._save(msgspec.structs.replace(job, state="removed"))
                        await self._remove(job)
                    except Exception as error:
                        _log.error("import is kept", code=getattr(error, "code", type(error).__name__))
            await asyncio.sleep(_TIDY_S)

    def _address(self, job: ImportJob) -> str:
        return f"{self._base_url}/fhir/$import/{job.id}"


async def _whole(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield blocks of lines; cut the answer off, not end it as if it were whole, if the job is removed meanwhile."""
    block = bytearray()
    try:
        async for line in lines:
            block += line
            if len(block) >= _BLOCK_BYTES:
                yield bytes(block)
                block.clear()
    except (IntegrityBroken, Unavailable):
        raise AnswerCutOff from None
    if block:
        yield bytes(block)
