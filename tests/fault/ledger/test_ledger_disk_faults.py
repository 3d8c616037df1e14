"""A disk that is full or fails, at every write and every sync in turn: the ledger stops and has lost nothing.

Each run meets its fault at another operation, once or from there on. What the
ledger acknowledged must be there when the process opens it again, and also when
the machine loses power instead: a failed sync forgets what it should have kept,
as it does on Linux, so a ledger that tried again and called it done would lose it.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ledger_core import Accepted, Ledger, LedgerUnavailable
from tests.fault.ledger.ledger_lives import Life
from tests.fault.ledger.ledger_load import ANSWER_LIMIT_S, Writer, broken_promises, open_in
from tests.support.powerloss import Event, Loss, Mark, Sync, Truncate, Write
from tests.support.powerloss_vfs import Disk, disk_full, input_output_error

BLOCKS = 6
WRITES, SYNCS = (Write, Truncate), (Sync,)

pytestmark = pytest.mark.timeout(900)


@dataclass(slots=True)
class Fault:
    """Refuses operation number ``place`` of some kinds, and those after it if it lasts."""

    kinds: tuple[type[Event], ...]
    place: int
    lasts: bool
    reason: Callable[[Event], Exception]
    seen: int = field(default=-1)

    def __call__(self, event: Event) -> Exception | None:
        if not isinstance(event, self.kinds):
            return None
        self.seen += 1
        struck = self.seen >= self.place if self.lasts else self.seen == self.place
        return self.reason(event) if struck else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: the disk and what was told, and "" or a refusal's code for each submission."""

    life: Life
    answers: tuple[str, ...]


def meet(fault: Fault | None, folder: Path, *, checkpoint_pages: int) -> Outcome:
    """Submit one by one over a disk with a fault, and go on submitting after it; any error but ours is raised."""
    folder.mkdir()
    disk = Disk(folder, refuse=fault, checkpoint_pages=checkpoint_pages)
    try:
        ledger = open_in(folder, connect=disk.connect)
    except LedgerUnavailable as error:
        return Outcome(Life({}, (), tuple(disk.history)), (error.code,))
    with ledger:
        writer = Writer(ledger, random.Random(11), disk.mark)
        answers = tuple(_submit(writer, disk) for _ in range(BLOCKS))
    return Outcome(Life({}, (), tuple(disk.history)), answers)


def _submit(writer: Writer, disk: Disk) -> str:
    try:
        disk.mark(writer.submit().result(ANSWER_LIMIT_S))
    except LedgerUnavailable as error:
        return error.code
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("lasts", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize(
    ("kinds", "reason"),
    [(WRITES, disk_full), (WRITES, input_output_error), (SYNCS, input_output_error)],
    ids=["full", "write", "sync"],
)
def test_a_fault_at_any_operation_loses_nothing(
    tmp_path: Path, kinds: tuple[type[Event], ...], reason: Callable[[Event], Exception], lasts: bool
) -> None:
    calm = meet(None, tmp_path / "calm", checkpoint_pages=8)
    assert calm.answers == ("",) * BLOCKS
    operations = sum(isinstance(event, kinds) for event in calm.life.history)
    stopped = 0
    for place in range(operations):
        folder = tmp_path / "met"
        outcome = meet(Fault(kinds, place, lasts, reason), folder, checkpoint_pages=8)
        where = f"operation {place} of {operations}"
        _assert_stays_stopped(outcome, where)
        end, told = len(outcome.life.history), _told(outcome)
        assert broken_promises(folder, told) == [], where
        for loss in (Loss.DROPPED, random.Random(place).choice((Loss.TORN_512, Loss.TORN_4096))):
            problems = outcome.life.problems(end, loss, random.Random(place), tmp_path / "left")
            assert problems == [], f"{where}, then {loss.name}"
        stopped += any(outcome.answers)
        shutil.rmtree(folder)
    assert stopped > BLOCKS


@pytest.mark.parametrize("place", range(3))
def test_a_ledger_whose_disk_fails_while_it_begins_does_not_open(tmp_path: Path, place: int) -> None:
    disk = Disk(tmp_path, refuse=Fault(SYNCS, place, False, input_output_error))
    with pytest.raises(LedgerUnavailable):
        open_in(tmp_path, connect=disk.connect)
    assert broken_promises(tmp_path, []) == []


def test_a_failed_sync_is_never_tried_again_into_a_promise(tmp_path: Path) -> None:
    calm = meet(None, tmp_path / "calm", checkpoint_pages=0)
    syncs = [event for event in calm.life.history if isinstance(event, Sync)]
    struck = 0
    for place in range(len(syncs)):
        # Only the commits sync here: the log is folded into the file at the end.
        outcome = meet(Fault(SYNCS, place, False, input_output_error), tmp_path / f"{place}", checkpoint_pages=0)
        failed = next(
            n for n, event in enumerate(outcome.life.history) if isinstance(event, Sync) and not event.succeeded
        )
        later = outcome.life.history[failed:]
        assert not any(isinstance(event, Mark) for event in later), f"sync {place}"
        struck += any(outcome.answers)
    assert struck >= BLOCKS


def test_a_ledger_that_ran_out_of_room_says_so_and_opens_again_with_room(tmp_path: Path) -> None:
    room = Fault((Write,), 10**9, True, disk_full)
    disk = Disk(tmp_path, refuse=room)
    ledger = open_in(tmp_path, connect=disk.connect)
    writer = Writer(ledger, random.Random(3), disk.mark)
    kept = writer.submit().result(ANSWER_LIMIT_S)
    room.place = 0
    with pytest.raises(LedgerUnavailable) as first:
        writer.submit().result(ANSWER_LIMIT_S)
    assert first.value.code == "ledger-unavailable"
    room.place = 10**9
    with pytest.raises(LedgerUnavailable) as second:
        writer.submit().result(ANSWER_LIMIT_S)
    assert second.value.code == "ledger-closed"
    _assert_still_reads(ledger, kept)
    ledger.close()
    assert broken_promises(tmp_path, [kept]) == []


def _assert_still_reads(ledger: Ledger, kept: Accepted) -> None:
    assert ledger.size == kept.index + 2
    assert ledger.entry(kept.index)
    assert ledger.transaction_receipt(kept.index)


def _assert_stays_stopped(outcome: Outcome, where: str) -> None:
    """The first refusal says unavailable; from then on the ledger is closed and acknowledges nothing."""
    refused = [place for place, answer in enumerate(outcome.answers) if answer]
    if refused:
        first, *later = outcome.answers[refused[0] :]
        assert first == "ledger-unavailable", where
        assert set(later) <= {"ledger-closed"}, where


def _told(outcome: Outcome) -> list[object]:
    return [event.what for event in outcome.life.history if isinstance(event, Mark)]
