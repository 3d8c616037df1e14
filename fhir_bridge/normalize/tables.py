"""Code maps, unit tables and label tables: CSV files of a pack, read once.

For the verbs ``translate``, ``unit`` and ``tag``. A pack says in ``source.yaml`` which columns of a hospital's own
file hold what, so that the file is used as the hospital hands it over.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path

from fhir_bridge.normalize.yaml_text import Mapping, Spot

Key = tuple[str, str]
"""``(system, code)``; the system is empty for a bare code."""


@dataclass(frozen=True, slots=True)
class Target:
    """A code of a standard system."""

    system: str
    code: str
    display: str = ""


@dataclass(frozen=True, slots=True)
class CodeMap:
    """Local code → standard code. ``systems`` are those whose codes ought to be found here."""

    name: str
    targets: dict[Key, Target]
    systems: frozenset[str]
    target_systems: frozenset[str]
    target_codes: frozenset[str]


@dataclass(frozen=True, slots=True)
class UnitRow:
    """How one analyte's local unit relates to the canonical one: ``local = canonical * factor + offset``."""

    local_unit: str
    local_ucum: str
    canonical: str
    factor: Decimal | None
    offset: Decimal


@dataclass(frozen=True, slots=True)
class UnitTable:
    """Analyte → unit, and the spellings of units that are UCUM codes in disguise."""

    name: str
    rows: dict[Key, UnitRow]
    spellings: dict[str, str]


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Code → sensitivity labels."""

    name: str
    labels: dict[Key, tuple[Target, ...]]


@dataclass(slots=True)
class Tables:
    """Every table that the rules of a pack may name."""

    maps: dict[str, CodeMap] = field(default_factory=dict)
    units: dict[str, UnitTable] = field(default_factory=dict)
    labels: dict[str, LabelTable] = field(default_factory=dict)


MAP_COLUMNS = ("system", "code", "target_system", "target_code", "target_display")
UNIT_COLUMNS = ("system", "code", "local_unit", "local_ucum", "canonical", "factor", "offset")
LABEL_COLUMNS = ("system", "code", "labels")
# Without a system a code stands for itself: an element of type code.
_OPTIONAL = frozenset({"system", "target_system", "target_display", "local_ucum", "factor", "offset"})


def load_map(name: str, declared: Mapping, folder: Path, pack: str) -> CodeMap:
    """Read a code map as ``source.yaml`` declares it."""
    targets: dict[Key, Target] = {}
    for spot, row in rows_of(declared, folder, pack, MAP_COLUMNS, ()):
        key = (row["system"], row["code"])
        target = Target(row["target_system"], row["target_code"], row["target_display"])
        if targets.setdefault(key, target) != target:
            raise spot.broken("the code is mapped twice, to different targets")
    return CodeMap(
        name,
        targets,
        frozenset(system for system, _ in targets),
        frozenset(t.system for t in targets.values()),
        frozenset(t.code for t in targets.values()),
    )


def load_units(name: str, declared: Mapping, folder: Path, pack: str) -> UnitTable:
    """Read a unit table as ``source.yaml`` declares it; ``spellings`` names a second file, ``unit,ucum``."""
    rows: dict[Key, UnitRow] = {}
    for spot, row in rows_of(declared, folder, pack, UNIT_COLUMNS, ("spellings",)):
        if row["canonical"]:
            rows[row["system"], row["code"]] = UnitRow(
                row["local_unit"],
                row["local_ucum"],
                row["canonical"],
                _number(row["factor"], spot) if row["factor"] else None,
                _number(row["offset"], spot) if row["offset"] else Decimal(0),
            )
    spellings: dict[str, str] = {}
    given = declared.get("spellings")
    if given is not None:
        for _spot, row in read_table(folder, given.text("spellings"), pack, given.spot):
            spellings[row.get("unit", "")] = row.get("ucum", "")
    return UnitTable(name, rows, spellings)


def load_labels(name: str, declared: Mapping, folder: Path, pack: str) -> LabelTable:
    """Read a label table; column ``labels`` holds codes separated by blanks."""
    system = declared.require("label_system").text("label_system")
    labels: dict[Key, tuple[Target, ...]] = {}
    for _spot, row in rows_of(declared, folder, pack, LABEL_COLUMNS, ("label_system",)):
        labels[row["system"], row["code"]] = tuple(Target(system, code) for code in row["labels"].split())
    return LabelTable(name, labels)


def rows_of(
    declared: Mapping, folder: Path, pack: str, columns: tuple[str, ...], also: tuple[str, ...]
) -> Iterator[tuple[Spot, dict[str, str]]]:
    """Yield the rows of the declared file with our column names."""
    declared.only(("file", "where", "columns", "constants", *also), "key")
    names = _texts(declared, "columns", columns)
    constants = _texts(declared, "constants", columns)
    where = _texts(declared, "where", None)
    file = declared.require("file")
    for spot, row in read_table(folder, file.text("file"), pack, file.spot):
        if any(row.get(column) != value for column, value in where.items()):
            continue
        made = {}
        for column in columns:
            found = constants.get(column, row.get(names.get(column, column)))
            if found is None and column not in _OPTIONAL:
                raise spot.broken(f"no column {names.get(column, column)!r}")
            made[column] = (found or "").strip()
        yield spot, made


def _texts(declared: Mapping, key: str, known: tuple[str, ...] | None) -> dict[str, str]:
    node = declared.get(key)
    if node is None:
        return {}
    mapping = node.mapping(key)
    if known is not None:
        mapping.only(known, "column")
    return {name: mapping.require(name).text(name) for name in mapping.names()}


def read_table(folder: Path, file: str, pack: str, spot: Spot) -> Iterator[tuple[Spot, dict[str, str]]]:
    """Yield the rows of a CSV file as they stand."""
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise spot.broken("a table must lie inside its pack")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise Spot(f"{pack}/{file}", reader.line_num).broken("another number of columns than the head")
                yield Spot(f"{pack}/{file}", reader.line_num), row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise spot.broken(f"{file} cannot be read: {type(error).__name__}") from error


def _number(text: str, spot: Spot) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise spot.broken("not a number") from None
    if not number.is_finite():
        raise spot.broken("not a finite number")
    return number
