"""Many writers at once, from threads and an event loop, over a slow disk: every answer comes, and is true.

A queue of four and a disk that takes milliseconds make the ledger push back; it
is closed while all of them are writing. Each writer has a key of its own.
"""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

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
    envelope_digest,
    open_ledger,
)
from tests.fault.ledger.ledger_load import ANSWER_LIMIT_S, GENESIS, LOG_KEY, NAME, OPERATOR, broken_promises
from tests.support.powerloss import Event
from tests.support.powerloss_vfs import Disk, input_output_error

THREADS, TASKS = 16, 8

pytestmark = pytest.mark.timeout(900)


@dataclass(slots=True)
class Tally:
    """What the writers met."""

    accepted: list[Accepted] = field(default_factory=list)
    busy: int = 0
    closed: int = 0
    other: list[str] = field(default_factory=list)
    taken: dict[bytes, Future[Accepted]] = field(default_factory=dict)


@pytest.fixture
def slow(tmp_path: Path) -> Disk:
    return Disk(tmp_path, sync_s=0.003)


def open_slow(folder: Path, disk: Disk, *, max_waiting: int, max_block: int) -> Ledger:
    return open_ledger(
        folder / NAME,
        log_identity=LOG_KEY,
        genesis=GENESIS,
        connect=disk.connect,
        max_waiting=max_waiting,
        max_block=max_block,
    )


def admit(ledger: Ledger, number: int) -> list[Identity]:
    """Let ``number`` new members join."""
    found = [Identity.from_private_bytes(bytes([50 + place]) * 32) for place in range(number)]
    for place, each in enumerate(found):
        ledger.send(Join(each.public, f"writer {place}"), OPERATOR, [each]).result(ANSWER_LIMIT_S)
    return found


def write_in_thread(ledger: Ledger, identity: Identity, tally: Tally) -> None:
    """Submit until the ledger is closed; a refusal for want of room is tried again with the same bytes."""
    rng = random.Random(identity.public)
    while True:
        envelope = ledger.sign(Anchor(rng.randbytes(32), 1), identity)
        try:
            while (future := _try(ledger, envelope, tally)) is None:
                pass
            tally.taken[envelope_digest(envelope)] = future
            tally.accepted.append(future.result(ANSWER_LIMIT_S))
        except LedgerClosed:
            tally.closed += 1
            return
        except Exception as error:
            tally.other.append(repr(error))
            return


def _try(ledger: Ledger, envelope: bytes, tally: Tally) -> Future[Accepted] | None:
    try:
        return ledger.submit(envelope, timeout_ms=1)
    except LedgerBusy:
        tally.busy += 1
        return None


async def write_in_task(ledger: Ledger, identity: Identity, tally: Tally) -> None:
    """Submit until the ledger is closed, without ever blocking the loop."""
    rng = random.Random(identity.public)
    envelope = b""
    while True:
        envelope = envelope or ledger.sign(Anchor(rng.randbytes(32), 1), identity)
        try:
            tally.accepted.append(await ledger.asubmit(envelope, timeout_ms=1))
            envelope = b""
        except LedgerBusy:
            tally.busy += 1
        except LedgerClosed:
            tally.closed += 1
            return
        except Exception as error:
            tally.other.append(repr(error))
            return


async def test_closing_answers_everybody_and_loses_nobody(tmp_path: Path, slow: Disk) -> None:
    ledger, tally = open_slow(tmp_path, slow, max_waiting=4, max_block=2), Tally()
    members = admit(ledger, THREADS + TASKS)
    threads = [threading.Thread(target=write_in_thread, args=(ledger, each, tally)) for each in members[:THREADS]]
    for thread in threads:
        thread.start()
    tasks = [asyncio.create_task(write_in_task(ledger, each, tally)) for each in members[THREADS:]]
    while len(tally.accepted) < 100 and not tally.other:
        await asyncio.sleep(0.005)
    await asyncio.to_thread(ledger.close)
    async with asyncio.timeout(ANSWER_LIMIT_S):
        await asyncio.gather(*tasks)
    for thread in threads:
        await asyncio.to_thread(thread.join, ANSWER_LIMIT_S)
    assert not any(thread.is_alive() for thread in threads)
    assert tally.other == []
    assert tally.closed == THREADS + TASKS
    assert tally.busy > 0
    assert all(future.done() for future in tally.taken.values())
    assert len({item.digest for item in tally.accepted}) == len(tally.accepted) >= 100
    assert broken_promises(tmp_path, tally.accepted) == []


def test_what_was_refused_for_want_of_room_was_not_taken(tmp_path: Path, slow: Disk) -> None:
    with open_slow(tmp_path, slow, max_waiting=1, max_block=1) as ledger:
        taken, refused = list[Future[Accepted]](), list[bytes]()
        for number in range(60):
            envelope = ledger.sign(Anchor(number.to_bytes(32, "big"), 1), OPERATOR)
            try:
                taken.append(ledger.submit(envelope, timeout_ms=0))
            except LedgerBusy:
                refused.append(envelope_digest(envelope))
        accepted = [each.result(ANSWER_LIMIT_S) for each in taken]
        kept = {envelope_digest(row.entry) for row in ledger.entries()}
    assert refused
    assert not kept & set(refused)
    assert {item.digest for item in accepted} <= kept


def test_closing_with_a_full_queue_commits_what_was_taken(tmp_path: Path, slow: Disk) -> None:
    ledger = open_slow(tmp_path, slow, max_waiting=200, max_block=3)
    futures = [ledger.send(Anchor(number.to_bytes(32, "big"), 1), OPERATOR) for number in range(150)]
    closers = [threading.Thread(target=ledger.close) for _ in range(3)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(ANSWER_LIMIT_S)
    assert all(future.done() for future in futures)
    assert broken_promises(tmp_path, [future.result(0) for future in futures]) == []


def test_a_fault_answers_everybody_who_waits(tmp_path: Path) -> None:
    is_sent, broken = threading.Event(), threading.Event()

    def refuse(event: Event) -> Exception | None:
        # Nothing is written before all is sent: else a slow sender has nobody left to answer.
        assert is_sent.wait(ANSWER_LIMIT_S)
        return input_output_error(event) if broken.is_set() else None

    is_sent.set()
    ledger = open_slow(tmp_path, Disk(tmp_path, sync_s=0.003, refuse=refuse), max_waiting=500, max_block=4)
    is_sent.clear()
    futures = [ledger.send(Anchor(number.to_bytes(32, "big"), 1), OPERATOR) for number in range(200)]
    # By the ledger's own thread, before it goes on to the next block.
    futures[0].add_done_callback(lambda _: broken.set())
    is_sent.set()
    first = futures[0].result(ANSWER_LIMIT_S)
    outcomes = [future.exception(ANSWER_LIMIT_S) for future in futures]
    ledger.close()
    assert {type(item) for item in outcomes if item is not None} <= {LedgerUnavailable, LedgerClosed}
    assert any(outcomes)
    kept = [future.result(0) for future, item in zip(futures, outcomes, strict=True) if item is None]
    assert first in kept
    assert broken_promises(tmp_path, kept) == []
