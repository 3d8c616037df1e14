"""Read the conditions of one ``Consent.provision``.

For the compiler. Values inside one element are alternatives, elements hold
together; what is not a known way to name something is a problem, because a
condition that is dropped would widen a permit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhir_bridge.consent.policy import Actor, Conditions, Data, Interval
from fhir_bridge.consent.reading import (
    KNOWN_ACTOR,
    KNOWN_DATA,
    KNOWN_PERIOD,
    KNOWN_PROVISION,
    Problems,
    coding,
    codings,
    objects,
    refuse_unknown,
)
from fhir_bridge.consent.vocabulary import (
    ACTIONS,
    CONFIDENTIALITY,
    CONSENT_ACTION,
    LEVELS,
    PARTICIPATION_TYPE,
    RECIPIENT_ROLES,
    RESOURCE_TYPES,
)
from fhir_bridge.fhir.dates import ALWAYS, interval
from fhir_bridge.fhir.reference_text import ReferenceKind, parse_reference
from fhir_bridge.fhir.tables import r4
from fhir_bridge.model.ids import INSTITUTION_SYSTEM

MEANINGS = frozenset({"instance", "related", "dependents", "authoredby"})


def read_conditions(item: dict[str, Any], permits: bool, place: str, problems: Problems) -> Conditions:
    """Return what a provision states.

    Args:
        permits: The provision permits (for an untyped root: the base rule does).
    """
    refuse_unknown(item, KNOWN_PROVISION, place, problems)

    def each(name: str, read: Callable[[dict[str, Any], str, Problems], Any]) -> list[Any]:
        return [
            read(value, f"{place}.{name}[{index}]", problems)
            for index, value in enumerate(objects(item, name, place, problems))
        ]

    return Conditions(
        stated_by_permit=permits,
        actors=tuple(each("actor", _actor)),
        purposes=frozenset(each("purpose", _joined)),
        actions=frozenset[str]().union(*each("action", _action)),
        period=_period(item.get("period"), f"{place}.period", problems),
        labels=frozenset(each("securityLabel", _label)),
        codes=frozenset[str]().union(*each("code", _codes)),
        classes=frozenset(each("class", _class)),
        data_period=_period(item.get("dataPeriod"), f"{place}.dataPeriod", problems),
        data=tuple(each("data", _data)),
    )


def _joined(value: dict[str, Any], place: str, problems: Problems) -> str:
    return "|".join(coding(value, place, problems) or ("", ""))


def _label(value: dict[str, Any], place: str, problems: Problems) -> str:
    system, code = coding(value, place, problems) or ("", "")
    if system == CONFIDENTIALITY and code not in LEVELS:
        problems.add(place, "is not a confidentiality level")
    return f"{system}|{code}"


def _codes(value: dict[str, Any], place: str, problems: Problems) -> frozenset[str]:
    return frozenset("|".join(pair) for pair in codings(value, place, problems))


def _action(value: dict[str, Any], place: str, problems: Problems) -> frozenset[str]:
    names = frozenset(code for system, code in codings(value, place, problems) if system == CONSENT_ACTION)
    if not names or not names <= ACTIONS:
        problems.add(place, "is not a known action")
    return names


def _class(value: dict[str, Any], place: str, problems: Problems) -> str:
    system, code = coding(value, place, problems) or ("", "")
    if system != RESOURCE_TYPES or code not in r4().resource_types():
        problems.add(place, "is not a resource type")
    return code


def _actor(value: dict[str, Any], place: str, problems: Problems) -> Actor:
    refuse_unknown(value, KNOWN_ACTOR, place, problems)
    role = _role(value.get("role"), f"{place}.role", problems) if "role" in value else None
    if "reference" not in value:
        if role is None:
            problems.add(place, "names nobody")
        return Actor(role=role)
    reference, institution = _target(value["reference"], f"{place}.reference", problems)
    return Actor(role, reference, institution)


def _role(value: object, place: str, problems: Problems) -> str | None:
    """Return the role a requester must hold; None for a role that says the actor receives data."""
    found = codings(value, place, problems)
    participations = {code for system, code in found if system == PARTICIPATION_TYPE}
    if participations and participations <= RECIPIENT_ROLES:
        return None
    if participations or len(found) != 1:
        # An author or custodian as "actor" is about the data's origin, not about who asks.
        problems.add(place, "is not the role of a recipient")
        return None
    return "|".join(found[0])


def _target(value: object, place: str, problems: Problems) -> tuple[str | None, str | None]:
    """Return ``(Type/id, None)`` or ``(None, institution name)``."""
    if isinstance(value, dict):
        text, identifier = value.get("reference"), value.get("identifier")
        if isinstance(text, str):
            parsed = parse_reference(text)
            is_own = parsed.kind is ReferenceKind.ABSOLUTE and parsed.base == problems.base_url
            if parsed.kind is ReferenceKind.RELATIVE or is_own:
                return f"{parsed.type}/{parsed.id}", None
        elif isinstance(identifier, dict) and identifier.get("system") == INSTITUTION_SYSTEM:
            name = identifier.get("value")
            if isinstance(name, str) and name:
                return None, name
    problems.add(place, "names nobody who can be recognised")
    return None, None


def _data(value: dict[str, Any], place: str, problems: Problems) -> Data:
    refuse_unknown(value, KNOWN_DATA, place, problems)
    meaning = value.get("meaning")
    if meaning not in MEANINGS:
        problems.add(f"{place}.meaning", "is not known")
    reference, _ = _target(value.get("reference"), f"{place}.reference", problems)
    if reference is None:
        problems.add(f"{place}.reference", "names no record")
    return Data(str(meaning), reference or "")


def _period(value: object, place: str, problems: Problems) -> Interval | None:
    """Return a Period as ``[low, high)``; its end is included to the precision it is written in."""
    if value is None:
        return None
    if not isinstance(value, dict) or not (value.keys() & {"start", "end"}):
        problems.add(place, "has neither start nor end")
        return None
    refuse_unknown(value, KNOWN_PERIOD, place, problems)
    low, high = ALWAYS
    for name in ("start", "end"):
        if name not in value:
            continue
        text = value[name]
        bounds = interval(text) if isinstance(text, str) else None
        if bounds is None:
            problems.add(f"{place}.{name}", "is not a date")
        elif name == "start":
            low = bounds[0]
        else:
            high = bounds[1]
    return low, high
