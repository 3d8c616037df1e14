"""A replaying witness vouches for what it computed, and tells a lying log from a broken copy."""

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from ledger_core.checkpoint import Checkpoint, log_key, parse_checkpoint, sign_checkpoint, split_note
from ledger_core.codec import encode
from ledger_core.errors import (
    EvidenceInvalid,
    IntegrityBroken,
    LedgerUnavailable,
    LogMismatch,
    NotFound,
    OpeningRefused,
    ReplayRefused,
)
from ledger_core.machine import Genesis
from ledger_core.stateroot import read_state_entry
from ledger_core.static import StaticLog, write_static
from ledger_core.transactions import prepare
from ledger_core.witness import commands
from ledger_core.witness.blocks import Fault, confirm_block, keep_block, read_blocks, verify_block, verify_evidence
from ledger_core.witness.cases import cases
from ledger_core.witness.commands import follow_once, running
from ledger_core.witness.evidence import FALSE_ENTRY, FORK, REWRITE, WRONG_BLOCK, WRONG_STATE
from ledger_core.witness.home import REPLAYING, Home
from ledger_core.witness.records import Records
from ledger_core.witness.replay import Follower
from ledger_core.witness.sources import SourceTiles, prepare_ahead
from tests.unit.ledger_core.ledger_witness_samples import (
    KEYS,
    LOG_VKEY,
    NOW_S,
    OPERATOR,
    ORIGIN,
    OTHER,
    Bench,
    SampleLog,
    anchor,
    consistency,
    ledger_blocks,
    tree_root,
)

# Genesis with its state root, then blocks of two transactions and a state root: sizes 2, 5, 8, 11, 14, 17, 20.
ENTRIES, STATE = ledger_blocks(6)
NETWORK = Genesis("replayed.example/ledger", OPERATOR.public).network


class ReplayBench(Bench):
    """A replaying witness and the log it reads."""

    def __init__(self, folder: Path, log: SampleLog) -> None:
        super().__init__(folder, role=REPLAYING)
        self.log = log
        self.budget_s = 30.0
        self.confirm_entries = 100
        self.max_block_bytes = 10_000
        self.follower = self.start()

    def start(self) -> Follower:
        self.follower = Follower(
            self.home,
            self.records,
            self.log,
            clock_s=lambda: self.now_s,
            report=self.said.append,
            budget_s=self.budget_s,
            confirm_entries=self.confirm_entries,
            max_block_bytes=self.max_block_bytes,
        )
        self.witness = self.make(self.follower)
        return self.follower

    def restart(self) -> None:
        self.records.close()
        self.records = Records(self.home.folder / "records.db")
        self.start()

    def case(self) -> Path:
        (case,) = cases(self.home.evidence)
        return case


@pytest.fixture
def bench(tmp_path: Path) -> ReplayBench:
    return ReplayBench(tmp_path / "w", SampleLog(list(ENTRIES)))


def with_entry(number: int, entry: bytes) -> list[bytes]:
    return [*ENTRIES[:number], entry, *ENTRIES[number + 1 :]]


def false_state_root(entry: bytes) -> bytes:
    found = read_state_entry(entry)
    assert found is not None
    return replace(found, state_root=bytes(32)).entry()


# --- an honest log ------------------------------------------------------------------------------------------------


def test_an_honest_log_is_replayed_and_cosigned(bench: ReplayBench) -> None:
    assert bench.add(bench.log.body(8)).status == 200
    assert bench.follower.size == 8
    assert bench.add(bench.log.body(20, 8)).status == 200
    assert bench.follower.size == 20
    assert bench.evidence() == []


def test_a_restart_reads_no_entry_again(bench: ReplayBench) -> None:
    bench.follower.follow()
    bench.restart()
    assert bench.follower.size == 20
    entries, _ = ledger_blocks(9)
    log = SampleLog(entries)
    started: list[int] = []

    class Watched(SampleLog):
        def entries(self, start: int, stop: int) -> Iterator[bytes]:
            started.append(start)
            return log.entries(start, stop)

    bench.log = Watched(entries)
    bench.start().follow()
    assert started == [20]
    assert bench.follower.size == len(entries)
    assert bench.follower._replica.state is not None
    assert bench.follower._replica.state.tree.root == ledger_blocks(9)[1].tree.root


