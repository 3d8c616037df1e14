"""The embedded engine through the front door: order, groups, repeats, pressure, failure and close."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger_core import (
    Accepted,
    Anchor,
    Identity,
    Join,
    Ledger,
    LedgerBusy,
    LedgerClosed,
    LedgerUnavailable,
    OpenPath,
    SetConsent,
    Transaction,
    TransactionRefused,
    open_ledger,
    run_fsck,
    sign,
)
from ledger_core.stores.files import connect_file
from tests.unit.ledger_core.ledger_samples import GENESIS, LOG_KEY, OPERATOR, PATIENT, filler, identity

MAX_BLOCK = 4
WRITERS = tuple(identity(number) for number in range(20, 24))


class Disk:
    """Connections that wait at a gate before they commit, or fail from some commit on."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.commits_left: int | None = None

    def connect(self, path: Path, read_only: bool) -> sqlite3.Connection:
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, query: str, values: Any = ()) -> sqlite3.Cursor:
                if query == "COMMIT" and not read_only:
                    disk.commit()
                return super().execute(query, values)

        if read_only:
            return connect_file(path, True)
        uri = f"{path.absolute().as_uri()}?mode=rw"
        options: dict[str, Any] = {"uri": True, "isolation_level": None, "check_same_thread": False}
        return sqlite3.connect(uri, factory=Connection, **options)

    def commit(self) -> None:
        self.reached.set()
        assert self.gate.wait(30)
        if self.commits_left is not None:
            if self.commits_left == 0:
                raise sqlite3.OperationalError("database or disk is full")
            self.commits_left -= 1

    def hold(self) -> None:
        """Let the next commit wait, so that everything after it does."""
        self.reached.clear()
        self.gate.clear()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def ledger(tmp_path: Path, disk: Disk) -> Iterator[Ledger]:
    opened = reopen(tmp_path, disk)
    for number, writer in enumerate(WRITERS):
        opened.send(Join(writer.public, f"writer {number}"), OPERATOR, [writer]).result(10)
    yield opened
    disk.gate.set()
    opened.close()
    assert list(run_fsck(tmp_path / "ledger.db")) == []


def reopen(folder: Path, disk: Disk) -> Ledger:
    return open_ledger(
        folder / "ledger.db",
        log_identity=LOG_KEY,
        genesis=GENESIS,
        max_block=MAX_BLOCK,
        max_waiting=8,
        connect=disk.connect,
    )


def anchors(ledger: Ledger, count: int, who: Identity = OPERATOR, *, start: int = 100) -> list[bytes]:
    """Return envelopes of one signer, in order of nonce."""
    nonces = range(start, start + count)
    return [sign(Transaction(ledger.network, who.public, nonce, Anchor(filler(1), 1)), who) for nonce in nonces]


def positions(outcomes: Sequence[object]) -> list[int]:
    assert all(isinstance(each, Accepted) for each in outcomes)
    return [each.index for each in outcomes if isinstance(each, Accepted)]


def hold_writer(ledger: Ledger, disk: Disk) -> "Future[Accepted]":
    """Keep the writer busy with one transaction until the gate opens; everything after it waits."""
    disk.hold()
    first = ledger.submit(anchors(ledger, 1, start=50)[0])
    assert disk.reached.wait(10)
    return first


def test_every_caller_keeps_its_order_whichever_way_it_submits(ledger: Ledger) -> None:
    def alone(who: Identity) -> list[int]:
        return [ledger.submit(each, timeout_ms=30_000).result(30).index for each in anchors(ledger, 20, who)]

    def ahead(who: Identity) -> list[int]:
        futures = [ledger.submit(each, timeout_ms=30_000) for each in anchors(ledger, 20, who)]
        return [future.result(30).index for future in futures]

    def together(who: Identity) -> list[int]:
        envelopes = anchors(ledger, 20, who)
        jobs = [ledger.submit_many(envelopes[at : at + 7], timeout_ms=30_000) for at in range(0, 20, 7)]
        return positions([each for job in jobs for each in job.result(30)])

    def from_a_loop(who: Identity) -> list[int]:
        async def run() -> list[int]:
            envelopes = anchors(ledger, 20, who)
            return [(await ledger.asubmit(each, timeout_ms=30_000)).index for each in envelopes]

        return asyncio.run(run())

    ways: Sequence[Callable[[Identity], list[int]]] = (alone, ahead, together, from_a_loop)
    with ThreadPoolExecutor(len(ways)) as pool:
        found = list(pool.map(lambda pair: pair[0](pair[1]), zip(ways, WRITERS, strict=True)))
    for indices in found:
        assert indices == sorted(indices)
    assert len({index for indices in found for index in indices}) == 80


