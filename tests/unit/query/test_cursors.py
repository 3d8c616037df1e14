"""A cursor works for the same question of the same requester and in no other way."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.model.access import Requester
from fhir_bridge.query import Cursor, QueryRefused, open_cursor, seal_cursor, search
from tests.unit.query.query_samples import NOW, observation, view_of


class Counting:
    """Randomness that never repeats within a test."""

    def __init__(self) -> None:
        self.drawn = 0

    def token(self, length: int) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(length, "big")


KEY = bytes(range(32))
WHO = Requester("client", institution="northgate", institution_id="org-n", practitioner="dr", roles=("r|1",))
PARAMS = [("code", "a"), ("_count", "2")]
CURSOR = Cursor((0, 17, 1, "", 0, "x/Observation"), {"batch": 12})
TEXT = seal_cursor(CURSOR, KEY, WHO, "Observation", PARAMS, Counting())


def test_a_cursor_opens_for_the_same_question() -> None:
    assert open_cursor(TEXT, KEY, WHO, "Observation", [*PARAMS, ("_cursor", TEXT)]) == CURSOR


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "other"},
        {"institution": "harbor"},
        {"institution_id": "org-h"},
        {"practitioner": None},
        {"roles": ()},
        {"purpose": "ETREAT"},
        {"patient": "p"},
        {"scopes": ("system/*.r",)},
        {"groups": ()},
    ],
)
def test_in_other_hands_it_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(QueryRefused):
        open_cursor(TEXT, KEY, replace(WHO, **change), "Observation", PARAMS)


def test_with_another_question_or_key_it_is_refused() -> None:
    for target, params, key in (
        ("Condition", PARAMS, KEY),
        ("Observation", PARAMS[:1], KEY),
        ("Observation", [("code", "b"), ("_count", "2")], KEY),
        ("Observation", PARAMS, bytes(32)),
    ):
        with pytest.raises(QueryRefused):
            open_cursor(TEXT, key, WHO, target, params)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_is_refused(place: int, flip: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(TEXT + "=" * (-len(TEXT) % 4)))
    raw[place % len(raw)] ^= flip
    with pytest.raises(QueryRefused):
        open_cursor(base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("="), KEY, WHO, "Observation", PARAMS)


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(QueryRefused):
        open_cursor(text, KEY, WHO, "Observation", PARAMS)


def test_every_fault_is_the_same_refusal() -> None:
    said = set()
    for text, who in ((TEXT[:-4], WHO), ("", WHO), (TEXT, replace(WHO, purpose="X")), ("é", WHO), ("A" * 9_000, WHO)):
        with pytest.raises(QueryRefused) as refused:
            open_cursor(text, KEY, who, "Observation", PARAMS)
        said.add(refused.value.issues)
    assert len(said) == 1


def test_the_text_shows_no_part_of_the_key_and_little_of_its_length() -> None:
    texts = [
        seal_cursor(Cursor((0, n, 0, "y" * (n % 9)), {"batch": n}), KEY, WHO, "X", [], Counting()) for n in range(50)
    ]
    assert len({len(text) for text in texts}) == 1
    assert len(set(texts)) == 50


def test_a_key_of_another_sort_does_not_break_the_search() -> None:
    with pytest.raises(QueryRefused):
        search(view_of(observation("a")), "Observation", [("_sort", "code")], now=NOW, after=(0, 1, 0, "a"))
