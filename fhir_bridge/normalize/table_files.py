"""Read the CSV files of a pack, with the columns that ``source.yaml`` names.

For the loaders of code maps, unit tables and label tables: a hospital's file is used as it is handed over.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path

from fhir_bridge.normalize.yaml_text import Mapping, Spot, did_you_mean

Key = tuple[str, str]
"""``(system, code)``; the system is empty for a bare code."""

GUESS = "guess"
"""Key that marks a table, or a CSV file's description, as guessed; column of a table that holds guessed codes."""

# Without a system a code stands for itself: an element of type code.
_OPTIONAL = frozenset(
    {"system", "target_system", "target_display", "local_ucum", "factor", "offset", "molar_mass", "valence"}
    | {"system_version", "target_version", "display", "equivalence", "comment"}
)


def rows(
    declared: Mapping, folder: Path, pack: str, columns: tuple[str, ...], also: tuple[str, ...]
) -> Iterator[tuple[Spot, dict[str, str]]]:
    """Rows of the declared file with our column names."""
    declared.only(("file", "where", "columns", "constants", GUESS, *also), "key")
    names = _texts(declared, "columns", columns)
    constants = _texts(declared, "constants", columns)
    where = _texts(declared, "where", None)
    file = declared.require("file")
    for spot, row in read(folder, file.text("file"), pack, file.spot):
        for column in (*names.values(), *where):
            if column not in row:
                raise Spot(spot.file).broken(f"no column {column!r}{did_you_mean(column, row)}")
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


def read(folder: Path, file: str, pack: str, spot: Spot) -> Iterator[tuple[Spot, dict[str, str]]]:
    """Rows of a CSV file inside the pack, with the place of each."""
    path = inside(folder, file, spot)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise Spot(f"{pack}/{file}", reader.line_num).broken("another number of columns than the head")
                yield Spot(f"{pack}/{file}", reader.line_num), row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise spot.broken(f"{file} cannot be read: {type(error).__name__}") from error


def inside(folder: Path, file: str, spot: Spot) -> Path:
    """Return the path of a pack's file, or complain that it lies elsewhere."""
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise spot.broken("a table must lie inside its pack")
    return path


def guessed(declared: Mapping) -> bool:
    """Tell whether a declaration is marked as a guess."""
    node = declared.get(GUESS)
    if node is not None and type(node.value) is not bool:
        raise node.spot.broken(f"{GUESS!r} must be true or false")
    return node is not None and node.value is True


def columns_of(declared: Mapping, folder: Path) -> frozenset[str]:
    """Return which of our columns the declared file has, or constants stand for; empty if it cannot be read."""
    file = declared.require("file")
    names = {theirs: ours for ours, theirs in _texts(declared, "columns", None).items()}
    try:
        with inside(folder, file.text("file"), file.spot).open(encoding="utf-8-sig", newline="") as stream:
            head = next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return frozenset()
    return frozenset(names.get(each, each) for each in head) | _texts(declared, "constants", None).keys()


def number(text: str, spot: Spot) -> Decimal:
    """Return a finite number, or complain."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise spot.broken("not a number") from None
    if not number.is_finite():
        raise spot.broken("not a finite number")
    return number
