"""The life of each institution's rules: who proposed, approved and put in force what, and when.

An append-only list of steps in the vault, sealed, for it names people; the ledger knows them by keys alone. A change
that the ledger has to take is noted before it is brought there, together with the signed transaction, and done in one
commit afterwards, so that a crash at any point leaves it undone or finds it at the next start and finishes it.

Invariants:
    * changes wait in the order in which they were signed, and none but the end of a trial behind another;
    * an institution's rules, its trial and the step that says so change in one commit of the vault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec

from fhir_bridge.lines.registry import Institution, Registry, TrialInForce
from fhir_bridge.ports.ambient import Randomness
from fhir_bridge.ports.vault import Document, Vault, Work
from fhir_bridge.seal import open_blob, seal_blob

LIFE = "ruleset-life"
PENDING = "ruleset-pending"
_ONE = "change"
_FIRST = 0

PROPOSED, APPROVED = "proposed", "approved"
ACTIVATED, ROLLED_BACK, ADOPTED, RENEWED = "activated", "rolled back", "adopted", "renewed"
SHADOW, CANARY, WITHDRAWN = "shadow", "canary", "withdrawn"
IN_FORCE = frozenset({ACTIVATED, ROLLED_BACK, ADOPTED, RENEWED})
"""Steps that put a ruleset in force: adopted what an older release had in force, renewed what a new engine made."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who answers for rules: the name they go by here, and the key they go by on the ledger."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to an institution's rules; ``by`` has no name where the service did it itself."""

    kind: str
    ruleset: str
    at_us: int
    by: Person
    approvers: tuple[Person, ...] = ()
    share: int = 0
    height: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PendingChange:
    """A change on its way: the institution as it will be, the step that says so, and the signed transaction."""

    target: Institution
    step: Step
    envelope: bytes = field(repr=False)


class RuleLife:
    """Keeps the steps, and makes changes of an institution together with them."""

    def __init__(self, vault: Vault, registry: Registry, randomness: Randomness, key: bytes) -> None:
        """Take the key that steps are sealed under."""
        self._vault = vault
        self._registry = registry
        self._randomness = randomness
        self._key = key
        self._steps: dict[str, list[Step]] = {}
        self._waiting: dict[int, PendingChange] = {}

    async def load(self) -> None:
        """Read every step, and the changes that a crash cut off."""
        for place, value in await self._vault.documents(LIFE):
            step = msgspec.json.decode(open_blob(self._key, LIFE, place, value), type=Step)
            self._steps.setdefault(place.partition("/")[0], []).append(step)
        for place, value in await self._vault.documents(PENDING):
            left = open_blob(self._key, PENDING, place, value)
            self._waiting[_number(place)] = msgspec.msgpack.decode(left, type=PendingChange)

    @property
    def pending(self) -> PendingChange | None:
        """The change that the ledger has to take first; None if none waits."""
        return next(iter(self._waiting.values()), None)

    def steps(self, institution: str) -> Sequence[Step]:
        """Return what happened to an institution's rules, the oldest first."""
        return self._steps.get(institution, ())

    async def note(self, institution: str, step: Step, also: Sequence[Document] = ()) -> None:
        """Keep a step that changes nothing by itself, and ``also`` in the same commit."""
        await self._vault.commit(Work(documents=[*also, self._document(institution, step)]), None)
        self._steps.setdefault(institution, []).append(step)

    async def begin(self, change: PendingChange, first: Step | None = None, also: Sequence[Document] = ()) -> None:
        """Note a change before the ledger hears of it, and in the same commit a step before it and ``also``.

        Stands in the place of the change that the ledger has to take first, if there is one.
        """
        name, number = change.target.name, next(iter(self._waiting), _FIRST)
        documents = [*also, *([] if first is None else [self._document(name, first)])]
        await self._vault.commit(Work(documents=[*documents, self._left(number, change)]), None)
        if first is not None:
            self._steps.setdefault(name, []).append(first)
        self._waiting[number] = change

    async def end(self, change: PendingChange) -> None:
        """Take an institution's trial away at once, and note in the same commit what the ledger has to hear of it."""
        number = max(self._waiting, default=_FIRST - 1) + 1
        also = [self._left(number, change)]
        await self._registry.change_institution(change.target.name, lambda known: replace(known, trial=None), also)
        self._waiting[number] = change

    async def finish(self, change: PendingChange, height: int | None) -> Step:
        """Make the change that the ledger has taken."""
        target, step = change.target, replace(change.step, height=height)
        number = next(iter(self._waiting))
        also = [self._document(target.name, step), Document(PENDING, _place(number), None)]
        if target.name in self._registry.institutions:
            await self._registry.change_institution(target.name, lambda known: _as(change, known), also)
        else:
            await self._registry.add_institution(target, also)
        self._steps.setdefault(target.name, []).append(step)
        del self._waiting[number]
        return step

    async def drop(self) -> None:
        """Give up the pending change, which the ledger will never take."""
        number = next(iter(self._waiting))
        await self._vault.commit(Work(documents=[Document(PENDING, _place(number), None)]), None)
        del self._waiting[number]

    async def change(self, institution: str, trial: TrialInForce | None, step: Step) -> None:
        """Begin or end a trial that the ledger need not hear of, with the step that says so."""
        also = [self._document(institution, step)]
        await self._registry.change_institution(institution, lambda known: replace(known, trial=trial), also)
        self._steps.setdefault(institution, []).append(step)

    def _left(self, number: int, change: PendingChange) -> Document:
        place, content = _place(number), msgspec.msgpack.encode(change)
        return Document(PENDING, place, seal_blob(self._key, PENDING, place, content, self._randomness))

    def _document(self, institution: str, step: Step) -> Document:
        place = f"{institution}/{len(self.steps(institution)):08d}"
        sealed = seal_blob(self._key, LIFE, place, msgspec.json.encode(step), self._randomness)
        return Document(LIFE, place, sealed)


def _place(number: int) -> str:
    return f"{_ONE}/{number:08d}" if number else _ONE


def _number(place: str) -> int:
    return int(place.partition("/")[2] or _FIRST)


def _as(change: PendingChange, known: Institution) -> Institution:
    target = change.target
    if change.step.kind == WITHDRAWN:
        # It ended when that was noted, unless a greater share of it waited before; the rest is none of its business.
        is_back = known.trial is not None and known.trial.is_canary and known.trial.ruleset == change.step.ruleset
        return replace(known, trial=None) if is_back else known
    return replace(
        known,
        fhir_version=target.fhir_version,
        ruleset_dir=target.ruleset_dir,
        ruleset=target.ruleset,
        snapshot=target.snapshot,
        trial=_trial_after(change, known.trial),
    )


def _trial_after(change: PendingChange, now: TrialInForce | None) -> TrialInForce | None:
    """Return the trial that goes on; one that was withdrawn while the change waited does not come back."""
    if change.step.kind == CANARY:
        return change.target.trial
    is_over = now is None or change.target.trial is None or now.ruleset == change.target.ruleset
    return None if is_over else now
