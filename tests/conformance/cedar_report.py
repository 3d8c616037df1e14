"""Compare cedar's STU3 in our R4 with what its generator itself writes in R4, each difference with its reason.

For the tests, and for whoever changes rules: this writes docs/cedar-in-r4.md anew::

    python -m tests.conformance.cedar_report

The reasons stand in ``tests/peers/versions/cedar.toml``, by path. A reason is more than words: it names what must
hold of every value under it, judged by the record as it was sent.
"""

from __future__ import annotations

import gzip
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache

from fhir_bridge.fhir.tables import definitions_of
from fhir_bridge.intake import Limits, receive
from fhir_bridge.mapping_tools.fates import DROPPED, EXTENSION, FATES, fates
from fhir_bridge.model.ingest import FhirVersion, Received, Validated
from fhir_bridge.normalize import load_ruleset
from fhir_bridge.normalize.draft import Draft
from tests.conformance.version_report import told
from tests.support.hospitals import FOLDER, MAPPINGS
from tests.support.leaf_differences import Difference, compare, leaves
from tests.support.release_examples import ROOT, Json

DOCUMENT = ROOT / "docs/cedar-in-r4.md"
REASONS = ROOT / "tests/peers/versions/cedar.toml"
DROPS = ROOT / "tests/peers/versions/dropped.toml"
_RELEASE = FhirVersion.STU3
_SIDES = {"theirs": "theirs only", "ours": "ours only", "different": "otherwise"}
_SHOWN = 2
_ADDRESS = re.compile(r"http://hl7\.org/fhir/3\.0/StructureDefinition/extension-[\w.]+")


@dataclass(frozen=True)
class Reason:
    """Why the values at some paths differ; ``holds`` names what must be true of each of them (``CHECKS``)."""

    why: str
    side: str
    holds: str
    paths: tuple[str, ...]
    theirs: str = ".*"

    def tells(self, each: Difference) -> bool:
        """Whether this is the reason of a difference."""
        return (
            each.side == self.side
            and each.path in self.paths
            and re.fullmatch(self.theirs, each.theirs or "", re.DOTALL) is not None
        )


@dataclass
class Compared:
    """Cedar's records beside the generator's own R4.

    Attributes:
        wanted: Leaves of the generator's R4 by type; ``equal`` those of them that came out.
        differences: Each with the texts of the record that was sent.
        fates: Fate of each value that was sent; ``dropped`` and ``extension`` by path and rule.
        alone: Types of which the generator's R4 has no record to compare with.
    """

    wanted: Counter[str] = field(default_factory=Counter)
    equal: Counter[str] = field(default_factory=Counter)
    differences: list[tuple[Difference, frozenset[str]]] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    extension: Counter[tuple[str, str]] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Share of the generator's leaves that came out."""
        return self.equal.total() / self.wanted.total()


CHECKS: Mapping[str, Callable[[Difference, frozenset[str]], bool]] = {
    "not sent": lambda each, sent: each.ours is None and each.theirs not in sent,
    "part": lambda each, sent: each.ours is None,
    "said again": lambda each, sent: each.ours is None and each.theirs in sent,
    "sent": lambda each, sent: each.ours in sent,
    "extension": lambda each, sent: bool(_ADDRESS.fullmatch(each.ours or "")),
    "standard": lambda each, sent: each.ours == "urn:dicom:uid" and each.theirs == "urn:ietf:rfc:3986",
}
"""What a reason claims → whether it holds of a difference, given every text of the record that was sent."""


def reasons() -> list[Reason]:
    """Return the reasons in the order in which the page tells them."""
    rows = tomllib.loads(REASONS.read_text("utf-8"))["difference"]
    return [Reason(**{**row, "paths": tuple(row["paths"])}) for row in rows]


def why_dropped(path: str, rule: str) -> list[str]:
    """Return the reasons that are listed for a rule to take a value away."""
    rows = tomllib.loads(DROPS.read_text("utf-8"))["dropped"]
    return [row["reason"] for row in rows if row["rule"] == rule and re.fullmatch(row["path"], path)]


@cache
def comparison() -> Compared:
    """Compare everything that cedar sends."""
    found = Compared()
    ruleset = load_ruleset(MAPPINGS / "cedar")
    independent = _independent()
    for source in _sent():
        draft = told(_RELEASE, source, ruleset)
        assert isinstance(draft, Draft)
        for fate in fates(source, draft.body, draft.changes, definitions_of(_RELEASE)):
            found.fates[fate.fate] += 1
            if fate.fate in (DROPPED, EXTENSION):
                (found.dropped if fate.fate == DROPPED else found.extension)[fate.leaf.path, fate.rule] += 1
        kind = str(draft.body["resourceType"])
        expected = independent.get((kind, draft.body["id"]))
        if expected is None:
            found.alone[kind] += 1
            continue
        equal, differences = compare(_comparable(draft.body), expected)
        found.equal[kind] += equal
        found.wanted[kind] += equal + sum(each.theirs is not None for each in differences)
        sent = frozenset(text for _path, text in leaves(source, kind))
        found.differences += [(each, sent) for each in differences]
    return found