def test_what_was_replayed_ahead_of_a_submission_is_vouched_for(bench: ReplayBench) -> None:
    bench.follower.follow()
    assert bench.add(bench.log.body(11)).status == 200


def test_a_long_log_is_taken_in_pieces_and_nothing_is_lost_between(tmp_path: Path) -> None:
    bench = ReplayBench(tmp_path / "w", SampleLog(list(ENTRIES)))
    bench.budget_s = 0.0001
    bench.start()
    sizes = []
    for _ in range(10):
        answer = bench.add(bench.log.body(20))
        sizes.append(bench.follower.size)
        if answer.status == 200:
            break
        assert answer.status == 503
        bench.restart()
    assert sizes == [2, 5, 8, 11, 14, 17, 20]


def test_points_on_the_way_are_confirmed_and_kept(bench: ReplayBench) -> None:
    bench.confirm_entries = 6
    bench.start()
    bench.log.entries_list[16] = false_state_root(ENTRIES[16])
    with pytest.raises(ReplayRefused):
        bench.follower.follow()
    assert bench.follower.size == 14
    assert [line for line in bench.said if "replayed" in line] == [
        f"{ORIGIN}: replayed {size} of 20 entries" for size in (8, 14)
    ]


def test_a_static_directory_is_followed(bench: ReplayBench, tmp_path: Path) -> None:
    write_static(bench.log, tmp_path / "static")
    source = StaticLog.open(tmp_path / "static")
    follower = Follower(bench.home, bench.records, source, clock_s=lambda: NOW_S)
    assert follower.follow()[0].size == 20
    bench.log = SampleLog(ledger_blocks(90)[0])
    write_static(bench.log, tmp_path / "static")
    assert follower.follow()[0].size == 272


# --- a log that signed something wrong ----------------------------------------------------------------------------


def lies() -> dict[str, tuple[list[bytes], str, str]]:
    stale = anchor(NETWORK, 1)
    stranger = anchor(NETWORK, 7, signer=OTHER)
    forged = bytearray(anchor(NETWORK, 4, seed=9))
    forged[-10] ^= 1
    late = read_state_entry(ENTRIES[10])
    assert late is not None
    return {
        "state root does not follow": (with_entry(10, false_state_root(ENTRIES[10])), WRONG_BLOCK, "state root"),
        "genesis state root": (with_entry(1, false_state_root(ENTRIES[1])), FALSE_ENTRY, "genesis|state root"),
        "no genesis": (with_entry(0, ENTRIES[2]), FALSE_ENTRY, "genesis"),
        "refused transaction": (with_entry(5, stale), WRONG_BLOCK, "entry 5: nonce-stale"),
        "stranger's transaction": (with_entry(6, stranger), WRONG_BLOCK, "entry 6: not-a-member"),
        "false signature": (with_entry(5, bytes(forged)), FALSE_ENTRY, "entry 5: bad-signature"),
        "no transaction": (with_entry(5, b"\x01"), FALSE_ENTRY, "entry 5: malformed"),
        "height that does not rise": (with_entry(10, replace(late, height=2).entry()), WRONG_BLOCK, "follow"),
        "time that falls": (with_entry(10, replace(late, time_ms=0).entry()), WRONG_BLOCK, "follow"),
        "block without transactions": ([*ENTRIES[:8], ENTRIES[10], *ENTRIES[8:]], WRONG_BLOCK, "state root"),
        "repeated block": ([*ENTRIES[:8], *ENTRIES[5:]], WRONG_BLOCK, "follow"),
        "ends within a block": (ENTRIES[:19], WRONG_BLOCK, "state root"),
        "no envelope": (with_entry(5, encode((1, b"body"))), WRONG_BLOCK, "entry 5: malformed"),
    }


