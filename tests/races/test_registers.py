"""The judge of races against a definition that tries every order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.registers import Change, Read, misplaced, raced

_VALUES = ("open", "closed")


def _orders(changes: Sequence[Change], reads: Sequence[Read]) -> bool:
    """Tell by trying every order whether one of them explains all reads and keeps what came after what."""
    events: list[Change | Read] = [*changes, *reads]

    def begins(event: Change | Read) -> int:
        return event.sent

    def ends(event: Change | Read) -> int:
        return event.returned if isinstance(event, Change) else event.answered

    for order in permutations(events):
        if any(ends(b) < begins(a) for n, a in enumerate(order) for b in order[n + 1 :]):
            continue
        value = ""
        for event in order:
            if isinstance(event, Change):
                value = event.value
            elif value not in event.values:
                break
        else:
            return True
    return False


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Change], list[Read]]:
    changes = [Change("open", 0, 1)]
    instants = draw(st.permutations(range(2, 12)))
    places = sorted(instants[:4])
    for number in range(2):
        changes.append(Change(_VALUES[(number + 1) % 2], places[2 * number], places[2 * number + 1]))
    reads = []
    for number in range(3):
        sent, answered = sorted(instants[4 + 2 * number : 6 + 2 * number])
        reads.append(Read(frozenset({draw(st.sampled_from(_VALUES))}), sent, answered))
    return changes, reads


@settings(max_examples=400, deadline=None)
@given(histories())
def test_it_agrees_with_trying_every_order(history: tuple[list[Change], list[Read]]) -> None:
    changes, reads = history
    assert (misplaced(changes, reads) == []) == _orders(changes, reads)


def test_a_stale_answer_a_mixture_and_a_step_back_are_found() -> None:
    changes = [Change("open", 0, 1), Change("closed", 4, 9)]
    stale = Read(frozenset({"open"}), 10, 11)
    mixture = Read(frozenset(), 2, 3)
    new, back = Read(frozenset({"closed"}), 5, 6), Read(frozenset({"open"}), 7, 8)
    assert misplaced(changes, [stale]) == [stale]
    assert misplaced(changes, [mixture]) == [mixture]
    assert misplaced(changes, [new, back]) == [back]
    assert misplaced(changes, [back]) == []


def test_a_race_is_a_withdrawal_with_a_question_before_the_next_grant() -> None:
    changes = [Change("open", 0, 1), Change("closed", 4, 6), Change("open", 10, 12), Change("closed", 20, 22)]
    assert raced(changes, [Read(frozenset(), 2, 3)], "closed") == 0
    assert raced(changes, [Read(frozenset(), 2, 5), Read(frozenset(), 11, 13)], "closed") == 1
    assert raced(changes, [Read(frozenset(), 7, 8), Read(frozenset(), 21, 30)], "closed") == 2
