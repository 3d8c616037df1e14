"""Guess what the columns of a hospital's dictionary mean: by what stands in them, whatever they are called.

The strongest evidence is the feed itself: the column that holds the codes seen is the local code. A guess says what
it rests on, and becomes a table marked ``guess: true``, which nothing uses before an engineer has looked at it.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

from fhir_bridge.errors import SetupWrong
from fhir_bridge.fhir.ucum import is_ucum
from fhir_bridge.mapping_tools.newpack.survey import CodeSeen, Survey
from fhir_bridge.mapping_tools.unit_guesses import guess_ucum

_LOINC = re.compile(r"[A-Z]?[0-9]{1,7}-[0-9]")
_SNOMED = re.compile(r"[0-9]{6,18}")
_URI = re.compile(r"(?:https?://|urn:)\S+")
_NAMED_SYSTEMS = {
    "loinc": "http://loinc.org",
    "snomed": "http://snomed.info/sct",
    "snomedct": "http://snomed.info/sct",
    "sct": "http://snomed.info/sct",
    "rxnorm": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "icd10cm": "http://hl7.org/fhir/sid/icd-10-cm",
    "icd10": "http://hl7.org/fhir/sid/icd-10",
    "cpt": "http://www.ama-assn.org/go/cpt",
}
_MOSTLY = 0.8
_MOST_KINDS = 12


@dataclass(frozen=True, slots=True)
class Part:
    """What a dictionary says about the codes of one system.

    Attributes:
        where: Column and value that single out the rows; empty for all.
        columns: Our column → the file's.
        constants: Our column → value for every row.
        evidence: Our column → why it is thought so.
        missing: Codes seen that no row has.
        file: The dictionary's place in the pack.
    """

    system: str
    where: Mapping[str, str]
    columns: Mapping[str, str]
    constants: Mapping[str, str]
    evidence: Mapping[str, str]
    missing: tuple[str, ...]
    file: str


@dataclass(frozen=True, slots=True)
class Dictionary:
    """A dictionary as the hospital handed it over, rewritten as a CSV file with commas."""

    head: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...] = field(repr=False)
    file: str = "codes/dictionary.csv"

    def save(self, path: Path) -> None:
        """Write it as UTF-8 with commas, which is what tables of packs are."""
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, self.head, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def read_dictionaries(paths: Sequence[Path]) -> list[Dictionary]:
    """Read every dictionary that the hospital handed over; several keep their own names.

    Raises:
        SetupWrong: One cannot be read as a table, or two would have one name.
    """
    found = [read_dictionary(path) for path in paths]
    if len(found) > 1:
        names = [re.sub(r"[^a-z0-9]+", "-", path.name.lower().partition(".")[0]).strip("-") for path in paths]
        found = [replace(d, file=f"codes/dictionary-{n}.csv") for d, n in zip(found, names, strict=True)]
    if len({each.file for each in found}) < len(found):
        raise SetupWrong("two of the dictionaries have the same name: rename one")
    return found


def read_dictionary(path: Path) -> Dictionary:
    """Read a dictionary: CSV with any common delimiter, UTF-8 or Windows' encoding.

    Raises:
        SetupWrong: It cannot be read as a table.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SetupWrong(f"{path}: {error.strerror or 'not readable'}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("windows-1252", "replace")
    first = text.partition("\n")[0]
    delimiter = max(",;\t|", key=first.count)
    table = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=delimiter) if any(row)]
    if len(table) < 2 or len(table[0]) < 2:
        raise SetupWrong(f"{path} is no table: a first row that names columns, and rows beneath it")
    head = tuple(name.strip() for name in table[0])
    if len(set(head)) < len(head) or not all(head):
        raise SetupWrong(f"{path}: every column needs a name of its own in the first row")
    wide = next((n for n, row in enumerate(table, 1) if len(row) != len(head)), None)
    if wide is not None:
        raise SetupWrong(f"{path}: row {wide} has {len(table[wide - 1])} cells and the first row {len(head)}")
    rows = tuple({name: cell.strip() for name, cell in zip(head, row, strict=True)} for row in table[1:])
    return Dictionary(head, rows)


