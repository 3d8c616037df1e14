"""Tell the story of an institution's rules: what is in use now, what was before, what it changed, what it made.

Answers "who changed this rule, when, and which records does it touch" from what is stored: the steps name the
people and the heights, the copies tell which rules changed, and each record names the ruleset that made it and, in
its lineage, the rules that changed it. Counting opens every record of the institution, some ten thousand a second.
"""

from __future__ import annotations

import asyncio
import difflib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from fhir_bridge.errors import EnvelopeBroken, SetupWrong
from fhir_bridge.lines.labels import SETS
from fhir_bridge.lines.registry import Institution, Registry
from fhir_bridge.lines.rule_life import APPROVED, CANARY, IN_FORCE, PROPOSED, Person, Step
from fhir_bridge.lines.rules import Rules
from fhir_bridge.lines.staging import instant_of
from fhir_bridge.model.ingest import instant
from fhir_bridge.normalize import Ruleset, ruleset_under
from fhir_bridge.ports.vault import StoredRecord, Vault
from fhir_bridge.seal import LINEAGE, RecordPlace, open_normalised, open_part

_AT_ONCE = 500
_DIGEST_CHARS = 64
_DEPTH = 3
"""A version that was labelled again names its ruleset under one set of labels after the other."""
_MAX_DIFF = 400
_OTHER = "other"


@dataclass(slots=True)
class _Made:
    """Records by the ruleset that made them, and those that a rule has changed."""

    versions: Counter[str] = field(default_factory=Counter)
    touched: Counter[str] = field(default_factory=Counter)
    places: list[dict[str, str]] = field(default_factory=list)


