"""Record every access in the chart it concerns, before the answer leaves, and anchor the chains' heads.

Each AuditEvent is sealed in its chart and chained on the one before; accesses
that concern no chart (nothing found) go to a chain of the asking institution.
Many accesses share one durable commit. Once per audit epoch the blinded heads
go to the ledger, and with them the decisions of the epoch's answers.

Invariants:
    * :meth:`AuditLine.record` returns when the entries and the decision are durable;
    * an epoch's envelopes are stored before they are submitted, and submitted in the order they were signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from fhir_bridge import tracing
from fhir_bridge.errors import BridgeError, Unavailable
from fhir_bridge.fhir.json import render
from fhir_bridge.lines.decided import DecisionBook, Made
from fhir_bridge.lines.notary import Notary
from fhir_bridge.lines.people import Sight
from fhir_bridge.lines.registry import OPERATOR, Registry
from fhir_bridge.lines.standing import Standing
from fhir_bridge.model.access import Decision, Found, Requester
from fhir_bridge.model.ingest import ChartRef
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.vault import AuditEntry, Document, Vault, Work
from fhir_bridge.proof import GENESIS, Access, access_epoch, audit_event, chain_head, entry_commitment
from fhir_bridge.seal import open_blob, seal_blob
from fhir_bridge.settings import AuditSettings
from fhir_bridge.telemetry import logger

_log = logger("audit")
_DOMAIN = "audit"
_EPOCHS = "audit-epochs"
_INCLUDED = "audit-included"
_SALT_BYTES = 32
_RETRY_S = 0.5
_STOP_S = 5.0
_CODES = {
    "history": "history-instance",
    "search": "search-type",
    "everything": "operation",
    "duplicates": "operation",
    "receipt": "operation",
    "explain": "operation",
    "simulate": "operation",
    "decisions": "operation",
    "decision-receipt": "operation",
    "decision-opening": "operation",
}
_ABOUT_DECISIONS = frozenset({"decisions", "decision-receipt", "decision-opening"})
"""What only tells of decisions is recorded and is none itself."""
_NO_CHART = "none-"


@dataclass(frozen=True, slots=True)
class Interaction:
    """What was asked: kind, type, canonical id if one record was named, and the parameters."""

    name: str
    type: str
    id: str | None = None
    query: Sequence[tuple[str, str]] = ()

    @property
    def request(self) -> str:
        """Method, path and query, with canonical ids."""
        path = self.type if self.id is None else f"{self.type}/{self.id}"
        suffix = f"/${self.name}" if _CODES.get(self.name) == "operation" else ""
        return f"GET {path}{suffix}" + (f"?{urlencode(list(self.query))}" if self.query else "")


@dataclass(frozen=True, slots=True)
class _Pending:
    chain: str
    key: bytes
    event: bytes


@dataclass(frozen=True, slots=True)
class _Access:
    """What one call writes: entries of the log and the decision behind the answer, if it is one."""

    entries: Sequence[_Pending]
    made: Made | None
    written: asyncio.Future[None]
    span: tracing.Span


class AuditLine:
    """Writes the access log and closes its epochs."""

    def __init__(
        self,
        *,
        vault: Vault,
        keys: KeyStore,
        registry: Registry,
        notary: Notary,
        clock: Clock,
        randomness: Randomness,
        settings: AuditSettings,
        standing: Standing,
        book: DecisionBook,
    ) -> None:
        self._vault = vault
        self._keys = keys
        self._registry = registry
        self._notary = notary
        self._clock = clock
        self._randomness = randomness
        self._settings = settings
        self._heads: dict[str, tuple[int, bytes]] = {}
        self._included: dict[str, int] = {}
        self._epoch = 0
        self._waiting: asyncio.Queue[_Access] = asyncio.Queue()
        self._book = book
        # A commit and the end of an epoch never overlap: what a commit writes belongs to one epoch.
        self._committing = asyncio.Lock()
        self._closing = asyncio.Lock()
        self._epoch_ends = 0.0
        self._standing = standing
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Read the heads, submit an epoch that a crash kept from the ledger, begin to write."""
        for chain, counter, head in await self._vault.audit_heads():
            self._heads[chain] = (counter, head)
        for chain, value in await self._vault.documents(_INCLUDED):
            self._included[chain] = int(value)
        last = await self._vault.documents(_EPOCHS)
        if last:
            number, value = last[-1]
            self._epoch = int(number) + 1
            await self._notary.submit(self._open_epoch(number, value))
        decided = await self._book.start(self._epoch)
        if decided is not None:
            await self._notary.submit(decided)
        self._tasks = [
            self._standing.begin("audit", self._write_forever()),
            asyncio.create_task(self._close_epochs()),
        ]

    async def stop(self) -> None:
        """Write what waits, put the heads of unanchored entries on the ledger, stop."""
        self._stopping.set()
        # Not cancelled: an epoch that is being closed must not be closed twice under one number.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._tasks[1], _STOP_S)
        if not self._tasks[0].done():
            await self._waiting.join()
        self._tasks[0].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._changed():
            try:
                await self.close_epoch()
            except BridgeError as error:
                _log.error("epoch left open", code=error.code)

    # --- writing

    async def record(
        self, who: Requester, interaction: Interaction, sight: Sight, found: Sequence[Found], now: datetime
    ) -> None:
        """Record one access, in every chart of which something is shown; durable on return.

        Raises:
            Unavailable: Not recorded; nothing may be answered.
        """
        await self.recording(who, interaction, sight, found, now)

    def recording(
        self, who: Requester, interaction: Interaction, sight: Sight, found: Sequence[Found], now: datetime
    ) -> asyncio.Future[None]:
        """Begin to record one access, as :meth:`record` does, and return what ends when it is durable."""
        entries = [self._entry(who, interaction, ref, shown, sight, now) for ref, shown in _by_chart(sight, found)]
        is_told = who.question is not None and interaction.name not in _ABOUT_DECISIONS
        made = self._book.make(who, who.question, sight, found, now) if who.question and is_told else None
        return self._add(entries or [self._unfound(who, interaction, now)], made)

    async def note(
        self, who: Requester, charts: Sequence[ChartRef], event: Callable[[str | None, str], dict[str, Any]]
    ) -> None:
        """Record what is no access in charts, or in the asking institution's chain if there is none.

        Args:
            event: Makes the AuditEvent from a chart's Patient id (None without a chart) and the event's id.

        Raises:
            Unavailable: Not recorded; nothing that it tells of may happen.
        """
        entries = [
            _Pending(ref.chart, self._registry.chart_key(ref), render(event(ref.patient_id, self._event_id())))
            for ref in charts
        ]
        await self._add(entries or [self._of_asker(who, render(event(None, self._event_id())))])

    async def events(self, charts: Sequence[ChartRef]) -> list[bytes]:
        """Return the AuditEvents of charts, newest first."""
        dated: list[tuple[str, bytes]] = []
        for chart in charts:
            key = self._registry.chart_key(chart)
            for entry in await self._vault.audits(chart.chart):
                event = open_blob(key, _DOMAIN, f"{entry.chain}/{entry.counter}", entry.envelope)[_SALT_BYTES:]
                dated.append((msgspec.json.decode(event, type=_Recorded).recorded, event))
        return [event for _, event in sorted(dated, key=lambda each: each[0], reverse=True)]

    def _entry(
        self,
        who: Requester,
        interaction: Interaction,
        ref: ChartRef,
        shown: Sequence[Found],
        sight: Sight,
        now: datetime,
    ) -> _Pending:
        record = f"{shown[0].row.type}/{shown[0].row.id}" if interaction.id and len(shown) == 1 else None
        access = self._access(who, interaction, sight.decision(ref.chart), ref.patient_id, record, len(shown), now)
        return _Pending(ref.chart, self._registry.chart_key(ref), self._event(access))

    def _unfound(self, who: Requester, interaction: Interaction, now: datetime) -> _Pending:
        """An access that showed nothing: it concerns no chart, whether something is hidden or not."""
        decision = Decision("", lambda _: False, self._notary.height, "", now)
        access = self._access(who, interaction, decision, None, None, 0, now)
        return self._of_asker(who, self._event(access))

    def _of_asker(self, who: Requester, event: bytes) -> _Pending:
        owner = who.institution or OPERATOR
        name = KeyName(KeyKind.INSTITUTION, owner, _DOMAIN)
        return _Pending(_NO_CHART + owner, self._keys.ensure([name])[name], event)

    def _access(
        self,
        who: Requester,
        interaction: Interaction,
        decision: Decision,
        patient: str | None,
        record: str | None,
        count: int,
        now: datetime,
    ) -> Access:
        return Access(
            requester=who,
            interaction=_CODES.get(interaction.name, interaction.name),
            request=interaction.request,
            outcome="0" if count else "4",
            at=now,
            height=decision.height,
            evaluator=decision.evaluator,
            basis=decision.basis,
            patient=patient,
            record=record,
            count=count,
            consents=decision.policies,
            network_policy=decision.network_policy,
            attested=decision.attested,
            request_id=who.question.id if who.question else "",
        )

    def _event(self, access: Access) -> bytes:
        return render(audit_event(access, event_id=self._event_id()))

    def _event_id(self) -> str:
        return self._randomness.token(16).hex()

    def _add(self, entries: Sequence[_Pending], made: Made | None = None) -> asyncio.Future[None]:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        span = tracing.begin("record access")
        written.add_done_callback(lambda _: span.end())
        self._waiting.put_nowait(_Access(entries, made, written, span))
        return written

    async def _write_forever(self) -> None:
        while True:
            group = [await self._waiting.get()]
            while not self._waiting.empty():
                group.append(self._waiting.get_nowait())
            try:
                async with self._committing:
                    with tracing.shared("commit", [each.span for each in group]):
                        await self._write(group)
            except BridgeError as error:
                _fail(group, error)
            except Exception:
                _fail(group, Unavailable("the access could not be recorded"))
            else:
                for each in group:
                    if not each.written.done():
                        each.written.set_result(None)
            finally:
                for _ in group:
                    self._waiting.task_done()

    async def _write(self, group: Sequence[_Access]) -> None:
        heads = dict[str, tuple[int, bytes]]()
        entries = []
        for each in (entry for access in group for entry in access.entries):
            counter, previous = heads.get(each.chain) or self._heads.get(each.chain, (0, GENESIS))
            salt = self._randomness.token(_SALT_BYTES)
            head = chain_head(previous, counter + 1, entry_commitment(salt, each.event))
            place = f"{each.chain}/{counter + 1}"
            envelope = seal_blob(each.key, _DOMAIN, place, salt + each.event, self._randomness)
            entries.append(AuditEntry(each.chain, counter + 1, previous, head, envelope))
            heads[each.chain] = (counter + 1, head)
        made = [access.made for access in group if access.made is not None]
        await self._vault.commit(Work(audits=entries, documents=self._book.documents(made)), None)
        self._heads |= heads
        self._book.written(made)

    # --- epochs

    async def _close_epochs(self) -> None:
        while not self._stopping.is_set():
            self._epoch_ends = asyncio.get_running_loop().time() + self._settings.epoch_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._settings.epoch_s)
                return
            try:
                await self.close_epoch()
            except Exception as error:
                _log.error("epoch failed", code=getattr(error, "code", type(error).__name__))

    @property
    def waiting(self) -> int:
        """Accesses that are not recorded yet, and so not answered."""
        return self._waiting.qsize()

    @property
    def retry_after_s(self) -> int:
        """Seconds until the epoch that is open now will be closed, about."""
        return max(1, math.ceil(self._epoch_ends - asyncio.get_running_loop().time()))

    async def close_epoch(self) -> None:
        """Put the blinded heads that changed since the last epoch on the ledger, and this epoch's decisions.

        An epoch in which nothing was asked is all padding.
        """
        async with self._closing:
            await self._close_epoch()

    async def _close_epoch(self) -> None:
        async with self._committing:
            changed = self._changed()
            self._book.cut()
        epoch = access_epoch(changed, self._randomness)
        decided = await self._book.epoch()
        number = f"{self._epoch:012d}"
        envelope = self._notary.sign_access_head(self._epoch, epoch.root, epoch.count)
        anchor = self._notary.sign_decisions(decided.root, decided.count)
        content = msgspec.msgpack.encode((envelope, epoch.openings))
        sealed = seal_blob(self._epoch_key(), _EPOCHS, number, content, self._randomness)
        documents = [Document(_EPOCHS, number, sealed), *self._book.closing(anchor, decided)]
        documents += [Document(_INCLUDED, chain, str(counter).encode()) for chain, counter, _ in changed]
        await self._vault.commit(Work(documents=documents), None)
        self._epoch += 1
        self._included |= {chain: counter for chain, counter, _ in changed}
        self._book.closed()
        await self._submit([envelope, anchor])

    async def _submit(self, envelopes: Sequence[bytes]) -> None:
        for envelope in envelopes:
            while True:
                try:
                    await self._notary.submit(envelope)
                    break
                except Unavailable:
                    if self._stopping.is_set():
                        raise
                    await asyncio.sleep(_RETRY_S)

    def _changed(self) -> list[tuple[str, int, bytes]]:
        return [
            (chain, counter, head)
            for chain, (counter, head) in sorted(self._heads.items())
            if counter > self._included.get(chain, 0)
        ]

    def _open_epoch(self, number: str, value: bytes) -> bytes:
        envelope, _ = msgspec.msgpack.decode(
            open_blob(self._epoch_key(), _EPOCHS, number, value), type=tuple[bytes, object]
        )
        return envelope

    def _epoch_key(self) -> bytes:
        name = KeyName(KeyKind.INSTITUTION, OPERATOR, _EPOCHS)
        return self._keys.ensure([name])[name]


class _Recorded(msgspec.Struct):
    recorded: str


def _by_chart(sight: Sight, found: Sequence[Found]) -> list[tuple[ChartRef, list[Found]]]:
    shown: dict[str, list[Found]] = {}
    for each in found:
        shown.setdefault(each.chart, []).append(each)
    return [(ref, shown[ref.chart]) for ref in sight.charts if ref.chart in shown]


def _fail(group: Sequence[_Access], error: BridgeError) -> None:
    for each in group:
        if not each.written.done():
            each.written.set_exception(error)
