"""Notices on the bus: to a sender what could not be taken of its messages, and what changed of its records.

The vault is the outbox. A dead letter's commit holds a document that it is
still to be told, and so does a message's that changed records, which are told
once their batch is on the ledger. So nothing is left untold after a crash, and
what was told just before one is told again: readers drop what they know by the
letter's id, or by record id and version.

Invariants:
    * no notice holds a message, a resource or a word of either: a letter's place on the bus says where it stands;
    * each institution is told of its own messages, and of changes that its own messages made, alone.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec

from fhir_bridge.errors import IntegrityBroken, Issue, KeyMissing, RecordRefused, Unavailable, kind_of
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.outcome import operation_outcome
from fhir_bridge.lines.jobs import Job
from fhir_bridge.lines.letters import Letter, open_letter
from fhir_bridge.lines.staging import instant_of
from fhir_bridge.lines.standing import Standing
from fhir_bridge.model.ingest import Position, instant
from fhir_bridge.ports.bus import Bus, Notice
from fhir_bridge.ports.keys import KeyStore
from fhir_bridge.ports.vault import Document, SealedLetter, Vault, Work
from fhir_bridge.telemetry import logger

_LETTERS = "untold-letters"
"""``time received/number in its group/letter id`` → :class:`_Untold`."""
_CHANGES = "untold-changes"
"""``batch/number in its group`` → institution and ``(chart, record id, version)`` of what one message changed."""
_AT_ONCE = 100
_PAUSE_S = 0.1
_RETRY_S = 1.0
_TYPE = re.compile(r"[A-Z][A-Za-z]*")
_log = logger("notices")


class NoticeLine:
    """Tells what the bus is set up to tell, in the order it came to be; waits for a bus that is away."""

    def __init__(self, *, bus: Bus, vault: Vault, keys: KeyStore, standing: Standing) -> None:
        self._bus = bus
        self._vault = vault
        self._keys = keys
        self._standing = standing
        self._moved = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin with what was left untold."""
        self._moved.set()
        if self._bus.notices:
            self._tasks = [self._standing.begin("notices", self._tell_forever())]

    async def stop(self) -> None:
        """Stop; what is untold is told after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def wake(self) -> None:
        """Say that there may be something to tell."""
        self._moved.set()

    def untold(self, batch: int, jobs: Sequence[Job]) -> Iterator[Document]:
        """Return what belongs into the commit of these jobs, so that they will be told.

        Of changes only those that a sender's own message made: what a patient's agent, a guardian or a new label
        does to records of an institution is not for the institution to see everywhere.
        """
        for number, job in enumerate(jobs):
            if Notice.DEAD in self._bus.notices:
                for letter in job.letters:
                    # The letter itself says where the last of several such messages stood.
                    value = msgspec.msgpack.encode(_Untold(letter.institution, job.received.position))
                    yield Document(_LETTERS, f"{letter.received_at_us:020d}/{number:06d}/{letter.id}", value)
            own = [each for each in job.changed if each.row.author == "institution"]
            if Notice.CHANGES in self._bus.notices and job.is_from_sender and own:
                names = [(each.chart.chart, each.row.id, each.row.version) for each in own]
                value = msgspec.msgpack.encode(_Changed(job.received.institution, names))
                yield Document(_CHANGES, f"{batch:012d}/{number:06d}", value)

    async def _tell_forever(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            is_waiting = False
            for kind, tell in ((Notice.DEAD, self._tell_letters), (Notice.CHANGES, self._tell_changes)):
                try:
                    if kind in self._bus.notices:
                        await tell()
                except Unavailable as error:
                    _log.error("notices wait", code=kind_of(error))
                    is_waiting = True
            if is_waiting:
                self._moved.set()
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(_PAUSE_S)

    async def _tell_letters(self) -> None:
        """Tell what is untold; an institution whose topic takes nothing keeps no other from being told.

        Raises:
            Unavailable: Of somebody; the others have been told.
        """
        stuck: dict[str, Unavailable] = {}
        for some in _in_commits(await self._vault.documents(_LETTERS)):
            told = [each for each in some if await self._is_told(*each, stuck)]
            await self._forget(_LETTERS, told)
        _raise_any(stuck)

    async def _is_told(self, key: str, value: bytes, stuck: dict[str, Unavailable]) -> bool:
        untold = msgspec.msgpack.decode(value, type=_Untold) if value else _Untold()
        if untold.institution in stuck:
            return False
        sealed = await self._vault.letter(key.rpartition("/")[2])
        if sealed is not None:
            try:
                await self._tell_letter(sealed, int(key.partition("/")[0]), untold.place)
            except Unavailable as error:
                stuck[sealed.institution] = error
                return False
        return True

    async def _tell_letter(self, sealed: SealedLetter, received_at_us: int, place: Position | None) -> None:
        try:
            letter = open_letter(self._keys, sealed)
        except (KeyMissing, IntegrityBroken) as error:
            # Its key was erased, and its reasons with it; or somebody edited it, which fsck says.
            _log.error("a dead letter does not open", code=error.code, institution=sealed.institution)
            return
        outcome = operation_outcome(_placed(letter))
        headers = [
            ("content-type", b"application/fhir+json"),
            ("letter", sealed.id.encode()),
            ("reason", sealed.reason.encode()),
            ("received-at", instant(instant_of(received_at_us)).encode()),
        ]
        place = place or letter.received.position
        if place is not None:
            headers.append(("position", f"{place.stream} {place.partition} {place.offset}".encode()))
        await self._put(sealed.institution, Notice.DEAD, render(outcome), headers)

    async def _tell_changes(self) -> None:
        stuck: dict[str, Unavailable] = {}
        for some in _in_commits(await self._vault.documents(_CHANGES)):
            told: list[tuple[str, bytes]] = []
            for each in some:
                changed = msgspec.msgpack.decode(each[1], type=_Changed)
                if changed.institution in stuck:
                    continue
                try:
                    if not await self._tell_changed(changed):
                        # Nor is any later one on the ledger.
                        await self._forget(_CHANGES, told)
                        return
                except Unavailable as error:
                    stuck[changed.institution] = error
                    continue
                told.append(each)
            await self._forget(_CHANGES, told)
        _raise_any(stuck)

    async def _tell_changed(self, changed: _Changed) -> bool:
        """Tell what one message changed; False if it is not on the ledger yet: the line wakes us when it is."""
        # A group is one commit, and a commit one batch.
        stored = await self._vault.record(*changed.names[0])
        if stored is None:
            return True
        height = (await self._vault.batch(stored.batch)).height
        if height is None:
            return False
        await asyncio.gather(
            *(self._tell_change(changed.institution, name, version, height) for _, name, version in changed.names)
        )
        return True

    async def _forget(self, collection: str, told: Sequence[tuple[str, bytes]]) -> None:
        if told:
            await self._vault.commit(Work(documents=[Document(collection, key, None) for key, _ in told]), None)

    async def _tell_change(self, institution: str, record_id: str, version: str, height: int) -> None:
        told = {"id": record_id, "version": version, "height": height}
        headers = [("content-type", b"application/json"), ("key", record_id.encode())]
        await self._put(institution, Notice.CHANGES, msgspec.json.encode(told), headers)

    async def _put(self, institution: str, kind: Notice, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        try:
            await self._bus.put_notice(institution, kind, value, headers)
        except RecordRefused:
            # A topic made by others may take less than ours: the letter itself is in the vault.
            _log.error("a notice is longer than its topic takes")


class _Untold(msgspec.Struct, array_like=True):
    """Whose letter it is and where this message stood; an older release wrote neither."""

    institution: str = ""
    place: Position | None = None


class _Changed(msgspec.Struct, array_like=True):
    institution: str
    names: list[tuple[str, str, str]]


class _Kind(msgspec.Struct):
    resourceType: str = ""


def _raise_any(stuck: Mapping[str, Unavailable]) -> None:
    for why in stuck.values():
        raise why


def _in_commits(untold: Sequence[tuple[str, bytes]]) -> Iterator[Sequence[tuple[str, bytes]]]:
    """Cut into as many as one commit forgets: a crash tells at most these again."""
    for start in range(0, len(untold), _AT_ONCE):
        yield untold[start : start + _AT_ONCE]


def _placed(letter: Letter) -> list[Issue]:
    """Return a letter's issues, each with its place in the message as it was sent."""
    is_bundle = any(finding.index is not None for finding in letter.findings) and _is_bundle(letter.received.content)
    return [
        in_entry(issue, finding.index) if is_bundle and finding.index is not None else issue
        for finding in letter.findings
        for issue in finding.issues
    ]


def _is_bundle(body: bytes) -> bool:
    try:
        return msgspec.json.decode(body, type=_Kind).resourceType == "Bundle"
    except msgspec.MsgspecError:
        return False


def in_entry(issue: Issue, index: int) -> Issue:
    """Return an issue about an entry's resource with its place in the Bundle."""
    if issue.expression.startswith("Bundle"):
        return issue
    rest = _TYPE.sub("", issue.expression, count=1) if issue.expression else ""
    return replace(issue, expression=f"Bundle.entry[{index}]" + (f".resource{rest}" if issue.expression else ""))
