"""FHIRPath by its letter, where the official suite does not look: expected values by hand from N1 and FHIR R4."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.fhir.fhirpath import Expression, PathFailed, PathNotUnderstood, compile_expression, plain
from fhir_bridge.fhir.fhirpath.temporal import DATE_TIME, order, read_temporal, shifted
from fhir_bridge.fhir.fhirpath.values import text_of
from fhir_bridge.fhir.path_syntax import read
from fhir_bridge.fhir.tables import r4, stu3

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p",
    "contained": [{"resourceType": "Organization", "id": "o", "name": "House"}],
    "name": [{"family": "A", "given": ["x", None, "y"], "_given": [None, {"extension": [{"url": "u"}]}, None]}],
    "_birthDate": {"extension": [{"url": "u", "valueCode": "unknown"}]},
    "deceasedDateTime": "2020-01-02T10:00:00+02:00",
    "gender": "female",
    "multipleBirthInteger": 2,
    "text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'},
    "managingOrganization": {"reference": "#o"},
    "generalPractitioner": [{"reference": "Practitioner/1"}, {"reference": "urn:uuid:3"}],
    "maritalStatus": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-MaritalStatus", "code": "M"}]},
    "link": [{"other": {"display": "a"}, "type": "seealso"}, {"other": {"display": "b"}, "type": "refer"}],
}
GENDERS = "http://hl7.org/fhir/ValueSet/administrative-gender"


def asked(text: str, resource: dict[str, Any] = PATIENT, **options: Any) -> list[Any]:
    """What an expression selects, as plain values and texts."""
    made = compile_expression(text, resource["resourceType"], r4(), **options)
    found = [plain(item) for item in made.select(resource)]
    return [value if type(value) in (bool, int) else text_of(value) or value for value in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # N1 section 4.1 and FHIR R4 fhirpath.html#types: what has only extensions exists, and has no value.
        ("name.given.count()", [3]),
        ("name.given.hasValue()", [False]),
        ("name.given.where(hasValue()).count()", [2]),
        ("name.given.extension('u').count()", [1]),
        ("birthDate.exists() and birthDate.hasValue().not()", [True]),
        ("birthDate.extension('u').value", ["unknown"]),
        ("birthDate.toString()", []),
        ("birthDate = @2020", [False]),
        ("gender.getValue() is System.String", [True]),
        ("deceased is dateTime", [True]),
        ("deceased = @2020-01-02T08:00:00Z", [True]),
        ("deceased.toDate()", ["2020-01-02"]),
        ("deceased > @2019-12-31", [True]),
        ("deceased > @2020-01-01", []),
        ("multipleBirth + 1", [3]),
        ("multipleBirth / 4", ["0.5"]),
        ("multipleBirth.ofType(boolean)", []),
        ("managingOrganization.resolve().name", ["House"]),
        ("managingOrganization.resolve() is Organization", [True]),
        ("generalPractitioner.resolve()", []),
        ("generalPractitioner.where(resolve() is Practitioner).count()", [1]),
        (f"gender.memberOf('{GENDERS}')", [True]),
        (f"link.type.first().memberOf('{GENDERS}')", [False]),
        ("text.div.htmlChecks()", [True]),
        ("link.select($index)", [0, 1]),
        ("link.where($index = 1).other.display", ["b"]),
        ("link.select(other.select($index) | $index)", [0, 0, 1]),
        ("link.aggregate($total & other.display, '')", ["ab"]),
        ("(1 | 2 | 3).aggregate($this * iif($total.empty(), 1, $total))", [6]),
        ("%resource.id & %context.gender", ["pfemale"]),
        ("descendants().ofType(Coding).code", ["M"]),
        ("children().where($this is BackboneElement).count()", [2]),
        ("contained.name", ["House"]),
        ("link.type.type().name.distinct()", ["code"]),
        ("(1 | 2).combine(2).single()", PathFailed),
        ("name.given.first().length() = 1 and gender.length() = 6", [True]),
        ("0.1 + 0.2 = 0.3", [True]),
        ("9007199254740993 = 9007199254740992", [False]),
        ("1.0000000000000000000000000001 > 1", [True]),
        ("-1.00000000000000000000000000000000000001 = -1", [False]),
        ("10 'mg' + 5 'mg'", ["15 'mg'"]),
        ("2 hours + 30 minutes", ["2.5 hours"]),
        ("1 year = 12 months", [True]),
        ("1 year = 1 'a'", []),
        ("@2024-01-31 + 1 month", ["2024-02-29"]),
        ("@2024-02-29 + 1 year", ["2025-02-28"]),
        ("@2024 + 23 months", ["2025"]),
        ("@T23:30 + 45 minutes", ["00:15"]),
        ("@2024-12-31T23:59:59.5Z + 600 milliseconds", ["2025-01-01T00:00:00.100Z"]),
        ("@2024-05-01T10:00Z ~ @2024-05-01T12:00+02:00", [True]),
        (r"'11/30/1972'.replaceMatches('(?<m>\\d+)/(?<d>\\d+)/(\\d+)', '$3-${m}-${d}')", ["1972-11-30"]),
        ("'  Ab  C'  ~ 'aB c'", [True]),
        ("5.toQuantity('mg')", []),
        ("'120 \\'min\\''.toQuantity('h')", ["2 'h'"]),
        ("`gender`", ["female"]),
        ("gender // a comment\n & /* another */ '!'", ["female!"]),
    ],
)
def test_an_expression_gives_what_the_standard_says(text: str, expected: Any) -> None:
    if expected is PathFailed:
        with pytest.raises(PathFailed):
            asked(text)
    else:
        assert asked(text) == expected


def test_a_bundle_resolves_its_own_entries() -> None:
    patient = {"resourceType": "Patient", "id": "1", "gender": "male"}
    observation = {"resourceType": "Observation", "subject": {"reference": "Patient/1"}}
    bundle = {
        "resourceType": "Bundle",
        "entry": [{"fullUrl": "http://a.example/Patient/1", "resource": patient}, {"resource": observation}],
    }
    assert asked("entry.resource.ofType(Observation).subject.resolve().gender", bundle) == ["male"]
    assert asked("entry[0].resource is DomainResource", bundle) == [True]


def test_references_within_a_large_record_are_found_at_the_cost_of_one_look_each() -> None:
    count = 10_000
    held = [{"resourceType": "Organization", "id": f"o{at}", "name": f"n{at}"} for at in range(count)]
    patient = {
        "resourceType": "Patient",
        "contained": held,
        "generalPractitioner": [{"reference": f"#o{at}"} for at in reversed(range(count))],
    }
    begun = process_time()
    assert asked("generalPractitioner.resolve().name.first()", patient) == [f"n{count - 1}"]
    # Looking through all of them for each takes seconds.
    assert process_time() - begun < 0.5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nme", "Patient has no 'nme'; did you mean 'name'?"),
        ("name.givn", "HumanName has no 'givn'; did you mean 'given'?"),
        ("deceasedBoolean", "a choice is asked for by deceased"),
        ("name.where(famly = 'A')", "did you mean 'family'?"),
        ("Observation.code", "Patient has no 'Observation'"),
        ("name.frst()", "no function frst(); did you mean 'first'?"),
        ("name.first(1)", "first() takes 0 arguments, not 1"),
        ("%resurce.id", "did you mean 'resource'?"),
        ("name.startsWith('x')", "startsWith() is not for HumanName"),
        ("gender + 1", "+ cannot be put between code and System.Integer"),
        ("@2020 + 1", "+ cannot be put between System.Date and System.Integer"),
        ("gender > @2020", "> cannot be put between"),
        ("birthDate = '2020-01-31'", "never finds date and System.String equal; a date is written @2026-01-31"),
        ("name.exists() != 'true'", "!= never finds System.Boolean and System.String equal"),
        ("name ~ 'A'", "~ never finds HumanName and System.String equal"),
        ("iif(name, 1, 2)", "iif() wants a boolean"),
        ("-gender", "- is not for code"),
        ("children().first()", "no order"),
        ("descendants()[0]", "no order"),
        ("now() > @2020", "another result each time"),
        ("today() > @2020", "another result each time"),
        ("conformsTo('http://x')", "conformsTo() is not evaluated"),
        ("gender.memberOf('http://x')", "only value sets that R4 lists"),
        ("gender.matches('(a+)+')", "costly"),
        ("gender.matches(gender)", "written out"),
        (r"gender.matches('\d')", "written twice"),
        ("@2020-13", "is no date"),
        ("gender is Strng", "no type 'Strng'; did you mean 'String'?"),
        ("gender is Fhir.code", "no namespace 'Fhir': a type is one of FHIR or of System"),
        ("name[", "cannot read 'name[' at its end"),
        ("name ! gender", "cannot read 'name ! gender' at 5"),
        ("(" * 200 + "1" + ")" * 200, "nested deeper"),
        ("name" + ".first()" * 200, "steps in a row"),
        ("-" * 200 + "1", "nested deeper"),
    ],
)
def test_a_mistake_is_told_when_compiling(text: str, why: str) -> None:
    with pytest.raises(PathNotUnderstood) as caught:
        compile_expression(text, "Patient", r4())
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "link.type and true",
        "link.type.upper()",
        "link.type & 'x'",
        "link.other.display > 'a'",
        "(link.type).not()",
        "link is BackboneElement",
        "link.skip('1'.toInteger() / 2)",
        "(gender | 1).first().first() + 1",
        "(1).repeat($this + 1).count()",
        "(1 | 2).combine(3).aggregate($total.combine($this).combine($total)).combine(1).allTrue()",
        "'x'.replace('', 'yyyyyyyyyy').replace('', 'yyyyyyyyyy').replace('', '%s').replace('', '%s')"
        % (("z" * 500,) * 2),
        "'ab'.replaceMatches('(a)', '$2')",
        "'ab'.encode('rot13')",
    ],
)
def test_data_that_does_not_fit_is_an_error_without_a_value(text: str) -> None:
    with pytest.raises(PathFailed) as caught:
        asked(text)
    assert not {"female", "seealso", "refer"} & set(str(caught.value).split())


def test_time_is_told_only_to_those_that_may_ask() -> None:
    at = datetime(2026, 3, 1, 23, 30, 0, 5_000, tzinfo=timezone(timedelta(hours=2)))
    for text, told in (
        ("today()", "2026-03-01"),
        ("now()", "2026-03-01T23:30:00.005+02:00"),
        ("timeOfDay()", "23:30:00.005"),
    ):
        made = compile_expression(text, "Patient", r4(), with_clock=True)
        assert [text_of(value) for value in made.select(PATIENT, now=at)] == [told]
        with pytest.raises(PathFailed):
            made.select(PATIENT)


def test_a_list_of_a_thousand_codes_is_no_deep_expression() -> None:
    codes = [f"'c{at}'" for at in range(1_000)]
    assert asked(f"'c999' in ({' | '.join(codes)})") == [True]
    assert asked(f"({' | '.join(codes)}).count()") == [1_000]
    assert asked(" or ".join(f"gender = {code}" for code in codes)) == [False]
    assert asked(" and ".join(f"gender != {code}" for code in codes)) == [True]
    assert asked(" or ".join(["{}"] * 500 + ["true"] + ["false"] * 500)) == [True]


def test_an_earlier_release_has_its_own_elements() -> None:
    encounter = {"resourceType": "DiagnosticReport", "context": {"reference": "Encounter/1"}}
    made = compile_expression("context.resolve() is Encounter", "DiagnosticReport", stu3())
    assert made.holds(encounter)
    with pytest.raises(PathNotUnderstood):
        compile_expression("context.exists()", "DiagnosticReport", r4())


def test_a_record_of_the_wrong_shape_breaks_nothing() -> None:
    wrong = {"resourceType": "Patient", "name": "x", "gender": {"a": 1}, "link": [[1]], "birthDate": [["2020"]]}
    for text in (
        "name.family = 'x'",
        "gender = 'male'",
        "link.type.exists()",
        "birthDate | gender",
        "gender.upper()",
    ):
        made = compile_expression(text, "Patient", r4())
        try:
            assert made.select(wrong) is not None
            made.holds(wrong)
        except PathFailed:
            continue


MOMENTS = st.datetimes(
    datetime(1900, 1, 1),  # noqa: DTZ001 - the zone is drawn beside it
    datetime(2100, 1, 1),  # noqa: DTZ001 - the zone is drawn beside it
    timezones=st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


def written(moment: datetime, digits: int = 6) -> str:
    return moment.isoformat(timespec="microseconds")[: 20 + digits] + moment.isoformat()[-6:]


@given(MOMENTS, MOMENTS)
def test_moments_with_a_zone_have_the_order_of_time(one: datetime, other: datetime) -> None:
    first, second = (read_temporal(written(each), "dateTime") for each in (one, other))
    assert first is not None
    assert second is not None
    assert order(first, second) == (one > other) - (one < other)


@given(MOMENTS, st.integers(-(10**9), 10**9))
def test_seconds_are_added_as_time_passes(moment: datetime, seconds: int) -> None:
    value = read_temporal(written(moment), "dateTime")
    assert value is not None
    try:
        later = moment + timedelta(seconds=seconds)
    except OverflowError:
        return
    found = shifted(value, Decimal(seconds), "second")
    assert found is not None
    assert str(found).replace("Z", "+00:00") == written(later)


@given(MOMENTS, MOMENTS, st.sampled_from((4, 7, 10)))
def test_what_is_less_precise_is_less_only_if_each_of_its_moments_is(
    one: datetime, other: datetime, length: int
) -> None:
    coarse = read_temporal(one.isoformat()[:length], "date")
    fine = read_temporal(other.isoformat()[:19], DATE_TIME)
    assert coarse is not None
    assert fine is not None
    told = order(coarse, fine)
    prefix, whole = one.isoformat()[:length], other.isoformat()[:19]
    assert told == (None if whole.startswith(prefix) else -1 if prefix < whole else 1)


@given(MOMENTS, MOMENTS)
def test_without_a_zone_only_what_holds_in_every_zone_is_told(one: datetime, other: datetime) -> None:
    bare = read_temporal(one.isoformat()[:19], "dateTime")
    zoned = read_temporal(written(other), "dateTime")
    assert bare is not None
    assert zoned is not None
    local = one.replace(microsecond=0, tzinfo=UTC)
    first, last = local - timedelta(hours=14), local + timedelta(hours=12, seconds=1)
    told = order(bare, zoned)
    assert told == (-1 if last <= other else 1 if first > other else None)


def asking(text: str) -> Expression:
    """An expression about patients."""
    return compile_expression(text, "Patient", r4())


def test_repeat_within_repeat_is_compiled_once_for_each() -> None:
    """Each is compiled to learn its types, and so each within each doubled the work: forty made an hour of it."""
    started = process_time()
    asking("repeat(" * 40 + "extension" + ")" * 40)
    assert process_time() - started < 2


@pytest.mark.parametrize("link", [".exists()", "+1", "[0]", ".first()", "-1", " is Boolean"])
def test_long_chains_in_brackets_in_brackets_are_refused(link: str) -> None:
    """Neither is too long or too deep alone."""
    text = "active"
    for _ in range(60):
        text = "(" + text + link * 20 + ")"
    with pytest.raises(PathNotUnderstood, match="nested deeper"):
        read(text)


@pytest.mark.parametrize("step", [".first()", "[0]", ".where(true)", ".skip(0)"])
def test_what_is_read_can_be_compiled_and_run(step: str) -> None:
    text = "name"
    for _ in range(66):
        text = "(" + text + step * 3 + ")"
    assert len(asking(text).select({"resourceType": "Patient", "name": [{"family": "x"}]})) == 1
    inner = "true"
    for _ in range(98):
        inner = f"name.where({inner}).exists()"
    # Whether so deep a one runs is for the stack to say; that it fails as others do is not.
    with suppress(PathFailed, PathNotUnderstood):
        assert asking(inner).holds({"resourceType": "Patient", "name": [{"family": "x"}]})


@pytest.mark.parametrize("text", ["value.value ~ 1", "value.value.lowBoundary()", "value ~ 3 '1'"])
def test_a_number_that_leaves_the_context_is_no_crash(text: str) -> None:
    body = {"resourceType": "Observation", "valueQuantity": {"value": Decimal("1e2000000")}}
    with pytest.raises(PathFailed, match="too large"):
        compile_expression(text, "Observation", r4()).select(body)


def test_a_text_too_long_for_a_pattern_is_not_judged() -> None:
    condition = asking("name.family.matches('[0-9]+x')")
    assert condition.holds({"resourceType": "Patient", "name": [{"family": "11x"}]})
    with pytest.raises(PathFailed, match="not for a text of more than"):
        condition.holds({"resourceType": "Patient", "name": [{"family": "1" * 100_000}]})
