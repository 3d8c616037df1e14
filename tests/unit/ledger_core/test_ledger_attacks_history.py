"""Lies about history, told to witnesses, to whoever kept a checkpoint, and by witnesses themselves."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ledger_core import (
    Anchor,
    NoteInvalid,
    OpeningRefused,
    ProofInvalid,
    run_fsck,
    run_restore,
    run_snapshot,
)
from ledger_core import checkpoint as checkpoint_checks
from ledger_core import proofs as proof_checks
from ledger_core.checkpoint import cosign, cosigner_key, log_key, parse_checkpoint, split_note
from ledger_core.errors import EvidenceInvalid, LedgerUnavailable, LogMismatch, NotFound, ReplayRefused
from ledger_core.hashing import TREE_BLAKE3
from ledger_core.ledger import Ledger
from ledger_core.machine import Genesis, Header, apply_block
from ledger_core.payloads import OpenPath, Rotate, SetConsent
from ledger_core.stateroot import StateEntry, read_state_entry
from ledger_core.transactions import Transaction, sign
from ledger_core.values import ConsentState, Held, encode_held, state_path
from ledger_core.witness import client, core, evidence, replay
from ledger_core.witness.cases import cases, verify_notes
from ledger_core.witness.home import REPLAYING, Home
from ledger_core.witness.replay import Follower
from tests.unit.ledger_core.ledger_attacks import stopped, unsigned
from tests.unit.ledger_core.ledger_samples import (
    NORTH,
    PATIENT,
    SOUTH,
    filler,
    identity,
    join,
    open_test_ledger,
)
from tests.unit.ledger_core.ledger_witness_samples import (
    KEYS,
    NOW_S,
    OPERATOR,
    OTHER,
    Bench,
    SampleLog,
    consistency,
    ledger_blocks,
    plain_entries,
    tree_root,
)

TRUNK = SampleLog(plain_entries(12))
BRANCH = SampleLog(plain_entries(12, branch="b", shared=3))
WITNESS_KEY = cosigner_key("witness.example", SOUTH.public)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A witness that has signed the first five entries."""
    bench = Bench(tmp_path / "w")
    assert bench.add(TRUNK.body(5)).status == 200
    return bench


def proof_in(bench: Bench) -> str:
    """The one case that the witness keeps, checked again as a stranger would."""
    (case,) = cases(bench.home.evidence)
    finding = verify_notes(case, KEYS)
    assert finding.is_proof
    return finding.kind


# --- an operator before a witness -----------------------------------------------------------------


def test_witness_shown_a_split_view(bench: Bench) -> None:
    """Somebody else got the other branch; its own proof of growth is honest."""
    unsigned(bench, BRANCH.body(9, 5), 422, core.check_growth)
    assert proof_in(bench) == evidence.REWRITE


def test_witness_shown_a_fork_of_the_same_size(bench: Bench) -> None:
    unsigned(bench, core.format_request(BRANCH.note(5), 5, ()), 422, core.check_growth)
    assert proof_in(bench) == evidence.FORK


def test_witness_asked_to_roll_back(bench: Bench) -> None:
    assert bench.add(TRUNK.body(9, 5)).status == 200
    assert unsigned(bench, TRUNK.body(5, 5), 409, core.check_growth).body == "9\n"
    # Nor by claiming to know the newest size.
    unsigned(bench, core.format_request(TRUNK.note(5), 9, ()), 400, core.check_growth)


def test_witness_asked_to_date_a_withdrawn_tree_anew(bench: Bench) -> None:
    """The operator would serve yesterday's tree with today's cosignature; so he must never show it growth."""
    assert bench.add(TRUNK.body(9, 5)).status == 200
    bench.now_s += 3600
    late = TRUNK.body(5, 5, time_s=NOW_S + 3600)
    unsigned(bench, late, 409, core.check_growth)
    assert proof_in(bench) == evidence.ROLLBACK


def test_witness_asked_to_sign_growth_without_its_proof(bench: Bench) -> None:
    for path in ((), (filler(1),), consistency(5, BRANCH.entries_list[:9]), consistency(4, TRUNK.entries_list[:9])):
        unsigned(bench, core.format_request(TRUNK.note(9), 5, path), 422, core.check_growth)


def test_witness_told_that_it_knows_nothing(bench: Bench) -> None:
    """Size 0 needs no proof; a witness believes its own records and not the question."""
    unsigned(bench, core.format_request(BRANCH.note(9), 0, ()), 409, core.check_growth)


def test_witness_shown_a_log_signed_by_a_stranger(bench: Bench) -> None:
    unsigned(bench, replace(BRANCH, identity=OTHER).body(9, 5), 403, core.authenticate)


