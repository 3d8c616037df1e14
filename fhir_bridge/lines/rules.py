"""Rules in a running service: take a pack in, approve it, try it beside the one in force, put it in force, go back.

A pack is copied, compiled and run on its own examples before anything changes, and whatever is wrong with it leaves
the rules in force as they are. The swap is one commit of the vault; the message after it is done by the new rules,
and one that the old ones had done but that was not committed yet is done again.

Invariants:
    * no message is made by two rulesets, and none is committed that other rules made than are in use;
    * the ledger knows who answers for rules before they make a record that is stored;
    * with four eyes, rules that were never in force come into use only when somebody else than their author approved.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fhir_bridge import metrics
from fhir_bridge.errors import BridgeError, SetupWrong, Unavailable
from fhir_bridge.lines.notary import LedgerRefused, Notary
from fhir_bridge.lines.registry import OPERATOR, Institution, Registry, TrialInForce
from fhir_bridge.lines.rule_copies import RuleCopies, Taken
from fhir_bridge.lines.rule_life import (
    ACTIVATED,
    ADOPTED,
    APPROVED,
    CANARY,
    IN_FORCE,
    PROPOSED,
    RENEWED,
    ROLLED_BACK,
    SHADOW,
    WITHDRAWN,
    PendingChange,
    Person,
    RuleLife,
    Step,
)
from fhir_bridge.lines.rule_people import RulePeople
from fhir_bridge.lines.trials import Trials
from fhir_bridge.lines.trying import WHOLE
from fhir_bridge.lines.versions import microseconds
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import ENGINE, Ruleset
from fhir_bridge.ports.ambient import Clock, Randomness
from fhir_bridge.ports.keys import KeyKind, KeyName, KeyStore
from fhir_bridge.ports.vault import Vault
from fhir_bridge.settings import RulesSettings
from fhir_bridge.telemetry import logger

_log = logger("rules")
_STALE = "nonce-stale"


@dataclass(frozen=True, slots=True)
class Admission:
    """A pack that an institution may be registered with, and who answers for it."""

    taken: Taken
    author: Person
    approvers: tuple[Person, ...]


class Rules:
    """Brings rules into use."""

    def __init__(
        self,
        *,
        vault: Vault,
        keys: KeyStore,
        registry: Registry,
        notary: Notary,
        clock: Clock,
        randomness: Randomness,
        folder: Path,
        settings: RulesSettings,
        trials: Trials,
    ) -> None:
        """Take ``folder``, where worker processes find the copies of packs."""
        name = KeyName(KeyKind.INSTITUTION, OPERATOR)
        key = keys.ensure([name])[name]
        self._people = RulePeople(notary, key)
        self._registry = registry
        self._notary = notary
        self._clock = clock
        self._settings = settings
        self._changing = asyncio.Lock()
        self.copies = RuleCopies(vault, folder)
        self.life = RuleLife(vault, registry, randomness, key)
        self.trials = trials
        trials.withdraw = self._withdraw_by_itself

    async def load(self) -> None:
        """Finish what a crash cut off, lay out what is in use, and take in what an older release had in force."""
        self._registry.copies = self.copies.folder
        await self.copies.load()
        await self.life.load()
        async with self._changing:
            await self._settle()
            for institution in list(self._registry.institutions.values()):
                await self._lay_out(institution)

    # --- proposing and approving

    async def propose(self, name: str, directory: str, author: str) -> dict[str, Any]:
        """Take a pack in: copy it, compile it, run its examples, keep it; the rules in force stay.

        Raises:
            RulesetBroken: It does not load, or an example comes out otherwise; nothing was kept.
            SetupWrong: No such institution, or a name that cannot be.
        """
        known, person = self._registry.institution(name), self._people.person(author)
        taken = await self._taken(name, directory)
        async with self._changing:
            step = Step(PROPOSED, taken.hash, self._now_us(), person)
            await self.life.note(name, step, self.copies.documents(taken))
            self.copies.know(taken)
        before = self.copies.kept(known.ruleset) if known.snapshot else None
        return {
            "ruleset": taken.hash,
            "is_in_force": taken.hash == known.ruleset,
            "examples": len(taken.examples),
            "changed": self.copies.kept(taken.hash).changed_since(before),
            "doubts": doubts_about(name, known.fhir_version, taken.ruleset),
            "not_judged": [] if taken.ruleset.profiles is None else list(taken.ruleset.profiles.notes),
        }

    async def _taken(self, name: str, directory: str) -> Taken:
        try:
            return await self.copies.take(Path(directory))
        except BridgeError:
            metrics.RULES_CHANGES.labels(self._registry.institution(name).name, "refused").inc()
            raise

    async def approve(self, name: str, prefix: str, approver: str) -> dict[str, Any]:
        """Note that somebody stands beside the author of a proposal.

        Raises:
            SetupWrong: Nobody proposed it, or it is the author's own.
        """
        ruleset, person = self.copies.find(prefix), self._people.person(approver)
        async with self._changing:
            author, approvers = self._answering(name, ruleset)
            if person.key == author.key:
                raise SetupWrong("nobody approves what they proposed: somebody else must look at it")
            if person not in approvers:
                await self.life.note(name, Step(APPROVED, ruleset, self._now_us(), person))
        return {"ruleset": ruleset, "author": author.name, "approvers": [*(p.name for p in approvers), person.name]}

    # --- in force

    async def activate(self, name: str, prefix: str) -> dict[str, Any]:
        """Put a ruleset that was proposed for an institution in force.

        Raises:
            SetupWrong: Nobody proposed it, or nobody else has approved it and the network wants four eyes.
            Unavailable: The ledger does not take it now; it is done at the next change, or at the next start.
        """
        begun = time.perf_counter()
        ruleset = self._candidate(prefix)
        async with self._changing:
            await self._settle()
            known = self._registry.institution(name)
            if known.ruleset == ruleset:
                return {"ruleset": ruleset, "height": None}
            author, approvers = self._answering(name, ruleset)
            self._want_four_eyes(approvers)
            step = Step(ACTIVATED, ruleset, self._now_us(), author, approvers, WHOLE)
            # It may have been proposed before a restore, or where another process had the folder.
            await self.copies.lay_out(ruleset)
            done = await self._use(self._with(known, ruleset), step)
        metrics.RULES_LIVE.observe(time.perf_counter() - begun)
        return {"ruleset": ruleset, "height": done.height}

    async def roll_back(self, name: str, prefix: str | None, author: str) -> dict[str, Any]:
        """Put a ruleset in force again that was: the one before the present one, unless another is named.

        It had its approval when it came into force, so it needs none now: going back must not wait for a second pair.
        What an older release compiled is compiled by this one, and has another hash then.

        Raises:
            SetupWrong: There is none to go back to.
            RulesetBroken: This release does not load it any more.
        """
        person = self._people.person(author)
        async with self._changing:
            await self._settle()
            known = self._registry.institution(name)
            earlier = self._earlier(known)
            ruleset = (earlier[-1] if earlier else None) if prefix is None else self.copies.find(prefix)
            if ruleset not in earlier or ruleset is None:
                raise SetupWrong("there is nothing to go back to: it was never in force here, or is now")
            ruleset = await self._of_today(ruleset)
            step = Step(ROLLED_BACK, ruleset, self._now_us(), person, (), WHOLE)
            done = await self._use(self._with(known, ruleset), step)
        return {"ruleset": ruleset, "height": done.height}

    def _earlier(self, known: Institution) -> list[str]:
        """Return what was in force before, the oldest first, and holds other files than what is in force now."""
        now = self.copies.kept(known.ruleset).files if known.snapshot else None
        used = [step.ruleset for step in self.life.steps(known.name) if step.kind in IN_FORCE]
        return [each for each in used if self.copies.kept(each).files != now]

    async def _of_today(self, ruleset: str) -> str:
        """Have a kept ruleset laid out as this release compiles it; return its hash."""
        if self.copies.kept(ruleset).engine == ENGINE:
            await self.copies.lay_out(ruleset)
            return ruleset
        taken = await self.copies.again(ruleset)
        await self.copies.keep(taken)
        return taken.hash

    async def reload(self, name: str, directory: str, author: str) -> dict[str, Any]:
        """Take a pack in and put it in force at once; as propose and activate, in fewer commits.

        Raises:
            RulesetBroken: As for :meth:`propose`.
            SetupWrong: The network wants four eyes.
        """
        begun = time.perf_counter()
        taken = await self._taken(name, directory)
        async with self._changing:
            await self._settle()
            known = self._registry.institution(name)
            if known.ruleset == taken.hash:
                return {"ruleset": taken.hash, "height": None}
            self._want_four_eyes(())
            proposed = Step(PROPOSED, taken.hash, self._now_us(), self._people.person(author))
            step = replace(proposed, kind=ACTIVATED, share=WHOLE)
            change = PendingChange(self._with(known, taken.hash, taken.place), step, self._people.signed(name, step))
            await self.life.begin(change, proposed, self.copies.documents(taken))
            self.copies.know(taken)
            done = await self._settle()
        metrics.RULES_LIVE.observe(time.perf_counter() - begun)
        return {"ruleset": taken.hash, "height": None if done is None else done.height}

    async def take(self, name: str, directory: Path, author: str, approver: str) -> Admission:
        """Take in the pack that an institution is registered with; nothing of it is in force yet.

        Raises:
            RulesetBroken: The pack does not load, or an example comes out otherwise.
            SetupWrong: The network wants four eyes, and they are not two people.
        """
        taken = await self.copies.take(directory)
        person = self._people.person(author) if author else self._people.institution(name)
        approvers = (self._people.person(approver),) if approver else ()
        if person in approvers:
            raise SetupWrong("author and approver must be two people")
        known = self._registry.institutions.get(name)
        if known is None or known.ruleset != taken.hash:
            self._want_four_eyes(approvers if author else ())
        await self.copies.keep(taken)
        return Admission(taken, person, approvers)

    async def admit(self, target: Institution, admission: Admission) -> Institution:
        """Register an institution with the rules that were taken in, or change those of one that is registered."""
        ruleset = admission.taken.hash
        async with self._changing:
            await self._settle()
            known = self._registry.institutions.get(target.name)
            if known is not None and known.ruleset == ruleset and known.snapshot:
                return await self._registry.change_institution(
                    target.name,
                    lambda held: replace(held, fhir_version=target.fhir_version, ruleset_dir=target.ruleset_dir),
                )
            trial = None if known is None else known.trial
            step = Step(ACTIVATED, ruleset, self._now_us(), admission.author, admission.approvers, WHOLE)
            await self._use(self._with(replace(target, trial=trial), ruleset), step)
        return self._registry.institution(target.name)

    # --- trials

    async def shadow(self, name: str, prefix: str, share: int) -> dict[str, Any]:
        """Have a ruleset do a share of the messages beside the one in force; what it makes is compared and forgotten.

        Raises:
            SetupWrong: Nobody proposed it, or a canary is under way.
        """
        ruleset = self._candidate(prefix)
        async with self._changing:
            await self._settle()
            known = self._registry.institution(name)
            author, _ = self._answering(name, ruleset)
            if known.trial is not None and known.trial.is_canary:
                raise SetupWrong("a canary is under way: withdraw it first")
            step = Step(SHADOW, ruleset, self._now_us(), author, share=share)
            await self.copies.lay_out(ruleset)
            self.trials.forget(name)
            await self.life.change(name, self._trial(step), step)
        return {"ruleset": ruleset, "share": share}

    async def canary(self, name: str, prefix: str, share: int) -> dict[str, Any]:
        """Have a ruleset do a share of the patients for real; the ledger hears of it, and records name its hash.

        Raises:
            SetupWrong: As for :meth:`activate`, or it is in force.
        """
        ruleset = self._candidate(prefix)
        async with self._changing:
            await self._settle()
            known = self._registry.institution(name)
            author, approvers = self._answering(name, ruleset)
            self._want_four_eyes(approvers)
            if ruleset == known.ruleset:
                raise SetupWrong("this ruleset is in force")
            if known.trial is not None and known.trial.is_canary and known.trial.ruleset != ruleset:
                raise SetupWrong("another canary is under way: withdraw it first")
            step = Step(CANARY, ruleset, self._now_us(), author, approvers, share)
            await self.copies.lay_out(ruleset)
            if known.trial is None or known.trial.ruleset != ruleset or not known.trial.is_canary:
                self.trials.forget(name)
            done = await self._use(replace(known, trial=self._trial(step)), step)
        return {"ruleset": ruleset, "share": share, "height": done.height}

    async def withdraw(self, name: str, author: str = "") -> dict[str, Any]:
        """End a trial; records that a canary made stay, and name the ruleset that made them.

        Raises:
            SetupWrong: None is under way.
        """
        known = self._registry.institution(name)
        if known.trial is None:
            raise SetupWrong("no trial is under way")
        person = self._people.person(author) if author else self._people.institution(name)
        await self._withdraw(name, known.trial.ruleset, person, "")
        return {"ruleset": known.trial.ruleset}

    async def _withdraw_by_itself(self, name: str, ruleset: str, reason: str) -> None:
        known = self._registry.institution(name)
        if await self._withdraw(name, ruleset, self._people.institution(name), reason):
            _log.error("canary withdrawn", institution=known.name)

    async def _withdraw(self, name: str, ruleset: str, person: Person, reason: str) -> bool:
        """End the trial of a ruleset; False if it has ended already."""
        async with self._changing:
            known = self._registry.institution(name)
            trial = known.trial
            if trial is None or trial.ruleset != ruleset:
                return False
            step = Step(WITHDRAWN, ruleset, self._now_us(), person, reason=reason)
            if not trial.is_canary:
                await self.life.change(name, None, step)
                return True
            # First of all nothing more is made by it; the ledger hears of it now, or as soon as it listens.
            ended = replace(known, trial=None)
            await self.life.end(PendingChange(ended, step, self._people.signed(name, step)))
            with contextlib.suppress(Unavailable):
                await self._settle()
            return True

    # --- how a change is made

    async def _use(self, target: Institution, step: Step) -> Step:
        """Have the ledger take a change, then make it."""
        await self.life.begin(PendingChange(target, step, self._people.signed(target.name, step)))
        done = await self._settle()
        assert done is not None
        return done

    async def _settle(self) -> Step | None:
        """Bring what waits to the ledger and make it; return the last step of it, None if nothing waits."""
        done: Step | None = None
        while (change := self.life.pending) is not None:
            done = await self._make(change)
        return done

    async def _make(self, change: PendingChange) -> Step:
        try:
            height = await self._notary.submit(change.envelope)
        except LedgerRefused as no:
            if no.rejection != _STALE:
                await self.life.drop()
                raise
            # A later one of the same signer got there first, so this one never did.
            change = replace(change, envelope=self._people.signed(change.target.name, change.step))
            await self.life.begin(change)
            height = await self._notary.submit(change.envelope)
        done = await self.life.finish(change, height)
        metrics.RULES_CHANGES.labels(change.target.name, done.kind).inc()
        _log.info("rules changed", institution=change.target.name)
        return done

    def _with(self, known: Institution, ruleset: str, place: str = "") -> Institution:
        """Return an institution under a ruleset; a trial of another goes on, one of this ends by its promotion."""
        trial = None if known.trial is not None and known.trial.ruleset == ruleset else known.trial
        return replace(known, ruleset=ruleset, snapshot=place or self.copies.place(ruleset), trial=trial)

    def _trial(self, step: Step) -> TrialInForce:
        place = self.copies.place(step.ruleset)
        return TrialInForce(step.ruleset, place, step.share, step.kind == CANARY, step.at_us)

    def _candidate(self, prefix: str) -> str:
        """Return the hash that begins so, of a ruleset that this release has compiled."""
        ruleset = self.copies.find(prefix)
        if self.copies.kept(ruleset).engine != ENGINE:
            raise SetupWrong(
                "another release compiled this ruleset, and this one may make something else: propose it again"
            )
        return ruleset

    def _answering(self, name: str, ruleset: str) -> tuple[Person, tuple[Person, ...]]:
        """Return who proposed a ruleset for an institution last, and who else has approved it at any time."""
        author: Person | None = None
        approvers: dict[str, Person] = {}
        for step in self.life.steps(name):
            if step.ruleset == ruleset and step.kind == PROPOSED:
                author = step.by
            elif step.ruleset == ruleset and step.kind == APPROVED:
                approvers[step.by.key] = step.by
        if author is None:
            raise SetupWrong(f"nobody has proposed this ruleset for {name}: see 'fhir-bridge rules propose'")
        return author, tuple(each for each in approvers.values() if each.key != author.key)

    def _want_four_eyes(self, approvers: Sequence[Person]) -> None:
        if self._settings.four_eyes and not approvers:
            raise SetupWrong("this network wants four eyes: somebody else than the author must approve it first")

    # --- at start

    async def _lay_out(self, institution: Institution) -> None:
        """Have what an institution uses ready for the workers; what cannot be is told, and others go on."""
        try:
            if not institution.snapshot:
                await self._adopt(institution)
            elif self.copies.kept(institution.ruleset).engine != ENGINE:
                await self._renew(institution)
            else:
                await self.copies.lay_out(institution.ruleset)
            trial = self._registry.institution(institution.name).trial
            if trial is not None:
                await self.copies.lay_out(trial.ruleset)
        except BridgeError as error:
            _log.error("rules not ready", institution=institution.name, code=error.code)

    async def _adopt(self, institution: Institution) -> None:
        """Copy the pack of an institution that an older release registered; from then on the copy counts."""
        taken = await self.copies.take(Path(institution.ruleset_dir), must_pass=False)
        await self.copies.keep(taken)
        step = Step(ADOPTED, taken.hash, self._now_us(), self._people.institution(institution.name), share=WHOLE)
        await self._use(self._with(institution, taken.hash), step)

    async def _renew(self, institution: Institution) -> None:
        """Give the rules in force the hash that they have by the engine of this release; a trial ends."""
        ruleset = await self._of_today(institution.ruleset)
        reason = f"engine {ENGINE}, before it {self.copies.kept(institution.ruleset).engine}"
        person = self._people.institution(institution.name)
        step = Step(RENEWED, ruleset, self._now_us(), person, share=WHOLE, reason=reason)
        await self._use(replace(self._with(institution, ruleset), trial=None), step)

    def _now_us(self) -> int:
        return microseconds(self._clock.now())


def doubts_about(name: str, release: FhirVersion, ruleset: Ruleset) -> list[str]:
    """Return what speaks against a pack being meant for an institution, in words for whoever brings it.

    Args:
        release: What the institution is registered as sending.
    """
    doubts, said = [], ruleset.institution
    if said not in ("", name):
        doubts.append(f"its source.yaml says 'institution: {said}', and this is {name}: is it the right pack?")
    if release is not ruleset.fhir_version:
        doubts.append(f"it is written for {ruleset.fhir_version}, and {name} is registered as sending {release}")
    return doubts
