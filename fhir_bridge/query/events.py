"""What a clinical record says happened: what, when, with which outcome, by whom.

For recognising that two records tell of one event. Only types for which R4 has an element for each of these are
known here; what a record leaves open stays open, and then it equals nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from fhir_bridge.fhir.dates import ALWAYS, Interval, interval, period
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.ucum import UCUM

Body = dict[str, Any]
Concept = Mapping[str, frozenset[str]]
"""System → codes, as the codings of one CodeableConcept give them."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measured number with its UCUM unit; known to half a unit of its last digit."""

    comparator: str
    unit: str
    number: Decimal

    def equals(self, other: Quantity) -> bool:
        """Tell whether both round to the same at the precision of the coarser one."""
        if (self.comparator, self.unit) != (other.comparator, other.unit):
            return False
        apart = abs(self.number - other.number)
        return not apart or apart <= _half_step(self.number) or apart <= _half_step(other.number)


@dataclass(frozen=True, slots=True)
class Event:
    """Code, time, outcome and performers of one record; ``outcome`` None and an empty rest mean: not known.

    ``denied`` holds what turns a record into its opposite or takes it back (``not-done``, ``doNotPerform``,
    modifier extensions).
    """

    code: Concept
    time: Interval | None
    outcome: tuple[Any, ...] | None
    performers: frozenset[str]
    denied: str

    def equals(self, other: Event) -> bool:
        """Tell whether everything is known of both and is the same."""
        return (
            self.time is not None
            and self.time == other.time
            and self.denied == other.denied
            and _same_concept(self.code, other.code)
            and not self.performers.isdisjoint(other.performers)
            and _same_outcome(self.outcome, other.outcome)
        )

    def may_be(self, other: Event) -> bool:
        """Tell whether nothing that is known of both differs."""
        return (
            (self.time is None or other.time is None or self.time == other.time)
            and self.denied == other.denied
            and (not self.code or not other.code or _same_concept(self.code, other.code))
            and (self.outcome is None or other.outcome is None or _same_outcome(self.outcome, other.outcome))
        )


def event_of(resource: Body, identities: Callable[[str], Iterable[str]]) -> Event | None:
    """Return the event that a valid R4 resource tells of; None for a type that is not compared.

    Args:
        identities: Literal reference → what else its target is known by.
    """
    form = _FORMS.get(resource["resourceType"])
    if form is None:
        return None
    people = {known for reference in form.performers(resource) for known in _known_by(reference, identities)}
    return Event(
        _concept(resource.get(form.code)),
        _time(resource, form.times),
        form.outcome(resource),
        frozenset(people),
        _denied(resource),
    )


@dataclass(frozen=True, slots=True)
class _Form:
    """Where a type says what an event is made of."""

    code: str
    times: tuple[str, ...]
    performers: Callable[[Body], list[Body]]
    outcome: Callable[[Body], tuple[Any, ...] | None]


def _concept(value: object) -> Concept:
    found: dict[str, set[str]] = {}
    for coding in value.get("coding", ()) if type(value) is dict else ():
        if "system" in coding and "code" in coding:
            found.setdefault(coding["system"], set()).add(coding["code"])
    return {system: frozenset(codes) for system, codes in found.items()}


def _same_concept(one: Concept, two: Concept) -> bool:
    """Tell whether two concepts have a code in common and differ in no system that both use."""
    if one == two:
        return bool(one)
    shared = one.keys() & two.keys()
    return bool(shared) and all(not one[system].isdisjoint(two[system]) for system in shared)


def _time(resource: Body, names: Iterable[str]) -> Interval | None:
    """Return the clinical time, whole: a Period of which one end is open is not known."""
    for name in names:
        value = resource.get(name)
        if type(value) is str:
            return interval(value)
        found = period(value)
        if found is not None:
            return None if found[0] == ALWAYS[0] or found[1] == ALWAYS[1] else found
    return None


def _known_by(reference: Body, identities: Callable[[str], Iterable[str]]) -> Iterable[str]:
    literal, logical = reference.get("reference"), reference.get("identifier", {})
    if type(literal) is str and not literal.startswith("#"):
        yield literal
        yield from identities(literal)
    if "system" in logical and "value" in logical:
        yield f"{logical['system']}|{logical['value']}"


