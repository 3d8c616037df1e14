"""The coverage of a sample as a page to read and to mail."""

from __future__ import annotations

from fhir_bridge.mapping_tools.coverage import Coverage
from fhir_bridge.mapping_tools.fates import CARRIED, CONSUMED, DROPPED, EXTENSION, FATES, LOST
from fhir_bridge.mapping_tools.html_page import Cell, Page, Section, Share, Tinted
from fhir_bridge.mapping_tools.sample import PASSED

_MAX_ROWS = 2_000


def coverage_page(found: Coverage) -> Page:
    """Make the page."""
    total = found.records.total()
    passed = sum(count for (_type, verdict), count in found.records.items() if verdict == PASSED)
    values = sum(each.count for each in found.elements.values())
    fired = sum(tally.fired > 0 for tally in found.rules.values())
    return Page(
        title=f"Coverage of the pack {found.pack}",
        words="What its rules do with a sample: which elements they consume, which pass, what nobody reads.",
        facts=(
            ("messages", f"{found.messages:,}"),
            ("records", f"{total:,}"),
            ("would not pass", f"{total - passed:,}"),
            ("values", f"{values:,}"),
            ("rules that did something", f"{fired} of {len(found.rules)}"),
            ("codes, units, systems unknown", f"{len(found.vocabulary.gaps):,}"),
        ),
        sections=(
            _records(found),
            _findings(found),
            _gaps(found),
            _unknown(found),
            _fate(found, LOST, "Lost values"),
            _fate(found, DROPPED, "Dropped values"),
            _fate(found, EXTENSION, "Values kept in extensions"),
            _fate(found, CONSUMED, "Values that rules consumed"),
            _rules(found),
            _systems(found),
            _units(found),
            _fate(found, CARRIED, "Values carried unchanged"),
        ),
        foot="Made by fhir-bridge map coverage. It holds codes with their texts, units and systems, no other value.",
    )


def _records(found: Coverage) -> Section:
    total = max(1, found.records.total())
    rows: list[list[Cell]] = [
        [name, Tinted(verdict, "good" if verdict == PASSED else "bad"), count, Share(count / total)]
        for (name, verdict), count in found.records.most_common()
    ]
    return Section("Records", "By type and by what became of them.", ("type", "verdict", "records", "share"), rows)


def _findings(found: Coverage) -> Section:
    rows: list[list[Cell]] = [
        [code, Tinted(kind, "doubt" if kind == "flag" else "bad"), words, count]
        for (kind, code, words), count in found.findings.most_common(_MAX_ROWS)
    ]
    words = "Why records would not pass, and what was noticed about those that do."
    return Section("Findings", words, ("code", "kind", "finding", "times"), rows)


def _gaps(found: Coverage) -> Section:
    gaps = found.vocabulary.by_volume()[:_MAX_ROWS]
    rows: list[list[Cell]] = [
        [gap.value or gap.system or "(no system)", gap.kind, gap.system, ", ".join(gap.displays), gap.path, gap.count]
        for gap in gaps
    ]
    words = "Codes, units and identifier systems that no table knows; map unmapped makes a work-list of them."
    head = ("value", "kind", "system", "shown as", "first seen at", "times")
    return Section("Not in any table", words, head, rows)


def _unknown(found: Coverage) -> Section:
    rows: list[list[Cell]] = [[path, count] for path, count in found.unknown.most_common(_MAX_ROWS)]
    words = "Elements of refused messages that neither FHIR nor a rule knows."
    return Section("Read by nobody", words, ("element", "times"), rows)


def _fate(found: Coverage, fate: str, title: str) -> Section:
    elements = sorted(found.elements.items(), key=lambda item: (-item[1].fates[fate], item[0]))
    rows: list[list[Cell]] = [
        [path, each.fates[fate], each.count, Share(each.fates[fate] / each.count), ", ".join(each.rules)]
        for path, each in elements
        if each.fates[fate]
    ]
    head = ("element", "values", "of", "share", "rules")
    return Section(title, f"Each {FATES[fate]}.", head, rows[:_MAX_ROWS])


def _rules(found: Coverage) -> Section:
    ordered = sorted(found.rules.items(), key=lambda item: -item[1].fired)
    rows: list[list[Cell]] = [
        [
            name,
            t.stage,
            t.tried,
            t.fired,
            Tinted("never", "doubt") if not t.fired else "",
            f"{t.spot.file}:{t.spot.line}",
        ]
        for name, t in ordered
    ]
    words = "How often a rule was tried on a record, and how often it changed, flagged or stopped one."
    return Section("Rules", words, ("rule", "stage", "tried", "acted", "", "stands at"), rows)


def _systems(found: Coverage) -> Section:
    vocabulary = found.vocabulary
    rows: list[list[Cell]] = [
        [system or "(none)", count, vocabulary.unknown_codes[system]]
        for system, count in vocabulary.systems.most_common(_MAX_ROWS)
    ]
    return Section("Code systems", "As they were sent.", ("system", "codings", "in no table"), rows)


def _units(found: Coverage) -> Section:
    rows: list[list[Cell]] = [
        [unit or "(none)", code or "(none)", count]
        for (unit, code), count in found.vocabulary.units.most_common(_MAX_ROWS)
    ]
    return Section("Units", "As they were sent.", ("unit", "UCUM code", "quantities"), rows)
