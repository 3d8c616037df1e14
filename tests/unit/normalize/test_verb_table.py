"""The table of verbs is what the guide says, and every argument that it declares is one that the verb reads."""

from __future__ import annotations

import re

import pytest

from fhir_bridge.normalize.rules import VERBS
from tests.unit.normalize.bench import MAPPINGS

GUIDE = (MAPPINGS.parent / "docs" / "mapping.md").read_text("utf-8")
VERB_ROWS = GUIDE.partition("## The verbs")[2].partition("\n## ")[0]
ROWS = {
    verb: arguments
    for verbs, arguments in re.findall(r"^\| (`[a-z, `]+`) \| ([^|]*) \|", VERB_ROWS, re.M)
    for verb in re.findall(r"\w+", verbs)
}


def test_the_guide_lists_the_verbs_and_no_others() -> None:
    assert ROWS.keys() == VERBS.keys()


@pytest.mark.parametrize("name", [name for name in VERBS if name != "call"])
def test_the_guide_names_the_arguments_of_a_verb(name: str) -> None:
    told = re.sub(r":[^|,]*", "", ROWS[name])
    assert [re.search(rf"\b{key}\b", told) is not None for key in VERBS[name].args] == [True] * len(VERBS[name].args)


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_says_what_it_does(name: str) -> None:
    assert VERBS[name].does