class RuleStory:
    """Reads what :class:`Rules` has written."""

    def __init__(self, vault: Vault, registry: Registry, rules: Rules) -> None:
        self._vault = vault
        self._registry = registry
        self._rules = rules

    def status(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return what each institution uses now, who answers for it, what waits, and what a trial has found."""
        names = sorted(self._registry.institutions) if name is None else [name]
        return [self._status(self._registry.institution(each)) for each in names]

    async def history(self, name: str, touching: str | None = None) -> dict[str, Any]:
        """Return every change of the rules in use, the newest first, with what it changed and how much it made.

        Args:
            touching: A rule's name, or a file's in its pack: only changes of it, the lines that changed, and the
                records that the rule itself has changed.

        Raises:
            SetupWrong: No such institution, or no ruleset of it has such a rule or file.
        """
        self._registry.institution(name)
        steps = [step for step in self._rules.life.steps(name) if step.kind in IN_FORCE or step.kind == CANARY]
        if touching is not None:
            self._must_be_known(steps, touching)
        made = await self._made(name, {step.ruleset for step in steps}, touching)
        rows, before = [], ""
        for step in steps:
            changed = self._changed(step.ruleset, before)
            if touching is None or touching in [*changed["rules"], *changed["files"]]:
                row = self._described(step) | {"changed": changed, "records": made.versions[step.ruleset]}
                if touching is not None:
                    row |= {"touched": made.touched[step.ruleset]}
                    row |= {"lines": await self._lines(step.ruleset, before, changed["files"])}
                rows.append(row)
            before = step.ruleset if step.kind in IN_FORCE else before
        answer: dict[str, Any] = {"changes": rows[::-1], "records_of_others": made.versions[_OTHER]}
        return answer if touching is None else answer | {"touched": made.places}

    async def answering(self, name: str, made_by: str) -> dict[str, Any] | None:
        """Return who answers for the ruleset that made a record, and since when it was in use.

        Args:
            made_by: The hash that the record names.

        Returns:
            The latest step that brought it into use; None for rules that were in use before steps were kept.
        """
        steps = [step for step in self._rules.life.steps(name) if step.kind in IN_FORCE or step.kind == CANARY]
        pack = (await self._names({step.ruleset for step in steps})).get(made_by)
        found = next((step for step in reversed(steps) if step.ruleset == pack), None)
        return None if found is None else self._described(found)

    async def compiled(self, ruleset: str) -> Ruleset:
        """Return a kept ruleset; its copy is read, not the folder of its author."""
        return await self._rules.copies.compiled(ruleset)

    # --- now

    def _status(self, institution: Institution) -> dict[str, Any]:
        steps = self._rules.life.steps(institution.name)
        now = next((s for s in reversed(steps) if s.kind in IN_FORCE and s.ruleset == institution.ruleset), None)
        trial = institution.trial
        told = None
        if trial is not None:
            found = self._rules.trials.found(institution.name, trial.ruleset)
            told = {
                "kind": "canary" if trial.is_canary else "shadow",
                "ruleset": trial.ruleset,
                "share_percent": trial.share / 100,
                "since": _time(trial.since_us),
            } | found.described()
        last = steps[-1] if steps else None
        return {
            "institution": institution.name,
            "ruleset": institution.ruleset,
            "folder": institution.ruleset_dir,
            "since": None if now is None else _time(now.at_us),
            "author": None if now is None else _name(now.by),
            "approvers": [] if now is None else [_name(each) for each in now.approvers],
            "trial": told,
            "proposed": self._waiting(institution, steps),
            "last": None if last is None else self._described(last),
        }

    def _waiting(self, institution: Institution, steps: Sequence[Step]) -> list[dict[str, Any]]:
        """Return what was proposed and has not been in force, the newest first."""
        used = {step.ruleset for step in steps if step.kind in IN_FORCE}
        waiting: dict[str, dict[str, Any]] = {}
        for step in steps:
            if step.ruleset in used:
                continue
            if step.kind == PROPOSED:
                waiting[step.ruleset] = {
                    "ruleset": step.ruleset,
                    "author": _name(step.by),
                    "at": _time(step.at_us),
                    "approvers": waiting.get(step.ruleset, {}).get("approvers", []),
                    "changed": self._changed(step.ruleset, institution.ruleset),
                }
            elif step.kind == APPROVED and step.ruleset in waiting:
                waiting[step.ruleset]["approvers"].append(_name(step.by))
        return list(waiting.values())[::-1]

    # --- before

    def _described(self, step: Step) -> dict[str, Any]:
        return {
            "what": step.kind,
            "ruleset": step.ruleset,
            "at": _time(step.at_us),
            "height": step.height,
            "share_percent": step.share / 100,
            "author": _name(step.by),
            "author_key": step.by.key,
            "approvers": [_name(each) for each in step.approvers],
            "approver_keys": [each.key for each in step.approvers],
            "reason": step.reason,
        }

    def _changed(self, ruleset: str, before: str) -> dict[str, list[str]]:
        copies = self._rules.copies
        return copies.kept(ruleset).changed_since(copies.kept(before) if before else None)

    def _must_be_known(self, steps: Sequence[Step], touching: str) -> None:
        kept = [self._rules.copies.kept(step.ruleset) for step in steps]
        if not any(touching in each.rules or touching in each.files for each in kept):
            raise SetupWrong(f"no ruleset of this institution has a rule or file {touching!r}")

    async def _lines(self, ruleset: str, before: str, files: Sequence[str]) -> list[str]:
        """Return what changed in the text of some files, as a unified diff."""
        if not before:
            return []
        found: list[str] = []
        for path in files:
            old, new = [await self._rules.copies.text(each, path) for each in (before, ruleset)]
            lines = difflib.unified_diff(
                (old or "").splitlines(), (new or "").splitlines(), path, path, n=0, lineterm=""
            )
            found += [line for line in lines if old is not None or new is not None]
        return found[:_MAX_DIFF]

    # --- what was made

    async def _made(self, name: str, rulesets: set[str], touching: str | None) -> _Made:
        made = _Made()
        named = await self._names(rulesets)
        async for block in self._blocks(name):
            await asyncio.to_thread(self._count, made, block, named, touching)
        return made

    async def _blocks(self, name: str) -> AsyncIterator[list[tuple[bytes | None, StoredRecord]]]:
        """Yield the versions of an institution's charts with their keys, some hundreds at a time."""
        block: list[tuple[bytes | None, StoredRecord]] = []
        async for stored in self._vault.scan():
            chart = self._registry.chart(stored.chart)
            if chart is None or chart.institution != name:
                continue
            block.append((self._registry.held_chart_key(chart), stored))
            if len(block) == _AT_ONCE:
                yield block
                block = []
        yield block

    def _count(
        self,
        made: _Made,
        block: list[tuple[bytes | None, StoredRecord]],
        named: Mapping[str, str],
        touching: str | None,
    ) -> None:
        for key, stored in block:
            chart = self._registry.chart(stored.chart)
            assert chart is not None
            if key is None:
                made.versions[_OTHER] += 1
                continue
            where = RecordPlace(stored.chart, stored.id, stored.version, chart.institution)
            try:
                opened = open_normalised(key, where, stored.normalised)
                ruleset = named.get(opened.ruleset, _OTHER)
                made.versions[ruleset] += 1
                if touching is not None and touching in _rules_in(
                    open_part(key, where, LINEAGE, stored.lineage).content
                ):
                    made.touched[ruleset] += 1
                    made.places.append({"id": stored.id, "version": stored.version, "ruleset": ruleset})
            except EnvelopeBroken:
                made.versions[_OTHER] += 1

    async def _names(self, rulesets: set[str]) -> dict[str, str]:
        """Return the hash of each ruleset by every name that records may give it, under one set of labels or more."""
        sets = [bytes.fromhex(key) for key, _ in await self._vault.documents(SETS) if len(key) == _DIGEST_CHARS]
        named = {each: each for each in rulesets}
        level = dict(named)
        for _ in range(_DEPTH):
            level = {ruleset_under(name, digest): ruleset for name, ruleset in level.items() for digest in sets}
            named |= level
        return named


def _rules_in(lineage: bytes) -> Iterator[str]:
    changes = msgspec.json.decode(lineage) if lineage else []
    return (change["rule"] for change in changes)


def _name(person: Person) -> str:
    return person.name or "the institution"


def _time(at_us: int) -> str:
    return instant(instant_of(at_us))
