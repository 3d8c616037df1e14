"""The open ledger: durability, order, repeats, locks, exports."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from ledger_core import (
    Accepted,
    Anchor,
    Identity,
    IntegrityBroken,
    Join,
    Ledger,
    LedgerBusy,
    LedgerClosed,
    LedgerError,
    LedgerLocked,
    LedgerUnavailable,
    NoteInvalid,
    NotFound,
    OpeningRefused,
    OpenPath,
    SetConsent,
    Transaction,
    TransactionRefused,
    envelope_digest,
    export_ledger,
    open_ledger,
    read_transactions,
    replay_export,
    run_fsck,
    sign,
)
from ledger_core.checkpoint import parse_checkpoint, split_note
from ledger_core.engines.embedded import EmbeddedEngine
from ledger_core.hashing import leaf_hash
from ledger_core.log import TiledLog
from ledger_core.machine import begin
from ledger_core.ports import Commit, EntryRow, Store
from ledger_core.proofs import verify_consistency, verify_inclusion
from ledger_core.stores import sqlite as sqlite_store
from tests.unit.ledger_core.ledger_samples import (
    GENESIS,
    LOG_KEY,
    NORTH,
    OPERATOR,
    PATIENT,
    SOUTH,
    filler,
    join,
    open_test_ledger,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_test_ledger(tmp_path) as opened:
        join(opened)
        yield opened


def test_a_reopened_ledger_is_the_same_ledger(tmp_path: Path) -> None:
    with open_test_ledger(tmp_path) as first:
        join(first)
        first.send(OpenPath(filler(1), PATIENT.public, filler(2)), NORTH).result(10)
        before = (first.app_hash, first.size, first.height, first.state_get(filler(1)))
    with open_test_ledger(tmp_path, genesis=None) as again:
        assert (again.app_hash, again.size, again.height, again.state_get(filler(1))) == before
        assert again.next_nonce(NORTH.public) == 2


def test_a_second_opening_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    first = open_test_ledger(tmp_path)
    with pytest.raises(LedgerLocked):
        open_test_ledger(tmp_path)
    first.close()
    open_test_ledger(tmp_path).close()


def test_another_process_is_refused_too(ledger: Ledger, tmp_path: Path) -> None:
    program = "from pathlib import Path; import sys; from tests.unit.ledger_core.ledger_samples import *\n"
    program += "open_test_ledger(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "LedgerLocked: another process has this ledger open" in done.stderr


def test_opening_with_other_keys_or_genesis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OpeningRefused, match="no genesis"):
        open_test_ledger(tmp_path, genesis=None)
    open_test_ledger(tmp_path).close()
    with pytest.raises(OpeningRefused, match="another genesis"):
        open_test_ledger(tmp_path, genesis=replace(GENESIS, threshold=2))
    with pytest.raises(OpeningRefused, match="log key"):
        open_ledger(tmp_path / "ledger.db", log_identity=SOUTH)
    with pytest.raises(OpeningRefused, match="no store"):
        open_ledger("postgres:x", log_identity=SOUTH)
    (tmp_path / "text").write_text("not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(IntegrityBroken):
        open_ledger(tmp_path / "text", log_identity=SOUTH, genesis=GENESIS)


def test_an_accepted_envelope_comes_back_to_its_first_position(ledger: Ledger) -> None:
    envelope = ledger.sign(Anchor(filler(1), 1), NORTH)
    first = ledger.submit(envelope).result(10)
    size, app_hash = ledger.size, ledger.app_hash
    again = ledger.submit(envelope).result(10)
    assert again == replace(first, is_repeat=True)
    assert (ledger.size, ledger.app_hash) == (size, app_hash)
    assert ledger.position_of(envelope) == again
    assert ledger.entry(first.index) == envelope
    assert ledger.position_of(filler(1)) is None
    assert ledger.position_of(ledger.sign(Anchor(filler(1), 1), NORTH)) is None


def test_twins_in_flight_get_one_position(ledger: Ledger) -> None:
    envelope = ledger.sign(Anchor(filler(1), 1), NORTH)
    answers = [future.result(10) for future in [ledger.submit(envelope) for _ in range(20)]]
    assert len({answer.index for answer in answers}) == 1
    assert sum(not answer.is_repeat for answer in answers) == 1


def test_a_refusal_carries_its_code(ledger: Ledger) -> None:
    with pytest.raises(TransactionRefused) as refused:
        ledger.send(SetConsent(filler(1), 1, filler(2)), PATIENT).result(10)
    assert refused.value.rejection == "not-found"
    with pytest.raises(NotFound):
        ledger.entry(10_000)


async def test_an_event_loop_submits_without_blocking(ledger: Ledger) -> None:
    envelopes = [ledger.sign(Anchor(filler(number), 1), NORTH) for number in range(50)]
    answers = await asyncio.gather(*(ledger.asubmit(envelope) for envelope in envelopes))
    assert sorted({answer.index for answer in answers}) == [answer.index for answer in answers]
    with pytest.raises(TransactionRefused):
        await ledger.asubmit(b"noise")


def test_threads_that_share_an_identity_lose_nothing(ledger: Ledger) -> None:
    found: list[Future[Accepted]] = []

    def work() -> None:
        for number in range(40):
            found.append(ledger.send(Anchor(filler(number), 1), NORTH))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({future.result(10).index for future in found}) == 160


def test_everything_queued_is_answered_before_close_returns(tmp_path: Path) -> None:
    ledger = open_test_ledger(tmp_path)
    futures = [ledger.send(Anchor(filler(1), 1), OPERATOR) for _ in range(300)]
    ledger.close()
    assert all(future.result(0).height for future in futures)
    with pytest.raises(LedgerClosed):
        ledger.submit(b"")
    ledger.close()


def test_proofs_lead_to_the_signed_root(ledger: Ledger) -> None:
    older = parse_checkpoint(split_note(ledger.checkpoint())[0])
    accepted = ledger.send(Anchor(filler(1), 1), NORTH).result(10)
    newer = parse_checkpoint(split_note(ledger.checkpoint())[0])
    verify_inclusion(
        leaf_hash(ledger.entry(accepted.index)),
        index=accepted.index,
        tree_size=newer.size,
        path=ledger.prove_transaction(accepted.index),
        root=newer.root,
    )
    verify_consistency(
        old_size=older.size,
        old_root=older.root,
        new_size=newer.size,
        new_root=newer.root,
        path=ledger.prove_consistency(older.size),
    )


def test_an_export_replays_to_the_same_state(ledger: Ledger) -> None:
    for number in range(5):
        ledger.send(OpenPath(filler(number), PATIENT.public, filler(2)), NORTH).result(10)
    lines = list(export_ledger(ledger))
    state = replay_export(lines)
    assert (state.app_hash, state.header.height) == (ledger.app_hash, ledger.height)
    for number in range(len(lines)):
        with pytest.raises(LedgerError):
            replay_export([*lines[:number], lines[number].replace("a", "b", 1), *lines[number + 1 :]])


class BrokenStore:
    """A disk that fails at its second commit, or makes the writer wait."""

    def __init__(self, *, gate: threading.Event | None = None) -> None:
        self.commits = 0
        self.gate = gate

    def commit(self, commit: Commit) -> None:
        self.commits += 1
        if self.gate is not None:
            self.gate.wait(10)
        elif self.commits > 1:
            raise LedgerUnavailable("the disk is full")

    def find(self, signer: bytes, nonce: int) -> tuple[EntryRow, ...]:
        return ()


def engine_on(store: BrokenStore, *, max_waiting: int = 10) -> tuple[EmbeddedEngine, list[bytes]]:
    block = begin(GENESIS)
    log = TiledLog(lambda level, index: None, 0)
    log.publish(log.grow(block.leaves), len(block.leaves))
    engine = EmbeddedEngine(
        store=cast(Store, store),
        state=block.state,
        log=log,
        origin="test.example/ledger",
        log_identity=LOG_KEY,
        clock_ms=lambda: 1_000,
        max_block=1,
        max_waiting=max_waiting,
    )
    network, who = block.state.network, OPERATOR
    envelopes = [sign(Transaction(network, who.public, n, Anchor(filler(n), 1)), who) for n in range(1, 20)]
    return engine, envelopes


def test_after_a_failed_commit_nothing_is_acknowledged_or_shown() -> None:
    engine, envelopes = engine_on(BrokenStore())
    engine.submit(envelopes[0]).result(10)
    durable = engine.state
    with pytest.raises(LedgerUnavailable):
        engine.submit(envelopes[1]).result(10)
    with pytest.raises(LedgerUnavailable):
        engine.submit(envelopes[2]).result(10)
    assert engine.state is durable
    engine.close()


async def test_a_full_queue_pushes_back() -> None:
    gate = threading.Event()
    engine, envelopes = engine_on(BrokenStore(gate=gate), max_waiting=1)
    waiting = [engine.submit(envelope) for envelope in envelopes[:2]]
    with pytest.raises(LedgerBusy):
        engine.submit(envelopes[2], timeout_ms=30)
    with pytest.raises(LedgerBusy):
        await engine.asubmit(envelopes[2], timeout_ms=30)
    gate.set()
    assert [future.result(10).index for future in waiting] == [2, 4]
    engine.close()


def test_a_callback_that_closes_the_ledger_is_told_and_stops_nobody() -> None:
    """It runs in the writer's thread, which cannot wait for its own end."""
    gate = threading.Event()
    engine, envelopes = engine_on(BrokenStore(gate=gate))
    told: list[str] = []

    def close(done: object) -> None:
        try:
            engine.close()
        except RuntimeError as problem:
            told.append(str(problem))

    first = engine.submit(envelopes[0])
    first.add_done_callback(close)
    gate.set()
    assert first.result(10).index == 2
    assert engine.submit(envelopes[1]).result(10).index == 4
    assert told == ["the ledger cannot be closed from a future's callback: close it from another thread"]
    engine.close()


