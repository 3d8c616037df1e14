"""FHIRPath over JSON follows the specification's truth tables; dates cover what their text says."""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.fhir.compile import NOT_CHECKED, NOT_CHECKED_OF
from fhir_bridge.fhir.dates import ALWAYS, interval, period
from fhir_bridge.fhir.path_syntax import PathNotUnderstood, read
from fhir_bridge.fhir.paths import compile_path
from fhir_bridge.fhir.tables import Definitions, r4, r4b, r5, search_parameters, stu3

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "name": [{"family": "A", "given": ["x", "y"]}, {"given": ["y"]}],
    "_birthDate": {"extension": [{"url": "u", "valueCode": "unknown"}]},
    "deceasedDateTime": "2020-01-02",
    "active": True,
    "multipleBirthInteger": 2,
    "extension": [{"url": "e", "valueString": "v"}],
    "contact": [{"period": {"start": "2020", "end": "2021"}}],
}

# Expected collections by hand from the FHIRPath specification (N1), sections 4 to 6.
EXPRESSIONS: list[tuple[str, list[Any]]] = [
    ("name.given", ["x", "y", "y"]),
    ("Patient.name.given.distinct()", ["x", "y"]),
    ("name.given.isDistinct()", [False]),
    ("name.family.exists()", [True]),
    ("photo.exists()", [False]),
    ("photo.empty()", [True]),
    ("birthDate.exists()", [True]),
    ("birthDate.hasValue()", [False]),
    ("active.hasValue()", [True]),
    ("deceased", ["2020-01-02"]),
    ("(deceased as dateTime)", ["2020-01-02"]),
    ("deceased as boolean", []),
    ("deceased is dateTime", [True]),
    ("deceased is boolean", [False]),
    ("photo is Attachment", []),
    ("multipleBirth > 1", [True]),
    ("multipleBirth <= 1", [False]),
    ("photo = 1", []),
    ("name.count() + contact.count()", [3]),
    ("name.first().family", ["A"]),
    ("name.tail().given", ["y"]),
    ("name.where(family = 'A').given", ["x", "y"]),
    ("name.all(given.exists())", [True]),
    ("name.all(family.exists())", [False]),
    ("name.exists(family = 'B')", [False]),
    ("name.select(given & '!')", ["x!", "y!"]),
    ("'y' in name.given", [True]),
    ("name.given contains 'z'", [False]),
    ("(name.family | name.given).count()", [3]),
    ("name.given.combine(name.family).count()", [4]),
    ("name.given.intersect('y' | 'q')", ["y", "y"]),
    ("active and photo", []),
    ("active.not() and photo", [False]),
    ("active or photo", [True]),
    ("active.not() or photo", []),
    ("active xor active", [False]),
    ("active xor photo", []),
    ("active.not() implies photo", [True]),
    ("photo implies active", [True]),
    ("active implies photo", []),
    ("contact.period.start <= contact.period.end", [True]),
    ("'abc'.startsWith('ab')", [True]),
    ("'abc'.contains('bc')", [True]),
    ("'abc'.matches('^a.c$')", [True]),
    ("'#abc'.substring(1)", ["abc"]),
    ("'12'.toInteger() = 12", [True]),
    ("multipleBirth.toString()", ["2"]),
    ("iif(active, 'a', 'b')", ["a"]),
    ("iif(active.not(), 'a')", []),
    ("extension('e').value", ["v"]),
    ("%resource.active", [True]),
    ("name.trace('x').count()", [2]),
    ("contact.descendants().count()", [3]),
    ("name.given.first() = 'x' and name.given.count() = 3", [True]),
]


@pytest.mark.parametrize(("expression", "expected"), EXPRESSIONS)
def test_expressions_give_what_the_specification_says(expression: str, expected: list[Any]) -> None:
    assert compile_path(expression, "Patient", r4()).select(PATIENT) == expected


@pytest.mark.parametrize(
    "expression", ["name..given", "name.", "(name", "name)", "name.foo()", "name[0]", "1 +", "@2020"]
)
def test_what_is_not_understood_is_refused(expression: str) -> None:
    with pytest.raises(PathNotUnderstood):
        compile_path(expression, "Patient", r4())


