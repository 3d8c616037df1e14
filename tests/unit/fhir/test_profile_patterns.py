"""Which regular expressions of a package are run on a sender's text: none whose cost the text decides."""

import pytest

from fhir_bridge.fhir.path_syntax import PathNotUnderstood
from fhir_bridge.fhir.profiles.patterns import check_patterns


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
