"""Objects are taken apart and made anew of their pieces: each piece is named by the place it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fhir_bridge.fhir.json import parse, render
from fhir_bridge.normalize import Kind, explain
from fhir_bridge.normalize.draft import By, Draft, copied
from fhir_bridge.normalize.functions.editing import recast, swap
from tests.support.lineage_judge import check

Json = dict[str, Any]
BY = By("one/rule", "because")
SENT: Json = {
    "resourceType": "Basic",
    "part": [
        {"code": "aa", "rank": 1, "is": True, "text": {"value": "tt"}},
        {"code": "bb", "rank": 1, "is": True},
    ],
    "held": ["aa", "zz"],
    "left": {"right": "ll"},
    "right": {"left": "rr"},
}


def swapped(**after: Callable[[Json], Any] | None) -> tuple[Json, Draft]:
    """The sample and a draft of it after a swap, judged; each of ``after`` makes an element out of the body."""
    sent = parse(render(SENT))
    draft = Draft(copied(sent), "Basic")
    body = draft.body
    swap(draft, BY, body, "Basic", **{key: make and make(body) for key, make in after.items()})
    check(sent, render(sent), parse(render(draft.body)), draft.changes)
    return sent, draft


def sources(sent: Json, draft: Draft) -> dict[str, str | None]:
    told = explain(render(sent), parse(render(draft.body)), draft.changes)
    return {each.place: each.source for each in told.statements if each.changes}


def test_a_piece_is_found_whole_and_an_equal_text_of_another_place_is_not_taken_for_it() -> None:
    sent, draft = swapped(
        texts=lambda b: [p["text"] for p in b["part"] if "text" in p],
        codes=lambda b: [p["code"] for p in b["part"]],
        part=None,
    )
    assert sources(sent, draft) == {
        "Basic.texts[0].value": "Basic.part[0].text.value",
        "Basic.codes[0]": "Basic.part[0].code",
        "Basic.codes[1]": "Basic.part[1].code",
    }


def test_values_that_python_holds_once_are_told_apart_by_name_and_in_turn() -> None:
    sent, draft = swapped(made=lambda b: [{"rank": p["rank"], "is": p["is"]} for p in b["part"]], part=None)
    found = sources(sent, draft)
    assert [found[f"Basic.made[{n}].{key}"] for n in (0, 1) for key in ("rank", "is")] == [
        "Basic.part[0].rank",
        "Basic.part[0].is",
        "Basic.part[1].rank",
        "Basic.part[1].is",
    ]


def test_an_item_that_goes_from_the_front_lets_the_others_move_up() -> None:
    sent, draft = swapped(held=lambda b: b["held"][1:], part=lambda b: b["part"][1:])
    assert sources(sent, draft) == {
        "Basic.held[0]": "Basic.held[1]",
        "Basic.part[0].code": "Basic.part[1].code",
        "Basic.part[0].rank": "Basic.part[1].rank",
        "Basic.part[0].is": "Basic.part[1].is",
    }


def test_what_is_read_is_overwritten_afterwards() -> None:
    _sent, draft = swapped(left=lambda b: b["right"]["left"], right=lambda _b: None)
    assert [change.element for change in draft.changes] == ["Basic.left", "Basic.right"]
    _sent, draft = swapped(right=lambda _b: None, left=lambda b: b["right"]["left"])
    assert [change.element for change in draft.changes] == ["Basic.left", "Basic.right"]


def test_where_two_read_each_other_one_says_less_and_nothing_false() -> None:
    sent, draft = swapped(left=lambda b: b["right"]["left"], right=lambda b: b["left"]["right"])
    told = explain(render(sent), parse(render(draft.body)), draft.changes)
    by_place = {each.place: each for each in told.statements if each.changes}
    assert (by_place["Basic.left"].kind, by_place["Basic.left"].source) == (Kind.MOVED, "Basic.right.left")
    assert by_place["Basic.right"].kind is Kind.MADE


@pytest.mark.parametrize("shift", [True, False])
def test_a_new_item_is_not_taken_for_the_one_that_stood_at_its_number(shift: bool) -> None:
    new = {"code": "new", "rank": 1000}
    sent, draft = swapped(part=lambda b: [new, *b["part"]] if shift else [*b["part"], new])
    told = explain(render(sent), parse(render(draft.body)), draft.changes, f"part[{0 if shift else 2}]")
    assert {each.kind for each in told.statements} == {Kind.MADE}


def test_what_was_computed_names_what_it_was_computed_from() -> None:
    sent = parse(render({"resourceType": "Basic", "data": {"interval": 2, "unit": "s", "more": "mm"}}))
    draft = Draft(copied(sent), "Basic")
    before = draft.body["data"]
    draft.body["data"] = {"period": 2000, "more": before["more"]}
    recast(draft, BY, "Basic.data", before, draft.body["data"], {"period": "Basic.data.interval"})
    check(sent, render(sent), draft.body, draft.changes)
    (period,) = explain(render(sent), draft.body, draft.changes, "data.period").statements
    assert (period.kind, period.source, period.sent) == (Kind.CONVERTED, "Basic.data.interval", "2")
