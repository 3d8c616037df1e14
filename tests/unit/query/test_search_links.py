"""Chains, ``_has`` and includes over a permitted view, as FHIR R4 search.html words them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bridge.model.ingest import IndexRow
from fhir_bridge.query import QueryRefused, search
from fhir_bridge.query.criteria import MAX_LINKS
from fhir_bridge.query.including import MAX_INCLUDED
from tests.unit.query.query_samples import LOINC, NOW, observation, view_of


def row(place: str, **found: Any) -> IndexRow:
    """A record ``Type/id`` with values of search parameters; a single text stands for a reference."""
    type_name, record_id = place.split("/")
    values: dict[str, Any] = {name: (value,) if isinstance(value, str) else value for name, value in found.items()}
    return observation(record_id, type_name=type_name, **values)


WORLD = (
    row("Patient/peter", name=("Peter",), general_practitioner="Practitioner/joe"),
    row("Patient/anna", name=("Anna",), general_practitioner="Organization/clinic"),
    row("Practitioner/joe", name=("Joe",)),
    row("Organization/clinic", name=("Joe's",)),
    row("DiagnosticReport/r1", subject="Patient/peter", result=("Observation/o1", "Observation/o2")),
    row("DiagnosticReport/r2", subject="Patient/anna"),
    row("DiagnosticReport/r3", subject="Location/joe"),
    row("Location/joe", name=("Joe",)),
    row("Observation/o1", subject="Patient/peter", patient="Patient/peter", code=((LOINC, "1234-5"),)),
    row("Observation/o2", subject="Patient/peter", patient="Patient/peter", has_member="Observation/o1"),
    row("Observation/o3", subject="Patient/anna", patient="Patient/anna", code=((LOINC, "9"),)),
    row("Condition/c1", subject="Patient/anna", patient="Patient/anna", code=((LOINC, "1234-5"),)),
    row("AuditEvent/a1", entity=("Observation/o1", "Observation/gone"), agent="Practitioner/joe"),
)
EVERY_TARGET = "Location/joe Observation/o1 Observation/o2 Patient/anna Patient/peter"


def found(
    type_name: str, *params: tuple[str, str], rows: Sequence[IndexRow] = WORLD, hidden: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Names of the matches and of what stands beside them."""
    result = search(view_of(*rows, hidden=frozenset(hidden)), type_name, params, now=NOW)
    names = [(each.mode, f"{each.row.type}/{each.row.id}") for each in result.found]
    return [n for mode, n in names if mode == "match"], [n for mode, n in names if mode == "include"]


def matches(type_name: str, *params: tuple[str, str], hidden: Sequence[str] = ()) -> str:
    return " ".join(sorted(name.split("/")[1] for name in found(type_name, *params, hidden=hidden)[0]))


@pytest.mark.parametrize(
    ("type_name", "name", "text", "expected"),
    [
        # search.html#chaining: "GET [base]/DiagnosticReport?subject:Patient.name=peter"
        ("DiagnosticReport", "subject:Patient.name", "peter", "r1"),
        # "GET [base]/Patient?general-practitioner.name=Joe" asks every type that the reference can point to
        ("Patient", "general-practitioner.name", "Joe", "anna peter"),
        ("Patient", "general-practitioner:Practitioner.name", "Joe", "peter"),
        # "GET [base]/Patient?general-practitioner:PractitionerRole..." finds none where there is none
        ("Patient", "general-practitioner:PractitionerRole.practitioner.name", "Joe", ""),
        ("DiagnosticReport", "subject.name", "joe", "r3"),
        ("DiagnosticReport", "subject:Patient.general-practitioner.name", "joe", "r1 r2"),
        ("DiagnosticReport", "result.code", "1234-5", "r1"),
        ("DiagnosticReport", "result.code:not", "1234-5", "r1"),
        ("DiagnosticReport", "result.code", "9", ""),
        ("DiagnosticReport", "subject:Patient.name:exact", "Peter,Anna", "r1 r2"),
        ("DiagnosticReport", "subject:Patient._id", "anna", "r2"),
        # search.html#has: "Patient?_has:Observation:patient:code=1234-5"
        ("Patient", "_has:Observation:patient:code", "1234-5", "peter"),
        ("Patient", "_has:Observation:patient:code", "1234-5,9", "anna peter"),
        # "Patient?_has:Observation:patient:_has:AuditEvent:entity:agent=MyUserId"
        ("Patient", "_has:Observation:patient:_has:AuditEvent:entity:agent", "Practitioner/joe", "peter"),
        ("Patient", "_has:Observation:patient:code:missing", "true", "peter"),
        # "GET [base]/Encounter?patient._has:Group:member:_id=102"
        ("DiagnosticReport", "subject:Patient._has:Observation:patient:code", "9", "r2"),
        ("Observation", "_has:Observation:has-member:_id", "o2", "o1"),
        ("Observation", "_has:AuditEvent:entity:agent.name", "Joe", "o1"),
    ],
)
def test_chains_and_has(type_name: str, name: str, text: str, expected: str) -> None:
    assert matches(type_name, (name, text)) == expected


