"""Read a pack's tables row by row for what the loader takes and an engineer would not have meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fhir_bridge.fhir.ucum import UCUM, is_ucum
from fhir_bridge.mapping_tools.check_digits import fault_of_code
from fhir_bridge.mapping_tools.findings import Finding, found
from fhir_bridge.mapping_tools.reading import PackText
from fhir_bridge.normalize.code_maps import NONE
from fhir_bridge.normalize.loaded_tables import TABLE_KINDS, load_table
from fhir_bridge.normalize.map_files import COLUMNS as MAP_COLUMNS
from fhir_bridge.normalize.pack import declared
from fhir_bridge.normalize.table_files import columns_of, guessed, read, rows
from fhir_bridge.normalize.tables import UNIT_COLUMNS
from fhir_bridge.normalize.yaml_text import Fault, Mapping, Spot

_MISREAD = {
    "pH": ("picohenry", "[pH]"),
    "PH": ("petahenry", "[pH]"),
    "C": ("coulomb", "Cel"),
    "F": ("farad", "[degF]"),
}
"""Unit as hospitals write it → what UCUM reads, what was meant."""


def table_findings(read: PackText) -> Iterator[Finding]:
    """Yield what is wrong with rows of code maps and unit tables, every table to its end."""
    if read.source is None:
        return
    for kind, judge in (("maps", _map_findings), ("units", _unit_findings)):
        try:
            entries = list(declared(read.source, kind))
        except Fault:
            continue
        for _name, entry in entries:
            try:
                # What is a guess still is not used, and its columns may be the wrong ones.
                if not guessed(entry):
                    yield from judge(entry, read.folder, read.label)
            except Fault:
                # The reader has told it.
                continue


def empty_findings(read: PackText) -> Iterator[Finding]:
    """Yield the tables that hold nothing and are no guess: a filter that fits no row, a file without any."""
    if read.source is None:
        return
    for kind in TABLE_KINDS:
        try:
            entries = list(declared(read.source, kind))
        except Fault:
            continue
        for name, entry in entries:
            if not _is_broken(kind, name, entry, read) and not guessed(entry) and _is_empty(kind, name, read):
                spot = read.source.require(kind).mapping(kind).key_spot(name)
                yield found(spot, "empty-table", f"{name} holds nothing: no row of its file is for it")


def _is_broken(kind: str, name: str, entry: Mapping, read: PackText) -> bool:
    """Whether the reader has told that the table cannot be read."""
    try:
        load_table(kind, name, entry, read.folder, read.label)
    except Fault:
        return True
    return False


def _is_empty(kind: str, name: str, read: PackText) -> bool:
    tables = read.tables
    if kind == "maps":
        return not (tables.maps[name].rows or tables.maps[name].waiting or tables.maps[name].unmapped)
    if kind == "units":
        return not (tables.units[name].rows or tables.units[name].spellings)
    if kind == "labels":
        return not tables.labels[name].labels
    return not (tables.preferred_units[name].targets or tables.preferred_units[name].spellings)


def _map_findings(entry: Mapping, folder: Path, label: str) -> Iterator[Finding]:
    seen: dict[tuple[str, ...], tuple[Spot, tuple[str, str]]] = {}
    # Rows that say how they differ may give one code several targets.
    may_differ = "equivalence" in columns_of(entry, folder)
    for spot, row in rows(entry, folder, label, MAP_COLUMNS, ("url",)):
        target = (row["target_system"], row["target_code"])
        key = (row["system"], row["code"], *(target if may_differ else ()))
        yield from _codes_of(row, spot)
        if not row["code"] or not (row["target_code"] or row["equivalence"] in NONE):
            continue
        first, held = seen.setdefault(key, (spot, target))
        if first != spot and held != target:
            yield found(
                spot,
                "two-targets",
                f"{row['code']} is mapped to {target[1]} here and to {held[1]} in line {first.line}",
            )
        elif first != spot:
            yield found(spot, "doubled-row", f"{row['code']} stands in line {first.line} already")


def _codes_of(row: dict[str, str], spot: Spot) -> Iterator[Finding]:
    for system, code in ((row["system"], row["code"]), (row["target_system"], row["target_code"])):
        fault = fault_of_code(system, code) if code else None
        if fault is not None:
            yield found(spot, *fault)
        if system == UCUM and code and not is_ucum(code):
            yield found(spot, "not-ucum", f"{code} is not UCUM")


def _unit_findings(entry: Mapping, folder: Path, label: str) -> Iterator[Finding]:
    seen: dict[tuple[str, str], Spot] = {}
    spellings: dict[str, str] = {}
    given = entry.get("spellings")
    if given is not None:
        for spot, row in read(folder, given.text("spellings"), label, given.spot):
            spellings[row.get("unit", "")] = row.get("ucum", "")
            yield from _unit(row.get("ucum", ""), spot)
    for spot, row in rows(entry, folder, label, UNIT_COLUMNS, ("spellings",)):
        if not row["canonical"]:
            continue
        # Where nothing is calculated the spellings have the last word.
        yield from _unit(
            row["canonical"] if row["factor"] else spellings.get(row["canonical"], row["canonical"]), spot
        )
        yield from _unit(row["local_ucum"], spot)
        if row["factor"].strip("0.") == "" and "0" in row["factor"]:
            yield found(spot, "zero-factor", f"the factor of {row['code']} is zero")
        first = seen.setdefault((row["system"], row["code"]), spot)
        if first != spot:
            yield found(spot, "doubled-row", f"{row['code']} stands in line {first.line} already; this row wins")


def _unit(unit: str, spot: Spot) -> Iterator[Finding]:
    if unit in _MISREAD:
        meaning, meant = _MISREAD[unit]
        yield found(spot, "misread-unit", f"UCUM reads {unit} as {meaning}; was {meant} meant?")
    elif unit and not is_ucum(unit):
        yield found(spot, "not-ucum", f"{unit} is not UCUM")
