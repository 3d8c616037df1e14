"""A record's way in: intake → normalize → seal → anchor.

Messages from every entrance (bus, HTTP, command line) walk the same line. The
pure rooms run side by side in workers; one committer then takes the messages
in the order they came, gathers a group, and makes one vault commit of it:
ciphertexts, index, source positions, dead letters and the batch to anchor. The
sender is answered when that batch stands on the ledger. While a group is
written, the one behind it is decided and sealed already.

Invariants:
    * messages of one bus partition are committed in their order;
    * what is answered with success is durable and anchored;
    * a message by bus is never dropped: it is committed, or it becomes a dead
      letter in the very commit that moves its position on;
    * no record is committed that other value sets than those in force have labelled, or other rules made;
    * what was decided on a group that was not written yet is only written after it, and forgotten if it never is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fhir_bridge import metrics, tracing
from fhir_bridge.anchor import make_batch
from fhir_bridge.errors import Busy, Issue, RecordRefused, Unavailable
from fhir_bridge.lines.charts import ChartBook, OpenChart
from fhir_bridge.lines.conditional import identifier_documents
from fhir_bridge.lines.deciding import Decider
from fhir_bridge.lines.jobs import Again, Job, Redirected, RoomsFailed, end_span, is_outdated, measure, restrictions
from fhir_bridge.lines.keeping import KeptRecords
from fhir_bridge.lines.notary import Notary
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.sealing import SealedGroup, seal_group
from fhir_bridge.lines.staging import Layer, StagedRecord
from fhir_bridge.lines.standing import Standing
from fhir_bridge.lines.unwrapping import Unwrapping, as_declared, attested, weight_of
from fhir_bridge.lines.waiting import WaitingJobs
from fhir_bridge.model.ingest import Anchored, ChartRef, Processed, Received
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.ports.keys import KeyStore
from fhir_bridge.ports.overflow import Overflows
from fhir_bridge.ports.rooms import Rooms
from fhir_bridge.ports.vault import Batch, Document, Vault, Work
from fhir_bridge.settings import IngestSettings
from fhir_bridge.telemetry import logger

_log = logger("ingest")
_RETRY_S = 0.5
_OTHER_SETS = Issue("error", "conflict", "other value sets have come into force: judge again")
RESTRICTIONS = "restrictions"
"""Consents of institutions that are stored and not yet in their list: ``chart/record id`` → version."""


@dataclass(frozen=True, slots=True)
class Load:
    """Messages on the line and their bytes, batches that are not on the ledger yet, and the oldest one's age."""

    messages: int
    bytes: int
    batches: int
    anchor_lag_s: float


@dataclass(slots=True)
class Group:
    """Messages that are committed together: what they change, decided and sealed.

    ``homes`` are the charts that they change, by name. What a group decided holds as long as the one below it in
    ``layer`` is written before it.
    """

    jobs: list[Job]
    layer: Layer
    sealed: SealedGroup
    homes: Mapping[str, ChartRef]
    is_durable: bool = False

    @property
    def is_large(self) -> bool:
        """True if its index rows are in its segments alone, so that nothing can be decided on it."""
        return bool(self.sealed.records) and not self.sealed.rows


class Outbox(Protocol):
    """What tells others of letters and changes, once they are durable."""

    def untold(self, batch: int, jobs: Sequence[Job]) -> Iterable[Document]:
        """Return what belongs into the commit of these jobs; batches of later commits are higher."""
        ...

    def wake(self) -> None:
        """Learn that there may be something to tell."""
        ...


