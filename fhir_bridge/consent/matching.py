"""Hold a clause against a request and against index rows.

For deciding. The request is settled once per decision; what is left is a
predicate over rows that costs about a microsecond.

Invariants:
    * a permit is taken narrowly and a denial widely: what the request does not
      state never makes a permit match nor keeps a denial from matching, and what
      a row does not state is decided the same way by whoever stated the condition;
    * a row that is free text and carries no label of its own matches every label
      and code that a denial names, because nothing says what it tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fhir_bridge.consent.policy import Actor, Clause, Conditions, Data, Interval
from fhir_bridge.consent.vocabulary import (
    ACT_CODE,
    CONFIDENTIALITY,
    DIAGNOSTIC_SECTION,
    FREE_TEXT_TYPES,
    LEVELS,
    READING,
    purposes_of,
)
from fhir_bridge.model.access import Predicate, Requester
from fhir_bridge.model.ingest import IndexRow

AUTHOR_PARAMETERS = ("author", "performer", "asserter", "recorder", "requester", "practitioner", "participant")
"""Search parameters that name who is answerable for a record."""

_LEVEL_PREFIX = f"{CONFIDENTIALITY}|"
_TOPIC_PREFIX = f"{ACT_CODE}|"
_SECTION_PREFIX = f"{DIAGNOSTIC_SECTION}|"

Outgoing = Mapping[str, frozenset[str]]
"""Record → the records it refers to, for ``provision.data.meaning = related``."""


def is_about(clause: Clause, requester: Requester, instant_us: int) -> bool:
    """Tell whether a clause concerns this request: its actors, purposes, actions and period, ancestors' included."""
    return is_now(clause, instant_us) and concerns(clause, requester)


def is_now(clause: Clause, instant_us: int) -> bool:
    """Tell whether an instant lies in all periods that a clause and its ancestors state."""
    return all(_is_within(each.period, instant_us) for each in clause.conditions)


def concerns(clause: Clause, requester: Requester) -> bool:
    """Tell whether a clause concerns this requester, at whatever time."""
    purposes = purposes_of(requester.purpose)
    return all(
        (not each.actions or bool(each.actions & READING))
        and _has_purpose(each, purposes, clause.permits)
        and _names_requester(each, requester, clause.permits)
        for each in clause.conditions
    )


def row_predicate(clause: Clause, outgoing: Outgoing) -> Predicate | None:
    """Return what the clause demands of a row; None if it demands nothing."""
    tests = [test for each in clause.conditions for test in _row_tests(each, outgoing)]
    if not tests:
        return None
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda row: first(row) and second(row)
    return lambda row: all(test(row) for test in tests)


def _is_within(period: Interval | None, instant_us: int) -> bool:
    return period is None or period[0] <= instant_us < period[1]


def _has_purpose(conditions: Conditions, purposes: frozenset[str], permits: bool) -> bool:
    if not conditions.purposes:
        return True
    if not purposes:
        return not permits
    return bool(conditions.purposes & purposes)


def _names_requester(conditions: Conditions, requester: Requester, permits: bool) -> bool:
    if not conditions.actors:
        return True
    answers = [_is_actor(actor, requester) for actor in conditions.actors]
    return any(answer is True or (answer is None and not permits) for answer in answers)


def _is_actor(actor: Actor, requester: Requester) -> bool | None:
    """Return whether the requester is meant; None if the request does not say."""
    answers: list[bool | None] = []
    if actor.role is not None:
        answers.append(actor.role in requester.roles if requester.roles else None)
    if actor.institution is not None:
        answers.append(_same(actor.institution, requester.institution))
    if actor.reference is not None:
        answers.append(_is_referred(actor.reference, requester))
    if False in answers:
        return False
    return None if None in answers else True


def _is_referred(reference: str, requester: Requester) -> bool | None:
    kind, _, name = reference.partition("/")
    if kind == "Organization":
        return _same(name, requester.institution_id)
    if kind == "Practitioner":
        return _same(name, _bare(requester.practitioner))
    if kind == "Patient":
        return _same(name, _bare(requester.patient))
    # Groups, care teams, devices and roles count only as far as the token states membership.
    return None if requester.groups is None else reference in requester.groups


def _bare(reference: str | None) -> str | None:
    return reference.rpartition("/")[2] if reference else None


def _same(wanted: str, stated: str | None) -> bool | None:
    return wanted == stated if stated else None