_WRITER = """
import sys
from pathlib import Path
from tests.unit.ledger_core.ledger_samples import *
ledger = open_test_ledger(Path(sys.argv[1]))
number = 0
while True:
    accepted = ledger.send(Anchor(bytes(32), 1), OPERATOR).result()
    print(accepted.index, accepted.digest.hex(), flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(30)]
        os.kill(writer.pid, signal.SIGKILL)
        said += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        writer.stdout.close()
        writer.wait(10)
        assert list(run_fsck(tmp_path / "ledger.db")) == []
        with open_test_ledger(tmp_path, genesis=None) as ledger:
            for index, digest in (line.split() for line in said):
                assert envelope_digest(ledger.entry(int(index))).hex() == digest


def test_identities_show_no_secret() -> None:
    secret = Identity.generate()
    assert secret.private_bytes().hex() not in repr(secret)
    assert Identity.from_private_bytes(secret.private_bytes()) == secret


@pytest.mark.parametrize(
    "change",
    [{"operator": bytes(31)}, {"threshold": 0}, {"time_ms": -1}, {"name": ""}, {"name": "two\nlines"}],
)
def test_a_genesis_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(OpeningRefused, match="genesis needs"):
        begin(replace(GENESIS, **change))  # type: ignore[arg-type]
    with pytest.raises((OpeningRefused, NoteInvalid)):
        open_test_ledger(tmp_path, genesis=replace(GENESIS, **change))  # type: ignore[arg-type]


def test_a_ledger_where_nothing_can_be_written_is_read_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root every folder can be written to, so SQLite's refusal is played; the file is opened for real."""
    with open_test_ledger(tmp_path) as ledger:
        join(ledger)
    opened: list[bool] = []

    def refusing(path: Path, read_only: bool) -> sqlite3.Connection:
        opened.append(read_only)
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite_store, "connect_file", refusing)
    store = sqlite_store.SqliteStore.open_to_read(tmp_path / "ledger.db", connect=refusing)
    assert store.last_block() is not None
    store.close()
    (tmp_path / "ledger.db-wal").write_bytes(b"a block that is not in the file yet")
    with pytest.raises(OpeningRefused, match="write access"):
        sqlite_store.SqliteStore.open_to_read(tmp_path / "ledger.db", connect=refusing)
    with pytest.raises(OpeningRefused, match="there is no ledger at"):
        list(run_fsck(tmp_path / "none.db"))
    assert opened == [True, True]


def test_files_are_for_their_owner_only(ledger: Ledger, tmp_path: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("ledger.db*")} == {0o600}


def test_a_closed_ledger_says_so_when_read(tmp_path: Path) -> None:
    ledger = open_test_ledger(tmp_path)
    ledger.close()
    with pytest.raises(LedgerClosed):
        ledger.entry(0)


def test_transactions_are_read_beside_an_open_ledger(ledger: Ledger, tmp_path: Path) -> None:
    ledger.send(Anchor(filler(1), 4), NORTH).result(10)
    kinds = [transaction.payload for transaction in read_transactions(tmp_path / "ledger.db")]
    assert kinds == [Join(NORTH.public, "north"), Anchor(filler(1), 4)]
