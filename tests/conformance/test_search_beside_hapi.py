"""The same searches on HAPI and on ours, over HTTP, same records: same ids and totals, or a documented difference.

Needs ``make hapi`` (Java, jars by Maven); what is missing is a failure. A part
of all shapes is asked, some of every form; ``make beside-hapi`` asks every one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from tests.peers.hapi.comparing import ask, difference
from tests.peers.hapi.known import RIGHT, load_differences
from tests.peers.hapi.questions import Question, questions
from tests.peers.hapi.scene import Scene, scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_000)]

SHAPES = os.environ.get("HAPI_SHAPES", "400")
SEED = int(os.environ.get("HAPI_SEED", "0"))
FEWEST = 300


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(tmp_path_factory.mktemp("beside-hapi")) as made:
        yield made


def test_the_table_names_the_standard_for_each_difference() -> None:
    for each in load_differences():
        assert each.right in RIGHT, each.name
        assert each.because, each.name
        assert each.cite.startswith("search.html#"), each.name


def test_hapi_finds_what_we_find(both: Scene) -> None:
    chosen = _chosen(both)
    known = load_differences()
    seen = Counter[str]()
    answered = unknown = 0
    told: list[str] = []
    for question in chosen:
        ours, theirs = ask(both.get_ours, question), ask(both.hapi.get, question)
        answered += ours.is_answered and theirs.is_answered
        said = difference(question, ours, theirs)
        if said is None:
            continue
        names = [each.name for each in known if each.describes(question.shape, said)]
        seen.update(names)
        if not names:
            unknown += 1
            told.append(f"{question.shape}: {said}\n    {question.path}")
    shown = ", ".join(f"{name} {count}" for name, count in seen.most_common())
    print(f"\n{len(chosen)} shapes, both answered {answered}, differences: {shown or 'none'}")
    assert not told, f"{unknown} of {len(chosen)} are not documented:\n" + "\n".join(told[:40])
    assert answered >= FEWEST
    if SHAPES == "all":
        assert {each.name for each in known if not each.seldom} <= set(seen), (
            "an entry of the table describes nothing"
        )


def _chosen(both: Scene) -> list[Question]:
    """Return one question of each shape, or a part of them with some of every form."""
    shapes: dict[str, Question] = {}
    for number, (patient, records) in enumerate(both.people.values()):
        for question in questions(patient, records, both.directory, SEED + number):
            shapes.setdefault(question.shape, question)
    if SHAPES == "all":
        return list(shapes.values())
    random = Random(SEED)
    mixed = list(shapes.values())
    random.shuffle(mixed)
    asked = Counter[str]()
    # A form that few parameters have must not be lost among those that all have.
    ranked = [(_times(asked, _form(each)), each) for each in mixed]
    return [each for _, each in sorted(ranked, key=lambda pair: pair[0])][: int(SHAPES)]


def _times(asked: Counter[str], form: str) -> int:
    asked[form] += 1
    return asked[form]


def _form(question: Question) -> str:
    """Return a shape without its type and parameter: what is left is how it is asked."""
    words = question.shape.split(" ")[1:]
    if words[0].startswith("_"):
        return f"{words[0].partition('=')[0]} {words[1] if words[0] == '_sort' else ''}"
    if "." in words[0]:
        return "chain"
    return " ".join([f":{words[0].partition(':')[2]}", *words[1:]])
