"""Which regular expressions of a package are run on a sender's text: none whose cost the text decides."""

import re
import time

import pytest

from fhir_bridge.fhir.fhirpath import compile_expression
from fhir_bridge.fhir.path_syntax import PathNotUnderstood
from fhir_bridge.fhir.paths import compile_path
from fhir_bridge.fhir.profiles.patterns import check_patterns
from fhir_bridge.fhir.tables import r4
from fhir_bridge.fhir.text_patterns import compiled, longest


def asking(pattern: str) -> str:
    """An expression that asks whether an id matches, the pattern written as FHIRPath writes text."""
    written = pattern.replace("\\", "\\\\").replace("'", "\\'")
    return f"name.exists() implies id.matches('{written}')"


@pytest.mark.parametrize(
    "pattern",
    [
        "^[A-Z]+$",
        r"^(\d{3}-){2}\d{4}$",
        "[(a+)*]+",
        r"\(a+\)*",
        "(red|blue)",
        "(?:a+)?b",
        r"([\]+])*",
        "^.{1,20}$",
        "(?P<x>[a-z])+",
        "",
    ],
)
def test_a_pattern_whose_repetitions_stand_side_by_side_is_run(pattern: str) -> None:
    check_patterns(asking(pattern))


# The first ones are the examples of https://owasp.org/www-community/attacks/Regular_expression_Denial_of_Service_-_ReDoS
@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+",
        "([a-zA-Z]+)*",
        "(a|aa)+",
        "(a|a?)+",
        "(.*a){10}",
        "^((a)+b?)*$",
        "(?:a*)*",
        "(a?){30}a{30}",
        "(a{1,9})+",
        # Nothing repeats, and yet thirty letters take a minute.
        "a?" * 30 + "a" * 30,
        "(a|b)?" * 20,
        "a{0,9}" * 12 + "b",
    ],
)
def test_a_pattern_that_goes_back_over_a_text_again_and_again_is_not(pattern: str) -> None:
    with pytest.raises(PathNotUnderstood, match="costly"):
        check_patterns(asking(pattern))


@pytest.mark.parametrize("pattern", [r"\p{L}+", "(", "a{2,1}", "*"])
def test_a_pattern_that_is_none_here_is_not(pattern: str) -> None:
    with pytest.raises(PathNotUnderstood, match="cannot be read"):
        check_patterns(asking(pattern))


def test_a_pattern_within_another_call_is_found() -> None:
    with pytest.raises(PathNotUnderstood, match="costly"):
        check_patterns("name.where(family.matches('(a+)+')).exists() or true")


# Of the specification: datatypes.html#dateTime.
DATE_TIME = (
    r"([0-9]([0-9]([0-9][1-9]|[1-9]0)|[1-9]00)|[1-9]000)(-(0[1-9]|1[0-2])(-(0[1-9]|[1-2][0-9]|3[0-1])"
    r"(T([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?(Z|(\+|-)((0[0-9]|1[0-3]):[0-5][0-9]|14:00)))?)?)?"
)


@pytest.mark.parametrize(
    ("pattern", "at_least"),
    [
        (DATE_TIME, 100),
        (f"^{DATE_TIME}$", 10_000),
        ("^[A-Z]+$", 1_000_000),
        ("^(" + "|".join(f"code-{n}" for n in range(500)) + ")$", 1_000_000),
        (".*cancer.*", 5_000),
        ("GLU[0-9]+", 1_000_000),
        (r"[A-Za-z0-9\-\.]{1,64}", 5_000),
        ("^foo", 1_000_000),
    ],
)
def test_what_costs_little_is_run_on_any_text_that_it_is_meant_for(pattern: str, at_least: int) -> None:
    compiled(pattern)
    limit = longest(pattern)
    assert limit is None or limit >= at_least


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("[0-9]+x", "1"),
        (".*a.*b", "a"),
        ("a*a*a*a*b", "a"),
        ("(.*)(.*)(.*)x", "a"),
        ("x.*y|b*c", "x"),
        ("(?:a+)?(?:a+)?b", "a"),
        (r"\w+\s*\w+@", "a"),
        ("a?" * 10 + "a" * 10, "a"),
        ("a{0,200}a{0,200}b", "a"),
        ("a*?a*?b", "a"),
    ],
)
def test_the_longest_text_that_a_pattern_is_run_on_takes_no_more_than_seconds(
    pattern: str, text: str, is_whole: bool
) -> None:
    limit = longest(pattern, is_whole=is_whole)
    made = compiled(pattern)
    length = 1_000_000 if limit is None else min(limit, 1_000_000)
    started = time.process_time()
    (made.fullmatch if is_whole else made.search)(text * length)
    assert time.process_time() - started < 3


def test_a_text_too_long_for_a_pattern_shows_no_violation() -> None:
    path = compile_path("family.matches('[0-9]+x')", "HumanName", r4())
    assert path.holds({"family": "1" * 1_000_000}, {}, {})
    assert not path.holds({"family": "1"}, {}, {})


def test_the_definitions_own_patterns_are_run_on_every_text() -> None:
    """They are judged whatever they cost: who sends what they are about is not who writes records."""
    rows = list(r4().types.values())
    rules = [
        rule for row in rows for rule in (*row.invariants, *(r for e in row.elements.values() for r in e.invariants))
    ]
    found = {text for rule in rules for text in re.findall(r"matches\('((?:[^'\\]|\\.)*)'\)", rule.expression)}
    assert len(found) >= 3
    limits = [longest(text.replace("\\\\", "\\")) for text in found]
    assert all(limit is None or limit > 1_000_000 for limit in limits)


POWERS = [
    "descendants().where(%resource.descendants().where(%resource.descendants().exists($this = 'q')))",
    "name.where(%resource.name.where(%resource.name.where(family = 'q').exists()).exists()).exists()",
    "name.all(descendants().all(descendants().where($this = 'q').empty()))",
    "name.all(%context.name.all(('a' | 'b').all(true)))",
    "name.select(%resource.name).where(%resource.name.exists(%resource.name.exists(true)))",
    "contained.where(%resource.contained.resolve().where(%resource.contained.resolve().exists(true)))",
]


@pytest.mark.parametrize("expression", POWERS)
def test_an_expression_that_takes_a_power_of_the_records_size_is_not_run(expression: str) -> None:
    for judge in (check_patterns, lambda text: compile_expression(text, "Patient", r4())):
        with pytest.raises(PathNotUnderstood, match="whole record"):
            judge(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "contained.where(('#' + id in %resource.descendants().where($this is Reference).reference).not()).empty()",
        "name.where(given.where(extension.where(url = 'x').exists()).exists()).exists()",
        "descendants().where($this is Reference).all(%resource.contained.where(id = 'x').exists())",
        "name.where(use = 'official').exists() and contact.all(name.exists(family.exists()))",
    ],
)
def test_an_expression_that_looks_at_the_record_once_for_each_item_is_run(expression: str) -> None:
    check_patterns(expression)
    compile_expression(expression, "Patient", r4())