@pytest.mark.parametrize("name", sorted(lies()))
def test_a_lying_log_is_refused_and_the_evidence_judged_by_others(tmp_path: Path, name: str) -> None:
    entries, kind, what = lies()[name]
    bench = ReplayBench(tmp_path / "w", SampleLog(entries))
    with pytest.raises(ReplayRefused, match=what):
        bench.follower.follow()
    answer = bench.add(bench.log.body(len(entries)))
    assert answer.status == 422
    assert bench.records.newest(ORIGIN) is None
    assert bench.evidence() == [kind]
    # Refused twice, kept and said once.
    assert sum(f"REFUSED, {kind}" in line for line in bench.said) == 1
    finding = verify_evidence(bench.case(), KEYS)
    assert (finding.kind, finding.is_proof) == (kind, kind == FALSE_ENTRY)
    confirmed = confirm_block(bench.case(), KEYS, bench.log)
    assert (confirmed.kind, confirmed.is_proof) == (WRONG_STATE, True)


@pytest.mark.parametrize(
    ("number", "entry", "what"),
    [
        (10, encode((2, 9, 3, 3000, bytes(32))), "entry 10: malformed"),
        (5, encode((7, b"a later kind of entry")), "entry 5: malformed"),
        (5, encode((1, encode((NETWORK, "later", 1, OPERATOR.public, 4, {})), bytes(64), ())), "unknown-kind"),
        (5, encode((1, encode((NETWORK, "anchor", 2, OPERATOR.public, 4, {})), bytes(64), ())), "unknown-version"),
    ],
)
def test_rules_newer_than_the_witness_are_not_vouched_for_and_accuse_nobody(
    tmp_path: Path, number: int, entry: bytes, what: str
) -> None:
    bench = ReplayBench(tmp_path / "w", SampleLog(with_entry(number, entry)))
    with pytest.raises(LedgerUnavailable, match=f"too old.*{what}"):
        bench.follower.follow()
    assert bench.evidence() == []
    end = next(place for place in range(number, 20) if read_state_entry(bench.log.entries_list[place]))
    case = make_case(tmp_path, 5 if number == 5 else 8, end + 1, log=bench.log)
    assert not verify_block(case, KEYS).is_proof


def test_what_came_before_a_lie_can_still_be_vouched_for(bench: ReplayBench) -> None:
    bench.log.entries_list[10] = false_state_root(ENTRIES[10])
    with pytest.raises(ReplayRefused, match="block 3"):
        bench.follower.follow()
    assert bench.add(SampleLog(ENTRIES[:8]).body(8)).status == 200
    assert bench.add(bench.log.body(20, 8)).status == 422
    bench.restart()
    assert bench.follower.size == 8


def test_a_log_that_leaves_out_a_replayed_block_is_convicted(bench: ReplayBench) -> None:
    """Nonces may have gaps, so the shorter log is sound by itself; only memory shows the lie."""
    bench.log.served = 8
    bench.follower.follow()
    bench.log = SampleLog([*ENTRIES[:5], *ENTRIES[8:]])
    bench.start()
    with pytest.raises(ReplayRefused, match="does not begin"):
        bench.follower.follow()
    finding = verify_evidence(bench.case(), KEYS)
    assert (finding.kind, finding.is_proof) == (REWRITE, True)
    fresh = ReplayBench(bench.home.folder.with_name("fresh"), bench.log)
    fresh.follower.follow()


@pytest.mark.parametrize(("size", "kind"), [(20, FORK), (8, REWRITE), (11, REWRITE)])
def test_another_tree_of_a_replayed_size_is_convicted(bench: ReplayBench, size: int, kind: str) -> None:
    bench.follower.follow()
    other = SampleLog(ledger_blocks(6, seed=1)[0])
    answer = bench.add(other.body(size))
    assert answer.status == 422
    assert any(f"{ORIGIN}: {kind}: " in line for line in bench.said)
    finding = verify_evidence(bench.case(), KEYS)
    assert (finding.kind, finding.is_proof) == (kind, True)


