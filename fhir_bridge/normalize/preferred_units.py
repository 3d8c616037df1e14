"""Tables of preferred units: which unit a code's values should be in, and what is known of the analyte.

For the verb ``unit`` with ``to: TABLE``. ``core`` brings ``by-loinc``; a pack may declare others, or its own
``by-loinc`` in its place.
"""

from __future__ import annotations

from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from fhir_bridge.fhir.ucum import canonical, is_ucum
from fhir_bridge.normalize.table_files import Key, number, read, rows
from fhir_bridge.normalize.unit_targets import Analyte, Target
from fhir_bridge.normalize.yaml_text import Mapping, Spot

COLUMNS = ("system", "code", "unit", "molar_mass", "valence")


@dataclass(frozen=True, slots=True)
class PreferredUnits:
    """Code → unit, and spellings of units that are no UCUM."""

    name: str
    targets: AnyMapping[Key, Target]
    spellings: AnyMapping[str, str]


def load_preferred(name: str, declared: Mapping, folder: Path, pack: str) -> PreferredUnits:
    """Read a table of preferred units as ``source.yaml`` declares it."""
    if is_ucum(name):
        raise declared.spot.broken(f"{name!r} is a UCUM unit and cannot name a table")
    targets: dict[Key, Target] = {}
    for spot, row in rows(declared, folder, pack, COLUMNS, ("spellings",)):
        if canonical(row["unit"]) is None:
            raise spot.broken(f"{row['unit']!r} is no UCUM unit that values can be converted to")
        target = Target(row["unit"], analyte_of(row, spot))
        if targets.setdefault((row["system"], row["code"]), target) != target:
            raise spot.broken("the code stands twice, with different units")
    return PreferredUnits(name, targets, load_spellings(declared, folder, pack))


def load_spellings(declared: Mapping, folder: Path, pack: str) -> dict[str, str]:
    """Read the file ``unit,ucum`` that a table names as ``spellings``."""
    given = declared.get("spellings")
    if given is None:
        return {}
    return {
        row.get("unit", ""): row.get("ucum", "") for _, row in read(folder, given.text("spellings"), pack, given.spot)
    }


def analyte_of(row: AnyMapping[str, str], spot: Spot) -> Analyte:
    """What a row says of its analyte; both columns may be empty."""
    return Analyte(_positive(row["molar_mass"], spot), _positive(row["valence"], spot))


def _positive(text: str, spot: Spot) -> Decimal | None:
    if not text:
        return None
    found = number(text, spot)
    if found <= 0:
        raise spot.broken("a molar mass and a valence are above zero")
    return found
