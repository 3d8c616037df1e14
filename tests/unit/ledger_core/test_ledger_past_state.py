"""State as of any height, by receipt: presence, absence, pruning, revocation, and rows that lie."""

import sqlite3
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from ledger_core import (
    AccessHead,
    Anchor,
    Attest,
    ChangeOwner,
    IntegrityBroken,
    Leave,
    Ledger,
    NotFound,
    OpenPath,
    Receipt,
    ReceiptInvalid,
    RegisterRuleset,
    Restrict,
    Rotate,
    SetConsent,
    open_ledger,
    run_fsck,
    verify_receipt,
)
from ledger_core.checkpoint import cosign, cosigner_key
from ledger_core.receipt import PastStateClaim, RevocationClaim, StateClaim
from ledger_core.transactions import AllowSuite, SetThreshold
from tests.support.naive_ledger import NaiveLedger
from tests.support.naive_ledger import Path as StatePath
from tests.unit.ledger_core.ledger_samples import (
    GENESIS,
    LOG_KEY,
    NORTH,
    OPERATOR,
    PATIENT,
    SOUTH,
    filler,
    identity,
    join,
    open_test_ledger,
)

CHART = ("consent", filler(1))
ABSENT: tuple[StatePath, ...] = (("consent", filler(99)), ("member", filler(99)), ("policy", filler(1)))


