"""Which codes, units and identifier systems of a sample a pack's tables know.

A code of a standard system needs no table; one of any other system does. A unit is known if it is UCUM and says so,
or if a unit table spells it. An identifier system is known if a map or a constant of the pack names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fhir_bridge.fhir.code_systems import is_standard
from fhir_bridge.fhir.ucum import UCUM, is_ucum
from fhir_bridge.mapping_tools.walking import Leaf
from fhir_bridge.normalize.tables import Tables

T = TypeVar("T")

CODE, UNIT, IDENTIFIER = "code", "unit", "identifier system"
MAX_DISTINCT = 50_000
"""Distinct gaps that are told apart; a sample with free text for codes must not fill the memory."""

_QUANTITIES = frozenset({"Quantity", "Age", "Count", "Distance", "Duration", "SimpleQuantity"})
_MAX_DISPLAYS = 5


@dataclass(slots=True)
class Gap:
    """A code, unit or system that no table knows, how often it came, and what stood beside it."""

    kind: str
    system: str
    value: str
    path: str
    first: str
    count: int = 0
    displays: Counter[str] = field(default_factory=Counter)


class Vocabulary:
    """Counts what the tables know and what they do not."""

    def __init__(self, tables: Tables, constants: Iterable[str]) -> None:
        self._known = {key for each in tables.maps.values() for key in each.by_code}
        self._targets = {system for each in tables.maps.values() for system in each.target_systems if system}
        self._units = {spelling for table in tables.units.values() for spelling in table.spellings}
        for table in tables.units.values():
            self._units |= {unit for row in table.rows.values() for unit in (row.local_unit, row.canonical) if unit}
        self._systems = set(constants) | {
            name for each in tables.maps.values() for (_s, code), t in each.targets.items() for name in (code, t.code)
        }
        self.systems: Counter[str] = Counter()
        self.unknown_codes: Counter[str] = Counter()
        self.units: Counter[tuple[str, str]] = Counter()
        self.gaps: dict[tuple[str, str, str], Gap] = {}
        self.beyond = 0

    def see(self, nodes: Iterable[Leaf], where: str) -> None:
        """Count what one record holds.

        Args:
            nodes: Of the record as it was sent.
            where: What the record is called.
        """
        concept: Leaf | None = None
        for node in nodes:
            value = node.value
            if type(value) is not dict or ".meta." in node.path:
                continue
            if node.type == "CodeableConcept":
                concept = node
            elif node.type == "Coding" and type(value.get("code")) is str:
                self._coding(value, node, where, _text_beside(node, concept))
            elif node.type in _QUANTITIES:
                self._quantity(value, node, where)
            elif node.type == "Identifier" and "value" in value:
                self._identifier(value, node, where)

    def by_volume(self) -> list[Gap]:
        """What is missing, the most frequent first."""
        return sorted(self.gaps.values(), key=lambda gap: (-gap.count, gap.kind, gap.system, gap.value))

    def _coding(self, coding: Mapping[str, Any], node: Leaf, where: str, text: Any) -> None:
        system, code = str(coding.get("system") or ""), str(coding["code"])
        _count(self.systems, system)
        if (system, code) in self._known or (system and self._is_standard(system)):
            return
        _count(self.unknown_codes, system)
        self._miss(CODE, system, code, node, where, coding.get("display") or text)

    def _is_standard(self, system: str) -> bool:
        return system in self._targets or is_standard(system)

    def _quantity(self, quantity: Mapping[str, Any], node: Leaf, where: str) -> None:
        unit, code = quantity.get("unit"), quantity.get("code")
        _count(self.units, (str(unit or ""), str(code or "")))
        if quantity.get("system") == UCUM and type(code) is str:
            if not is_ucum(code):
                self._miss(UNIT, UCUM, code, node, where, unit)
        elif type(unit) is str and unit not in self._units:
            self._miss(UNIT, "", unit, node, where, None)

    def _identifier(self, identifier: Mapping[str, Any], node: Leaf, where: str) -> None:
        system = str(identifier.get("system") or "")
        if system not in self._systems and not is_standard(system):
            kind = identifier.get("type")
            self._miss(IDENTIFIER, system, "", node, where, kind.get("text") if type(kind) is dict else None)

    def _miss(self, kind: str, system: str, value: str, node: Leaf, where: str, display: Any) -> None:
        key = (kind, system, value)
        gap = self.gaps.get(key)
        if gap is None:
            if len(self.gaps) >= MAX_DISTINCT:
                self.beyond += 1
                return
            gap = self.gaps[key] = Gap(kind, system, value, node.path, f"{where} {node.place}")
        gap.count += 1
        if type(display) is str and (display in gap.displays or len(gap.displays) < _MAX_DISPLAYS):
            gap.displays[display] += 1


def _text_beside(coding: Leaf, concept: Leaf | None) -> Any:
    """The text of the concept that holds a coding: what a code means where it comes without a display."""
    is_inside = concept is not None and coding.place.startswith(f"{concept.place}.coding")
    return concept.value.get("text") if concept is not None and is_inside else None


def _count(counter: Counter[T], key: T) -> None:
    """Count one more, unless that would tell more apart than anybody reads."""
    if key in counter or len(counter) < MAX_DISTINCT:
        counter[key] += 1