def _row_tests(each: Conditions, outgoing: Outgoing) -> list[Predicate]:
    tests: list[Predicate] = []
    if each.classes:
        classes = each.classes
        tests.append(lambda row: row.type in classes)
    if each.labels:
        tests.append(_label_test(each.labels, each.stated_by_permit))
    if each.codes:
        tests.append(_code_test(each.codes, each.stated_by_permit))
    if each.data_period is not None:
        tests.append(_period_test(each.data_period, each.stated_by_permit))
    if each.data:
        tests.append(_data_test(each.data, each.stated_by_permit, outgoing))
    return tests


def _label_test(labels: frozenset[str], narrow: bool) -> Predicate:
    """Match labels; a confidentiality level covers itself and, for a permit, lower ones, for a denial higher ones.

    FHIR R4 calls the level of a permit a high-water mark ("R or lower"). Read so
    for a denial, denying "restricted" would close what is normal, which PCF's
    example "normal, not restricted" plainly does not mean.
    """
    stated = [LEVELS[name.removeprefix(_LEVEL_PREFIX)] for name in labels if name.startswith(_LEVEL_PREFIX)]
    covered = frozenset(
        f"{_LEVEL_PREFIX}{name}"
        for name, level in LEVELS.items()
        if any(level <= mark if narrow else level >= mark for mark in stated)
    )
    topics = frozenset(name for name in labels if not name.startswith(_LEVEL_PREFIX))
    if narrow:
        return lambda row: _permits_labels(row.labels, covered, topics)
    wanted = covered | topics
    return lambda row: not wanted.isdisjoint(row.labels) or is_opaque(row)


def _permits_labels(labels: tuple[str, ...], covered: frozenset[str], topics: frozenset[str]) -> bool:
    """Match a row by topic, or by level if every level it carries is covered."""
    if not topics.isdisjoint(labels):
        return True
    levels = [label for label in labels if label.startswith(_LEVEL_PREFIX)]
    return bool(levels) and covered.issuperset(levels)


def _code_test(codes: frozenset[str], narrow: bool) -> Predicate:
    if narrow:
        return lambda row: not codes.isdisjoint(row.codes)
    return lambda row: not codes.isdisjoint(row.codes) or is_opaque(row)


def is_opaque(row: IndexRow) -> bool:
    """Tell whether a row is free text without a label of topic or confidentiality.

    A DiagnosticReport counts as free text unless a v2-0074 section (laboratory,
    imaging …) says what it is: clinical notes travel in that type as well.
    """
    is_sorted = row.type == "DiagnosticReport" and any(code.startswith(_SECTION_PREFIX) for code in row.codes)
    if is_sorted or (row.type != "DiagnosticReport" and row.type not in FREE_TEXT_TYPES):
        return False
    return not any(label.startswith((_LEVEL_PREFIX, _TOPIC_PREFIX)) for label in row.labels)


def _period_test(period: Interval, narrow: bool) -> Predicate:
    low, high = period
    if narrow:
        return lambda row: (dated := row.data_period_us) is not None and low <= dated[0] and dated[1] <= high
    return lambda row: (dated := row.data_period_us) is None or (dated[0] < high and low < dated[1])


def _data_test(data: tuple[Data, ...], narrow: bool, outgoing: Outgoing) -> Predicate:
    tests = [_one_data_test(each, narrow, outgoing) for each in data]
    return tests[0] if len(tests) == 1 else lambda row: any(test(row) for test in tests)


def _one_data_test(data: Data, narrow: bool, outgoing: Outgoing) -> Predicate:
    wanted = data.reference
    kind, _, name = wanted.partition("/")

    def is_it(row: IndexRow) -> bool:
        return row.id == name and row.type == kind

    def refers(row: IndexRow) -> bool:
        return is_it(row) or wanted in row.references

    if data.meaning == "instance":
        return is_it
    if data.meaning == "dependents":
        return refers
    if data.meaning == "related":
        # R4 says "instances it refers to"; PCF uses the code for what refers to an
        # encounter. A permit takes PCF's, which its text spells out; a denial both.
        targets = frozenset[str]() if narrow else outgoing.get(wanted, frozenset())
        return lambda row: refers(row) or f"{row.type}/{row.id}" in targets
    return _author_test(wanted, narrow)


def _author_test(wanted: str, narrow: bool) -> Callable[[IndexRow], bool]:
    if not narrow:
        return lambda row: wanted in row.references
    return lambda row: any(wanted in row.values_of(name) for name in AUTHOR_PARAMETERS)
