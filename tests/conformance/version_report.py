"""Compare what we make of HL7's examples of STU3, R4B and R5 with what HL7's converter makes of them.

For the test, and for whoever changes rules: this writes the measured part of docs/versions.md anew::

    python -m tests.conformance.version_report
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.value_set_files import packaged_sets
from fhir_bridge.fhir.value_sets import LabelSets
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import Ruleset, load_ruleset
from fhir_bridge.normalize.draft import Draft, Unconvertible
from fhir_bridge.normalize.message import labelled
from tests.support.leaf_differences import Difference, compare, leaves
from tests.support.release_examples import ROOT, Json, by_converter, official

DOCUMENT = ROOT / "docs/versions.md"
CLASSES = ROOT / "tests/peers/versions/differences.toml"
RELEASES = ("STU3", "R4B", "R5")
START, END = "<!-- measured -->", "<!-- /measured -->"
# What this project writes where HL7's converter writes nothing, whatever the element.
_CROSS_VERSION = re.compile(r"http://hl7\.org/fhir/\d\.\d/StructureDefinition/extension-.*")
_DATA_ABSENT = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"


@dataclass
class Compared:
    """One release beside the converter."""

    equal: Counter[str] = field(default_factory=Counter)
    sides: dict[str, Counter[str]] = field(default_factory=dict)
    classes: Counter[str] = field(default_factory=Counter)
    unexplained: list[Difference] = field(default_factory=list)
    both: Counter[str] = field(default_factory=Counter)
    only_ours: Counter[str] = field(default_factory=Counter)
    only_theirs: list[tuple[str, str, str]] = field(default_factory=list)


@cache
def core() -> Ruleset:
    """The rules that every source gets, but for those about R4's content, which say nothing about releases."""
    every = load_ruleset(ROOT / "mappings" / "core")
    return replace(every, rules=tuple(rule for rule in every.rules if rule.stage != "content"))


def told(release: str, source: Json, ruleset: Ruleset | None = None, sets: LabelSets | None = None) -> Draft | Issue:
    """Return a resource in R4, or why it is not converted."""
    try:
        return labelled(source, FhirVersion[release], ruleset or core(), sets or packaged_sets())
    except Unconvertible as verdict:
        return verdict.issue


@cache
def comparison(release: str) -> Compared:
    """Compare every official example of a release."""
    found = Compared(sides={side: Counter() for side in ("different", "ours", "theirs")})
    explained = list(_classes(release))
    examples = official(release)
    # Labels are ours alone, whatever the release.
    for source, theirs in zip(examples, by_converter(release, examples), strict=True):
        kind, ours = source["resourceType"], told(release, source, sets=_no_labels())
        if isinstance(ours, Issue):
            found.only_theirs.append((kind, str(source["id"]), ours.diagnostics))
        elif isinstance(theirs, str):
            found.only_ours[kind] += 1
        else:
            found.both[kind] += 1
            _add(found, source, ours.body, theirs, explained)
    return found


def _no_labels() -> LabelSets:
    return LabelSets(())


def _add(found: Compared, source: Json, ours: Json, theirs: Json, explained: list[tuple[str, Any]]) -> None:
    kind = str(source["resourceType"])
    equal, differences = compare(ours, theirs)
    found.equal[kind] += equal
    sent = frozenset(text for _path, text in leaves(source, kind))
    for each in differences:
        found.sides[each.side][kind] += 1
        name = _kept(each, sent) or next((n for n, fits in explained if fits(each)), None)
        if name is None:
            found.unexplained.append(each)
        else:
            found.classes[name] += 1


def _kept(each: Difference, sent: frozenset[str]) -> str | None:
    """What the sender wrote and the converter does not have; the address of an extension; the mark of a gap."""
    if each.side != "ours" or each.ours is None:
        return None
    if each.ours in sent:
        return "kept"
    if _CROSS_VERSION.fullmatch(each.ours) or (".extension." in each.path and each.path.endswith(".url")):
        return "kept" if each.ours != _DATA_ABSENT else "marked-absent"
    return "marked-absent" if each.path.endswith(".extension.valueCode") and each.ours == "unknown" else None


def _classes(release: str) -> Any:
    for row in tomllib.loads(CLASSES.read_text("utf-8"))["difference"]:
        if release in row["releases"]:
            yield row["class"], _fits(row)


def _fits(row: dict[str, Any]) -> Any:
    path, ours, theirs = (re.compile(row.get(key, ".*")) for key in ("path", "ours", "theirs"))

    def fits(each: Difference) -> bool:
        return (
            each.side in row["sides"]
            and path.fullmatch(each.path) is not None
            and ours.fullmatch(each.ours or "") is not None
            and theirs.fullmatch(each.theirs or "") is not None
        )

    return fits


def reasons() -> dict[str, str]:
    """Class of difference → why it is right."""
    return dict(tomllib.loads(CLASSES.read_text("utf-8"))["class"])


def table() -> str:
    """Return the measured part of docs/versions.md."""
    lines = [
        START,
        "",
        "| from | examples | converted here | by HL7's | leaves equal | other | ours only | theirs only |",
    ]
    lines.append("| --- | --: | --: | --: | --: | --: | --: | --: |")
    for release in RELEASES:
        one = comparison(release)
        here = one.both.total() + one.only_ours.total()
        sums = [one.equal.total(), *(one.sides[side].total() for side in ("different", "ours", "theirs"))]
        theirs = one.both.total() + len(one.only_theirs)
        lines.append(f"| {release} | {len(official(release))} | {here} | {theirs} | {_row(sums)} |")
    lines += [
        "",
        "Why, by class (leaves):",
        "",
        "| class | STU3 | R4B | R5 | why |",
        "| --- | --: | --: | --: | --- |",
    ]
    for name, why in reasons().items():
        counts = [comparison(release).classes[name] for release in RELEASES]
        lines.append(f"| {name} | {_row(counts)} | {why} |")
    for release in RELEASES:
        lines += ["", *_by_type(release)]
    return "\n".join([*lines, "", END])


def _row(numbers: list[int]) -> str:
    return " | ".join(f"{number:,}" for number in numbers)


def _by_type(release: str) -> list[str]:
    one = comparison(release)
    lines = [f"{release} by type (types where every leaf is equal are left out):", ""]
    lines += [
        "| type | examples | equal | other | ours only | theirs only |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for kind in sorted(one.both):
        sides = [one.sides[side][kind] for side in ("different", "ours", "theirs")]
        if any(sides):
            lines.append(f"| {kind} | {_row([one.both[kind], one.equal[kind], *sides])} |")
    alone = ", ".join(f"{kind} {count}" for kind, count in sorted(one.only_ours.items()))
    return [*lines, "", f"The converter fails with: {alone}."]


def main() -> None:
    """Write the measured part of the page anew, and say what no class explains."""
    page = DOCUMENT.read_text("utf-8")
    head, _, rest = page.partition(START)
    DOCUMENT.write_text(head + table() + rest.partition(END)[2], "utf-8")
    for release in RELEASES:
        rows = Counter((each.side, each.path) for each in comparison(release).unexplained)
        for (side, path), count in rows.most_common():
            print(release, side, path, count)


if __name__ == "__main__":
    main()
