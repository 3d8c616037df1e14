"""Two versions of a pack as a page to read before the new one goes live."""

from __future__ import annotations

from fhir_bridge.mapping_tools.differences import ADDED, REMOVED, Comparison, Difference
from fhir_bridge.mapping_tools.html_page import Cell, Page, Section, Swap, Tinted
from fhir_bridge.mapping_tools.sample import PASSED

_TINTS = {ADDED: "good", REMOVED: "bad"}
_MAX_ROWS = 2_000


def difference_page(found: Comparison, old: str, new: str, *, show_values: bool) -> Page:
    """Make the page; values of records only if asked for."""
    kept = (
        "With values of records: keep it as safe as the records." if show_values else "It holds no values of records."
    )
    return Page(
        title=f"{old} → {new}",
        words="What comes out otherwise when the new rules take a sample instead of the old ones.",
        facts=(
            ("records", f"{found.records:,}"),
            ("come out otherwise", f"{found.differing:,}"),
            ("verdicts changed", f"{found.verdicts.total():,}"),
            ("rules changed", f"{len(found.rules):,}"),
        ),
        sections=(_rules(found), _verdicts(found), _flags(found), _elements(found, show_values)),
        foot=f"Made by fhir-bridge map diff. {kept}",
    )


def _rules(found: Comparison) -> Section:
    changed = {name: 0 for _how, name in found.rules}
    for difference in found.differences.values():
        if difference.rule in changed:
            changed[difference.rule] += difference.count
    rows: list[list[Cell]] = [
        [name, Tinted(how, _TINTS.get(how, "doubt")), changed[name]] for how, name in found.rules
    ]
    words = "Rules that are written otherwise, and how many values that come out otherwise stand behind each."
    return Section("Rules", words, ("rule", "how", "values"), rows, "The rules are the same; a table may not be.")


def _verdicts(found: Comparison) -> Section:
    rows: list[list[Cell]] = [
        [
            f"{before} → {after}",
            Tinted("passes now" if after == PASSED else "no longer passes", "good" if after == PASSED else "bad"),
            why,
            count,
            ", ".join(found.verdict_examples[before, after, why]),
        ]
        for (before, after, why), count in found.verdicts.most_common(_MAX_ROWS)
    ]
    words = "Records that pass now and did not, or no longer do."
    return Section("Verdicts", words, ("from → to", "", "why", "records", "such as"), rows)


def _flags(found: Comparison) -> Section:
    rows: list[list[Cell]] = [
        [code, words, Tinted(f"{count:+,}", "bad" if count > 0 else "good")]
        for (code, words), count in found.flags.most_common()
        if count
    ]
    return Section("Findings", "Flags on records that pass with both.", ("code", "finding", "more or fewer"), rows)


def _elements(found: Comparison, show_values: bool) -> Section:
    rows: list[list[Cell]] = [_element(each, show_values) for each in found.by_volume()[:_MAX_ROWS]]
    words = "By element, by what the record is about, and by the rule behind it."
    head = ("element", "how", "about", "rule", "values", "such as", *(("from → to",) if show_values else ()))
    return Section("Elements", words, head, rows)


def _element(each: Difference, show_values: bool) -> list[Cell]:
    cells: list[Cell] = [
        each.path,
        Tinted(each.how, _TINTS.get(each.how, "doubt")),
        each.code,
        each.rule or "(none)",
        each.count,
        ", ".join(dict.fromkeys(example.record for example in each.examples)),
    ]
    if show_values:
        cells.append(Swap(each.examples[0].before, each.examples[0].after) if each.examples else "")
    return cells