def test_witness_shown_a_log_of_another_origin(bench: Bench) -> None:
    unsigned(bench, replace(TRUNK, origin="log.example/two").body(9), 404, core.authenticate)


def test_witness_given_a_body_without_end(bench: Bench) -> None:
    strange = "— x AAAAAAA=\n".encode()
    assert bench.add(TRUNK.body(5, 5) + strange * 2_000).status == 200
    unsigned(bench, TRUNK.body(9, 5) + strange * 7_000, 400, core.parse_request)
    many = core.format_request(TRUNK.note(9), 5, (filler(1),) * 64)
    unsigned(bench, many, 400, core.parse_request)
    huge = core.format_request(TRUNK.note(9).replace("\n9\n", "\n9300000000000000000\n"), 5, ())
    unsigned(bench, huge, 400, core.parse_request)


def test_log_made_its_own_witness(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "w")
    own = next(key for key, _ in bench.home.cosigners if len(key.public) == 32)
    with stopped(Home.trust, OpeningRefused, "own key"):
        bench.home.trust(log_key("log.example/two", own.public).vkey())


# --- a liar beside a witness ----------------------------------------------------------------------


def test_stranger_frames_the_log(bench: Bench) -> None:
    """Two contradicting notes, one of them signed by the accuser."""
    forged = replace(BRANCH, identity=OTHER).note(5)
    with stopped(evidence._read, EvidenceInvalid, "does not hold"):
        evidence.weigh(TRUNK.note(5), forged, (), KEYS)


def test_accuser_brings_hashes_of_his_own() -> None:
    """They convict only when they lead to the larger root that the log signed."""
    honest = consistency(5, plain_entries(9))
    for path in ((filler(1),), consistency(5, BRANCH.entries_list[:9]), (filler(1), *honest), honest[1:]):
        finding = evidence.weigh(TRUNK.note(5), TRUNK.note(9), path, KEYS)
        assert finding is None or not finding.is_proof


def test_witness_answers_with_a_false_line() -> None:
    """It would make every receipt with that line refused."""
    key, own = cosigner_key("w.example", identity(31).public), identity(31)
    other = cosign(TRUNK.note(8), key, own, time_s=NOW_S).splitlines(keepends=True)[-1]
    with stopped(checkpoint_checks._check_line, NoteInvalid, "is false"):
        client.verified_lines(TRUNK.note(9), other, (key,))


def test_witness_answers_in_the_name_of_another() -> None:
    key, own = cosigner_key("w.example", identity(31).public), identity(32)
    other = cosign(TRUNK.note(9), cosigner_key("v.example", own.public), own, time_s=NOW_S)
    with stopped(client.verified_lines, NoteInvalid, "no line by its known keys"):
        client.verified_lines(TRUNK.note(9), other.splitlines(keepends=True)[-1], (key,))


# --- an operator before a witness that replays ----------------------------------------------------

ENTRIES, STATE = ledger_blocks(3)
NETWORK = Genesis("replayed.example/ledger", OPERATOR.public).network


def follow(folder: Path, entries: list[bytes], *, served: list[bytes] | None = None) -> Bench:
    """Let a replaying witness follow a log that signs ``entries`` and serves them, or others."""
    bench = Bench(folder / "r", role=REPLAYING)
    log = SampleLog(entries)
    source = _Mirror(entries, served) if served is not None else log
    Follower(bench.home, bench.records, source, clock_s=lambda: NOW_S, report=bench.said.append).follow()
    return bench


class _Mirror(SampleLog):
    """Tiles and checkpoint of one log, entries of another."""

    def __init__(self, entries: list[bytes], served: list[bytes]) -> None:
        super().__init__(entries)
        self._served = served

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        yield from self._served[start:stop]


def closing(entries: list[bytes], *, root: bytes | None = None, suite: int | None = None) -> bytes:
    """The last state-root entry, with another root or suite."""
    found = read_state_entry(entries[-1])
    assert found is not None
    return replace(found, state_root=root or found.state_root, suite=suite or found.suite).entry()


def with_block(*envelopes: bytes, invented: dict[bytes, Held] | None = None) -> list[bytes]:
    """The log with a further block, whatever is in it; its root is of the state the operator wishes for."""
    header = Header(STATE.header.height + 1, STATE.header.time_ms)
    tree = apply_block(STATE, header, envelopes).state.tree
    wished = tree.updated({path: encode_held(value) for path, value in (invented or {}).items()})
    return [*ENTRIES, *envelopes, StateEntry(header.height, header.time_ms, wished.root).entry()]


def refused_by_replay(folder: Path, entries: list[bytes], words: str) -> None:
    """Nothing but replaying can know: the log's key signs it all."""
    with stopped(replay.Follower._refuse_block, ReplayRefused, words):
        follow(folder, entries)


