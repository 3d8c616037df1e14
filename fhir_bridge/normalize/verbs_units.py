"""The verb ``unit``: measured values in the canonical UCUM unit of what was measured.

A table says for each analyte how the hospital's unit relates to the canonical one
(``local = canonical * factor + offset``). Reference ranges beside the value are converted with it. The value as
sent stays in an extension of the new one.

Invariants:
    * a value is never converted unless the analyte and the unit both stand in the table;
    * a value that needs no arithmetic keeps its text.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Context, Decimal
from typing import Any

from fhir_bridge.normalize.draft import By, Draft, copied
from fhir_bridge.normalize.tables import UnitRow, UnitTable
from fhir_bridge.normalize.verb_args import Act, Args, Verb

UCUM = "http://unitsofmeasure.org"
ORIGINAL_QUANTITY = "urn:fhir-bridge:extension:original-quantity"
"""Extension on a Quantity that was converted; holds the value and unit as sent."""

GUARD_DIGITS = 2
# Measured on the sample hospital's 1,354 converted values: with two digits beyond the precision sent every value
# lies within half a unit of the last digit sent; with one digit 7 values do not, with none 53 (2026-11).
_EXACT = Context(prec=60)


def _unit(args: Args) -> Act:
    place, by = args.place("path"), args.bench.by
    table: UnitTable = args.named("table", args.bench.tables.units, "unit table")
    if "Quantity" not in place.types:
        raise args.values.spot.broken("unit works on a Quantity")

    def act(draft: Draft) -> None:
        for found in place.find(draft.body):
            if found.key.endswith("Quantity"):
                row = _row(found.parent, table)
                for key, holder, where in _quantities(found.parent, found.key, found.place):
                    _standardise(draft, by, holder, key, where, row, table)

    return act


def _row(holder: dict[str, Any], table: UnitTable) -> UnitRow | None:
    code = holder.get("code")
    for coding in code.get("coding", ()) if type(code) is dict else ():
        row = table.rows.get((coding.get("system") or "", coding.get("code") or ""))
        if row is not None:
            return row
    return None


def _quantities(holder: dict[str, Any], key: str, place: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The value and its reference ranges' ends, each as a key of its holder."""
    yield key, holder, place
    above = place.removesuffix("." + key)
    for index, given in enumerate(holder.get("referenceRange") or ()):
        for end in ("low", "high"):
            if end in given:
                yield end, given, f"{above}.referenceRange[{index}].{end}"


def _standardise(
    draft: Draft, by: By, holder: dict[str, Any], key: str, place: str, row: UnitRow | None, table: UnitTable
) -> None:
    before = holder[key]
    unit = before.get("unit")
    # A coded unit is the sender's own statement in UCUM; its spelling is no longer a guess.
    if type(unit) is not str or "code" in before:
        return
    sources, went_by = {"code": f"{place}.unit"}, table.name
    if row is not None and row.factor is not None and unit == row.local_unit:
        after = converted(before, row)
        sources["extension[0].valueQuantity"] = place
        went_by = f"{table.name}: local = canonical * {row.factor}" + (f" + {row.offset}" if row.offset else "")
    else:
        code = _spelled(unit, row, table)
        if code is None:
            draft.flag("code-invalid", f"unit table {table.name} does not know this unit of this analyte", place)
            return
        after = {**before, "system": UCUM, "code": code}
        if row is not None and code != _ucum(row.canonical, table):
            draft.flag("business-rule", f"another unit than table {table.name} states for this analyte", place)
    holder[key] = after
    draft.changed(by, place, before, after, sources=sources, table=went_by)


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


def converted(quantity: dict[str, Any], row: UnitRow) -> dict[str, Any]:
    """Return the Quantity in the canonical unit, the one sent in an extension."""
    original = copied(quantity)
    if row.local_ucum:
        original |= {"system": UCUM, "code": row.local_ucum}
    made: dict[str, Any] = {"extension": [{"url": ORIGINAL_QUANTITY, "valueQuantity": original}]}
    made |= {k: v for k, v in quantity.items() if k not in ("unit", "system", "code")}
    if "value" in quantity:
        made["value"] = canonical_value(quantity["value"], row)
    return made | {"unit": row.canonical, "system": UCUM, "code": row.canonical}


def canonical_value(local: int | Decimal, row: UnitRow) -> Decimal:
    """Return ``(local - offset) / factor``, rounded to what the sent precision supports plus guard digits."""
    assert row.factor is not None
    sent = Decimal(str(local))
    last_digit = Decimal(1).scaleb(min(0, int(sent.as_tuple().exponent)))
    width = _EXACT.divide(last_digit, abs(row.factor))
    quantum = Decimal(1).scaleb(width.adjusted() - GUARD_DIGITS)
    exact = _EXACT.divide(_EXACT.subtract(sent, row.offset), row.factor)
    # Never coarser than 1: an exponent above zero would hide digits that were sent.
    return exact.quantize(min(quantum, Decimal(1)), context=_EXACT)


VERBS = {"unit": Verb(("path", "table"), _unit)}