def naive_of(ledger: Ledger) -> NaiveLedger:
    """Replay the ledger's transactions by the naive rules."""
    naive = NaiveLedger(
        (0, 1, GENESIS.name, GENESIS.operator, GENESIS.operator_name, GENESIS.threshold, GENESIS.may_attest, 0)
    )
    entries = [row.entry for row in ledger.entries()]
    rows = list(ledger.blocks())
    for before, row in pairwise(rows):
        naive.submit(entries[before.size : row.size - 1], row.time_ms)
    assert naive.app_hash(naive.height) == ledger.app_hash
    return naive


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Sixteen blocks of one transaction each; the state tree changes its suite in the middle and back."""
    with open_test_ledger(tmp_path) as opened:
        join(opened)
        for payload, who, approvers in (
            (OpenPath(filler(1), PATIENT.public, filler(2)), NORTH, []),
            (SetConsent(filler(1), 1, filler(3)), PATIENT, []),
            (RegisterRuleset(filler(5)), NORTH, []),
            (SetConsent(filler(1), 2, filler(4)), PATIENT, []),
            (AllowSuite("state-tree", 2), OPERATOR, [NORTH]),
            (Restrict(filler(1), 7, filler(6)), NORTH, []),
            (Anchor(filler(1), 1), OPERATOR, []),
            (SetConsent(filler(1), 9, filler(3)), PATIENT, []),
            (SetThreshold(2), OPERATOR, [NORTH]),
            (Rotate(SOUTH.public), NORTH, [SOUTH]),
            (AllowSuite("state-tree", 1), OPERATOR, [SOUTH]),
            (Attest(filler(1), 8, filler(8)), SOUTH, []),
            (ChangeOwner(filler(1), 10, identity(9).public), PATIENT, [identity(9)]),
            (AccessHead(1, filler(1), 1), SOUTH, []),
            (Leave(SOUTH.public), SOUTH, []),
        ):
            opened.send(payload, who, approvers).result(10)
        yield opened


def told(ledger: Ledger, place: StatePath, height: int) -> bytes | None:
    """Return what a verified receipt says that ``place`` held after block ``height``."""
    text = ledger.past_state_receipt(*place, height)
    outcome = verify_receipt(text, policy=ledger.policy())
    claim = Receipt.decode(text).claim
    assert isinstance(claim, PastStateClaim)
    assert outcome.claim == f"state {'absent' if claim.value is None else 'present'} as of height {height}"
    return claim.value


def places_of(naive: NaiveLedger) -> list[StatePath]:
    return [*sorted({place for held in naive.past for place in held}), *ABSENT]


def test_every_value_of_every_height_is_proved(ledger: Ledger) -> None:
    naive = naive_of(ledger)
    assert naive.height == 16
    for height in (*range(17), *range(16, -1, -4)):
        for place in places_of(naive):
            assert told(ledger, place, height) == naive.past[height].get(place)


def test_heights_in_any_order_and_from_many_threads(ledger: Ledger) -> None:
    naive = naive_of(ledger)
    failures: list[BaseException] = []

    def ask(start: int) -> None:
        try:
            for step in range(17):
                height = (start + step * 7) % 17
                assert told(ledger, CHART, height) == naive.past[height].get(CHART)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=ask, args=[start]) for start in (0, 5, 11)]
    for thread in threads:
        thread.start()
    for number in range(10):
        ledger.send(Anchor(filler(1), number + 1), OPERATOR).result(10)
    for thread in threads:
        thread.join()
    assert failures == []


def test_heights_that_are_not_there_are_not_found(ledger: Ledger) -> None:
    for height in (-1, 17, 2**63, 2**64):
        with pytest.raises(NotFound):
            ledger.past_state_receipt(*CHART, height)
        with pytest.raises(NotFound):
            ledger.revocation_receipt(*CHART, height)


@pytest.mark.parametrize("kept", [0, 1, 5, 6, 9, 12, 15, 16])
def test_pruning_keeps_the_height_and_all_above(ledger: Ledger, tmp_path: Path, kept: int) -> None:
    naive = naive_of(ledger)
    # Cached before: what was pruned may not be told from a cache.
    for height in range(17):
        told(ledger, CHART, height)
    dropped = ledger.prune(kept)
    assert dropped == ledger.prune(kept) + dropped
    for height in range(17):
        for place in (CHART, ("config", b""), ("member", NORTH.public), *ABSENT):
            if height < kept:
                with pytest.raises(NotFound, match="pruned"):
                    ledger.past_state_receipt(*place, height)
            else:
                assert told(ledger, place, height) == naive.past[height].get(place)
    assert list(run_fsck(tmp_path / "ledger.db")) == []
    ledger.close()
    with open_test_ledger(tmp_path, genesis=None) as again:
        assert told(again, CHART, max(kept, 3)) == naive.past[max(kept, 3)].get(CHART)
        if kept:
            with pytest.raises(NotFound, match="pruned"):
                again.past_state_receipt(*CHART, kept - 1)


def test_pruning_beyond_the_newest_block_keeps_the_newest(ledger: Ledger) -> None:
    naive = naive_of(ledger)
    ledger.prune(2**64)
    assert told(ledger, CHART, 16) == naive.past[16][CHART]
    ledger.send(Anchor(filler(1), 1), OPERATOR).result(10)
    assert told(ledger, CHART, 16) == told(ledger, CHART, 17) == naive.past[16][CHART]


def test_an_empty_stretch_of_heights_has_the_state_before_it(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        ledger.past_state_receipt(*CHART, 17)
    assert told(ledger, CHART, 8) == told(ledger, CHART, 7)


def test_what_was_held_and_no_longer_holds_is_a_revocation(ledger: Ledger) -> None:
    naive = naive_of(ledger)
    for height in range(2, 17):
        past, now = naive.state_at(CHART, height), naive.state_at(CHART, 16)
        # A counter must have risen together with its list: 3 and 9 set the same list of the owner.
        is_revoked = (now[3] > past[3] and now[4] != past[4]) or (now[5] > past[5] and now[6] != past[6])
        if not is_revoked:
            with pytest.raises(ReceiptInvalid):
                ledger.revocation_receipt(*CHART, height)
            continue
        text = ledger.revocation_receipt(*CHART, height)
        claim = Receipt.decode(text).claim
        assert isinstance(claim, RevocationClaim)
        assert (claim.past.value, claim.current.value) == (naive.past[height][CHART], naive.past[16][CHART])
        said = verify_receipt(text, policy=ledger.policy()).claim
        assert said.startswith(f"state of height {height} revoked")
    for height in (0, 1):
        with pytest.raises(ReceiptInvalid):
            ledger.revocation_receipt(*CHART, height)
    with pytest.raises(ReceiptInvalid):
        ledger.revocation_receipt(*ABSENT[0], 16)


def test_a_cosigned_checkpoint_tells_the_state_of_its_own_height(ledger: Ledger) -> None:
    naive = naive_of(ledger)
    key = cosigner_key("w.example", SOUTH.public)
    assert ledger.keep_checkpoint(cosign(ledger.checkpoint(), key, SOUTH, time_s=1), [key]) == ledger.size
    ledger.send(SetConsent(filler(1), 11, filler(7)), identity(9)).result(10)
    text = ledger.state_receipt(*CHART, is_cosigned=True)
    claim = Receipt.decode(text).claim
    assert isinstance(claim, StateClaim)
    assert claim.value == naive.past[16][CHART] != ledger.value(*CHART)
    assert verify_receipt(text, policy=ledger.policy()).claim == "state present"
    with pytest.raises(NotFound):
        ledger.past_state_receipt(*CHART, 17, is_cosigned=True)
    assert Receipt.decode(ledger.past_state_receipt(*CHART, 3, is_cosigned=True)).checkpoint.startswith(GENESIS.name)
    ledger.prune(17)
    with pytest.raises(NotFound, match="pruned"):
        ledger.state_receipt(*CHART, is_cosigned=True)


def test_rows_that_lie_are_noticed_before_a_receipt_is_made(ledger: Ledger, tmp_path: Path) -> None:
    ledger.close()
    with sqlite3.connect(tmp_path / "ledger.db") as changed:
        changed.execute("UPDATE state SET before = zeroblob(9) WHERE height = 5 AND length(before) > 150")
        assert changed.total_changes == 1
    changed.close()
    with open_ledger(tmp_path / "ledger.db", log_identity=LOG_KEY) as lying:
        naive = naive_of(lying)
        for height in range(17):
            if height in (3, 4):
                with pytest.raises(IntegrityBroken, match=f"height {height} "):
                    lying.past_state_receipt(*CHART, height)
            else:
                assert told(lying, CHART, height) == naive.past[height].get(CHART)
    assert [finding.where.rpartition("/")[2] for finding in run_fsck(tmp_path / "ledger.db")] == ["5"]