def test_honest_blocks_made_the_same_way_are_vouched_for(tmp_path: Path) -> None:
    envelope = sign(Transaction(NETWORK, OPERATOR.public, 99, Anchor(filler(1), 1)), OPERATOR)
    assert any("replayed 13" in line for line in follow(tmp_path, with_block(envelope)).said)


def test_state_root_of_an_earlier_height_signed_as_the_newest(tmp_path: Path) -> None:
    early = read_state_entry(ENTRIES[4])
    assert early is not None
    refused_by_replay(tmp_path, [*ENTRIES[:-1], closing(ENTRIES, root=early.state_root)], "claims state root")


def test_state_invented_under_true_transactions(tmp_path: Path) -> None:
    """A consent that its owner never gave, written into the tree beside an honest anchor."""
    envelope = sign(Transaction(NETWORK, OPERATOR.public, 99, Anchor(filler(1), 1)), OPERATOR)
    given = ConsentState(PATIENT.public, OPERATOR.public, filler(3), 1, filler(1), 0, bytes(32), 0)
    entries = with_block(envelope, invented={state_path("consent", filler(60)): given})
    refused_by_replay(tmp_path, entries, "claims state root")


def test_state_tree_suite_downgraded_without_a_vote(tmp_path: Path) -> None:
    root = STATE.tree.rehashed(TREE_BLAKE3).root
    entries = [*ENTRIES[:-1], closing(ENTRIES, root=root, suite=TREE_BLAKE3)]
    refused_by_replay(tmp_path, entries, "claims state root")


def test_transaction_dropped_from_its_block(tmp_path: Path) -> None:
    dropped = [*ENTRIES[:-2], ENTRIES[-1]]
    refused_by_replay(tmp_path, dropped, "claims state root")


def test_transactions_put_into_another_order(tmp_path: Path) -> None:
    assert len(ENTRIES) == 11
    swapped = [*ENTRIES[:8], ENTRIES[9], ENTRIES[8], ENTRIES[10]]
    refused_by_replay(tmp_path, swapped, "nonce-stale")


def test_stolen_key_used_after_its_rotation_with_the_operators_help(tmp_path: Path) -> None:
    """The machine refuses it, so the operator writes it into the log by himself."""
    rotate = sign(Transaction(NETWORK, OPERATOR.public, 50, Rotate(NORTH.public)), OPERATOR, [NORTH])
    stolen = sign(Transaction(NETWORK, OPERATOR.public, 51, Anchor(filler(1), 1)), OPERATOR)
    refused_by_replay(tmp_path, with_block(rotate, stolen), "not-a-member")


def test_consent_set_by_the_institution_with_the_operators_help(tmp_path: Path) -> None:
    opening = OpenPath(filler(60), PATIENT.public, filler(3))
    opened = sign(Transaction(NETWORK, OPERATOR.public, 50, opening), OPERATOR)
    widened = sign(Transaction(NETWORK, OPERATOR.public, 1, SetConsent(filler(60), 1, filler(1))), OPERATOR)
    refused_by_replay(tmp_path, with_block(opened, widened), "not-permitted")


def test_block_replayed_under_a_new_height(tmp_path: Path) -> None:
    again = [*ENTRIES, *ENTRIES[8:10], closing(ENTRIES)]
    refused_by_replay(tmp_path, again, "does not follow")


def test_size_within_a_block_presented_for_vouching(tmp_path: Path) -> None:
    bench = follow(tmp_path, ENTRIES)
    follower = Follower(bench.home, bench.records, SampleLog(ENTRIES), clock_s=lambda: NOW_S)
    note = SampleLog(ENTRIES).note(9)
    with stopped(replay.Follower._vouch, LedgerUnavailable, "no block"):
        follower.vouch(parse_checkpoint(split_note(note)[0]), note)


def test_mirror_serves_entries_that_were_never_signed(tmp_path: Path) -> None:
    """A man in the middle: the log is not accused, and nothing is taken."""
    false = [*ENTRIES[:8], *ledger_blocks(3, seed=7)[0][8:]]
    with stopped(replay.Follower._confirm, LogMismatch, "do not lead to the signed root"):
        follow(tmp_path, ENTRIES, served=false)


def test_mirror_serves_a_block_that_would_convict_the_log(tmp_path: Path) -> None:
    false = [*ENTRIES[:-1], closing(ENTRIES, root=filler(1))]
    with stopped(replay.Follower._refuse_block, LogMismatch, "did not sign"):
        follow(tmp_path, ENTRIES, served=false)
    assert list(cases(tmp_path / "r" / "evidence")) == []


