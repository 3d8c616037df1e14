"""A consent's rule in words, for the patient who asks which one decided.

Invariants:
    * every condition of the rule is said, its ancestors' included;
    * codes stand as ``system|code``, HL7's own systems by their last name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from fhir_bridge.consent.policy import Actor, Clause, Conditions, Interval

_HL7 = "http://terminology.hl7.org/CodeSystem/"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MEANINGS = {
    "instance": "is",
    "related": "is or belongs to",
    "dependents": "is or refers to",
    "authoredby": "was authored by",
}


def rule_in_words(rule: Clause) -> str:
    """Return one sentence without its subject: ``denies where the record is labelled …``."""
    verb = "permits" if rule.permits else "denies"
    said = list(dict.fromkeys(text for each in rule.conditions for text in _conditions(each)))
    return f"{verb} where {' and '.join(said)}" if said else f"{verb} everything"


def _conditions(each: Conditions) -> Iterator[str]:
    if each.actors:
        yield f"the requester is {_any(map(_actor, each.actors))}"
    if each.purposes:
        yield f"the purpose is {_any(map(_code, sorted(each.purposes)))}"
    if each.actions:
        yield f"the action is {_any(sorted(each.actions))}"
    if each.period is not None:
        yield f"the request is made {_interval(each.period)}"
    if each.classes:
        yield f"the record's type is {_any(sorted(each.classes))}"
    if each.labels:
        yield f"the record is labelled {_any(map(_code, sorted(each.labels)))}"
    if each.codes:
        yield f"the record has the code {_any(map(_code, sorted(each.codes)))}"
    if each.data_period is not None:
        yield f"the record is dated {_interval(each.data_period)}"
    if each.data:
        yield f"the record {_any(f'{_MEANINGS.get(d.meaning, d.meaning)} {d.reference}' for d in each.data)}"


def _actor(actor: Actor) -> str:
    named = actor.reference or (f"the institution {actor.institution}" if actor.institution else "")
    role = f"in the role {_code(actor.role)}" if actor.role else ""
    return " ".join(part for part in (named, role) if part) or "anybody"


def _code(text: str) -> str:
    return text.removeprefix(_HL7)


def _any(words: Iterable[str]) -> str:
    return " or ".join(words)


def _interval(interval: Interval) -> str:
    low, high = map(_instant, interval)
    return " and ".join(part for part in (low and f"from {low}", high and f"before {high}") if part) or "at any time"


def _instant(at_us: int) -> str:
    """Return an instant as text; empty for an end that is open."""
    try:
        return (_EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return ""