class IngestLine:
    """Takes messages, answers when they are durable and anchored."""

    def __init__(
        self,
        *,
        vault: Vault,
        keys: KeyStore,
        registry: Registry,
        book: ChartBook,
        rooms: Rooms,
        overflows: Overflows,
        unwrapping: Unwrapping,
        notary: Notary,
        clock: Clock,
        randomness: Randomness,
        settings: IngestSettings,
        standing: Standing,
        committing: asyncio.Lock,
    ) -> None:
        """Take the lock that is held while a group is committed, so that rules can change between two groups."""
        self.committing = committing
        self._decider = Decider(vault=vault, keys=keys, registry=registry, book=book, randomness=randomness)
        self._vault = vault
        self._registry = registry
        self._book = book
        self._rooms = rooms
        self._overflows = overflows
        self._unwrapping = unwrapping
        self._notary = notary
        self._clock = clock
        self._randomness = randomness
        self._settings = settings
        self._standing = standing
        self._has_stopped = False
        self._open: set[asyncio.Future[Anchored]] = set()
        self._waiting = WaitingJobs(max_messages=settings.group_max_messages, max_bytes=settings.group_max_bytes)
        self._ahead: Group | None = None
        self._waiting_bytes = self._waiting_jobs = 0
        self._idle, self._roomy = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._roomy.set()
        self._anchoring: asyncio.Queue[tuple[int, list[Job]]] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._last_batch = -1
        self._rulesets: set[tuple[str, str]] = set()
        self._height: int | None = None
        self._unanchored: dict[int, float] = {}
        self.is_anchoring = True
        self.outboxes: tuple[Outbox, ...] = ()
        self.on_consent: Callable[[ChartRef, str, str], Awaitable[None]] | None = None
        self.counters = {"messages": 0, "entries": 0, "stored": 0, "refused": 0, "quarantined": 0}

    async def start(self) -> None:
        """Submit what a crash left in the outbox, then begin to take messages."""
        self._last_batch = await self._vault.last_batch()
        pending = await self._vault.pending_batches()
        self._book.visible_batch = pending[0].number - 1 if pending else self._last_batch
        if pending:
            await self._settle(pending[-1].number)
            # Marks do not wait for the disk, so earlier ones may be lost where later ones are not.
            self._book.visible_batch = self._last_batch
        self._tasks = [
            self._standing.begin("commit", self._commit_forever(), self._abandon),
            self._standing.begin("anchor", self._anchor_forever(), self._abandon),
        ]

    async def stop(self) -> None:
        """Finish every message taken so far, then stop; when cancelled meanwhile, stop at once."""
        try:
            await self._idle.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._has_stopped = True
            self._abandon()

    def _abandon(self) -> None:
        """Tell everybody who waits that the line stands still; what came by bus stays on the bus."""
        for done in list(self._open):
            if not done.done():
                done.set_exception(_stopped())

    @property
    def is_full(self) -> bool:
        """True while the messages waiting exceed the queue's bytes; buses pause, HTTP answers 429."""
        return self._waiting_bytes >= self._settings.queue_max_bytes

    @property
    def load(self) -> Load:
        """What waits now."""
        since = min(self._unanchored.values(), default=None)
        lag_s = 0.0 if since is None else time.monotonic() - since
        return Load(self._waiting_jobs, self._waiting_bytes, self._last_batch - self._book.visible_batch, lag_s)

    async def anchored_height(self) -> int | None:
        """Return the height at which the newest batch on the ledger stands, every earlier one below; None for none.

        Raises:
            Unavailable: Safe to retry.
        """
        newest = self._book.visible_batch
        return None if newest < 0 else (await self._vault.batch(newest)).height

    @property
    def is_standing(self) -> bool:
        """False once the line has stopped for good; what it held is answered or still on its bus."""
        return self._standing.is_sound and not self._has_stopped

    def submit(self, received: Received, again: Again | None = None) -> asyncio.Future[Anchored]:
        """Put a message on the line; the future holds what became of it.

        Raises:
            Busy: Too much is waiting; safe to retry.
            Unavailable: The line stands still; nothing was taken.
        """
        if self.is_full and received.position is None:
            raise Busy
        self._registry.institution(received.institution)

        async def process(received: Received) -> Processed:
            message = received
            try:
                message = await self._unwrapping.claimed(message)
                message = await self._unwrapping.decrypted(message)
                signed = await self._unwrapping.signature(message)
                message = as_declared(message)
                # The release is the message's own: a sender may declare another than it is registered with.
                source = replace(self._registry.source(message.institution), fhir_version=message.fhir_version)
                with tracing.spanned("rooms"):
                    return attested(await self._rooms.process(message, source), message, signed)
            except RecordRefused as no:
                return Processed("single", refused=no.issues, opened=message)
            except Unavailable:
                raise
            except Exception as error:
                raise RoomsFailed(message) from error

        return self._enqueue(received, process, again, is_from_sender=True)

    def _enqueue(
        self,
        received: Received,
        work: Callable[[Received], Coroutine[Any, Any, Processed]],
        again: Again | None = None,
        *,
        is_from_sender: bool = False,
    ) -> asyncio.Future[Anchored]:
        if not self.is_standing:
            raise _stopped()
        weight = weight_of(received, self._settings.max_message_bytes)
        self._weigh(1, weight)
        done: asyncio.Future[Anchored] = asyncio.get_running_loop().create_future()
        self._open.add(done)
        done.add_done_callback(lambda _: self._close(done, weight))
        span = tracing.begin("ingest", institution=received.institution)
        with tracing.within(span):
            processed = asyncio.create_task(work(received))
        done.add_done_callback(lambda _: end_span(span, done))
        self._waiting.put(
            Job(received, weight, work, processed, done, again, is_from_sender=is_from_sender, span=span)
        )
        return done

    def _close(self, done: asyncio.Future[Anchored], size: int) -> None:
        self._open.discard(done)
        self._weigh(-1, -size)

    async def push(self, received: Received, again: Again | None = None) -> Anchored:
        """Put a message on the line and wait until it is durable and anchored, or refused."""
        # Shielded: a sender who goes away does not take the message off the line.
        return await asyncio.shield(self.submit(received, again))

    async def push_processed(self, received: Received, processed: Processed) -> Anchored:
        """Put a message on the line that has been through its rooms already (a patient's own record)."""
        return await asyncio.shield(self.submit_processed(received, processed))

    def submit_processed(self, received: Received, processed: Processed) -> asyncio.Future[Anchored]:
        """As :meth:`push_processed`; the future holds what became of it."""

        async def ready(_: Received) -> Processed:
            return processed

        return self._enqueue(received, ready)

    async def push_reissued(self, received: Received, processed: Processed) -> Anchored:
        """Put successors of stored versions on the line; refused if other value sets come into force first."""

        async def still_valid(_: Received) -> Processed:
            if processed.sets != self._registry.sets[0]:
                raise RecordRefused([_OTHER_SETS])
            return processed

        return await asyncio.shield(self._enqueue(received, still_valid))

    async def room(self) -> None:
        """Wait until the queue takes more; buses pause meanwhile."""
        await self._roomy.wait()

    async def quiet(self) -> None:
        """Wait until no message is on the line; what can wait goes behind those."""
        await self._idle.wait()

    def _weigh(self, jobs: int, size: int) -> None:
        self._waiting_jobs += jobs
        self._waiting_bytes += size
        for event, holds in ((self._idle, self._waiting_jobs == 0), (self._roomy, not self.is_full)):
            event.set() if holds else event.clear()

    # --- committing

    async def _commit_forever(self) -> None:
        while True:
            # No name for the messages: while others are waited for, nothing of these is to be held.
            await self._commit_whole(self._ahead.jobs if self._ahead else await self._waiting.group())

    async def _commit_whole(self, jobs: list[Job], *, is_alone: bool = False) -> None:
        """Commit a group; what cannot be committed is told, tried again, or set aside as a dead letter.

        A store that does not answer is waited for. Any other failure is one message's: the group is taken
        apart, and the message that fails alone is set aside, so that it never blocks what stands behind it.

        Args:
            is_alone: It is part of one whose rest comes before everything else.
        """
        while jobs:
            await asyncio.wait([job.processed for job in jobs])
            try:
                async with self.committing:
                    # Once more: other sets or rules may have come into force since the group was sealed.
                    if self._renew(jobs):
                        self._ahead = None
                        continue
                    # No name for the group: one that fails is not to be held, with its files, beside its successor.
                    await self._commit(self._ahead or await self._sealed(jobs), is_alone=is_alone)
                    return
            except Unavailable as error:
                metrics.COMMIT_FAILURES.inc()
                jobs = await self._after_failure(jobs, error)
            except Redirected as found:
                found.job.redirect(found.same_as, found.patients)
            except Exception as error:
                metrics.COMMIT_FAILURES.inc()
                _log.error("commit failed", code=getattr(error, "code", type(error).__name__), messages=len(jobs))
                if len(jobs) > 1:
                    for job in jobs:
                        await self._commit_whole([job], is_alone=True)
                    break
                jobs[0].set_aside()

    def _renew(self, jobs: Sequence[Job]) -> bool:
        """Send messages through their rooms again that other sets or rules have made than are in force now."""
        old = [job for job in jobs if not job.is_set_aside and is_outdated(job, self._registry)]
        for job in old:
            job.begin()
        return bool(old)

    async def _after_failure(self, jobs: list[Job], error: Unavailable) -> list[Job]:
        """Tell HTTP senders; keep what came by bus, for nothing of the group was written."""
        _log.error("store unavailable", code=error.code, messages=len(jobs))
        # Its frames hold the group, and name who holds the error: only the collector would free it, and its files.
        error = error.with_traceback(None)
        for job in jobs:
            if job.received.position is None and not job.done.done():
                job.done.set_exception(error)
        self._refuse_waiting(error)
        await asyncio.sleep(_RETRY_S)
        kept = [job for job in jobs if job.received.position is not None]
        for job in kept:
            made = job.made
            if made is None or (isinstance(made.records, KeptRecords) and made.records.is_lost):
                job.begin()
        return kept

    def _refuse_waiting(self, error: Unavailable) -> None:
        """Tell HTTP senders behind a group that is tried again, who would wait as long as the store is away."""
        for job in self._waiting.take_all():
            if job.received.position is not None:
                self._waiting.put(job)
            else:
                job.processed.cancel()
                if not job.done.done():
                    job.done.set_exception(error)

    async def _sealed(self, jobs: list[Job], below: Group | None = None) -> Group:
        """Decide what becomes of messages and seal what they change, on what is durable and on the group below.

        Raises:
            Redirected: One of them has to go through its rooms again.
            Unavailable: Safe to retry.
        """
        if below is None:
            self._book.in_use.clear()
        now = self._clock.now()
        charts: dict[str, OpenChart] = {}
        layer = Layer(charts, below=None if below is None else below.layer)
        with tracing.shared("seal", [job.span for job in jobs], messages=len(jobs)):
            for job in jobs:
                job.reset()
                await self._decider.stage(job, layer, charts, now)
            homes = {item.chart.chart: item.chart for item in layer.staged}
            keys = {chart: self._registry.chart_key(ref) for chart, ref in homes.items()}
            numbers = {chart: charts[chart].next_segment for chart in homes}
            if below is not None and not below.is_durable:
                for segment in below.sealed.segments:
                    if segment.chart in numbers:
                        numbers[segment.chart] += 1
            sealed = await asyncio.to_thread(self._seal, layer.staged, keys, numbers)
        return Group(jobs, layer, sealed, homes)

    async def _commit(self, group: Group, *, is_alone: bool) -> None:
        """Write a group, and seal the one behind it meanwhile, whose messages must be there.

        What is behind is written after this group or, if this one cannot be written, forgotten and decided afresh.
        """
        self._ahead = None
        writing = asyncio.create_task(self._written(group))
        behind: Group | None = None
        try:
            # The disk is to be at work first: deciding may wait for nothing, and so would not let it begin.
            await asyncio.sleep(0)
            behind = None if is_alone or group.is_large else await self._behind(group)
            await writing
        except BaseException:
            if behind is not None:
                self._waiting.put_back(behind.jobs)
            writing.cancel()
            await asyncio.wait([writing])
            raise
        self._book.in_use = set(behind.layer.charts) if behind is not None else set()
        self._book.trim()
        if behind is not None:
            # It stands on what is durable now.
            behind.layer.below = None
        self._ahead = behind

    async def _behind(self, group: Group) -> Group | None:
        """Return the group behind one that is being written; None if there is none yet or something is in its way."""
        # One that is not full yet had better gather more meanwhile: each commit waits for the disk.
        jobs = self._waiting.ready(must_be_full=True)
        try:
            if jobs and not self._renew(jobs):
                return await self._sealed(jobs, group)
        except Exception:  # noqa: S110 - it shows again, and is dealt with, when nothing is being written
            pass
        self._waiting.put_back(jobs)
        return None

    async def _written(self, group: Group) -> None:
        """Make a group durable, then let everybody know who must before its senders are answered."""
        jobs, layer, sealed = group.jobs, group.layer, group.sealed
        with tracing.shared("commit", [job.span for job in jobs], messages=len(jobs)):
            work = Work(
                records=sealed.records,
                segments=sealed.segments,
                positions=[j.received.position for j in jobs if j.received.position is not None],
                letters=[letter for j in jobs for letter in j.letters],
                # Not before: what goes with a commit may build on the one before it.
                documents=[*self._documents(group), *await self._unwrapping.evidence(jobs)],
            )
            await self._register_rulesets(layer.staged)
            batch = await self._write(work)
            self._registry.know(group.homes.values())
            if batch is not None:
                for chart, added in sealed.rows.items():
                    self._book.added(chart, batch, added)
                if group.is_large:
                    self._book.outgrown(segment.chart for segment in sealed.segments)
                self._last_batch = batch
                self._unanchored[batch] = time.monotonic()
            group.is_durable = True
            self._count(jobs, len(sealed.records))
            await self._tell_consents(layer)
        self._anchoring.put_nowait((self._last_batch, jobs))

    async def _register_rulesets(self, staged: Iterable[StagedRecord]) -> None:
        """Have the ledger know every ruleset before a record that it made: a pack may change between two starts."""
        used = {(item.record.ruleset, item.chart.institution) for item in staged if item.record.ruleset}
        for ruleset, institution in sorted(used - self._rulesets):
            await self._notary.register_ruleset(bytes.fromhex(ruleset), institution)
            self._rulesets.add((ruleset, institution))

    async def _write(self, work: Work) -> int | None:
        if not (work.records or work.positions or work.letters or work.documents):
            return None
        with metrics.timed(metrics.COMMIT):
            return await self._vault.commit(work, self._batch)

    def _batch(self, *, number: int, commitments: Sequence[bytes], journal_head: bytes) -> Batch:
        return make_batch(commitments, journal_head, sign=self._notary.sign_anchor, randomness=self._randomness)

    def _seal(self, staged: Sequence[StagedRecord], keys: dict[str, bytes], numbers: dict[str, int]) -> SealedGroup:
        return seal_group(staged, keys, numbers, self._overflows, self._randomness)

    def _documents(self, group: Group) -> list[Document]:
        documents = self._registry.chart_documents(group.homes.values())
        for item in group.layer.staged:
            if item.record.identifiers:
                documents += identifier_documents(item.record, self._registry.id_key(item.chart.institution))
        for item in restrictions(group.layer):
            documents.append(Document(RESTRICTIONS, f"{item.chart.chart}/{item.row.id}", item.row.version.encode()))
        for outbox in self.outboxes:
            documents += outbox.untold(self._last_batch + 1, group.jobs)
        return documents

    async def _tell_consents(self, group: Layer) -> None:
        """Let consents that an institution sent narrow its own chart before anybody is answered."""
        for item in restrictions(group):
            if self.on_consent is not None:
                await self.on_consent(item.chart, item.row.id, item.row.version)

    def _count(self, jobs: Sequence[Job], stored: int) -> None:
        self.counters["messages"] += len(jobs)
        self.counters["stored"] += stored
        for job in jobs:
            self.counters["entries"] += len(job.outcomes)
            self.counters["refused"] += bool(job.refused)
            self.counters["quarantined"] += sum(o.status.startswith("202") for o in job.outcomes)
            measure(job, is_known=job.received.institution in self._registry.institutions)
        metrics.GROUP.observe(len(jobs))

    # --- anchoring

    async def _anchor_forever(self) -> None:
        while True:
            await self._anchor(*await self._anchoring.get())

    async def _anchor(self, batch: int, jobs: Sequence[Job]) -> None:
        with tracing.shared("anchor", [job.span for job in jobs], messages=len(jobs)):
            await self._settle(batch)
        for outbox in self.outboxes:
            outbox.wake()
        for job in jobs:
            if not job.done.done():
                job.done.set_result(
                    Anchored(
                        job.kind,
                        tuple(job.outcomes),
                        self._height,
                        job.refused,
                        tuple(x.id for x in job.letters),
                        job.status,
                        job.elsewhere,
                    )
                )

    async def _settle(self, number: int) -> None:
        """Bring every batch up to this one to the ledger, in order, however often it takes.

        The ledger recognises a repetition. None may be passed over: one signer's later envelope makes an
        earlier one worthless.
        """
        while self._book.visible_batch < number:
            following = self._book.visible_batch + 1
            try:
                batch = await self._vault.batch(following)
                with metrics.timed(metrics.ANCHOR):
                    height, log_index = await self._notary.submit_anchor(batch.envelope)
                await self._vault.mark_anchored([(following, height, log_index)])
                self._book.visible_batch, self._height, self.is_anchoring = following, height, True
                self._unanchored.pop(following, None)
            except Unavailable as error:
                self.is_anchoring = False
                metrics.ANCHOR_FAILURES.inc()
                _log.error("anchor failed", code=error.code, batch=following)
                if not self._standing.is_sound:
                    raise
                await asyncio.sleep(_RETRY_S)


def _stopped() -> Unavailable:
    return Unavailable("the service has stopped taking records")