def test_a_refused_transaction_does_not_touch_its_neighbours(ledger: Ledger) -> None:
    good = anchors(ledger, 3)
    stale = anchors(ledger, 1, start=101)[0]
    early = sign(Transaction(ledger.network, PATIENT.public, 1, SetConsent(filler(1), 1, filler(2))), PATIENT)
    job = [good[0], b"noise", good[1], stale, b"", good[2], early]
    size = ledger.size
    found = ledger.submit_many(job).result(10)
    codes = [each.rejection if isinstance(each, TransactionRefused) else "" for each in found]
    # Seven in blocks of four: good[1] takes nonce 101, and `stale` is its twin.
    assert codes == ["", "malformed", "", "", "malformed", "", "not-found"]
    assert positions([found[0], found[2], found[3], found[5]]) == [size, size + 1, size + 1, size + 3]
    assert [each.is_repeat for each in found if isinstance(each, Accepted)] == [False, False, True, False]
    assert [ledger.entry(size), ledger.entry(size + 1), ledger.entry(size + 3)] == good
    assert ledger.size == size + 5


def test_a_transaction_sees_those_before_it_in_its_own_block(ledger: Ledger) -> None:
    path = OpenPath(filler(1), PATIENT.public, filler(2))
    opened = sign(Transaction(ledger.network, OPERATOR.public, 100, path), OPERATOR)
    changes = [
        sign(
            Transaction(ledger.network, PATIENT.public, counter, SetConsent(filler(1), counter, filler(counter))),
            PATIENT,
        )
        for counter in (1, 2)
    ]
    first, second, third = ledger.submit_many([opened, *changes]).result(10)
    assert len({each.height for each in (first, second, third) if isinstance(each, Accepted)}) == 1
    state = ledger.state_get(filler(1))
    assert state is not None
    assert (state.owner_counter, state.owner_list) == (2, filler(2))


