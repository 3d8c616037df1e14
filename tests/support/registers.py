"""Whether answers given beside changes could have come one after the other: linearizability of one value.

One writer changes a value; readers see it. A history is linearizable if each
read can be given one moment between its sending and its answer at which the
value was what it saw, such that no read goes back behind another that was
answered before it was sent. For one writer the earliest change that fits is
always the best choice, so a pass through the reads in order of their answers
decides.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """The value from a write on; times come from one counter, ``returned`` is when its sender was told."""

    value: str
    sent: int
    returned: int


@dataclass(frozen=True, slots=True)
class Read:
    """What was seen; ``values`` are those the answer fits."""

    values: frozenset[str]
    sent: int
    answered: int
    about: str = ""


def misplaced(changes: Sequence[Change], reads: Sequence[Read]) -> list[Read]:
    """Return the reads that fit no order.

    Args:
        changes: One writer's, the value at rest first; each was sent after the one before had returned.
    """
    sent = [change.sent for change in changes]
    returned = [change.returned for change in changes]
    ends: list[int] = []
    newest: list[int] = []
    wrong: list[Read] = []
    for read in sorted(reads, key=lambda each: each.answered):
        settled = bisect_left(returned, read.sent) - 1
        seen_before = bisect_left(ends, read.sent)
        first = max(settled, newest[seen_before - 1] if seen_before else 0, 0)
        last = bisect_right(sent, read.answered) - 1
        place = next((n for n in range(first, last + 1) if changes[n].value in read.values), None)
        if place is None:
            wrong.append(read)
            continue
        ends.append(read.answered)
        newest.append(max(place, newest[-1] if newest else 0))
    return wrong


def raced(changes: Sequence[Change], reads: Sequence[Read], value: str) -> int:
    """Return how many changes to ``value`` had a read under way, or sent before anything else, at some moment."""
    found = 0
    for change, following in zip(changes[1:], [*changes[2:], None], strict=True):
        until = change.returned + 1 if following is None else following.sent
        if change.value == value and any(r.sent < until and r.answered > change.sent for r in reads):
            found += 1
    return found
