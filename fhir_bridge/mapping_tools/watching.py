"""Run a ruleset and count what each of its rules does, without a change to what it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter

from fhir_bridge.normalize.draft import Draft, Unconvertible
from fhir_bridge.normalize.pack import Ruleset
from fhir_bridge.normalize.rules import Rule
from fhir_bridge.normalize.yaml_text import Spot


@dataclass(slots=True)
class Tally:
    """What one rule did.

    Attributes:
        tried: Records that it was tried on.
        fired: Records that it changed, flagged or stopped.
        seconds: Time spent in it.
        findings: Flags and verdicts by their code.
    """

    spot: Spot
    stage: str
    tried: int = 0
    fired: int = 0
    seconds: float = 0.0
    findings: Counter[str] = field(default_factory=Counter)


def watched(ruleset: Ruleset) -> tuple[Ruleset, dict[str, Tally]]:
    """Return the same rules, each counting; the tallies are by the rule's name, in the order in which they run."""
    tallies: dict[str, Tally] = {}
    rules = []
    for rule in ruleset.rules:
        tally = tallies.setdefault(rule.name, Tally(rule.spot, rule.stage))
        rules.append(replace(rule, when=None, acts=(_counted(rule, tally),)))
    return replace(ruleset, rules=tuple(rules)), tallies


def _counted(rule: Rule, tally: Tally) -> Callable[[Draft], None]:
    def act(draft: Draft) -> None:
        changes, flags = len(draft.changes), len(draft.flags)
        tally.tried += 1
        started = perf_counter()
        try:
            rule.apply(draft)
        except Unconvertible as verdict:
            tally.fired += 1
            tally.findings[verdict.issue.code] += 1
            raise
        finally:
            tally.seconds += perf_counter() - started
        if len(draft.changes) > changes or len(draft.flags) > flags:
            tally.fired += 1
            tally.findings.update(flag.code for flag in draft.flags[flags:])

    return act
