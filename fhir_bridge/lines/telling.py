"""Explanations and differences as FHIR Parameters, the form in which an R4 operation answers.

For the patient's agent; nothing else is given these bodies. docs/explain.md
names every parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fhir_bridge.consent.explaining import Cited, Explanation, Silent
from fhir_bridge.fhir.json import render
from fhir_bridge.model.access import Decision, Requester
from fhir_bridge.model.ingest import IndexRow, instant

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judged:
    """One record with the decision on its chart and the reason for the outcome."""

    row: IndexRow
    decision: Decision
    why: Explanation


@dataclass(frozen=True, slots=True)
class Difference:
    """What is seen (``Type/id``) before and after a change; ``after`` is None if no change was asked about."""

    before: frozenset[str]
    after: frozenset[str] | None


def record_report(record: str, told: Sequence[tuple[Requester, Sequence[Judged]]]) -> bytes:
    """Return the answer about one record: a ``requester`` for each with outcome, rule and consents."""
    parts = [_requester(asker, [*_basis(each.decision), *_outcome(each.why)]) for asker, (each,) in told]
    return _parameters([_reference("record", record), *parts])


def person_report(patient: str, told: Sequence[tuple[Requester, Sequence[Judged]]]) -> bytes:
    """Return the answer about a person: a ``requester`` for each with a ``group`` of records for each reason."""
    parts = []
    for asker, judged in told:
        groups: dict[tuple[bool, str, tuple[Cited, ...]], list[Judged]] = {}
        for each in judged:
            groups.setdefault((each.why.permits, each.why.rule, each.why.cited), []).append(each)
        told_groups = [_group(same) for _, same in sorted(groups.items(), key=lambda pair: -len(pair[1]))]
        parts.append(_requester(asker, [*(_basis(judged[0].decision) if judged else ()), *told_groups]))
    return _parameters([_reference("patient", patient), *parts])


def difference_report(patient: str, told: Sequence[tuple[Requester, Difference]]) -> bytes:
    """Return what each requester ``sees`` and, if a change was asked about, what each ``gains`` and ``loses``."""
    parts = []
    for asker, each in told:
        said = [_named("sees", each.before)]
        if each.after is not None:
            said += [_named("gains", each.after - each.before), _named("loses", each.before - each.after)]
        parts.append(_requester(asker, said))
    return _parameters([_reference("patient", patient), *parts])


def _parameters(parts: Sequence[Json]) -> bytes:
    return render({"resourceType": "Parameters", "parameter": list(parts)})


def _requester(asker: Requester, said: Iterable[Json]) -> Json:
    stated = [_string("institution", asker.institution or "")]
    if asker.practitioner is not None:
        stated.append(_reference("practitioner", f"Practitioner/{asker.practitioner}"))
    stated.append(_code("purpose", asker.purpose))
    stated += [_string("role", role) for role in asker.roles]
    return {"name": "requester", "part": [*stated, *said]}


def _basis(decision: Decision) -> list[Json]:
    return [
        {"name": "instant", "valueInstant": instant(decision.instant)},
        {"name": "height", "valueUnsignedInt": decision.height},
        _string("evaluator", decision.evaluator),
    ]


def _outcome(why: Explanation) -> list[Json]:
    said = [_code("outcome", "permit" if why.permits else "deny"), _code("rule", why.rule)]
    said += [_cited("decided-by", each) for each in why.cited]
    said += [_cited("overruled", each) for each in why.overruled]
    return said + [_silent(each) for each in why.silent]


def _group(same: Sequence[Judged]) -> Json:
    why = same[0].why
    said = [_code("outcome", "permit" if why.permits else "deny"), _code("rule", why.rule)]
    said += [_cited("decided-by", each) for each in why.cited]
    counts: dict[str, int] = {}
    for each in same:
        counts[each.row.type] = counts.get(each.row.type, 0) + 1
    return {"name": "group", "part": said + [_count(name, counts[name]) for name in sorted(counts)]}


def _named(name: str, records: Iterable[str]) -> Json:
    by_type: dict[str, list[str]] = {}
    for record in sorted(records):
        by_type.setdefault(record.partition("/")[0], []).append(record)
    told = []
    for type_name, listed in by_type.items():
        counted = _count(type_name, len(listed))
        counted["part"] += [_reference("record", record) for record in listed]
        told.append(counted)
    total = {"name": "total", "valueUnsignedInt": sum(map(len, by_type.values()))}
    return {"name": name, "part": [total, *told]}


def _count(type_name: str, count: int) -> Json:
    return {"name": "type", "part": [_code("type", type_name), {"name": "count", "valueUnsignedInt": count}]}


def _cited(name: str, each: Cited) -> Json:
    parts = [
        _reference("consent", f"Consent/{each.consent}/_history/{each.version}"),
        _string("path", each.path),
        _string("words", each.words),
        _code("recorded-by", "patient" if each.by_patient else "institution"),
    ]
    if each.attested_by:
        parts.append(_string("attested-by", f"attested by institution {each.attested_by}"))
    return {"name": name, "part": parts}


def _silent(each: Silent) -> Json:
    consent = _reference("consent", f"Consent/{each.consent}/_history/{each.version}")
    return {"name": "no-part", "part": [consent, _string("why", each.why)]}


def _reference(name: str, reference: str) -> Json:
    return {"name": name, "valueReference": {"reference": reference}}


def _string(name: str, value: str) -> Json:
    return {"name": name, "valueString": value}


def _code(name: str, value: str) -> Json:
    return {"name": name, "valueCode": value}
