"""What a pack does with a sample: elements consumed, carried and read by nobody, rules fired, codes unmapped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fhir_bridge.errors import Issue, RecordRefused
from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.tables import definitions_of
from fhir_bridge.mapping_tools.fates import fates
from fhir_bridge.mapping_tools.sample import PASSED, Message, Outcome, outcomes
from fhir_bridge.mapping_tools.vocabulary import Vocabulary
from fhir_bridge.mapping_tools.walking import UNKNOWN, nodes
from fhir_bridge.mapping_tools.watching import Tally, watched
from fhir_bridge.normalize import Ruleset, load_ruleset
from fhir_bridge.normalize.pack import constants_of, source_of

_MAX_PATHS = 20_000

_ROW = re.compile(r"\brow [0-9]+(?=[,:])")


@dataclass(slots=True)
class Element:
    """One path over all records: fate → values, and the rules that touched it."""

    fates: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """How many values came."""
        return self.fates.total()


@dataclass(slots=True)
class Coverage:
    """Counts over a sample; its size depends on the sample's variety, not on its length.

    Attributes:
        records: (type, verdict) → records.
        elements: Path → what became of its values.
        unknown: Path → how often it came in records that intake refused because FHIR has no such element.
        findings: (verdict or ``flag``, code, words) → how often.
    """

    pack: str
    messages: int = 0
    records: Counter[tuple[str, str]] = field(default_factory=Counter)
    elements: dict[str, Element] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    rules: dict[str, Tally] = field(default_factory=dict)
    findings: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    vocabulary: Vocabulary = field(default_factory=lambda: Vocabulary.__new__(Vocabulary))


def vocabulary_of(folder: Path, ruleset: Ruleset) -> Vocabulary:
    """What the tables and constants of a pack know."""
    return Vocabulary(ruleset.tables, constants_of(source_of(folder)).values())


def cover(folder: Path, messages: Iterable[Message], progress: Callable[[int], None] = lambda _: None) -> Coverage:
    """Put a sample through the pack in ``folder`` and count.

    Args:
        progress: Told after each message how many records it held.

    Raises:
        RulesetBroken: The pack does not load.
    """
    plain = load_ruleset(folder)
    ruleset, tallies = watched(plain)
    found = Coverage(folder.resolve().name, rules=tallies, vocabulary=vocabulary_of(folder, plain))
    for message in messages:
        found.messages += 1
        before = found.records.total()
        for outcome in outcomes([message], ruleset):
            _count(found, outcome, ruleset)
            if outcome.sent is None:
                _unknown(found, message, ruleset)
        progress(found.records.total() - before)
    return found


def _count(found: Coverage, outcome: Outcome, ruleset: Ruleset) -> None:
    found.records[outcome.type or "unreadable", outcome.verdict] += 1
    for issue in outcome.issues:
        found.findings[outcome.verdict, issue.code, _of_any_row(issue)] += 1
    for flag in outcome.flags:
        found.findings["flag", flag.code, _of_any_row(flag)] += 1
    if outcome.sent is None:
        return
    definitions = definitions_of(ruleset.fhir_version)
    found.vocabulary.see(nodes(outcome.sent, definitions), f"{outcome.place} {outcome.name}")
    if outcome.verdict != PASSED or outcome.made is None:
        return
    for fate in fates(outcome.sent, outcome.made, outcome.changes, definitions):
        element = found.elements.get(fate.leaf.path)
        if element is None:
            if len(found.elements) >= _MAX_PATHS:
                continue
            element = found.elements[fate.leaf.path] = Element()
        element.fates[fate.fate] += 1
        if fate.rule:
            element.rules[fate.rule] += 1


def _unknown(found: Coverage, message: Message, ruleset: Ruleset) -> None:
    """Elements of a refused message that FHIR does not have: usually why it was refused."""
    try:
        body = parse(message.body)
    except RecordRefused:
        return
    entries = body.get("entry")
    held = [e.get("resource") for e in entries if type(e) is dict] if type(entries) is list else [body]
    definitions = definitions_of(ruleset.fhir_version)
    for resource in held:
        if type(resource) is not dict or type(resource.get("resourceType")) is not str:
            continue
        for node in nodes(resource, definitions):
            if node.type == UNKNOWN and node.path.count(".") and _is_top(node.path, found.unknown):
                found.unknown[node.path] += 1


def _is_top(path: str, known: Counter[str]) -> bool:
    """What lies below an unknown element adds nothing."""
    return path.rpartition(".")[0] not in known and len(known) < _MAX_PATHS


def as_json(found: Coverage) -> dict[str, Any]:
    """The counts as one JSON document, each list with the most frequent first."""
    elements = sorted(found.elements.items(), key=lambda item: (-item[1].count, item[0]))
    vocabulary = found.vocabulary
    return {
        "pack": found.pack,
        "messages": found.messages,
        "records": [
            {"type": name, "verdict": verdict, "count": count}
            for (name, verdict), count in found.records.most_common()
        ],
        "elements": [
            {"path": path, "count": each.count, "fates": dict(each.fates), "rules": dict(each.rules)}
            for path, each in elements
        ],
        "unknown": [{"path": path, "count": count} for path, count in found.unknown.most_common()],
        "rules": [
            {"rule": name, "stage": t.stage, "tried": t.tried, "fired": t.fired, "findings": dict(t.findings)}
            for name, t in found.rules.items()
        ],
        "systems": [
            {"system": system, "codes": count, "unmapped": vocabulary.unknown_codes[system]}
            for system, count in vocabulary.systems.most_common()
        ],
        "units": [
            {"unit": unit, "code": code, "count": count} for (unit, code), count in vocabulary.units.most_common()
        ],
        "gaps": [
            {"kind": g.kind, "system": g.system, "value": g.value, "count": g.count, "path": g.path}
            for g in vocabulary.by_volume()
        ],
        "findings": [
            {"kind": kind, "code": code, "words": words, "count": count}
            for (kind, code, words), count in found.findings.most_common()
        ],
    }


def _of_any_row(issue: Issue) -> str:
    """A finding of a CSV row without the row's number: what a thousand rows have is one thing to mend."""
    return _ROW.sub("row …", issue.diagnostics)