def test_a_misspelt_element_is_refused_when_compiling() -> None:
    with pytest.raises(PathNotUnderstood):
        compile_path("Patient.nme", "Patient", r4())


def _left_out(definitions: Definitions) -> set[str]:
    left_out = set()
    for row in definitions.types.values():
        rules = [(row.name, i) for i in row.invariants]
        rules += [(t, i) for e in row.elements.values() for i in e.invariants for t in e.types]
        for type_name, rule in rules:
            try:
                compile_path(rule.expression, type_name, definitions)
            except PathNotUnderstood:
                left_out.add(rule.key)
    return left_out


def test_only_the_listed_invariants_are_left_out() -> None:
    assert _left_out(r4()) | _left_out(stu3()) == NOT_CHECKED
    for definitions in (r4b(), r5()):
        assert _left_out(definitions) - NOT_CHECKED_OF[definitions.release] == set()
    assert _left_out(r5()) == NOT_CHECKED_OF["R5"]


def test_only_search_paths_with_an_index_lie_outside_what_is_run_for_search() -> None:
    indexed = {
        (name, row.name) for name, rows in search_parameters().items() for row in rows.values() if "[" in row.path
    }
    assert indexed == {("Bundle", "composition"), ("Bundle", "message")}
    for name, parameter in indexed:
        path = search_parameters()[name][parameter].path
        read(path)
        with pytest.raises(PathNotUnderstood):
            compile_path(path, name, r4())


def _micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@given(st.dates(date(1, 1, 1), date(9998, 12, 31)))
def test_days_months_and_years_cover_themselves(day: date) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    assert interval(day.isoformat()) == (_micros(start), _micros(start + timedelta(days=1)))
    month = datetime(day.year, day.month, 1, tzinfo=UTC)
    length = monthrange(day.year, day.month)[1]
    assert interval(f"{day:%Y-%m}".rjust(7, "0")) == (_micros(month), _micros(month + timedelta(days=length)))
    assert interval(f"{day.year:04d}") == (
        _micros(datetime(day.year, 1, 1, tzinfo=UTC)),
        _micros(datetime(day.year + 1, 1, 1, tzinfo=UTC)),
    )


ZONES = st.integers(-13 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


FIRST, LAST = datetime.fromisoformat("0002-01-01"), datetime.fromisoformat("9998-01-01")


@given(st.datetimes(FIRST, LAST, timezones=ZONES), st.integers(1, 6))
def test_times_cover_their_last_digit(moment: datetime, digits: int) -> None:
    whole = moment.replace(microsecond=0)
    assert interval(whole.isoformat()) == (_micros(whole), _micros(whole) + 1_000_000)
    step = 10 ** (6 - digits)
    cut = moment.replace(microsecond=moment.microsecond // step * step)
    text = f"{whole:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + f".{moment.microsecond:06d}"[: digits + 1]
    text += whole.isoformat()[19:]
    assert interval(text) == (_micros(cut), _micros(cut) + step)


def test_a_leap_second_follows_the_59th() -> None:
    before = interval("2016-12-31T23:59:59Z")
    leap = interval("2016-12-31T23:59:60Z")
    assert before is not None
    assert leap == (before[1], before[1] + 1_000_000)


@pytest.mark.parametrize("text", ["", "x", "2026-02-30", "2026-13", "20260101T", "2026-01-01T25:00:00Z", "99999"])
def test_what_is_no_date_covers_nothing(text: str) -> None:
    assert interval(text) is None


def test_open_periods_reach_beyond_every_date() -> None:
    start, end = interval("2020"), interval("2021")
    assert start is not None
    assert end is not None
    assert period({"start": "2020", "end": "2021"}) == (start[0], end[1])
    assert period({"start": "2020"}) == (start[0], ALWAYS[1])
    assert period({"end": "2021"}) == (ALWAYS[0], end[1])
    assert period({}) is None
    assert period("2020") is None