def _denied(resource: Body) -> str:
    status = resource.get("status", "")
    verified = _concept(resource.get("verificationStatus"))
    taken_back = {code for codes in verified.values() for code in codes} & {"refuted", "entered-in-error"}
    said = {status} & {"not-done", "entered-in-error", "cancelled"} | taken_back
    if resource.get("doNotPerform") is True:
        said.add("doNotPerform")
    # Whatever it means, it may mean the opposite: only who says the same of a record tells of the same.
    modifiers = resource.get("modifierExtension")
    return " ".join([*sorted(said), *([] if modifiers is None else [render(modifiers).decode()])])


# --- outcomes


def _no_outcome(_: Body) -> tuple[Any, ...]:
    return ()


def _measured(resource: Body) -> tuple[Any, ...] | None:
    """Value and components of an Observation; None if there is nothing, or a part of it cannot be compared."""
    parts = resource.get("component", ())
    values = [(_concept(part.get("code")), _value(part)) for part in parts]
    own = _value(resource)
    if own is not None:
        values.append(({}, own))
    return None if not values or any(value is None for _, value in values) else tuple(values)


def _value(holder: Body) -> Any:
    for key, value in holder.items():
        if not key.startswith("value"):
            continue
        if key == "valueQuantity":
            return _quantity(value)
        if key == "valueCodeableConcept":
            return _concept(value) or None
        return value if type(value) in (str, bool, int, Decimal) else None
    return None


def _quantity(value: Body) -> Quantity | None:
    number = value.get("value")
    if value.get("system") != UCUM or "code" not in value or number is None:
        return None
    return Quantity(value.get("comparator", ""), value["code"], Decimal(number))


def _half_step(number: Decimal) -> Decimal:
    exponent = number.as_tuple().exponent
    return _half_of_place(min(exponent, 0)) if type(exponent) is int else Decimal(0)


@lru_cache(maxsize=64)
def _half_of_place(exponent: int) -> Decimal:
    return Decimal((0, (5,), exponent - 1))


def _same_outcome(one: tuple[Any, ...] | None, two: tuple[Any, ...] | None) -> bool:
    """Tell whether two outcomes are known and have the same parts, in any order."""
    if one is None or two is None or len(one) != len(two):
        return False
    left = list(two)
    for part in one:
        match = next((other for other in left if _same_part(part, other)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same_part(one: tuple[Concept, Any], two: tuple[Concept, Any]) -> bool:
    code, other = one[0], two[0]
    return ((not code and not other) or _same_concept(code, other)) and _same_value(one[1], two[1])


def _same_value(one: Any, two: Any) -> bool:
    if isinstance(one, Quantity) and isinstance(two, Quantity):
        return one.equals(two)
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return _same_concept(one, two)
    return type(one) is type(two) and bool(one == two)


def _given(resource: Body) -> tuple[Any, ...] | None:
    """The dose that was given; None if none is told, or one cannot be compared."""
    dose = _quantity(resource.get("dosage", {}).get("dose", {}))
    return None if dose is None else (({}, dose),)


def _ordered(resource: Body) -> tuple[Any, ...] | None:
    """The doses that were ordered, as amounts; None if none is told, or one cannot be compared."""
    told = [d for instruction in resource.get("dosageInstruction", ()) for d in instruction.get("doseAndRate", ())]
    doses = [_quantity(each.get("doseQuantity", {})) for each in told]
    return None if not doses or None in doses else tuple(({}, dose) for dose in doses)


# --- performers


def _listed(name: str) -> Callable[[Body], list[Body]]:
    def performers(resource: Body) -> list[Body]:
        held = resource.get(name, [])
        return held if type(held) is list else [held]

    return performers


def _actors(resource: Body) -> list[Body]:
    return [each["actor"] for each in resource.get("performer", ()) if "actor" in each]


def _asserters(resource: Body) -> list[Body]:
    return [resource[name] for name in ("asserter", "recorder") if name in resource]


_FORMS: Mapping[str, _Form] = {
    "AllergyIntolerance": _Form("code", ("onsetDateTime", "onsetPeriod"), _asserters, _no_outcome),
    "Condition": _Form("code", ("onsetDateTime", "onsetPeriod"), _asserters, _no_outcome),
    "Immunization": _Form("vaccineCode", ("occurrenceDateTime",), _actors, _no_outcome),
    "MedicationAdministration": _Form(
        "medicationCodeableConcept", ("effectiveDateTime", "effectivePeriod"), _actors, _given
    ),
    "MedicationRequest": _Form("medicationCodeableConcept", ("authoredOn",), _listed("requester"), _ordered),
    "Observation": _Form(
        "code", ("effectiveDateTime", "effectivePeriod", "effectiveInstant"), _listed("performer"), _measured
    ),
    "Procedure": _Form("code", ("performedDateTime", "performedPeriod"), _actors, _no_outcome),
}