def parts_of(dictionaries: Sequence[Dictionary], survey: Survey) -> list[Part]:
    """Return what the dictionaries seem to say about each system of the hospital's own: that which has most of it."""
    found = []
    for system in survey.own_systems:
        parts = [_part(each, system, survey.codes[system]) for each in dictionaries]
        told = [part for part in parts if part is not None]
        if told:
            found.append(min(told, key=lambda part: len(part.missing)))
    return found


def _part(dictionary: Dictionary, system: str, seen: Mapping[str, CodeSeen]) -> Part | None:
    counts = {name: len({row[name] for row in dictionary.rows} & seen.keys()) for name in dictionary.head}
    code = max(dictionary.head, key=lambda name: counts[name])
    held = {row[code] for row in dictionary.rows} & seen.keys()
    # Short numbers stand in any column of numbers.
    if not held or (2 * len(held) < len(seen) and all(each.isdecimal() for each in held)):
        return None
    ours = [row for row in dictionary.rows if row[code] in seen]
    where = _where(dictionary, code, ours)
    rows = [row for row in dictionary.rows if all(row[name] == value for name, value in where.items())]
    columns = {"code": code}
    evidence = {"code": f"{counts[code]} of {len(seen)} codes seen stand in it"}
    constants = {"system": system} if system else {}
    # What singles rows out may name the standard's system as well.
    taken = {code, *(name for name in where if not _share(rows, name, _is_system))}
    _find_target(dictionary, rows, columns, constants, evidence, taken)
    _find_display(dictionary, rows, seen, columns, evidence, taken)
    _find_units(dictionary, rows, ours, seen, columns, evidence, taken)
    missing = tuple(sorted(seen.keys() - {row[code] for row in rows}))
    return Part(system, where, columns, constants, evidence, missing, dictionary.file)


