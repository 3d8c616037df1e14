"""The verb ``unit``: measured values in the UCUM unit that a rule asks for.

Two ways, which one step may take one after the other. ``table``: a table says for each analyte how the hospital's
unit relates to the canonical one (``local = canonical * factor + offset``). ``to``: a UCUM code, or a table of
preferred units by code, and UCUM does the arithmetic. Reference ranges beside the value are converted with it. The
value as sent stays in an extension of the new one.

Invariants:
    * by a table, a value is converted only if the analyte and the unit both stand in it; by UCUM, only between units
      of one dimension, amounts being no numbers;
    * a value that needs no arithmetic keeps its text;
    * a reference range never ends in another unit than its value unless it says so itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from fhir_bridge.fhir.ucum import UCUM, canonical
from fhir_bridge.normalize.draft import By, Draft, copied
from fhir_bridge.normalize.places import Found
from fhir_bridge.normalize.tables import Tables, UnitRow, UnitTable
from fhir_bridge.normalize.unit_targets import (
    EXACT,
    GUARD_DIGITS,
    Analyte,
    Target,
    guarded,
    kept_digits,
    read_unit,
    turns_around,
)
from fhir_bridge.normalize.verb_args import TARGET, TEXT, UNIT_TABLE, Act, Args, Verb
from fhir_bridge.normalize.yaml_text import did_you_mean

ORIGINAL_QUANTITY = "urn:fhir-bridge:extension:original-quantity"
"""Extension on a Quantity that was converted; holds the value and unit as sent."""

BY_LOINC = "by-loinc"
"""Core's table of preferred units, which also knows the molar mass of common analytes."""

Known = TypeVar("Known")
Aim = Callable[[dict[str, Any]], Target | None]
"""The unit for what is beside this code, if there is one to convert to."""


class Step(Protocol):
    """One way to convert a value with the ranges beside it."""

    def apply(self, draft: Draft, found: Found, rounded: set[int]) -> bool:
        """Convert; True when it has reported the value's unit, so that no other step need try.

        Args:
            rounded: Identities of the Quantities that a step before has given guard digits; a step adds its own.
        """
        ...


def _unit(args: Args) -> Act:
    place, by = args.place("path"), args.bench.by
    if "Quantity" not in place.types:
        raise args.values.spot.broken("unit works on a Quantity")
    steps: list[Step] = []
    if args.values.get("table") is not None:
        steps.append(_ByTable(by, args.named("table", args.bench.tables.units, "unit table")))
    if args.values.get("to") is not None:
        steps.append(_ByUcum(by, _aim(args, args.bench.tables), _spellings(args, args.bench.tables)))
    if not steps:
        raise args.values.spot.broken("unit needs a 'table' or what to convert 'to'")
    always = place.types == {"Quantity"}

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            if (always or found.key.endswith("Quantity")) and type(found.value) is dict:
                rounded: set[int] = set()
                any(step.apply(draft, found, rounded) for step in steps)

    return act


@dataclass(frozen=True, slots=True)
class _ByTable:
    """By the factors of a hospital's own table."""

    by: By
    table: UnitTable

    def apply(self, draft: Draft, found: Found, rounded: set[int]) -> bool:
        row, unit = _row(found.parent, self.table), found.value.get("unit")
        reported = [self._standardise(draft, each, row, unit, rounded) for each in _quantities(found)]
        return reported[0]

    def _standardise(
        self, draft: Draft, found: Found, row: UnitRow | None, value_unit: Any, rounded: set[int]
    ) -> bool:
        before, table = found.value, self.table
        unit = before.get("unit")
        if unit is None and row is not None and row.factor is not None and value_unit == row.local_unit:
            # The end of a range without a unit is in its value's, which is about to change.
            unit = value_unit
        # A coded unit is the sender's own statement in UCUM; its spelling is no longer a guess.
        if type(unit) is not str or "code" in before:
            return False
        sources, went_by = {"code": f"{found.place}.unit"}, table.name
        if row is not None and row.factor is not None and unit == row.local_unit:
            made = converted(before, row)
            if made is None:
                draft.flag("business-rule", f"the value has no counterpart in {row.canonical}", found.place)
                self._keep_unit(draft, found, row)
                return True
            after = made
            rounded.add(id(after))
            sources = _sources(before, after, found.place)
            went_by = f"{table.name}: local = canonical * {row.factor}" + (f" + {row.offset}" if row.offset else "")
        else:
            code = _spelled(unit, row, table)
            if code is None:
                text = f"unit table {table.name} does not know this unit of this analyte"
                draft.flag("code-invalid", text, found.place)
                return True
            after = {**before, "system": UCUM, "code": code}
            if row is not None and code != _ucum(row.canonical, table):
                text = f"another unit than table {table.name} states for this analyte"
                draft.flag("business-rule", text, found.place)
        found.parent[found.key] = after
        draft.changed(self.by, found.place, before, after, sources=sources, table=went_by)
        return False

    def _keep_unit(self, draft: Draft, found: Found, row: UnitRow) -> None:
        coded = {"system": UCUM, "code": row.local_ucum} if row.local_ucum else {}
        _say_unit(draft, self.by, found, {"unit": row.local_unit, **coded})