def test_block_without_end(tmp_path: Path) -> None:
    """Entries are gathered until a state root; a witness gathers so many and no more."""
    bench = Bench(tmp_path / "r", role=REPLAYING)
    log = SampleLog([*ENTRIES, *(entry for entry in ENTRIES * 9 if read_state_entry(entry) is None)])
    follower = Follower(bench.home, bench.records, log, clock_s=lambda: NOW_S, max_block_bytes=2_000)
    with stopped(replay.Follower._take, LogMismatch, "no whole block could be read"):
        follower.follow()


# --- an operator before whoever kept a checkpoint -------------------------------------------------


@pytest.fixture
def ledger_folder(tmp_path: Path) -> Path:
    """A closed ledger of some blocks, an early snapshot of it, and a checkpoint that somebody kept."""
    with open_test_ledger(tmp_path) as ledger:
        join(ledger)
        run_snapshot(tmp_path / "ledger.db", tmp_path / "early.db")
        _grow(ledger, 3)
        (tmp_path / "kept").write_text(ledger.checkpoint(), "utf-8")
    return tmp_path


def _grow(ledger: Ledger, count: int, seed: int = 1) -> None:
    for number in range(count):
        ledger.send(Anchor(filler(seed + number), 1), NORTH).result(10)


def test_whole_log_rewritten_and_signed_again(ledger_folder: Path) -> None:
    """With the log's key everything in it is valid; the kept checkpoint is not."""
    kept = (ledger_folder / "kept").read_text("utf-8")
    with open_test_ledger(ledger_folder, name="other.db") as other:
        join(other)
        _grow(other, 5, seed=100)
        old, new = parse_checkpoint(split_note(kept)[0]), parse_checkpoint(split_note(other.checkpoint())[0])
        path = other.prove_consistency(old.size)
    with stopped(proof_checks._climb_consistency, ProofInvalid, "other roots"):
        proof_checks.verify_consistency(
            old_size=old.size, old_root=old.root, new_size=new.size, new_root=new.root, path=path
        )
    assert not list(run_fsck(ledger_folder / "other.db"))
    found = [finding.what for finding in run_fsck(ledger_folder / "other.db", checkpoint=kept)]
    assert len(found) == 1
    assert "rewritten" in found[0]


def test_store_rolled_back_to_an_old_copy(ledger_folder: Path) -> None:
    kept = (ledger_folder / "kept").read_text("utf-8")
    shutil.copy(ledger_folder / "early.db", ledger_folder / "back.db")
    assert not list(run_fsck(ledger_folder / "back.db"))
    found = [finding.what for finding in run_fsck(ledger_folder / "back.db", checkpoint=kept)]
    assert len(found) == 1
    assert "rolled back" in found[0]


def test_old_snapshot_restored_as_the_newest(ledger_folder: Path) -> None:
    kept = (ledger_folder / "kept").read_text("utf-8")
    target = ledger_folder / "restored.db"
    found = [finding.what for finding in run_restore(ledger_folder / "early.db", target, checkpoint=kept)]
    assert len(found) == 1
    assert "rolled back" in found[0]
    assert not target.exists()


def test_shorter_tree_shown_as_a_continuation() -> None:
    with stopped(proof_checks.verify_consistency, ProofInvalid, "cannot continue"):
        proof_checks.verify_consistency(
            old_size=9,
            old_root=tree_root(plain_entries(9)),
            new_size=5,
            new_root=tree_root(plain_entries(5)),
            path=consistency(5, plain_entries(9)),
        )


def test_cosigned_checkpoint_of_another_history_put_into_the_store(ledger_folder: Path) -> None:
    """Receipts asked for with cosignatures would stand under it."""
    with open_test_ledger(ledger_folder, name="other.db") as other:
        join(other, SOUTH)
        foreign = other.checkpoint()
    with open_test_ledger(ledger_folder, genesis=None) as ledger:
        with stopped(Ledger.keep_checkpoint, NotFound, "no block of this log"):
            ledger.keep_checkpoint(cosign(foreign, WITNESS_KEY, SOUTH, time_s=NOW_S), [WITNESS_KEY])
        text = split_note(ledger.checkpoint())[0]
        cosigned = cosign(ledger.checkpoint(), WITNESS_KEY, SOUTH, time_s=NOW_S)
        witness_alone = f"{text}\n{cosigned.splitlines(keepends=True)[-1]}"
        with stopped(Ledger.keep_checkpoint, NoteInvalid, "not signed by this log"):
            ledger.keep_checkpoint(witness_alone, [WITNESS_KEY])
        with stopped(Ledger.keep_checkpoint, NoteInvalid, "none of these witnesses"):
            ledger.keep_checkpoint(ledger.checkpoint(), [WITNESS_KEY])
        assert ledger.cosigned_size is None