def page() -> str:
    """Return docs/cedar-in-r4.md."""
    found = comparison()
    lines = [_HEAD.format(share=found.share, equal=found.equal.total(), wanted=found.wanted.total())]
    lines += ["| type | leaves | equal |", "| --- | --: | --: |"]
    for kind, wanted in sorted(found.wanted.items()):
        lines.append(f"| {kind} | {wanted:,} | {found.equal[kind] / wanted:.1%} |")
    alone = ", ".join(f"{kind} ({count})" for kind, count in sorted(found.alone.items()))
    lines += ["", f"The generator's R4 has none to compare with of: {alone}.", "", "## Each difference", ""]
    lines += ["| times | path | side | there | here |", "| --: | --- | --- | --- | --- |"]
    for reason in reasons():
        told_of = [each for each, _ in found.differences if reason.tells(each)]
        counts = Counter(each.path for each in told_of)
        lines.append(f"| **{counts.total():,}** | **{reason.why}** | | | |")
        for path in reason.paths:
            there, here = _shapes([each for each in told_of if each.path == path])
            lines.append(f"| {counts[path]:,} | {path} | {_SIDES[reason.side]} | {there} | {here} |")
    lines += ["", _FATES, "| values | what became of them |", "| --: | --- |"]
    lines += [f"| {found.fates[fate]:,} | {fate}: {meaning} |" for fate, meaning in FATES.items()]
    lines += ["", "| values | path | fate | by rule | why |", "| --: | --- | --- | --- | --- |"]
    for (path, rule), count in sorted(found.dropped.items()):
        lines.append(f"| {count:,} | {path} | {DROPPED} | {rule} | {'; '.join(why_dropped(path, rule))} |")
    for (path, rule), count in sorted(found.extension.items()):
        why = "it was in one when it was sent" if ".extension." in path else "R4 has no element for it"
        lines.append(f"| {count:,} | {path} | {EXTENSION} | {rule} | {why} |")
    return "\n".join([*lines, ""])


def _comparable(resource: Json) -> Json:
    """The resource without profiles and narrative, of which a conversion can know nothing."""
    return {key: value for key, value in resource.items() if key not in ("meta", "text")}


def _independent() -> dict[tuple[str, str], Json]:
    text = gzip.decompress((FOLDER / "truth" / "cedar-as-r4.ndjson.gz").read_bytes())
    found = [json.loads(line, parse_float=str, parse_int=str) for line in text.splitlines()]
    return {(each["resourceType"], each["id"]): _comparable(each) for each in found}


def _sent() -> Iterator[Json]:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    with gzip.open(FOLDER / "cedar" / "bundles-stu3.ndjson.gz") as stream:
        for line in stream:
            for entry in receive(Received("cedar", _RELEASE, line, moment), Limits()).entries:
                assert isinstance(entry, Validated)
                assert entry.resource is not None
                yield entry.resource


def _shapes(differences: list[Difference]) -> tuple[str, str]:
    """What stands there and here, in shapes that say nothing about anybody."""
    there = Counter(_shape(each.path, each.theirs) for each in differences)
    return _told(there), _told(Counter(_shape(each.path, each.ours) for each in differences))


def _shape(path: str, text: str | None) -> str:
    last = path.rpartition(".")[2]
    if text is None:
        return "–"
    if last == "reference":
        return f"`{text.partition('|')[0].partition('=')[0]}=…`" if "?" in text else f"`{text[: text.rfind(':')]}:…`"
    if last in ("display", "text"):
        return "words"
    return f"`{re.sub('[0-9]', '0', text) if last in ('code', 'value') else text}`"


def _told(shapes: Counter[str]) -> str:
    shown = [shape for shape, _ in sorted(shapes.items(), key=lambda item: (-item[1], item[0]))]
    return ", ".join(shown[:_SHOWN]) + (", …" if len(shown) > _SHOWN else "")


_HEAD = """# Cedar's STU3 in R4, difference by difference

Cedar, one of the three made-up hospitals, sends STU3. Its generator can write the same records in R4 by itself: an
answer that owes nothing to ours. Of its {wanted:,} leaves (a leaf is a value at a path; positions in lists, narrative
and profiles left out) {equal:,} come out, {share:.1%}. Every other one is below, and what stands here and not there,
with its reason; digits are shown as 0, words and ids not at all. A test fails for a difference that is not listed, a
path that is listed and does not occur, and a reason that does not hold: whether a value was sent is looked up.
`python -m tests.conformance.cedar_report` writes this page from `tests/peers/versions/cedar.toml`.
"""

_FATES = """## What became of each value that was sent

By the account of changes and the result, for all that cedar sends, also of the types that the generator's R4 lacks.
Why a value may be dropped stands in `tests/peers/versions/dropped.toml`.
"""


def main() -> None:
    """Write the page."""
    DOCUMENT.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
