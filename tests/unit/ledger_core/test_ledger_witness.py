"""A witness signs what only grew, forgets nothing, and says of contradictions what they prove."""

import base64
import hashlib
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger_core.checkpoint import (
    Checkpoint,
    NoteKey,
    cosigner_key,
    log_key,
    parse_vkey,
    sign_checkpoint,
    split_note,
    verify_note,
)
from ledger_core.errors import EvidenceInvalid, LedgerLocked, LedgerUnavailable, NoteInvalid, OpeningRefused
from ledger_core.keys import Identity
from ledger_core.witness import core
from ledger_core.witness.cases import cases, keep_notes, verify_notes
from ledger_core.witness.client import verified_lines
from ledger_core.witness.core import Refusal, Request, Seen, format_request, keep_signed_lines, parse_request
from ledger_core.witness.evidence import (
    FORK,
    REWRITE,
    ROLLBACK,
    ROLLBACK_MARGIN_S,
    STALE,
    UNPROVEN,
    implied_roots,
    weigh,
)
from ledger_core.witness.home import Home
from ledger_core.witness.records import Records
from ledger_core.witness.service import MAX_CLOCK_STEP_BACK_S, TLOG_SIZE, Witness
from tests.unit.ledger_core.ledger_witness_samples import (
    KEYS,
    LOG,
    LOG_VKEY,
    NOW_S,
    ORIGIN,
    OTHER,
    Bench,
    SampleLog,
    consistency,
    plain_entries,
    tree_root,
)

TRUNK = SampleLog(plain_entries(12))
BRANCH = SampleLog(plain_entries(12, branch="b", shared=3))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "w")


# --- what is answered ---------------------------------------------------------------------------------------------


def test_a_first_checkpoint_is_cosigned_by_every_key_of_the_witness(bench: Bench) -> None:
    answer = bench.add(TRUNK.body(5))
    assert answer.status == 200
    keys = [parse_vkey(vkey) for vkey in bench.home.vkeys()]
    assert [key.type for key in keys] == [0x04, 0x06]
    text, vouchings = verify_note(TRUNK.note(5) + answer.body, keys)
    assert text == Checkpoint(ORIGIN, 5, tree_root(TRUNK.entries_list[:5])).text()
    assert [(item.key, item.time_s) for item in vouchings] == [(key, NOW_S) for key in keys]
    assert all(line.startswith("— witness.example/w ") for line in answer.body.splitlines())


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 7), (4, 8), (4, 9), (7, 12), (8, 12), (11, 12)])
def test_proven_growth_is_cosigned(bench: Bench, old: int, new: int) -> None:
    assert bench.add(TRUNK.body(old)).status == 200
    assert bench.add(TRUNK.body(new, old)).status == 200
    seen = bench.records.newest(ORIGIN)
    assert seen is not None
    assert (seen.size, seen.root) == (new, tree_root(TRUNK.entries_list[:new]))