def test_a_job_larger_than_a_block_is_split_and_keeps_its_order(ledger: Ledger) -> None:
    height, size = ledger.height, ledger.size
    found = ledger.submit_many(anchors(ledger, 18)).result(30)
    # Blocks of four transactions and their state root, the last of two.
    assert positions(found) == [size + number + number // MAX_BLOCK for number in range(18)]
    heights = [each.height for each in found if isinstance(each, Accepted)]
    assert heights == [height + 1 + number // MAX_BLOCK for number in range(18)]
    assert (ledger.height, ledger.size) == (height + 5, size + 18 + 5)


def test_nothing_but_refusals_makes_no_block(ledger: Ledger) -> None:
    before = ledger.height, ledger.size, ledger.app_hash, list(ledger.checkpoints())
    assert all(isinstance(each, TransactionRefused) for each in ledger.submit_many([b"noise"] * 9).result(10))
    assert (ledger.height, ledger.size, ledger.app_hash, list(ledger.checkpoints())) == before


def test_repeats_inside_one_job_get_the_first_position(ledger: Ledger) -> None:
    one, two = anchors(ledger, 2)
    found = ledger.submit_many([one, one, two, one, two, one, one]).result(10)
    first, second = found[0], found[2]
    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    again = [replace(first, is_repeat=True), replace(second, is_repeat=True)]
    assert found == [first, again[0], second, again[0], again[1], again[0], again[0]]
    assert (first.is_repeat, second.is_repeat) == (False, False)
    assert ledger.submit(one).result(10) == again[0]


def test_an_empty_job_is_done_at_once(ledger: Ledger, disk: Disk) -> None:
    hold_writer(ledger, disk)
    assert ledger.submit_many([]).result(0) == []


async def test_no_more_wait_than_may(ledger: Ledger, disk: Disk) -> None:
    first = hold_writer(ledger, disk)
    waiting = [ledger.submit(each, timeout_ms=0) for each in anchors(ledger, 8)]
    late = anchors(ledger, 1, start=200)[0]
    size = ledger.size
    for _ in range(2):
        with pytest.raises(LedgerBusy):
            ledger.submit(late, timeout_ms=0)
        with pytest.raises(LedgerBusy):
            ledger.submit_many([late], timeout_ms=20)
        with pytest.raises(LedgerBusy):
            await ledger.asubmit(late, timeout_ms=20)
    disk.gate.set()
    assert positions([each.result(10) for each in (first, *waiting)]) == [
        size + n for n in (0, 2, 3, 4, 5, 7, 8, 9, 10)
    ]
    # Nothing of what was turned away was taken.
    assert ledger.position_of(late) is None
    assert (await ledger.asubmit(late)).is_repeat is False


def test_a_caller_waits_for_a_place_and_gets_it(ledger: Ledger, disk: Disk) -> None:
    hold_writer(ledger, disk)
    for each in anchors(ledger, 8):
        ledger.submit(each)
    late = anchors(ledger, 1, start=200)[0]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ledger.submit, late, timeout_ms=30_000)
        disk.gate.set()
        assert asked.result(30).result(30).is_repeat is False


def test_close_answers_everything_in_flight_and_then_refuses(ledger: Ledger, disk: Disk, tmp_path: Path) -> None:
    first = hold_writer(ledger, disk)
    job = ledger.submit_many(anchors(ledger, 30))
    late = anchors(ledger, 1, start=200)[0]
    with ThreadPoolExecutor(2) as pool:
        closing = pool.submit(ledger.close)
        # Whoever waits for a place when the ledger closes is told so, not left waiting.
        blocked = pool.submit(ledger.submit, late, timeout_ms=600_000)
        assert isinstance(blocked.exception(30), LedgerClosed)
        assert not closing.done()
        disk.gate.set()
        closing.result(30)
    assert first.done()
    assert len(positions(job.result(0))) == 30
    for refused in (ledger.submit, ledger.submit_many):
        with pytest.raises(LedgerClosed):
            refused([late])  # type: ignore[arg-type]  # never looked at
    with reopen(tmp_path, disk) as again:
        assert [again.position_of(each) is not None for each in (*anchors(again, 30), late)] == [True] * 30 + [False]


@pytest.mark.parametrize("blocks", [0, 1, 2, 4])
def test_a_disk_that_fails_in_the_middle_of_a_job(ledger: Ledger, disk: Disk, tmp_path: Path, blocks: int) -> None:
    envelopes, durable = anchors(ledger, 18), (ledger.height, ledger.size)
    disk.commits_left = blocks
    with pytest.raises(LedgerUnavailable):
        ledger.submit_many(envelopes).result(30)
    # Nothing is shown that is not durable, and nothing more is taken.
    height, size = durable[0] + blocks, durable[1] + 5 * blocks
    assert (ledger.height, ledger.size, len(list(ledger.blocks()))) == (height, size, height + 1)
    with pytest.raises(LedgerClosed):
        ledger.submit(envelopes[0])
    ledger.close()
    disk.commits_left = None
    with reopen(tmp_path, disk) as again:
        assert (again.height, again.size) == (height, size)
        found = again.submit_many(envelopes).result(30)
        assert [each.is_repeat for each in found if isinstance(each, Accepted)] == [n < 4 * blocks for n in range(18)]
        assert positions(found) == [durable[1] + n + n // MAX_BLOCK for n in range(18)]


def test_whoever_waits_when_the_disk_fails_is_told(ledger: Ledger, disk: Disk) -> None:
    first = hold_writer(ledger, disk)
    others: list[Future[Any]] = [
        ledger.submit(anchors(ledger, 1)[0]),
        *(ledger.submit_many(anchors(ledger, 2)) for _ in range(3)),
    ]
    disk.commits_left = 0
    disk.gate.set()
    for future in (first, *others):
        with pytest.raises(LedgerUnavailable):
            future.result(30)
    ledger.close()


def test_a_cancelled_future_changes_nothing_for_anybody(ledger: Ledger, disk: Disk) -> None:
    hold_writer(ledger, disk)
    one, two, three, four = anchors(ledger, 4)
    futures: list[Future[Any]] = [
        ledger.submit(one),
        ledger.submit(two),
        ledger.submit_many([three]),
        ledger.submit(four),
    ]
    assert futures[1].cancel()
    assert futures[2].cancel()
    disk.gate.set()
    first, last = futures[0].result(30), futures[3].result(30)
    assert isinstance(first, Accepted)
    assert isinstance(last, Accepted)
    # What was cancelled had been taken: it is in the log all the same.
    found = [ledger.position_of(each) for each in (one, two, three, four)]
    assert positions(found) == [first.index, first.index + 1, first.index + 2, last.index]
    with pytest.raises(CancelledError):
        futures[1].result(0)


async def test_a_cancelled_task_changes_nothing_for_anybody(ledger: Ledger, disk: Disk) -> None:
    hold_writer(ledger, disk)
    one, two = anchors(ledger, 2)
    task = asyncio.create_task(ledger.asubmit(one))
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    disk.gate.set()
    second = await ledger.asubmit(two)
    where = ledger.position_of(one)
    assert where is not None
    assert where.index < second.index


def test_nothing_a_stranger_sends_stops_the_ledger(ledger: Ledger) -> None:
    stranger = identity(77)
    network = ledger.network
    largest = 2**64 - 1
    sent = [
        sign(Transaction(network, who.public, nonce, Anchor(filler(1), count)), who)
        for who in (stranger, OPERATOR)
        for nonce in (2**63 - 1, 2**63, largest)
        for count in (1, largest)
    ]
    found = ledger.submit_many(sent).result(30)
    codes = [each.rejection if isinstance(each, TransactionRefused) else "" for each in found]
    assert codes == ["not-a-member"] * 6 + ["", "nonce-stale"] * 3
    assert [ledger.position_of(each) is not None for each in sent] == [not code for code in codes]
    assert ledger.submit(anchors(ledger, 1, WRITERS[0])[0]).result(10)