def test_the_far_end_of_a_link_counts_only_if_it_may_be_seen() -> None:
    assert matches("DiagnosticReport", ("result.code", "1234-5"), hidden=["o1"]) == ""
    assert matches("Patient", ("_has:Observation:patient:code", "1234-5"), hidden=["o1"]) == ""
    assert matches("DiagnosticReport", ("subject:Patient.name:missing", "false"), hidden=["anna"]) == "r1"


@pytest.mark.parametrize(
    ("type_name", "name"),
    [
        ("DiagnosticReport", "status.name"),
        ("DiagnosticReport", "subject.nonsense"),
        ("DiagnosticReport", "subject."),
        ("DiagnosticReport", "subject:Observation.code"),
        ("DiagnosticReport", "subject:Nonsense.name"),
        ("DiagnosticReport", "subject:.name"),
        ("Patient", "_has"),
        ("Patient", "_has:Observation"),
        ("Patient", "_has:Observation:patient"),
        ("Patient", "_has:Observation:patient:"),
        ("Patient", "_has:Observation:patient:nonsense"),
        ("Patient", "_has:Observation:code:code"),
        ("Patient", "_has:Observation:has-member:code"),
        ("Patient", "_has:Nonsense:patient:code"),
        ("Observation", "has-member." * MAX_LINKS + "has-member.code"),
    ],
)
def test_what_is_no_link_is_refused(type_name: str, name: str) -> None:
    with pytest.raises(QueryRefused):
        matches(type_name, (name, "x"))


def test_as_many_links_as_documented_are_followed() -> None:
    assert matches("Observation", ("has-member." * MAX_LINKS + "code", "x")) == ""


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        # search.html#include: "[source resource]:[parameter](:[target type])"
        ([("_include", "DiagnosticReport:subject")], "Location/joe Patient/anna Patient/peter"),
        ([("_include", "DiagnosticReport:subject:Location")], "Location/joe"),
        ([("_include", "DiagnosticReport:*")], EVERY_TARGET),
        ([("_include", "*")], EVERY_TARGET),
        ([("_include", "DiagnosticReport:*:Location")], "Location/joe"),
        # Without :iterate only matches are looked at
        ([("_include", "DiagnosticReport:subject"), ("_include", "Patient:general-practitioner")],
         "Location/joe Patient/anna Patient/peter"),
        ([("_include", "DiagnosticReport:subject:Patient"), ("_include:iterate", "Patient:general-practitioner")],
         "Organization/clinic Patient/anna Patient/peter Practitioner/joe"),
        ([("_include:iterate", "DiagnosticReport:result"), ("_revinclude:iterate", "AuditEvent:entity")],
         "AuditEvent/a1 Observation/o1 Observation/o2"),
        ([("_revinclude", "AuditEvent:entity")], ""),
    ],
)  # fmt: skip
def test_includes(params: list[tuple[str, str]], expected: str) -> None:
    report, beside = found("DiagnosticReport", *params)
    assert " ".join(beside) == expected
    assert len(report) == 3


def test_what_points_to_a_match_is_included_by_revinclude() -> None:
    assert found("Observation", ("_id", "o1"), ("_revinclude", "AuditEvent:entity"))[1] == ["AuditEvent/a1"]
    every = found("Observation", ("_id", "o1"), ("_revinclude", "*"))[1]
    assert every == ["AuditEvent/a1", "DiagnosticReport/r1", "Observation/o2"]
    # A match is never a second entry.
    assert found("Observation", ("_include", "Observation:has-member"))[1] == []