def test_a_size_within_a_block_is_not_vouched_for(bench: ReplayBench) -> None:
    bench.follower.follow()
    assert bench.add(bench.log.body(10)).status == 503


# --- a copy that is broken, which convicts nobody -----------------------------------------------------------------


class Missing(SampleLog):
    def tile(self, level: int, index: int, width: int) -> bytes:
        raise NotFound("no such tile")


class Unplugged(SampleLog):
    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        yield self.entries_list[start]
        raise OSError("unplugged")


class CutShort(SampleLog):
    cut = 7

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        yield from list(super().entries(start, stop))[: self.cut]


class CutBetweenBlocks(CutShort):
    cut = 8


class OtherEntries(SampleLog):
    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        yield from ledger_blocks(6, seed=1)[0][start:stop]


class SkippedBlock(SampleLog):
    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        yield from [*self.entries_list[:5], *self.entries_list[8:]][start:stop]


class BadEntries(SampleLog):
    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        yield from with_entry(6, b"\x01")[start:stop]


class OtherTiles(SampleLog):
    def tile(self, level: int, index: int, width: int) -> bytes:
        return bytes(32 * width)


class ShortTiles(SampleLog):
    def tile(self, level: int, index: int, width: int) -> bytes:
        return super().tile(level, index, width)[:-1]


class NoNote(SampleLog):
    def checkpoint(self) -> str:
        return "<html>"


@pytest.mark.parametrize(
    ("source", "failure"),
    [
        (Missing, LedgerUnavailable),
        (Unplugged, LedgerUnavailable),
        (CutShort, LogMismatch),
        (CutBetweenBlocks, LogMismatch),
        (OtherEntries, LogMismatch),
        (SkippedBlock, LogMismatch),
        (BadEntries, LogMismatch),
        (OtherTiles, LogMismatch),
        (ShortTiles, LogMismatch),
        (NoNote, LogMismatch),
    ],
)
def test_a_broken_copy_is_tried_again_and_accuses_nobody(
    tmp_path: Path, source: Callable[[list[bytes]], SampleLog], failure: type[LedgerUnavailable]
) -> None:
    bench = ReplayBench(tmp_path / "w", source(list(ENTRIES)))
    with pytest.raises(LedgerUnavailable) as refusal:
        bench.follower.follow()
    assert type(refusal.value) is failure
    assert bench.evidence() == []
    assert bench.add(SampleLog(ENTRIES).body(20)).status == 503
    bench.log = SampleLog(ENTRIES)
    bench.start()
    assert bench.add(bench.log.body(20)).status == 200


class StrangersNote(SampleLog):
    def checkpoint(self) -> str:
        return SampleLog(self.entries_list, identity=OTHER).note()


def test_a_strangers_checkpoint_is_not_followed_but_a_submitted_one_is(tmp_path: Path) -> None:
    bench = ReplayBench(tmp_path / "w", StrangersNote(list(ENTRIES)))
    with pytest.raises(LogMismatch, match="no checkpoint of a trusted log"):
        bench.follower.follow()
    assert bench.follower.size == 0
    assert bench.add(SampleLog(ENTRIES).body(20)).status == 200


def test_a_checkpoint_beyond_what_is_served_waits(bench: ReplayBench) -> None:
    bench.log.served = 8
    answer = bench.add(SampleLog(ENTRIES).body(11))
    assert (answer.status, answer.body) == (503, "the log serves 8 entries so far, not 11\n")
    assert bench.evidence() == []


def test_entries_without_end_are_not_gathered(bench: ReplayBench) -> None:
    assert max(len(group) for group in read_blocks(map(prepare, ENTRIES), max_bytes=300)) == 2
    bench.max_block_bytes = 300
    bench.start()
    with pytest.raises(LogMismatch, match="no whole block"):
        bench.follower.follow()
    assert bench.evidence() == []