def _row(holder: dict[str, Any], table: UnitTable) -> UnitRow | None:
    return _first(holder, table.rows)


def _first(holder: dict[str, Any], known: Mapping[tuple[str, str], Known]) -> Known | None:
    """What is known of the first code that anything is known of."""
    for key in _codes(holder):
        found = known.get(key)
        if found is not None:
            return found
    return None


def _codes(holder: dict[str, Any]) -> Iterator[tuple[str, str]]:
    code = holder.get("code")
    for coding in code.get("coding", ()) if type(code) is dict else ():
        yield coding.get("system") or "", coding.get("code") or ""


def _quantities(found: Found) -> Iterator[Found]:
    """The value and its reference ranges' ends."""
    yield found
    ranges = found.parent.get("referenceRange")
    above = found.place.removesuffix("." + found.key)
    for index, given in enumerate(ranges if type(ranges) is list else ()):
        for end in ("low", "high"):
            if type(given.get(end)) is dict:
                yield Found(given, end, f"{above}.referenceRange[{index}].{end}")


def _spelled(unit: str, row: UnitRow | None, table: UnitTable) -> str | None:
    """The UCUM code of a unit that needs no conversion, or None when it is not known to be one."""
    if unit in table.spellings:
        return table.spellings[unit]
    if row is not None and row.factor is None and unit in (row.local_unit, row.canonical):
        return row.local_ucum or row.canonical
    if row is not None and unit == row.canonical:
        return row.canonical
    return None


def _ucum(unit: str, table: UnitTable) -> str:
    return table.spellings.get(unit, unit)


def converted(quantity: dict[str, Any], row: UnitRow) -> dict[str, Any] | None:
    """Return the Quantity in the canonical unit, the one sent in an extension; None for a number beyond measure."""
    value = canonical_value(quantity["value"], row) if "value" in quantity else None
    if value is None and "value" in quantity:
        return None
    return _in_unit(quantity, value, row.canonical, sent_code=row.local_ucum)


def canonical_value(local: int | Decimal, row: UnitRow) -> Decimal | None:
    """Return ``(local - offset) / factor``, rounded to what the sent precision supports plus guard digits.

    None for a number that would need more digits than any measurement has, and for a factor of zero.
    """
    assert row.factor is not None
    if not row.factor:
        return None
    sent = Decimal(str(local))
    last_digit = Decimal(1).scaleb(min(0, int(sent.as_tuple().exponent)))
    exact = EXACT.divide(EXACT.subtract(sent, row.offset), row.factor)
    return guarded(exact, EXACT.divide(last_digit, abs(row.factor)))


@dataclass(frozen=True, slots=True)
class _ByUcum:
    """To the unit that the rule names, or to the one that a table prefers for the record's code."""

    by: By
    aim: Aim
    spellings: dict[str, str]

    def apply(self, draft: Draft, found: Found, rounded: set[int]) -> bool:
        target = self.aim(found.parent)
        if target is None:
            return False
        unit = self._unit_of(found.value, target)
        if unit is None or not _can_turn(found, unit, target):
            code = "code-invalid" if _is_no_unit(found.value) else "business-rule"
            draft.flag(code, f"the unit is none that UCUM could convert to {target.unit}", found.place)
            return True
        for each in _quantities(found):
            self._convert(draft, each, target, unit, guards=GUARD_DIGITS if id(each.value) in rounded else 0)
        return False

    def _unit_of(self, quantity: dict[str, Any], target: Target) -> str | None:
        system, code, text = quantity.get("system"), quantity.get("code"), quantity.get("unit")
        if system == UCUM and code == target.unit:
            return target.unit
        if system not in (None, UCUM) or (code is not None and type(code) is not str):
            return None
        # A code without a system says no more than the text.
        coded = code if system == UCUM else None
        return read_unit(coded, text if type(text) is str else code, target.unit, self.spellings, target.analyte)

    def _convert(self, draft: Draft, found: Found, target: Target, value_unit: str, *, guards: int) -> None:
        before = found.value
        if before.get("code") == target.unit:
            return
        has_unit = any(name in before for name in ("unit", "code", "system"))
        unit = self._unit_of(before, target) if has_unit else value_unit
        value = before.get("value")
        if unit is None or (value is not None and type(value) is not int and not isinstance(value, Decimal)):
            draft.flag("code-invalid", f"the unit is none that UCUM could convert to {target.unit}", found.place)
            return
        if found.key in ("low", "high") and turns_around(unit, target.unit):
            # The lower limit would become the upper one.
            draft.flag("business-rule", f"the unit is none that UCUM could convert to {target.unit}", found.place)
            return
        if unit == target.unit and "code" not in before and has_unit:
            after, sources = {**before, "system": UCUM, "code": unit}, {"code": f"{found.place}.unit"}
        else:
            made = None if value is None else kept_digits(value, unit, target.unit, target.analyte, guards=guards)
            if value is not None and made is None:
                draft.flag("business-rule", f"the value has no counterpart in {target.unit}", found.place)
                _say_unit(draft, self.by, found, {"unit": unit, "system": UCUM, "code": unit})
                return
            after = _in_unit(before, made, target.unit, sent_code=unit)
            sources = _sources(before, after, found.place)
        found.parent[found.key] = after
        draft.changed(self.by, found.place, before, after, sources=sources, table=f"UCUM: {unit} to {target.unit}")


