"""A work-list of what no table knows, the most frequent first, with guesses at what it might be.

A guess is never applied and never written into a table: it stands beside the gap for a person to judge.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fhir_bridge.fhir.tables import definitions_of
from fhir_bridge.fhir.ucum import UCUM
from fhir_bridge.mapping_tools.coverage import vocabulary_of
from fhir_bridge.mapping_tools.sample import Message, outcomes
from fhir_bridge.mapping_tools.unit_guesses import guess_ucum
from fhir_bridge.mapping_tools.vocabulary import CODE, IDENTIFIER, UNIT, Gap
from fhir_bridge.mapping_tools.walking import nodes
from fhir_bridge.normalize import Ruleset, load_ruleset
from fhir_bridge.normalize.code_maps import CodeMap, Target
from fhir_bridge.normalize.map_files import COLUMNS as MAP_COLUMNS
from fhir_bridge.normalize.pack import declared, source_of

MAX_GUESSES = 3
_LIKE = 0.72
"""Least similarity of two texts that is worth a look; below it the guesses of a trial were noise."""


@dataclass(frozen=True, slots=True)
class Guess:
    """What a gap might be, and how alike the texts are (1 is equal)."""

    system: str
    code: str
    display: str
    likeness: float


@dataclass(frozen=True, slots=True)
class Work:
    """One line of the work-list; ``table`` is where the answer belongs, empty where the pack has none yet."""

    gap: Gap
    table: str
    guesses: tuple[Guess, ...]


def work_list(
    folder: Path,
    messages: Iterable[Message],
    progress: Callable[[int], None] = lambda _: None,
    unread: Callable[[str], None] = lambda _: None,
) -> list[Work]:
    """Return what the tables of the pack in ``folder`` lack for a sample.

    Args:
        progress: Told after each message how many records it held.
        unread: Told of each record that intake refuses, why; nothing in it is counted.

    Raises:
        RulesetBroken: The pack does not load.
    """
    ruleset = load_ruleset(folder)
    vocabulary = vocabulary_of(folder, ruleset)
    definitions = definitions_of(ruleset.fhir_version)
    for message in messages:
        records = 0
        for outcome in outcomes([message], ruleset):
            records += 1
            if outcome.sent is not None:
                vocabulary.see(nodes(outcome.sent, definitions), f"{outcome.place} {outcome.name}")
            else:
                unread(outcome.issues[0].diagnostics)
        progress(records)
    guess = _Guesses(ruleset)
    own = [name for name, _ in declared(source_of(folder), "maps")]
    return [Work(gap, _table_of(gap, ruleset, own), guess.of(gap)) for gap in vocabulary.by_volume()]


def _table_of(gap: Gap, ruleset: Ruleset, own: list[str]) -> str:
    if gap.kind == CODE:
        # Core's maps of plain codes know no system either, and are no place for a hospital's.
        maps = ruleset.tables.maps if gap.system else {name: ruleset.tables.maps[name] for name in own}
        return next((name for name, each in maps.items() if gap.system in each.systems), "")
    return next(iter(ruleset.tables.units), "") if gap.kind == UNIT else ""


class _Guesses:
    """Guesses by the words of the pack's own tables, and by how hospitals write units."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._targets = _worded(ruleset.tables.maps.values())
        self._systems = sorted(
            {s for each in ruleset.tables.maps.values() for _k, t in each.targets.items() for s in (t.code,)}
        )

    def of(self, gap: Gap) -> tuple[Guess, ...]:
        """Return at most three, the likeliest first."""
        if gap.kind == UNIT:
            code = guess_ucum(gap.value)
            return (Guess(UCUM, code, "", 1.0),) if code else ()
        if gap.kind == IDENTIFIER:
            close = difflib.get_close_matches(gap.system, self._systems, n=MAX_GUESSES, cutoff=_LIKE)
            return tuple(Guess("", name, "", _ratio(gap.system, name)) for name in close)
        texts = [normal(text) for text in gap.displays]
        likely: dict[tuple[str, str], Guess] = {}
        for words, target in self._targets:
            likeness = max((_alike(text, words) for text in texts), default=0.0)
            key = (target.system, target.code)
            if likeness >= _LIKE and (key not in likely or likely[key].likeness < likeness):
                likely[key] = Guess(target.system, target.code, target.display, likeness)
        ordered = sorted(likely.values(), key=lambda each: (-each.likeness, each.system, each.code))
        return tuple(ordered[:MAX_GUESSES])