def _where(dictionary: Dictionary, code: str, ours: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The column of few values that is the same for all our rows and another for others, if there is one.

    One that says what a row is goes before one that names the standard's system.
    """
    fitting: list[tuple[float, int, str, str]] = []
    for name in dictionary.head:
        values = {row[name] for row in dictionary.rows}
        here = {row[name] for row in ours}
        if name != code and 1 < len(values) <= _MOST_KINDS and len(here) == 1 and here != {""}:
            fitting.append((_share(dictionary.rows, name, _is_system), len(fitting), name, here.pop()))
    return {min(fitting)[2]: min(fitting)[3]} if fitting else {}


def _find_target(
    dictionary: Dictionary,
    rows: Sequence[Mapping[str, str]],
    columns: dict[str, str],
    constants: dict[str, str],
    evidence: dict[str, str],
    taken: set[str],
) -> None:
    free = [name for name in dictionary.head if name not in taken]
    code = _best(free, rows, lambda text: bool(_LOINC.fullmatch(text) or _SNOMED.fullmatch(text)))
    if code is None:
        return
    columns["target_code"] = code
    taken.add(code)
    texts = [row[code] for row in rows if row[code]]
    shape = "LOINC" if sum(bool(_LOINC.fullmatch(t)) for t in texts) > len(texts) / 2 else "SNOMED CT"
    evidence["target_code"] = f"its texts have the form of {shape} codes"
    system = _best([name for name in free if name not in taken], rows, lambda text: bool(_URI.fullmatch(text)))
    if system is not None:
        columns["target_system"] = system
        taken.add(system)
        evidence["target_system"] = "it holds the addresses of code systems"
        return
    named = _best([n for n in free if n not in taken], rows, lambda text: _plain(text) in _NAMED_SYSTEMS)
    names = (
        {_NAMED_SYSTEMS[_plain(row[named])] for row in rows if _plain(row[named]) in _NAMED_SYSTEMS}
        if named
        else {"http://loinc.org" if shape == "LOINC" else "http://snomed.info/sct"}
    )
    if named is not None:
        taken.add(named)
    if len(names) == 1:
        constants["target_system"] = names.pop()
        evidence["target_system"] = f"column {named!r} says so" if named else f"the codes have the form of {shape}"


def _find_display(
    dictionary: Dictionary,
    rows: Sequence[Mapping[str, str]],
    seen: Mapping[str, CodeSeen],
    columns: dict[str, str],
    evidence: dict[str, str],
    taken: set[str],
) -> None:
    words = {text for code in seen.values() for text in code.displays}
    free = [name for name in dictionary.head if name not in taken]
    best = max(free, key=lambda name: sum(row[name] in words for row in rows), default=None)
    if best is not None and sum(row[best] in words for row in rows) > 0:
        evidence["target_display"] = "its words stand beside the codes in the feed"
    else:
        best = max(free, key=lambda name: _mean_length(rows, name), default=None)
        if best is None or _mean_length(rows, best) < 6:
            return
        evidence["target_display"] = "it holds the longest texts"
    columns["target_display"] = best
    taken.add(best)


def _find_units(
    dictionary: Dictionary,
    rows: Sequence[Mapping[str, str]],
    ours: Sequence[Mapping[str, str]],
    seen: Mapping[str, CodeSeen],
    columns: dict[str, str],
    evidence: dict[str, str],
    taken: set[str],
) -> None:
    code = columns["code"]
    free = [name for name in dictionary.head if name not in taken]
    agree = Counter({name: sum(row[name] in seen[row[code]].units for row in ours if row[name]) for name in free})
    # Where two columns agree as often, the one that is less of a UCUM code is the hospital's own.
    unit = max(free, key=lambda name: (agree[name], -_share(rows, name, is_ucum)), default="")
    count = agree[unit]
    if count == 0:
        return
    columns["local_unit"] = unit
    taken.add(unit)
    evidence["local_unit"] = f"it names the unit that {count} codes have in the feed"
    _find_numbers(dictionary, rows, columns, evidence, taken)
    left = [name for name in free if name not in taken and _share(rows, name, is_ucum) >= _MOSTLY]
    # The canonical unit stands in every row that has a unit; the UCUM code of the local one where it differs.
    left.sort(key=lambda name: (-sum(bool(row[name]) for row in rows), dictionary.head.index(name)))
    if left:
        columns["canonical"] = left[0]
        evidence["canonical"] = "it holds UCUM codes, more of them than any other column"
        taken.add(left[0])
    for name in left[1:]:
        if _share(rows, name, is_ucum) == 1 and _is_code_of(rows, name, unit):
            columns["local_ucum"] = name
            taken.add(name)
            evidence["local_ucum"] = f"it holds the UCUM codes of what {unit!r} spells"
            return


def _find_numbers(
    dictionary: Dictionary,
    rows: Sequence[Mapping[str, str]],
    columns: dict[str, str],
    evidence: dict[str, str],
    taken: set[str],
) -> None:
    """Of two columns of numbers in the same rows the one that is mostly 0 is the offset."""
    numbers = [n for n in dictionary.head if n not in taken and _share(rows, n, _is_number) == 1]
    if not numbers:
        return
    by_zeros = sorted(numbers, key=lambda name: sum(_is_zero(row[name]) for row in rows))
    columns["factor"] = by_zeros[0]
    evidence["factor"] = "it holds numbers; CHECK which way: local = canonical * factor + offset"
    taken.add(by_zeros[0])
    if len(by_zeros) > 1 and any(_is_zero(row[by_zeros[-1]]) for row in rows):
        columns["offset"] = by_zeros[-1]
        evidence["offset"] = "it holds numbers, most of them 0"
        taken.add(by_zeros[-1])


def _best(names: Iterable[str], rows: Sequence[Mapping[str, str]], fits: Callable[[str], bool]) -> str | None:
    """The column with the most texts that fit, if most of its texts do."""
    good = [name for name in names if _share(rows, name, fits) >= _MOSTLY]
    return max(good, key=lambda name: sum(fits(row[name]) for row in rows), default=None)


def _share(rows: Sequence[Mapping[str, str]], name: str, fits: Callable[[str], bool]) -> float:
    texts = [row[name] for row in rows if row[name]]
    return sum(map(fits, texts)) / len(texts) if texts else 0.0


def _mean_length(rows: Sequence[Mapping[str, str]], name: str) -> float:
    return sum(len(row[name]) for row in rows) / max(1, len(rows))


def _is_code_of(rows: Sequence[Mapping[str, str]], name: str, unit: str) -> bool:
    return any(guess_ucum(row[unit]) == row[name] for row in rows if row[name])


def _is_system(text: str) -> bool:
    return bool(_URI.fullmatch(text)) or _plain(text) in _NAMED_SYSTEMS


def _is_number(text: str) -> bool:
    try:
        return Decimal(text).is_finite()
    except InvalidOperation:
        return False


def _is_zero(text: str) -> bool:
    return _is_number(text) and Decimal(text) == 0


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
