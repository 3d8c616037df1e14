"""Compile one column of a CSV file: what its cells mean, by the type of the element they go to."""

from __future__ import annotations

from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fhir_bridge.fhir.primitives import TESTS
from fhir_bridge.fhir.tables import r4
from fhir_bridge.fhir.ucum import is_ucum
from fhir_bridge.formats import Column
from fhir_bridge.formats.csv_cells import (
    DATES,
    NUMBERS,
    Made,
    PatternWrong,
    as_coding,
    as_date,
    as_listed,
    as_number,
    as_quantity,
    as_text,
)
from fhir_bridge.formats.csv_table import id_from
from fhir_bridge.normalize.csv_places import Place, compile_place
from fhir_bridge.normalize.verb_args import replaced
from fhir_bridge.normalize.yaml_text import Mapping, Spot, did_you_mean

COLUMN_KEYS = (
    "path",
    "date",
    "zone",
    "decimal",
    "thousands",
    "codes",
    "system",
    "display",
    "unit",
    "unit_from",
    "ucum",
    "else",
    "reference",
    "with",
    "split",
    "required",
    "optional",
    "why",
)
QUANTITIES = frozenset({"Quantity", "Age", "Count", "Distance", "Duration", "SimpleQuantity", "MoneyQuantity"})
_SIGNS = {"comma": ",", "point": ".", ",": ",", ".": "."}
_FOR = {
    "date": DATES,
    "zone": DATES - {"date"},
    "decimal": NUMBERS | QUANTITIES,
    "thousands": NUMBERS | QUANTITIES,
    "system": frozenset({"CodeableConcept", "Coding", "Identifier"}),
    "display": frozenset({"CodeableConcept", "Coding"}),
    "unit": QUANTITIES,
    "unit_from": QUANTITIES,
    "ucum": QUANTITIES,
    "reference": frozenset({"Reference"}),
}
"""Key of a column → types of element that it says something about."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the columns of one file share."""

    type_name: str
    constants: AnyMapping[str, str]
    zone: ZoneInfo | None