# --- what is kept -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE replica_state SET value = x'00'",
        "DELETE FROM replica_state",
        "DELETE FROM replica_roots",
        "UPDATE replica_roots SET root = zeroblob(32)",
        "UPDATE replica SET value = x'00' WHERE name = 'head'",
        "UPDATE replica SET value = x'00' WHERE name = 'frontier'",
        "DELETE FROM replica WHERE name = 'note'",
        "DELETE FROM replica WHERE name = 'head'",
    ],
)
def test_changed_records_do_not_load(bench: ReplayBench, change: str) -> None:
    bench.follower.follow()
    bench.records.close()
    with sqlite3.connect(bench.home.folder / "records.db") as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(IntegrityBroken):
        bench.restart()


# --- evidence of blocks, in hands that want to accuse -------------------------------------------------------------


def make_case(folder: Path, begin: int, end: int, *, log: SampleLog | None = None, signed: int = 20) -> Path:
    """A case of entries ``begin`` to ``end``, whether or not they are a block."""
    log = SampleLog(list(ENTRIES)) if log is None else log
    peaks = SourceTiles(log)._log.frontier(begin)
    _, case = keep_block(
        folder,
        fault=Fault("a claim"),
        note=log.note(signed),
        origin=ORIGIN,
        before=peaks,
        entries=log.entries_list[begin:end],
        path=consistency(end, log.entries_list[:signed]),
        time_s=NOW_S,
    )
    assert case is not None
    return case


@pytest.mark.parametrize(("begin", "end"), [(5, 11), (0, 5), (5, 7), (6, 7), (0, 1)])
def test_parts_and_unions_of_honest_blocks_accuse_nobody(tmp_path: Path, begin: int, end: int) -> None:
    case = make_case(tmp_path, begin, end)
    with pytest.raises(EvidenceInvalid, match=r"more than one block|only a part"):
        verify_block(case, KEYS)


def test_an_honest_block_convicts_nobody(tmp_path: Path) -> None:
    case = make_case(tmp_path, 5, 8)
    assert not verify_block(case, KEYS).is_proof
    with pytest.raises(EvidenceInvalid, match="exactly this block"):
        confirm_block(case, KEYS, SampleLog(list(ENTRIES)))


def test_the_end_of_an_honest_block_convicts_nobody(tmp_path: Path) -> None:
    case = make_case(tmp_path, 6, 8)
    assert not verify_block(case, KEYS).is_proof
    with pytest.raises(EvidenceInvalid, match="earlier"):
        confirm_block(case, KEYS, SampleLog(list(ENTRIES)))


def test_an_honest_first_block_convicts_nobody(tmp_path: Path) -> None:
    assert not verify_block(make_case(tmp_path, 0, 2), KEYS).is_proof


def test_a_copy_of_another_log_confirms_nothing(bench: ReplayBench) -> None:
    bench.log.entries_list[10] = false_state_root(ENTRIES[10])
    with pytest.raises(ReplayRefused):
        bench.follower.follow()
    for copy in (SampleLog(ledger_blocks(6, seed=1)[0]), SampleLog([]), SampleLog(bench.log.entries_list[2:])):
        with pytest.raises(EvidenceInvalid):
            confirm_block(bench.case(), KEYS, copy)


@pytest.mark.parametrize("name", ["checkpoint.note", "block", "before", "path"])
def test_every_byte_of_a_case_is_bound_to_the_signature(bench: ReplayBench, name: str) -> None:
    bench.log.entries_list[10] = false_state_root(ENTRIES[10])
    with pytest.raises(ReplayRefused):
        bench.follower.follow()
    path = bench.case() / name
    original = path.read_bytes()
    # Signature lines of keys that nobody named count for nothing; here that is the timed one.
    end = original.rindex("— ".encode()) if name == "checkpoint.note" else len(original)
    for place in range(0, end, 5):
        spoilt = bytearray(original)
        spoilt[place] ^= 1
        path.write_bytes(spoilt)
        with pytest.raises(EvidenceInvalid):
            verify_block(bench.case(), KEYS)
    path.unlink()
    with pytest.raises(EvidenceInvalid):
        verify_evidence(bench.case(), (log_key(ORIGIN, OTHER.public),))


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> SampleLog:
    log = SampleLog(list(ENTRIES), served=8)
    write_static(log, tmp_path / "static")
    return log


