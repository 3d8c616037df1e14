"""Load code maps: CSV as a hospital hands it over, or a FHIR ConceptMap; and write one as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from collections.abc import Mapping as AnyMapping
from pathlib import Path

from fhir_bridge.normalize.code_maps import EQUIVALENCES, NONE, CodeMap, MapRow, Target
from fhir_bridge.normalize.concept_maps import NoConceptMap, read_concept_map
from fhir_bridge.normalize.table_files import GUESS, columns_of, guessed, inside, rows
from fhir_bridge.normalize.yaml_text import Mapping, Spot, did_you_mean

COLUMNS = (
    "system",
    "system_version",
    "code",
    "display",
    "target_system",
    "target_version",
    "target_code",
    "target_display",
    "equivalence",
    "comment",
)


def load_map(name: str, declared: Mapping, folder: Path, pack: str) -> CodeMap:
    """Read a code map as ``source.yaml`` declares it."""
    file = declared.require("file")
    if file.text("file").endswith(".json"):
        return _load_concept_map(name, declared, folder)
    has_equivalence = "equivalence" in columns_of(declared, folder)
    made: dict[tuple[str, ...], MapRow] = {}
    waiting: set[str] = set()
    is_guess = guessed(declared)
    for spot, row in rows(declared, folder, pack, COLUMNS, ("url",)):
        if is_guess:
            waiting.add(row["system"])
            continue
        found = _row(row, spot)
        # A row without a target code is work to do, unless it says that there is none.
        if not found.target.code and found.equivalence not in NONE:
            waiting.add(found.system)
        else:
            # A second target is a slip where rows say nothing about how they differ.
            key = (found.system, found.code, *((found.target.system, found.target.code) if has_equivalence else ()))
            if made.setdefault(key, found) != found:
                if has_equivalence:
                    raise spot.broken("the code is mapped twice, in two ways")
                told = "empty 'target_code' in both rows until somebody has chosen, and the code is reported"
                raise spot.broken(f"the code is mapped twice, to different targets: {told}")
    given = declared.get("url")
    url = given.text("url") if given is not None else f"urn:fhir-bridge:map:{pack}:{name}"
    return CodeMap(name, tuple(made.values()), url=url, waiting=frozenset(waiting))


def _load_concept_map(name: str, declared: Mapping, folder: Path) -> CodeMap:
    declared.only(("file", GUESS), "key of a map that is a ConceptMap")
    node = declared.require("file")
    path = inside(folder, node.text("file"), node.spot)
    try:
        found = read_concept_map(name, path.read_bytes())
    except OSError as error:
        raise node.spot.broken(f"{node.value} cannot be read: {type(error).__name__}") from error
    except NoConceptMap as error:
        raise node.spot.broken(f"{node.value} is no ConceptMap of R4: {error}") from error
    return CodeMap(name, (), url=found.url, waiting=found.systems) if guessed(declared) else found


def _row(row: AnyMapping[str, str], spot: Spot) -> MapRow:
    equivalence = row["equivalence"] or "equivalent"
    if equivalence not in EQUIVALENCES:
        meant = did_you_mean(equivalence, EQUIVALENCES)
        raise spot.broken(f"'equivalence' must be one of {', '.join(EQUIVALENCES)}{meant}")
    if row["target_code"] and equivalence in NONE:
        raise spot.broken(f"{equivalence} means that there is no code, and one is given")
    if not row["target_code"] and row["equivalence"] and equivalence not in NONE:
        raise spot.broken(f"{equivalence} needs a target code")
    return MapRow(
        row["system"],
        row["code"],
        Target(row["target_system"], row["target_code"], row["target_display"]),
        equivalence,
        display=row["display"],
        comment=row["comment"],
        system_version=row["system_version"],
        target_version=row["target_version"],
    )


def as_csv(found: Iterable[MapRow]) -> str:
    """Return rows as a table with the columns that are in use."""
    lines = [_cells(row) for row in found]
    needed = {"system", "code", "target_system", "target_code", "equivalence"}
    used = [name for name in COLUMNS if name in needed or any(line[name] for line in lines)]
    text = io.StringIO()
    writer = csv.DictWriter(text, used, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _cells(row: MapRow) -> dict[str, str]:
    return {
        "system": row.system,
        "system_version": row.system_version,
        "code": row.code,
        "display": row.display,
        "target_system": row.target.system,
        "target_version": row.target_version,
        "target_code": row.target.code,
        "target_display": row.target.display,
        "equivalence": row.equivalence,
        "comment": row.comment,
    }