def test_includes_change_neither_total_nor_pages_and_belong_to_the_page() -> None:
    view = view_of(*WORLD)
    params = [("_count", "1"), ("_include", "DiagnosticReport:subject")]
    first = search(view, "DiagnosticReport", params, now=NOW)
    assert (first.total, [each.row.id for each in first.found]) == (3, ["r1", "peter"])
    assert first.after is not None
    second = search(view, "DiagnosticReport", params, now=NOW, after=first.after)
    assert [each.row.id for each in second.found] == ["r2", "anna"]
    assert search(view, "DiagnosticReport", [("_summary", "count"), params[1]], now=NOW).found == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("_include", "subject"),
        ("_include", "DiagnosticReport"),
        ("_include", "DiagnosticReport:"),
        ("_include", "DiagnosticReport:status"),
        ("_include", "Nonsense:subject"),
        ("_include", "DiagnosticReport:subject:Observation"),
        ("_include", "DiagnosticReport:subject:Patient:x"),
        ("_include", "Nonsense:*"),
        ("_include:recurse", "DiagnosticReport:subject"),
        ("_revinclude:", "AuditEvent:entity"),
        ("_include", "*:subject"),
    ],
)
def test_what_is_no_include_is_refused(name: str, text: str) -> None:
    with pytest.raises(QueryRefused):
        found("DiagnosticReport", (name, text))


def test_more_than_can_be_included_is_refused_not_cut() -> None:
    many = [row(f"Observation/x{n}", subject="Patient/p") for n in range(MAX_INCLUDED + 1)]
    asked = ("_revinclude", "Observation:subject")
    with pytest.raises(QueryRefused) as refused:
        found("Patient", asked, rows=[row("Patient/p"), *many])
    assert [issue.code for issue in refused.value.issues] == ["too-costly"]
    assert len(found("Patient", asked, rows=[row("Patient/p"), *many[1:]])[1]) == MAX_INCLUDED


# --- a second definition over plain facts: (name, references by parameter)

places = st.sampled_from([f"{t}/{n}" for t in ("Observation", "Encounter", "Condition") for n in "ab"])
facts = st.dictionaries(
    places,
    st.fixed_dictionaries(
        {"focus": st.frozensets(places, max_size=3), "encounter": st.frozensets(places, max_size=1)}
    ),
    max_size=6,
)
hops = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sampled_from(["Observation:focus", "Condition:encounter", "*"])),
    max_size=3,
)


def naive_includes(world: dict[str, Any], asked: list[tuple[bool, bool, str]]) -> set[str]:
    """Everything reachable, by trying every pair again and again."""

    def points(source: str, target: str, text: str) -> bool:
        type_name = source.split("/")[0]
        names = {"Observation": ["focus", "encounter"], "Condition": ["encounter"], "Encounter": []}[type_name]
        wanted = names if text == "*" else [n for n in names if text == f"{type_name}:{n}"]
        return any(target in world[source][n] for n in wanted)

    start = {name for name in world if name.startswith("Observation/")}
    have, is_first = set(start), True
    while True:
        more = set()
        for name in start if is_first else have:
            for is_reverse, iterates, text in asked:
                if is_first or iterates:
                    more |= {o for o in world if (points(o, name, text) if is_reverse else points(name, o, text))}
        if more <= have and not is_first:
            return have - start
        have, is_first = have | more, False


@settings(deadline=None)
@given(facts, hops)
def test_includes_agree_with_a_naive_search(world: dict[str, Any], asked: list[tuple[bool, bool, str]]) -> None:
    rows = [row(name, **{k: tuple(sorted(v)) for k, v in links.items()}) for name, links in world.items()]
    params = [("_revinclude" if r else "_include", i, text) for r, i, text in asked]
    got = found("Observation", *((n + ":iterate" * i, text) for n, i, text in params), rows=rows)[1]
    assert got == sorted(naive_includes(world, asked))


@settings(deadline=None)
@given(facts, hops, st.frozensets(places, max_size=3))
def test_hidden_records_change_no_links(world: Any, asked: Any, hidden: frozenset[str]) -> None:
    rows = [row(name, **{k: tuple(sorted(v)) for k, v in links.items()}) for name, links in world.items()]
    seen = [each for each in rows if f"{each.type}/{each.id}" not in hidden]
    gone = frozenset(each.id for each in rows) - frozenset(each.id for each in seen)
    # Ids are shared between types here, so hide by id where every type of it is hidden.
    seen = [each for each in rows if each.id not in gone]
    params = [("_revinclude" if r else "_include") + ":iterate" * i for r, i, _ in asked]
    texts = [text for _, _, text in asked]
    links: tuple[list[tuple[str, str]], ...] = (
        [],
        [("focus:Observation.encounter._id", "a")],
        [("_has:Condition:encounter:_id", "a")],
    )
    for extra in links:
        question = [*zip(params, texts, strict=True), *extra]
        type_name = "Encounter" if extra and extra[0][0].startswith("_has") else "Observation"
        assert found(type_name, *question, rows=rows, hidden=tuple(gone)) == found(type_name, *question, rows=seen)