def compile_column(name: str, given: Mapping | None, place: Place, setting: Setting, spot: Spot) -> Column:
    """Compile a column; ``given`` are its keys, None where the pack only names the path.

    Raises:
        RulesetBroken: A key that says nothing about this type, or one that this type needs.
    """
    said = _Said(given, place, setting, spot)
    said.check()
    beside = said.names("with")
    if place.type_name == "Reference":
        target = said.target()
        return Column(
            name, place.steps, lambda cell: cell, beside=beside, is_required=said.is_true("required"),
            whole=lambda texts: {"reference": f"{target}/{id_from(texts)}"},
        )  # fmt: skip
    make, also = said.make(name)
    other = given.get("else") if given is not None else None
    otherwise = compile_place(other.text("else"), setting.type_name, other.spot) if other is not None else None
    if otherwise is not None and otherwise.type_name not in ("string", "markdown"):
        assert other is not None
        raise other.spot.broken(f"'else' takes the text as it stands: {otherwise.expression} is no string")
    return Column(
        name, place.steps, make, beside=beside, also=also, split=said.text("split") or "",
        otherwise=otherwise.steps if otherwise is not None else (), is_required=said.is_true("required"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Said:
    """The keys of a column, with a complaint for every mistake."""

    given: Mapping | None
    place: Place
    setting: Setting
    spot: Spot

    def check(self) -> None:
        """Complain about a key that means nothing for this type of element."""
        kind = self.place.type_name
        for key, types in _FOR.items():
            if self.given is not None and key in self.given.names() and kind not in types:
                told = f"{key!r} says nothing about {self.place.expression}, which is a {kind}"
                raise self.given.key_spot(key).broken(told)
        if self.given is not None and "zone" in self.given.names() and "date" not in self.given.names():
            told = "'zone' needs 'date': FHIR's own form, which is taken without it, says whose clocks it tells"
            raise self.given.key_spot("zone").broken(told)

    def make(self, column: str) -> tuple[Made, tuple[tuple[str, str], ...]]:
        """What turns a cell into a value, and columns that fill parts of it."""
        kind = self.place.type_name
        if kind in QUANTITIES:
            return self._quantity()
        if kind in ("CodeableConcept", "Coding"):
            return self._coded(column)
        if kind == "Identifier":
            system = self._system()
            return lambda cell: {"system": system, "value": cell.strip()}, ()
        if not self.place.is_primitive:
            parts = [e for e in r4().types[kind].elements if e not in ("id", "extension", "modifierExtension")]
            told = f"{self.place.expression} is a {kind}: name an element inside it"
            raise self.spot.broken(f"{told}, such as {self.place.text}.{parts[0]}")
        return self._primitive(column, kind), ()

    def target(self) -> str:
        """The type that a reference points to."""
        word = self.text("reference")
        allowed = self.place.element.targets or tuple(r4().resource_types())
        if word is None:
            told = ", ".join(sorted(allowed)[:8])
            raise self.spot.broken(f"{self.place.expression} is a Reference: say to what, 'reference: {told}'")
        if word not in allowed and "Resource" not in allowed:
            assert self.given is not None
            told = f"{self.place.expression} cannot point to {word!r}{did_you_mean(word, allowed)}"
            raise self.given.require("reference").spot.broken(told)
        return word

    def text(self, key: str) -> str | None:
        """A text, ``%source.name`` replaced; None where there is none. Blanks are texts too."""
        node = self.given.get(key) if self.given is not None else None
        if node is None:
            return None
        if not isinstance(node.value, str) or not node.value:
            raise node.spot.broken(f"{key!r} must be a text")
        return replaced(str(node.value), self.setting.constants, node)

    def names(self, key: str) -> tuple[str, ...]:
        """One text or several."""
        node = self.given.get(key) if self.given is not None else None
        if node is None:
            return ()
        nodes: Sequence[Any] = [node] if isinstance(node.value, str) else list(node.items(key))
        return tuple(each.text(key) for each in nodes)

    def is_true(self, key: str) -> bool:
        """True where the key says so."""
        node = self.given.get(key) if self.given is not None else None
        if node is not None and type(node.value) is not bool:
            raise node.spot.broken(f"{key!r} must be true or false")
        return node is not None and node.value is True

    def _primitive(self, column: str, kind: str) -> Made:
        codes = self._codes(kind)
        if codes is not None:
            return as_listed(codes, column)
        if kind in NUMBERS:
            return self._number(kind)
        if kind in DATES and self.given is not None and self.given.get("date") is not None:
            return self._date(kind)
        return as_text(kind)

    def _codes(self, kind: str) -> dict[str, Any] | None:
        node = self.given.get("codes") if self.given is not None else None
        if node is None:
            return None
        listed = node.mapping("'codes'")
        found = {}
        for word in listed.names():
            spot, value = listed.key_spot(word), listed.require(word).plain()
            problem = TESTS[kind](value if type(value) is bool or kind in NUMBERS else str(value))
            if problem is not None:
                raise spot.broken(f"{self.place.expression}: the value of {word!r} {problem.text}")
            found[word] = value if type(value) in (bool, int) else str(value)
            self._check_binding(found[word], spot)
        return found

    def _check_binding(self, value: Any, spot: Spot) -> None:
        url = self.place.element.codes
        if url is None or self.place.type_name != "code":
            return
        allowed = frozenset().union(*r4().codes[url].values())
        if value not in allowed:
            told = did_you_mean(str(value), allowed)
            raise spot.broken(f"{self.place.expression} takes only codes of {url}, not {value!r}{told}")

    def _number(self, kind: str) -> Made:
        decimal = self._sign("decimal", ".")
        thousands = self.text("thousands") or ""
        if len(thousands) > 1 or thousands == decimal or thousands.isalnum():
            raise self.spot.broken("'thousands' must be one sign, another than the decimal one")
        return as_number(kind, decimal, thousands)

    def _sign(self, key: str, default: str) -> str:
        word = self.text(key)
        if word is None:
            return default
        if word not in _SIGNS:
            assert self.given is not None
            raise self.given.require(key).spot.broken(f"{key!r} must be comma or point")
        return _SIGNS[word]

    def _date(self, kind: str) -> Made:
        assert self.given is not None
        node = self.given.require("date")
        try:
            return as_date(kind, self.names("date"), self._zone())
        except PatternWrong as wrong:
            raise node.spot.broken(str(wrong)) from None

    def _zone(self) -> ZoneInfo | None:
        name = self.text("zone")
        if name is None:
            return self.setting.zone
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError):
            assert self.given is not None
            raise self.given.require("zone").spot.broken("not an IANA time zone") from None

    def _quantity(self) -> tuple[Made, tuple[tuple[str, str], ...]]:
        unit, ucum, column = self.text("unit"), self.text("ucum"), self.text("unit_from")
        if ucum is not None and not is_ucum(ucum):
            assert self.given is not None
            raise self.given.require("ucum").spot.broken(
                "not a UCUM code; use 'unit' for the hospital's own spelling"
            )
        if column is not None and (unit or ucum):
            raise self.spot.broken("'unit_from' names the column of the unit: leave 'unit' and 'ucum' out")
        also = (("unit", column),) if column is not None else ()
        return as_quantity(self._number("decimal"), unit=unit or "", ucum=ucum or ""), also

    def _coded(self, column: str) -> tuple[Made, tuple[tuple[str, str], ...]]:
        system, display = self._system(), self.text("display")
        codes = self._codes("code")
        code = as_listed(codes, column) if codes is not None else as_text("code")
        coding = as_coding(code, system)
        if self.place.type_name == "Coding":
            return coding, (("display", display),) if display is not None else ()
        also = (("text", display),) if display is not None else ()
        return lambda cell: {"coding": [coding(cell)]}, also

    def _system(self) -> str:
        system = self.text("system")
        if system is None:
            kind = self.place.type_name
            told = (
                "the text alone goes to its 'text'" if kind == "CodeableConcept" else "it says whose codes these are"
            )
            raise self.spot.broken(f"{self.place.expression} is a {kind} and needs 'system'; {told}")
        problem = TESTS["uri"](system)
        if problem is not None:
            assert self.given is not None
            raise self.given.require("system").spot.broken(problem.text)
        return system
