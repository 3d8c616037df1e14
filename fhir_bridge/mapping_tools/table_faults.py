"""Read a pack's tables row by row for what the loader takes and an engineer would not have meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fhir_bridge.fhir.ucum import UCUM, is_ucum
from fhir_bridge.mapping_tools.check_digits import fault_of_code
from fhir_bridge.mapping_tools.findings import Finding, found
from fhir_bridge.mapping_tools.reading import PackText, RuleText
from fhir_bridge.normalize.map_files import COLUMNS as MAP_COLUMNS
from fhir_bridge.normalize.pack import declared
from fhir_bridge.normalize.table_files import read, rows
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
                yield from judge(entry, read.folder, read.label)
            except Fault:
                # The reader has told it.
                continue


def literal_findings(rules: Sequence[RuleText]) -> Iterator[Finding]:
    """Yield what is wrong with codes of LOINC and SNOMED CT that stand in rules."""
    for rule in rules:
        for step in rule.steps:
            for system, code in _codings(step.args.value):
                fault = fault_of_code(system, code)
                if fault is not None:
                    yield found(step.args.spot, *fault)


def _codings(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        system, code = value.get("system"), value.get("code")
        if isinstance(system, str) and isinstance(code, str):
            yield system, code
        for each in value.values():
            yield from _codings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _codings(each)


def _map_findings(entry: Mapping, folder: Path, label: str) -> Iterator[Finding]:
    seen: dict[tuple[str, str], tuple[Spot, tuple[str, str]]] = {}
    for spot, row in rows(entry, folder, label, MAP_COLUMNS, ()):
        key, target = (row["system"], row["code"]), (row["target_system"], row["target_code"])
        yield from _codes_of(row, spot)
        if not row["code"]:
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
