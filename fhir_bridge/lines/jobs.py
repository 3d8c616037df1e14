"""One message on the ingest line, from the moment it is taken until its sender is answered.

The line alone changes a job; what an attempt decided is forgotten if it was not
committed, so that the next attempt decides afresh.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fhir_bridge import metrics, tracing
from fhir_bridge.errors import IntegrityBroken, Issue
from fhir_bridge.lines.registry import Registry
from fhir_bridge.lines.signatories import AGENT
from fhir_bridge.lines.staging import Layer, StagedRecord
from fhir_bridge.model.ingest import Anchored, Normalized, Outcome, Processed, Received, Refusal, Signed
from fhir_bridge.ports.vault import SealedLetter

_BAD_REQUEST = "400 Bad Request"
IMPORT: Final = "import"
"""What an import is called as a bus: its streams are the jobs, the offsets in them the numbers of lines."""


@dataclass(frozen=True, slots=True)
class Again:
    """A message is replayed for some of its entries: those of these numbers; None for all."""

    entries: frozenset[int] | None


class RoomsFailed(Exception):
    """Something of ours failed on a message, out of as much of its wrapping as came off; the cause says what."""

    def __init__(self, message: Received) -> None:
        super().__init__("a message did not get through its rooms")
        self.message = message


class Redirected(Exception):
    """A message must refer to records that its conditional creates or conditional references found.

    ``same_as`` are those of creates by the id that they would have made, ``patients`` those of references by
    ``system|value``.
    """

    def __init__(self, job: Job, same_as: Mapping[str, str], patients: Mapping[str, str]) -> None:
        super().__init__("a message has to go through its rooms again")
        self.job = job
        self.same_as = same_as
        self.patients = patients


@dataclass(slots=True)
class Job:
    """A message with what its rooms make of it and what has been decided so far; ``done`` answers its sender.

    ``weight`` is how many bytes of memory it takes while it is on the line.
    """

    received: Received
    weight: int
    work: Callable[[Received], Coroutine[Any, Any, Processed]]
    processed: asyncio.Task[Processed]
    done: asyncio.Future[Anchored]
    again: Again | None = None
    kind: str = "single"
    status: str = _BAD_REQUEST
    outcomes: list[Outcome] = field(default_factory=list)
    refused: tuple[Issue, ...] = ()
    letters: list[SealedLetter] = field(default_factory=list)
    changed: list[StagedRecord] = field(default_factory=list)
    is_from_sender: bool = False
    is_set_aside: bool = False
    elsewhere: str | None = None
    opened: Received | None = None
    signed: Signed | None = None
    span: tracing.Span = tracing.NOTHING

    @property
    def message(self) -> Received:
        """What was sent, out of its wrapping where that could be opened."""
        return self.opened or self.received

    @property
    def is_answered(self) -> bool:
        """True if its sender is told what was refused: over HTTP, or by the status of an import."""
        position = self.received.position
        return position is None or position.bus == IMPORT

    @property
    def made(self) -> Processed | None:
        """What the rooms have made; None if they failed."""
        is_made = not self.processed.cancelled() and self.processed.exception() is None
        return self.processed.result() if is_made else None

    def begin(self) -> None:
        """Send the message through its rooms, again if need be."""
        with tracing.within(self.span):
            self.processed = asyncio.create_task(self.work(self.received))

    def redirect(self, same_as: Mapping[str, str], patients: Mapping[str, str]) -> None:
        """Send the message through its rooms again with what its conditional creates and references found."""
        # What was found before may itself have given way to another since.
        known = {made: same_as.get(found, found) for made, found in self.received.same_as}
        earlier = {found for _, found in self.received.same_as}
        new = {made: found for made, found in same_as.items() if made not in earlier}
        self.received = replace(
            self.received,
            same_as=tuple(sorted((known | new).items())),
            patients=tuple(sorted({**dict(self.received.patients), **patients}.items())),
        )
        self.begin()

    def reset(self) -> None:
        """Forget what an attempt decided that was not committed."""
        self.outcomes, self.letters, self.changed, self.refused, self.status = [], [], [], (), _BAD_REQUEST
        self.elsewhere = None

    def set_aside(self) -> None:
        """Give up on this message: HTTP is told, what came by bus becomes a dead letter."""
        if self.is_set_aside:
            raise IntegrityBroken("a message could be neither stored nor set aside")
        self.is_set_aside = True


def is_outdated(job: Job, registry: Registry) -> bool:
    """Tell that other value sets or rules made a message than may make one now."""
    made = job.made
    if made is None:
        return False
    return made.sets not in ("", registry.sets[0]) or not registry.is_in_use(job.received.institution, made.rules)


def end_span(span: tracing.Span, done: asyncio.Future[Anchored]) -> None:
    """End a message's span with what became of the message."""
    if span is tracing.NOTHING:
        return
    error = None if done.cancelled() else done.exception()
    if error is not None:
        span.note(outcome="failed", code=tracing.code_of(error))
    elif not done.cancelled():
        span.note(outcome="refused" if done.result().refused else "taken")
    span.end()


def restrictions(group: Layer) -> list[StagedRecord]:
    """Return the Consents of a group that belong in an institution's list and are the current version of theirs."""
    return [
        item
        for item in group.staged
        if item.row.type == "Consent"
        and item.row.author != AGENT
        and group.histories[item.row.id][-1].version == item.row.version
    ]


def only(processed: Processed, entries: frozenset[int]) -> Processed:
    """Return what a message says about some of its entries."""
    return replace(
        processed,
        records=tuple(each for each in processed.records if each.index in entries),
        quarantined=tuple(each for each in processed.quarantined if each.index in entries),
        refusals=tuple(each for each in processed.refusals if each.index in entries),
    )


def names_a_patient(record: Normalized) -> bool:
    """True if the record says itself whose it is, rather than belonging where a neighbour refers to it."""
    return any(record.row.values_of(name) for name in ("patient", "subject")) or record.type == "Patient"


def referred_to(message: Sequence[Normalized]) -> frozenset[str]:
    """Return every ``Type/id`` that an entry of the message refers to."""
    return frozenset(name for each in message for name in each.whole.row.references)


def judged(processed: Processed, refusals: Sequence[Refusal]) -> Processed:
    """Return the message with refusals that the stored state brought; they refuse a transaction or a single whole."""
    if len(refusals) == len(processed.refusals):
        return processed
    if processed.kind in ("transaction", "single"):
        return Processed(processed.kind, refused=tuple(i for r in refusals for i in r.issues))
    return Processed(processed.kind, processed.records, processed.quarantined, tuple(refusals))


def placed(issue: Issue, processed: Processed, index: int) -> Issue:
    """Return a finding of the stored state with its place, which in a Bundle is an entry."""
    if processed.kind == "single" or issue.expression:
        return issue
    return replace(issue, expression=f"Bundle.entry[{index}]")


def measure(job: Job, *, is_known: bool) -> None:
    """Count a committed message for operators; a sender that is not registered has no label of its own."""
    quarantined = sum(outcome.status.startswith("202") for outcome in job.outcomes)
    stored = sum(outcome.status.startswith("2") for outcome in job.outcomes) - quarantined
    became = "refused" if job.refused else "quarantined" if quarantined else "taken"
    metrics.MESSAGES.labels(job.received.institution if is_known else "other", became).inc()
    metrics.MESSAGE_BYTES.inc(len(job.message.body))
    for outcome, count in (
        ("taken", stored),
        ("quarantined", quarantined),
        ("refused", len(job.outcomes) - stored - quarantined),
    ):
        metrics.ENTRIES.labels(outcome).inc(count)