def test_the_same_checkpoint_is_cosigned_again_with_a_later_time(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    bench.now_s += 7
    answer = bench.add(TRUNK.body(5, 5))
    key = parse_vkey(bench.home.vkeys()[0])
    assert verify_note(TRUNK.note(5) + answer.body, [key])[1][0].time_s == NOW_S + 7


def test_an_empty_log_can_be_cosigned_and_then_grow(bench: Bench) -> None:
    assert bench.add(TRUNK.body(0)).status == 200
    assert bench.add(TRUNK.body(4)).status == 200


def test_an_empty_log_has_one_root(bench: Bench) -> None:
    note = sign_checkpoint(Checkpoint(ORIGIN, 0, bytes(32)), LOG, time_s=NOW_S)
    assert bench.add(format_request(note, 0, ())).status == 422


def test_a_wrong_guess_is_told_the_size_in_the_form_of_the_specification(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    for body in (TRUNK.body(9), TRUNK.body(9, 4), TRUNK.body(9, 6), TRUNK.body(3)):
        answer = bench.add(body)
        assert (answer.status, answer.content_type, answer.body) == (409, TLOG_SIZE, "5\n")


def test_an_unknown_log_is_told_so(bench: Bench) -> None:
    assert bench.add(SampleLog(plain_entries(3), origin="log.example/two").body(3)).status == 404


def test_an_unsigned_or_falsely_signed_checkpoint_is_refused(bench: Bench) -> None:
    assert bench.add(SampleLog(plain_entries(3), identity=OTHER).body(3)).status == 403
    text, _ = split_note(TRUNK.note(3))
    line = split_note(TRUNK.note(4))[1][0]
    false = f"{text}\n— {ORIGIN} {base64.b64encode(line.key_id + line.signature).decode()}\n"
    assert bench.add(format_request(false, 0, ())).status == 403
    assert bench.records.newest(ORIGIN) is None


def test_an_old_size_above_the_new_one_is_malformed(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    assert bench.add(format_request(TRUNK.note(4), 5, ())).status == 400


def test_growth_needs_its_proof(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    right = consistency(5, TRUNK.entries_list[:9])
    for proof in ((), right[:-1], (*right, bytes(32)), (*right[:-1], bytes(32)), tuple(reversed(right))):
        assert bench.add(format_request(TRUNK.note(9), 5, proof)).status == 422
    assert bench.add(format_request(TRUNK.note(9), 5, right)).status == 200


def test_a_first_checkpoint_takes_no_proof(bench: Bench) -> None:
    assert bench.add(format_request(TRUNK.note(5), 0, (bytes(32),))).status == 422


def test_the_same_size_with_another_root_is_a_fork(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    assert bench.add(format_request(BRANCH.note(5), 5, ())).status == 422
    assert bench.evidence() == [FORK]


HASH = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "head",
    ["", "old", "old ", "old -1", "old 01", "old +1", "old 1 ", " old 1", "old 99999999999999999999", "new 1",
     "old ١", "old 1\r", f"old 1\n{HASH} ", f"old 1\n{HASH[:-4]}", "old 1\nAAAA", f"old 1\n{HASH[:-1]}",
     "old 1" + f"\n{HASH}" * 64],
)  # fmt: skip
def test_malformed_heads_are_refused(bench: Bench, head: str) -> None:
    bench.add(TRUNK.body(1))
    assert bench.add(f"{head}\n\n{TRUNK.note(5)}".encode()).status == 400


def test_sixty_three_proof_lines_are_read(bench: Bench) -> None:
    bench.add(TRUNK.body(1))
    assert bench.add(format_request(TRUNK.note(5), 1, (bytes(32),) * 63)).status == 422


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b.replace(b"\n\n", b"\n"), lambda b: b + b"x",
                                   lambda b: b"\xff" + b, lambda b: b.replace(b"\n5\n", b"\n05\n"),
                                   lambda b: b + b"\n" * core.MAX_BODY_BYTES])  # fmt: skip
def test_malformed_bodies_are_refused(bench: Bench, spoil: Callable[[bytes], bytes]) -> None:
    assert bench.add(spoil(TRUNK.body(5))).status == 400


def test_a_body_is_read_up_to_its_bound(bench: Bench) -> None:
    body = TRUNK.body(5)
    filler = f"— {'x' * (core.MAX_BODY_BYTES - len(body) - 14)} AAAAAAA=\n".encode()
    assert len(body + filler) == core.MAX_BODY_BYTES
    assert bench.add((body + filler).replace(b" x", b" xx")).status == 400
    assert bench.add(body + filler).status == 200


def test_sizes_that_the_records_could_not_hold_are_refused(bench: Bench) -> None:
    note = sign_checkpoint(Checkpoint(ORIGIN, 2**63, bytes(32)), LOG, time_s=NOW_S)
    assert bench.add(format_request(note, 0, ())).status == 400
    note = sign_checkpoint(Checkpoint(ORIGIN, 2**63 - 1, bytes(32)), LOG, time_s=NOW_S)
    assert bench.add(format_request(note, 0, ())).status == 200


def test_extension_lines_are_refused(bench: Bench) -> None:
    text = Checkpoint(ORIGIN, 5, tree_root(TRUNK.entries_list[:5])).text() + "more\n"
    signature = base64.b64encode(KEYS[0].id + LOG.sign(text.encode())).decode()
    assert bench.add(f"old 0\n\n{text}\n— {ORIGIN} {signature}\n".encode()).status == 400


def test_the_published_example_of_a_request_is_read() -> None:
    # C2SP tlog-witness, "add-checkpoint": its sizes and hash lines; the note's signatures need no key here.
    hashes = [
        "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=",
        "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=",
        "5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=",
        "/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=",
    ]
    origin, root = "example.com/behind-the-sofa", "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
    signature = "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8="
    body = "\n".join(["old 20852014", *hashes, "", origin, "20852163", root, "", f"— {origin} {signature}", ""])
    found = parse_request(body.encode())
    assert isinstance(found, Request)
    assert found.old_size == 20852014
    assert found.proof == tuple(base64.b64decode(item) for item in hashes)
    assert found.checkpoint == Checkpoint(origin, 20852163, base64.b64decode(root))
    assert format_request(found.note, found.old_size, found.proof) == body.encode()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_garbage_is_malformed_and_nothing_else(bench: Bench, body: bytes) -> None:
    assert bench.add(body).status == 400


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_spoilt_request_for_a_fork_is_never_signed(bench: Bench, data: st.DataObject) -> None:
    if bench.records.newest(ORIGIN) is None:
        bench.add(TRUNK.body(5))
    body = bytearray(BRANCH.body(9, 5))
    for _ in range(data.draw(st.integers(0, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert bench.add(bytes(body)).status in (400, 403, 404, 409, 422)


# --- what is remembered -------------------------------------------------------------------------------------------


def test_a_witness_that_starts_again_remembers(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    bench.records.close()
    bench.records = Records(bench.home.folder / "records.db")
    bench.witness = bench.make()
    assert bench.add(BRANCH.body(9)).status == 409
    assert bench.add(TRUNK.body(9, 5)).status == 200


def test_foreign_lines_of_a_note_are_not_kept(bench: Bench) -> None:
    stranger = cosigner_key("stranger.example", OTHER.public)
    line = base64.b64encode(stranger.id + bytes(72)).decode()
    note = TRUNK.note(5) + f"— stranger.example {line}\n"
    assert bench.add(format_request(note, 0, ())).status == 200
    seen = bench.records.newest(ORIGIN)
    assert seen is not None
    assert "stranger" not in seen.note
    assert seen.note.startswith(TRUNK.note(5))


def test_the_newest_checkpoint_is_served_by_the_hash_of_its_origin(bench: Bench) -> None:
    name = hashlib.sha256(ORIGIN.encode()).hexdigest()
    assert bench.witness.newest(name).status == 404
    answer = bench.add(TRUNK.body(5))
    assert bench.witness.newest(name).body == TRUNK.note(5) + answer.body
    assert bench.witness.newest(hashlib.sha256(b"other").hexdigest()).status == 404


class _FullDisk(Records):
    """Records that can be read and not written."""

    def advance(self, origin: str, before: Seen | None, after: Seen, log_note: str) -> bool:
        raise LedgerUnavailable("the disk is full")


def test_nothing_signed_leaves_when_the_records_cannot_be_written(bench: Bench) -> None:
    full = _FullDisk(bench.home.folder / "records.db")
    with pytest.raises(LedgerUnavailable):
        Witness(bench.home, full, clock_s=lambda: NOW_S).add_checkpoint(TRUNK.body(5))
    full.close()


class _CrashAfterWriting(Records):
    """The process dies between the durable write and the answer."""

    def advance(self, origin: str, before: Seen | None, after: Seen, log_note: str) -> bool:
        super().advance(origin, before, after, log_note)
        raise KeyboardInterrupt


def test_after_a_crash_between_writing_and_answering_the_log_can_ask_again_and_nothing_else_can(bench: Bench) -> None:
    crashing = _CrashAfterWriting(bench.home.folder / "records.db")
    with pytest.raises(KeyboardInterrupt):
        Witness(bench.home, crashing, clock_s=lambda: NOW_S).add_checkpoint(TRUNK.body(5))
    crashing.close()
    assert bench.add(TRUNK.body(5)).body == "5\n"
    assert bench.add(format_request(BRANCH.note(5), 5, ())).status == 422
    assert bench.add(TRUNK.body(5, 5)).status == 200


def test_records_replace_only_what_the_caller_judged(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    seen = bench.records.newest(ORIGIN)
    assert seen is not None
    after = Seen(7, bytes(32), "note", NOW_S)
    assert not bench.records.advance(ORIGIN, None, after, "note")
    assert not bench.records.advance(ORIGIN, Seen(5, bytes(32), seen.note, seen.time_s), after, "note")
    assert bench.records.newest(ORIGIN) == seen


class _OvertakenRecords(Records):
    """Another process signs between the judgement and the write."""

    def advance(self, origin: str, before: Seen | None, after: Seen, log_note: str) -> bool:
        root = tree_root(BRANCH.entries_list[:6])
        super().advance(origin, before, Seen(6, root, BRANCH.note(6), NOW_S), BRANCH.note(6))
        return super().advance(origin, before, after, log_note)


def test_whoever_is_overtaken_signs_nothing(bench: Bench) -> None:
    records = _OvertakenRecords(bench.home.folder / "records.db")
    answer = Witness(bench.home, records, clock_s=lambda: NOW_S).add_checkpoint(TRUNK.body(5))
    assert (answer.status, answer.body) == (409, "6\n")
    records.close()


def test_of_two_requests_at_once_that_disagree_one_is_signed(bench: Bench) -> None:
    bench.add(TRUNK.body(3))
    bodies = [TRUNK.body(9, 3), BRANCH.body(8, 3)] * 4
    gate = threading.Barrier(len(bodies))

    def send(body: bytes) -> tuple[bytes, int]:
        gate.wait(10)
        return body, bench.add(body).status

    with ThreadPoolExecutor(len(bodies)) as pool:
        signed = {body for body, status in pool.map(send, bodies) if status == 200}
    assert len(signed) == 1


def test_records_are_written_through_to_the_disk(bench: Bench) -> None:
    path = bench.home.folder / "records.db"
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    assert bench.records._db.execute("PRAGMA synchronous").fetchone() == (2,)


# --- times --------------------------------------------------------------------------------------------------------


def test_signed_times_never_fall(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    bench.now_s -= MAX_CLOCK_STEP_BACK_S
    answer = bench.add(TRUNK.body(9, 5))
    key = parse_vkey(bench.home.vkeys()[0])
    assert verify_note(TRUNK.note(9) + answer.body, [key])[1][0].time_s == NOW_S


def test_a_clock_set_far_back_stops_signing(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    bench.now_s -= MAX_CLOCK_STEP_BACK_S + 1
    assert bench.add(TRUNK.body(9, 5)).status == 503
    seen = bench.records.newest(ORIGIN)
    assert seen is not None
    assert seen.size == 5


# --- evidence -----------------------------------------------------------------------------------------------------


def test_a_split_view_convicts_the_log(bench: Bench) -> None:
    """Two clients were shown different histories; the second one's comes with an honest proof of its own branch."""
    bench.add(TRUNK.body(5))
    assert bench.add(BRANCH.body(9, 5)).status == 422
    (case,) = cases(bench.home.evidence)
    finding = verify_notes(case, KEYS)
    assert (finding.kind, finding.is_proof, finding.origin) == (REWRITE, True, ORIGIN)
    assert any("PROOF of rewrite" in line for line in bench.said)
    assert bench.add(TRUNK.body(9, 5)).status == 200


def test_a_fork_shown_late_is_found_in_what_was_signed_long_ago(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    bench.add(TRUNK.body(9, 5))
    assert bench.add(BRANCH.body(5)).body == "9\n"
    (case,) = cases(bench.home.evidence)
    assert verify_notes(case, KEYS).kind == FORK


def test_a_log_that_calls_a_smaller_tree_its_largest_later_is_convicted(bench: Bench) -> None:
    bench.add(TRUNK.body(9))
    late = NOW_S + ROLLBACK_MARGIN_S
    assert bench.add(TRUNK.body(5, time_s=late)).status == 409
    assert bench.evidence() == []
    assert bench.add(TRUNK.body(5, time_s=late + 1)).status == 409
    (case,) = cases(bench.home.evidence)
    assert verify_notes(case, KEYS).kind == ROLLBACK


def test_an_old_checkpoint_that_was_signed_here_is_no_evidence(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    bench.add(TRUNK.body(9, 5))
    for _ in range(3):
        bench.add(TRUNK.body(5))
    assert bench.evidence() == []


def test_an_unseen_smaller_checkpoint_is_suspicious_when_it_comes_again(bench: Bench) -> None:
    bench.add(TRUNK.body(9))
    bench.add(TRUNK.body(5))
    assert bench.evidence() == []
    bench.add(TRUNK.body(5))
    assert bench.evidence() == [STALE]


def test_growth_without_a_proof_is_suspicious_when_it_comes_again_and_proves_nothing(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    for _ in range(2):
        assert bench.evidence() == []
        bench.add(format_request(TRUNK.note(9), 5, (bytes(32),) * 4))
    (case,) = cases(bench.home.evidence)
    finding = verify_notes(case, KEYS)
    assert (finding.kind, finding.is_proof) == (UNPROVEN, False)


def test_a_client_that_guesses_sizes_is_not_suspicious(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    for _ in range(3):
        bench.add(TRUNK.body(9))
    assert bench.evidence() == []


def test_the_same_contradiction_is_kept_once(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    for _ in range(3):
        bench.add(BRANCH.body(9, 5))
    assert bench.evidence() == [REWRITE]


def test_a_stranger_cannot_make_evidence(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    forged = SampleLog(BRANCH.entries_list, identity=OTHER)
    assert bench.add(forged.body(9, 5)).status == 403
    assert bench.evidence() == []


def test_evidence_holds_only_under_the_logs_own_key(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    bench.add(BRANCH.body(9, 5))
    (case,) = cases(bench.home.evidence)
    with pytest.raises(EvidenceInvalid):
        verify_notes(case, (log_key(ORIGIN, OTHER.public),))


@pytest.mark.parametrize("name", ["first.note", "second.note"])
def test_spoilt_evidence_convicts_nobody(bench: Bench, name: str) -> None:
    bench.add(TRUNK.body(5))
    bench.add(BRANCH.body(9, 5))
    (case,) = cases(bench.home.evidence)
    original = (case / name).read_bytes()
    text_end = original.index(b"\n\n")
    for place in range(0, text_end, 3):
        spoilt = bytearray(original)
        spoilt[place] ^= 1
        (case / name).write_bytes(spoilt)
        with pytest.raises(EvidenceInvalid):
            verify_notes(case, KEYS)
    (case / name).unlink()
    with pytest.raises(EvidenceInvalid):
        verify_notes(case, KEYS)


def test_a_spoilt_path_is_suspicion_at_most(bench: Bench) -> None:
    bench.add(TRUNK.body(5))
    bench.add(BRANCH.body(9, 5))
    (case,) = cases(bench.home.evidence)
    lines = (case / "path").read_text("ascii").splitlines(keepends=True)
    for spoilt in (lines[:-1], [*lines, lines[0]], list(reversed(lines)), ["x\n", *lines], []):
        (case / "path").write_text("".join(spoilt), "ascii")
        assert not verify_notes(case, KEYS).is_proof


def test_notes_that_agree_show_nothing(tmp_path: Path) -> None:
    honest = consistency(5, TRUNK.entries_list[:9])
    assert weigh(TRUNK.note(5), TRUNK.note(9), honest, KEYS) is None
    assert weigh(TRUNK.note(5), TRUNK.note(5, time_s=NOW_S + 900), (), KEYS) is None
    assert weigh(TRUNK.note(0), TRUNK.note(5), (), KEYS) is None
    finding = weigh(TRUNK.note(5), BRANCH.note(5), (), KEYS)
    assert finding is not None
    case = keep_notes(tmp_path, finding, first=TRUNK.note(5), second=TRUNK.note(9), path=honest, time_s=0)
    assert case is not None
    with pytest.raises(EvidenceInvalid, match="agree"):
        verify_notes(case, KEYS)


def test_notes_of_two_logs_show_nothing() -> None:
    other = SampleLog(plain_entries(5, branch="c"), origin="log.example/two")
    keys = (*KEYS, log_key("log.example/two", LOG.public))
    with pytest.raises(EvidenceInvalid, match="two logs"):
        weigh(TRUNK.note(5), other.note(5), (), keys)


@given(st.integers(2, 40), st.data())
def test_honest_logs_are_never_convicted_and_branches_always_are(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new - 1))
    shared = data.draw(st.integers(0, old - 1))
    trunk, branch = plain_entries(new), plain_entries(new, branch="b", shared=shared)
    older = Checkpoint(ORIGIN, old, tree_root(trunk[:old]))
    path = consistency(old, trunk)
    start = (tree_root(trunk[:old]),) if old & (old - 1) == 0 else ()
    assert implied_roots(old, new, (*start, *path)) == (older.root, tree_root(trunk))
    start = (tree_root(branch[:old]),) if old & (old - 1) == 0 else ()
    path = (*start, *consistency(old, branch))
    small = sign_checkpoint(older, LOG, time_s=NOW_S)
    large = sign_checkpoint(Checkpoint(ORIGIN, new, tree_root(branch)), LOG, time_s=NOW_S)
    for first, second in ((small, large), (large, small)):
        finding = weigh(first, second, path, KEYS)
        assert finding is not None
        assert finding.kind == REWRITE


@given(st.integers(2, 40), st.data())
def test_a_path_of_another_length_implies_nothing(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new - 1))
    entries = plain_entries(new)
    start = (tree_root(entries[:old]),) if old & (old - 1) == 0 else ()
    path = (*start, *consistency(old, entries))
    assert implied_roots(old, new, path) is not None
    for wrong in ((), path[:-1], (*path, bytes(32)), (*path[:-1], path[-1][:31])):
        assert implied_roots(old, new, wrong) is None
    for sizes in ((0, new), (new, new), (new, old), (-1, new)):
        assert implied_roots(*sizes, path) is None


@given(st.integers(2, 24), st.data())
def test_no_hashes_convict_an_honest_log(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new - 1))
    log = SampleLog(plain_entries(new))
    hashes = [tree_root(log.entries_list[:1]), tree_root(log.entries_list[:old]), *consistency(old, log.entries_list)]
    path = data.draw(st.lists(st.sampled_from(hashes), max_size=8))
    finding = weigh(log.note(old), log.note(new), path, KEYS)
    assert finding is None or not finding.is_proof


# --- the directory ------------------------------------------------------------------------------------------------


def test_private_keys_are_for_the_owner_only(bench: Bench) -> None:
    for path in (bench.home.folder / "keys").iterdir():
        assert path.stat().st_mode & 0o077 == 0
    assert (bench.home.folder / "records.db").stat().st_mode & 0o077 == 0


def test_a_witness_is_made_once(bench: Bench) -> None:
    with pytest.raises(OpeningRefused, match="already"):
        Home.create(bench.home.folder, "witness.example/w")
    assert Home.open(bench.home.folder).vkeys() == bench.home.vkeys()


@pytest.mark.parametrize("name", ["", "a b", "a+b", "cosignature/v1", "x" * 256])
def test_names_that_cannot_sign_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OpeningRefused):
        Home.create(tmp_path / "w", name)


def test_a_witness_without_its_records_does_not_start(bench: Bench) -> None:
    bench.records.close()
    (bench.home.folder / "records.db").unlink()
    with pytest.raises(OpeningRefused, match="missing"):
        Home.open(bench.home.folder)


def test_a_witness_can_do_without_the_second_key(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "w", "witness.example/w", with_ml_dsa=False)
    assert [parse_vkey(vkey).type for vkey in home.vkeys()] == [0x04]


def test_a_witness_does_not_trust_itself(bench: Bench) -> None:
    own = parse_vkey(bench.home.vkeys()[0])
    with pytest.raises(OpeningRefused, match="own key"):
        bench.home.trust(log_key(ORIGIN, own.public).vkey())


def test_a_log_key_is_listed_once_and_a_second_key_beside_it(bench: Bench) -> None:
    bench.home.trust(LOG_VKEY)
    assert bench.home.trusted() == {ORIGIN: KEYS}
    bench.home.trust(log_key(ORIGIN, OTHER.public).vkey())
    assert bench.home.trusted() == {ORIGIN: (*KEYS, log_key(ORIGIN, OTHER.public))}
    assert bench.add(SampleLog(plain_entries(3), identity=OTHER).body(3)).status == 200


def test_a_replaying_witness_follows_one_log(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "w", role="replaying")
    with pytest.raises(OpeningRefused, match="one log"):
        bench.home.trust(log_key("log.example/two", OTHER.public).vkey())


def test_one_process_signs_at_a_time(bench: Bench) -> None:
    with bench.home.locked(), pytest.raises(LedgerLocked), Home.open(bench.home.folder).locked():
        pass
    with bench.home.locked():
        pass


# --- the log's own lines, and the witness's answer read by a client ----------------------------------------------


def test_of_a_note_the_logs_lines_are_kept() -> None:
    note = TRUNK.note(5)
    assert keep_signed_lines(note, KEYS) == note
    with pytest.raises(NoteInvalid):
        keep_signed_lines(note, (log_key(ORIGIN, OTHER.public),))


def test_a_refusal_is_not_a_request() -> None:
    assert isinstance(parse_request(b"x" * (core.MAX_BODY_BYTES + 1)), Refusal)


def test_a_client_takes_only_timed_lines_of_known_keys(bench: Bench) -> None:
    keys = tuple(parse_vkey(vkey) for vkey in bench.home.vkeys())
    answer = bench.add(TRUNK.body(5)).body
    assert verified_lines(TRUNK.note(5), answer, keys) == answer
    assert verified_lines(TRUNK.note(5), answer, keys[:1]) == answer.splitlines(keepends=True)[0]
    for note, lines, known in (
        (TRUNK.note(6), answer, keys),
        (TRUNK.note(5), answer, (cosigner_key("other.example", OTHER.public),)),
        (TRUNK.note(5), "no lines", keys),
        (TRUNK.note(5), "", keys),
    ):
        with pytest.raises(NoteInvalid):
            verified_lines(note, lines, known)


def test_a_cosignature_without_a_time_counts_for_nothing() -> None:
    key = NoteKey("witness.example/w", 0x04, OTHER.public)
    text = split_note(TRUNK.note(5))[0]
    signature = Identity.sign(OTHER, f"cosignature/v1\ntime 0\n{text}".encode())
    line = f"— {key.name} {base64.b64encode(key.id + bytes(8) + signature).decode()}\n"
    with pytest.raises(NoteInvalid, match="no time"):
        verified_lines(TRUNK.note(5), line, (key,))