def run(*arguments: str | Path) -> int:
    return commands.main([str(item) for item in arguments])


@pytest.mark.parametrize("options", [[], ["--replaying"]])
def test_a_log_is_followed_from_the_command_line(
    tmp_path: Path, served: SampleLog, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    folder, static = tmp_path / "w", tmp_path / "static"
    assert run("init", folder, "--name", "witness.example/w", *options) == 0
    keys = capsys.readouterr().out.splitlines()[1:]
    assert keys == Home.open(folder).vkeys()
    assert run("trust", folder, LOG_VKEY) == 0
    capsys.readouterr()
    assert run("follow", folder, static) == 0
    note = capsys.readouterr().out
    assert parse_checkpoint(split_note(note)[0]) == Checkpoint(ORIGIN, 8, tree_root(ENTRIES[:8]))
    assert note.count("— witness.example/w ") == 2
    served.served = None
    write_static(served, static)
    assert run("follow", folder, static) == 0
    assert split_note(capsys.readouterr().out)[0].split("\n")[1] == "20"
    assert run("evidence", folder) == 0


def test_evidence_is_listed_and_checked_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, static = tmp_path / "w", tmp_path / "static"
    write_static(SampleLog(with_entry(10, false_state_root(ENTRIES[10]))), static)
    run("init", folder, "--name", "witness.example/w", "--replaying")
    run("trust", folder, LOG_VKEY)
    assert run("follow", folder, static) == 1
    (case,) = cases(folder / "evidence")
    capsys.readouterr()
    assert run("evidence", folder) == 1
    assert "suspicion of wrong-block" in capsys.readouterr().out
    assert run("evidence", folder, "--log", static) == 1
    assert "PROOF of wrong-state" in capsys.readouterr().out
    assert run("check", case, "--key", LOG_VKEY) == 0
    assert run("check", case, "--key", LOG_VKEY, "--log", static) == 1
    assert run("check", case, "--key", log_key(ORIGIN, OTHER.public).vkey()) == 1
    assert "evidence-invalid" in capsys.readouterr().err


def test_following_a_rolled_back_log_is_refused(tmp_path: Path, served: SampleLog) -> None:
    bench = Bench(tmp_path / "w")
    bench.add(SampleLog(list(ENTRIES)).body(20))
    with running(tmp_path / "w", str(tmp_path / "static")) as run, pytest.raises(ReplayRefused, match="20 were"):
        follow_once(run)


def test_a_plain_witness_does_not_take_on_the_other_role(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Bench(tmp_path / "w")
    assert run("serve", tmp_path / "w", "--replay", tmp_path) == 1
    assert OpeningRefused.code in capsys.readouterr().err


def test_a_replaying_witness_does_not_serve_without_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Bench(tmp_path / "w", role=REPLAYING)
    assert run("serve", tmp_path / "w", "--listen", "127.0.0.1:0") == 1
    assert "--replay" in capsys.readouterr().err


def test_signatures_are_checked_ahead_in_order_and_within_bounds() -> None:
    taken: list[int] = []

    def endless() -> Iterator[bytes]:
        for number in count():
            taken.append(number)
            yield number.to_bytes(8, "big")

    with ThreadPoolExecutor(2) as pool:
        ahead = prepare_ahead(endless(), pool)
        assert [int.from_bytes(next(ahead).data, "big") for _ in range(300)] == list(range(300))
    assert len(taken) < 3000


def test_tiles_prove_what_the_tree_says() -> None:
    tiles = SourceTiles(SampleLog(list(ENTRIES)))
    assert tiles.prove_consistency(5, 20) == consistency(5, ENTRIES)
    assert tiles.beginning(8, 20) == (tree_root(ENTRIES[:8]), *consistency(8, ENTRIES))
    assert sign_checkpoint(Checkpoint(ORIGIN, 20, tiles.root(20)), OTHER, time_s=0).startswith(ORIGIN)