def normal(text: str) -> str:
    """A display text without case, brackets, punctuation and the order of its words."""
    return " ".join(sorted(re.findall(r"[^\W_]+", text.casefold())))


def _worded(maps: Iterable[CodeMap]) -> list[tuple[str, Target]]:
    targets = {target for each in maps for target in each.targets.values() if target.display}
    return sorted(((normal(t.display), t) for t in targets), key=lambda each: (each[0], each[1].system, each[1].code))


def _alike(one: str, other: str) -> float:
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    return matcher.ratio() if matcher.real_quick_ratio() >= _LIKE and matcher.quick_ratio() >= _LIKE else 0.0


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def as_tables(folder: Path, work: Iterable[Work]) -> dict[str, str]:
    """Return CSV files to fill in, by name: gaps in the columns of the table in which the answer belongs.

    A code map of the pack gives its own head, so that filled rows can be put under the hospital's file as they are;
    a system without a map gets our column names. What is to be found stays empty.
    """
    heads = {name: _shape(folder, name) for name in _names(folder)}
    rows: dict[str, list[Mapping[str, str]]] = {}
    shapes: dict[str, tuple[str, ...]] = {}
    for each in work:
        if each.gap.kind == CODE:
            head, columns, fixed = heads.get(each.table, (MAP_COLUMNS, {}, {}))
            name = f"{each.table or 'new-map'}.csv"
            shapes[name] = tuple(head)
            rows.setdefault(name, []).append(_code_row(each.gap, columns, fixed, head))
        elif each.gap.kind == UNIT:
            shapes["spellings.csv"] = ("unit", "ucum")
            rows.setdefault("spellings.csv", []).append({"unit": each.gap.value})
        else:
            shapes["identifier-systems.csv"] = ("code", "target_code")
            rows.setdefault("identifier-systems.csv", []).append({"code": each.gap.system})
    return {name: _csv(shapes[name], found) for name, found in rows.items()}


Shape = tuple[tuple[str, ...], Mapping[str, str], Mapping[str, str]]


def _names(folder: Path) -> Iterator[str]:
    for name, _entry in declared(source_of(folder), "maps"):
        yield name


def _shape(folder: Path, name: str) -> Shape:
    """The head of a map's file, our names for its columns, and what is the same in all its rows."""
    entry = dict(declared(source_of(folder), "maps"))[name]
    file = entry.require("file").text("file")
    if file.endswith(".json"):
        return MAP_COLUMNS, {}, {}
    with (folder / file).open(encoding="utf-8-sig", newline="") as stream:
        head = tuple(next(csv.reader(stream)))
    columns, where = entry.get("columns"), entry.get("where")
    return head, columns.value if columns else {}, where.value if where else {}


def _code_row(gap: Gap, columns: Mapping[str, str], fixed: Mapping[str, str], head: Iterable[str]) -> dict[str, str]:
    row = dict(fixed)
    for ours, value in (("system", gap.system), ("code", gap.value)):
        name = columns.get(ours, ours)
        if name in head:
            row[name] = value
    # The hospital's own words, in the column that the hospital keeps them in.
    shown = columns.get("display", columns.get("target_display", "display"))
    if shown in head and gap.displays:
        row[shown] = next(iter(gap.displays))
    return row


def _csv(head: tuple[str, ...], rows: Iterable[Mapping[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, head, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