def _aim(args: Args, tables: Tables) -> Aim:
    node = args.values.require("to")
    name = node.text("to")
    if name in tables.preferred_units:
        preferred = tables.preferred_units[name].targets
        return lambda holder: _first(holder, preferred)
    if canonical(name) is None:
        meant = did_you_mean(name, tables.preferred_units)
        raise node.spot.broken(f"{name!r} is neither a UCUM unit nor a table of preferred units{meant}")
    units = args.named("table", tables.units, "unit table").rows if args.values.get("table") is not None else {}
    common = tables.preferred_units[BY_LOINC].targets if BY_LOINC in tables.preferred_units else {}

    def aim(holder: dict[str, Any]) -> Target:
        known = [(units.get(key) or common.get(key)) for key in _codes(holder)]
        return Target(name, next((found.analyte for found in known if found is not None), Analyte()))

    return aim


def _spellings(args: Args, tables: Tables) -> dict[str, str]:
    """Spellings of the preferred units' table, under those of the unit table that the rule names."""
    preferred = tables.preferred_units.get(args.text("to")) or tables.preferred_units.get(BY_LOINC)
    made = dict(preferred.spellings) if preferred is not None else {}
    if args.values.get("table") is not None:
        made |= args.named("table", tables.units, "unit table").spellings
    return made


def _is_no_unit(quantity: dict[str, Any]) -> bool:
    system = quantity.get("system")
    code = quantity.get("code") if system == UCUM else quantity.get("unit")
    return system not in (None, UCUM) or type(code) is not str or canonical(code) is None


def _can_turn(found: Found, unit: str, target: Target) -> bool:
    """False where more would become less and something beside the number says which side it is on."""
    if not turns_around(unit, target.unit):
        return True
    return "comparator" not in found.value and not found.parent.get("referenceRange")


def _say_unit(draft: Draft, by: By, found: Found, unit: dict[str, str]) -> None:
    """Let the end of a range that stays in its value's old unit say so, as it said nothing."""
    before = found.value
    if not any(name in before for name in ("unit", "code", "system")):
        found.parent[found.key] = after = {**before, **unit}
        draft.changed(by, found.place, before, after)


def _in_unit(quantity: dict[str, Any], value: int | Decimal | None, unit: str, *, sent_code: str) -> dict[str, Any]:
    """The Quantity with another value and unit, what was sent in an extension; the first such extension stays."""
    extensions = quantity.get("extension") or []
    if not any(each.get("url") == ORIGINAL_QUANTITY for each in extensions):
        original = copied(quantity)
        for name in ("extension", "id"):
            original.pop(name, None)
        if sent_code and "code" not in original:
            original |= {"system": UCUM, "code": sent_code}
        extensions = [{"url": ORIGINAL_QUANTITY, "valueQuantity": original}, *extensions]
    made: dict[str, Any] = {"extension": extensions}
    made |= {k: v for k, v in quantity.items() if k.removeprefix("_") not in ("extension", "unit", "system", "code")}
    if value is not None:
        made["value"] = value
    return made | {"unit": unit, "system": UCUM, "code": unit}


def _sources(before: dict[str, Any], after: dict[str, Any], place: str) -> dict[str, str]:
    """Where the parts of a converted Quantity come from: the whole as it stood, ahead of extensions that it had."""
    given = next((name for name in ("unit", "code") if name in before), None)
    sources = {} if given is None else dict.fromkeys(("unit", "code"), f"{place}.{given}")
    held = before.get("extension") or []
    if len(after["extension"]) > len(held):
        sources["extension[0].valueQuantity"] = place
        sources |= {f"extension[{n + 1}]": f"{place}.extension[{n}]" for n in range(len(held))}
    return sources


VERBS = {
    "unit": Verb(
        {"path": TARGET, "table": UNIT_TABLE.maybe(), "to": TEXT.maybe()},
        _unit,
        "converts a Quantity and the reference ranges beside it; the original stays in an extension",
        either=(("table",), ("to",)),
    )
}
