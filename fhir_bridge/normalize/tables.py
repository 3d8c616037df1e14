"""Every table of a pack, and the unit tables and label tables among them: CSV files, read once.

For the verbs ``translate``, ``unit`` and ``tag``. A pack says in ``source.yaml`` which columns of a hospital's own
file hold what, so that the file is used as the hospital hands it over.

Invariants:
    * a row without a target maps nothing: its code is one that nobody has mapped yet;
    * a table that is marked ``guess: true`` is checked and not used, until an engineer takes the mark away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from fhir_bridge.normalize.code_maps import CodeMap, Target
from fhir_bridge.normalize.preferred_units import PreferredUnits, analyte_of, load_spellings
from fhir_bridge.normalize.table_files import Key, guessed, number, rows
from fhir_bridge.normalize.unit_targets import Analyte
from fhir_bridge.normalize.yaml_text import Mapping


@dataclass(frozen=True, slots=True)
class UnitRow:
    """How one analyte's local unit relates to the canonical one: ``local = canonical * factor + offset``."""

    local_unit: str
    local_ucum: str
    canonical: str
    factor: Decimal | None
    offset: Decimal
    analyte: Analyte = field(default_factory=Analyte)


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
    preferred_units: dict[str, PreferredUnits] = field(default_factory=dict)


UNIT_COLUMNS = (
    "system",
    "code",
    "local_unit",
    "local_ucum",
    "canonical",
    "factor",
    "offset",
    "molar_mass",
    "valence",
)
LABEL_COLUMNS = ("system", "code", "labels")


def load_units(name: str, declared: Mapping, folder: Path, pack: str) -> UnitTable:
    """Read a unit table as ``source.yaml`` declares it; ``spellings`` names a second file, ``unit,ucum``."""
    found: dict[Key, UnitRow] = {}
    is_guess = guessed(declared)
    for spot, row in rows(declared, folder, pack, UNIT_COLUMNS, ("spellings",)):
        if row["canonical"] and not is_guess:
            made = UnitRow(
                row["local_unit"],
                row["local_ucum"],
                row["canonical"],
                number(row["factor"], spot) if row["factor"] else None,
                number(row["offset"], spot) if row["offset"] else Decimal(0),
                analyte_of(row, spot),
            )
            if made.factor is not None and made.factor < 0:
                raise spot.broken("a factor below zero would turn limits and comparators around")
            if found.setdefault((row["system"], row["code"]), made) != made:
                raise spot.broken("the code stands twice, in two ways")
    return UnitTable(name, found, load_spellings(declared, folder, pack))


def load_labels(name: str, declared: Mapping, folder: Path, pack: str) -> LabelTable:
    """Read a label table; column ``labels`` holds codes separated by blanks."""
    system = declared.require("label_system").text("label_system")
    labels: dict[Key, tuple[Target, ...]] = {}
    is_guess = guessed(declared)
    for _spot, row in rows(declared, folder, pack, LABEL_COLUMNS, ("label_system",)):
        if not is_guess:
            labels[row["system"], row["code"]] = tuple(Target(system, code) for code in row["labels"].split())
    return LabelTable(name, labels)
