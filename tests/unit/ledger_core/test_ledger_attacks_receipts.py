"""Lies about entries and records: confused hashes, spliced proofs, words that nobody signed."""

from dataclasses import replace

import pytest

from ledger_core import (
    Anchor,
    PolicyUnmet,
    ProofInvalid,
    Receipt,
    ReceiptInvalid,
    RecordMismatch,
    SignatureInvalid,
    Transaction,
    seal_envelope,
    sign,
    signing_message,
    verify_receipt,
)
from ledger_core import proofs as proof_checks
from ledger_core.checkpoint import Checkpoint, sign_checkpoint
from ledger_core.hashing import node_hash, sha256
from ledger_core.receipt import LogPath, RecordClaim, RecordsClaim, TransactionClaim
from ledger_core.sparse import StateTree
from ledger_core.verify import claims, receipts
from tests.unit.ledger_core.ledger_attacks import stopped
from tests.unit.ledger_core.ledger_receipt_samples import (
    BATCHES,
    ENTRIES,
    ENVELOPES,
    NETWORK,
    ORIGIN,
    POLICY,
    RECEIPTS,
    ROOTS,
    SIGNED_S,
    Batch,
    content_of,
    inclusion,
    leaf,
    note_over,
    opening_of,
    path_to,
    receipt_of,
    record_claim,
    records_claim,
    subtree,
)
from tests.unit.ledger_core.ledger_samples import LOG_KEY, NORTH, SOUTH, filler


def show(receipt: Receipt) -> None:
    """Hand the receipt to a verifier who trusts the log's key."""
    verify_receipt(receipt.encode(), policy=POLICY)


def show_record(claim: RecordClaim) -> None:
    """Show a record under a log that holds the claim's transaction."""
    show(receipt_of(claim, claim.transaction, (b"genesis", claim.transaction)))


def note_of(size: int, root: bytes) -> str:
    return sign_checkpoint(Checkpoint(ORIGIN, size, root), LOG_KEY, time_s=SIGNED_S)


# --- one hash taken for another -------------------------------------------------------------------


def test_state_root_passed_off_as_a_transaction() -> None:
    with stopped(claims._read_signed, ReceiptInvalid, "malformed"):
        show(receipt_of(TransactionClaim(ROOTS[1]), ROOTS[1]))


def test_inner_node_of_the_log_passed_off_as_an_entry() -> None:
    """Two hashes joined are 64 bytes of the member's choosing, and a checkpoint may name any size."""
    hashes = [leaf(item) for item in ENTRIES[:4]]
    node = hashes[0] + hashes[1]
    receipt = Receipt(TransactionClaim(node), LogPath(0, (subtree(hashes[2:]),)), note_of(2, subtree(hashes)))
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
        show(receipt)


def test_node_of_a_batch_passed_off_as_a_commitment() -> None:
    """The anchor says two where the tree has four, so that a node stands where a commitment would."""
    opening = opening_of(10)
    hashes = [leaf(opening.commitment()), *(leaf(filler(number)) for number in (1, 2, 3))]
    envelope = sign(Transaction(NETWORK, NORTH.public, 1, Anchor(subtree(hashes), 2)), NORTH)
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
        show_record(RecordClaim(opening, 0, (subtree(hashes[2:]),), envelope))


def test_commitment_passed_off_as_a_leaf_hash() -> None:
    """An anchor of one record whose root is the commitment itself, unhashed."""
    opening = opening_of(10)
    envelope = sign(Transaction(NETWORK, NORTH.public, 1, Anchor(opening.commitment(), 1)), NORTH)
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
        show_record(RecordClaim(opening, 0, (), envelope))


def test_state_tree_passed_off_as_a_log() -> None:
    """The log's key signs a state root as if it were a log root; a state leaf would be an entry."""
    low, high = bytes(32), b"\xff" * 32
    tree = StateTree({low: b"x", high: b"x"})
    sibling = tree.prove(low)[1].siblings
    receipt = Receipt(TransactionClaim(low + sha256(b"x")), LogPath(0, sibling), note_of(2, tree.root))
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
        show(receipt)


# --- where an entry stands ------------------------------------------------------------------------


def test_entry_shown_at_another_index() -> None:
    sound = RECEIPTS["transaction"]
    for index in set(range(len(ENTRIES))) - {sound.log.index}:
        with pytest.raises(ProofInvalid):
            show(replace(sound, log=replace(sound.log, index=index)))
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
        show(replace(sound, log=replace(sound.log, index=sound.log.index ^ 1)))


def test_entry_beyond_the_checkpoint() -> None:
    older = note_over(ENTRIES[:4])
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "outside a tree of 4"):
        show(replace(RECEIPTS["transaction"], checkpoint=older))


def test_entry_of_an_earlier_tree_under_a_later_checkpoint() -> None:
    """Its path is of the smaller tree: an entry that was cut off later would have one too."""
    claim, index = TransactionClaim(ENVELOPES[0]), ENTRIES.index(ENVELOPES[0])
    path = inclusion([leaf(item) for item in ENTRIES[:4]], index)
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "stops below"):
        show(Receipt(claim, LogPath(index, path), note_over()))


def test_path_with_a_spare_hash_under_a_matching_root() -> None:
    envelope = ENVELOPES[0]
    root = node_hash(leaf(envelope), filler(1))
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "longer than the tree"):
        show(Receipt(TransactionClaim(envelope), LogPath(0, (filler(1),)), note_of(1, root)))


def test_path_cut_under_a_matching_root() -> None:
    envelope = ENVELOPES[0]
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "stops below"):
        show(Receipt(TransactionClaim(envelope), LogPath(0, ()), note_of(2, leaf(envelope))))


# --- splices of two valid receipts ----------------------------------------------------------------


def test_claim_of_one_receipt_on_the_path_of_another() -> None:
    one, two = RECEIPTS["record"], RECEIPTS["transaction"]
    assert one.log.index != two.log.index
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
        show(replace(one, log=two.log))


def test_extra_line_of_one_proof_text_in_another() -> None:
    one, two = (RECEIPTS[name].encode_text().split("\n") for name in ("record", "transaction"))
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
        verify_receipt("\n".join([two[0], one[1], *two[2:]]), policy=POLICY)


def test_facts_of_one_record_with_the_parts_of_another() -> None:
    sound = record_claim()
    (_, other), *_ = BATCHES[0].openings
    for spliced in (replace(sound.opening, facts=other.facts), replace(sound.opening, parts=other.parts)):
        with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
            show_record(replace(sound, opening=spliced))


def test_digest_suite_of_a_record_exchanged() -> None:
    sound = record_claim()
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
        show_record(replace(sound, opening=replace(sound.opening, suite=2)))


def test_record_hung_under_the_anchor_of_another_batch() -> None:
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
        show_record(replace(record_claim(), transaction=ENVELOPES[1]))


def test_record_in_a_place_that_the_batch_does_not_have() -> None:
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "outside a tree of 7"):
        show_record(replace(record_claim(), batch_index=7))


def test_record_other_than_the_one_committed() -> None:
    with stopped(receipts._match_records, RecordMismatch, "no part that this receipt opens"):
        verify_receipt(RECEIPTS["record"].encode(), record=content_of(30), policy=POLICY)


def test_record_at_hand_beside_a_receipt_that_speaks_of_none() -> None:
    with stopped(receipts._match_records, RecordMismatch, "speaks of no record"):
        verify_receipt(RECEIPTS["transaction"].encode(), record=content_of(20), policy=POLICY)


def test_closed_part_passed_off_as_opened() -> None:
    """The holder guesses a content for a part he may not read; without its salt the commitment does not fit."""
    sound = record_claim()
    guessed = opening_of(20).parts["normalised"]
    spoilt = replace(sound.opening, parts={**sound.opening.parts, "original": guessed})
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
        show_record(replace(sound, opening=spoilt))


# --- many records ---------------------------------------------------------------------------------


def show_records(claim: RecordsClaim) -> None:
    show(receipt_of(claim, ENVELOPES[0]))


def test_records_with_one_left_out() -> None:
    (batch,) = records_claim(0).batches
    with stopped(proof_checks.verify_multi_inclusion, ProofInvalid, "spare hashes"):
        show_records(RecordsClaim((replace(batch, openings=batch.openings[:-1]),)))


def test_records_with_one_too_many() -> None:
    (batch,) = records_claim(0).batches
    more = (*batch.openings, (6, opening_of(40)))
    with stopped(proof_checks.verify_multi_inclusion, ProofInvalid, "spare hashes"):
        show_records(RecordsClaim((replace(batch, openings=more),)))


def test_records_with_one_told_twice() -> None:
    (batch,) = records_claim(0).batches
    first = batch.openings[0]
    with stopped(RecordsClaim.__post_init__, ReceiptInvalid, "rising order of place"):
        RecordsClaim((replace(batch, openings=(first, first)),))
    # At another place it is not what was committed there.
    moved = (first, (1, first[1]), batch.openings[2])
    with stopped(proof_checks.verify_multi_inclusion, ProofInvalid, "another root"):
        show_records(RecordsClaim((replace(batch, openings=moved),)))


def test_records_with_the_multiproof_of_other_places() -> None:
    (batch,) = records_claim(0).batches
    shifted = tuple((place, opening) for place, (_, opening) in zip((1, 2, 5), batch.openings, strict=True))
    with stopped(proof_checks._next_hash, ProofInvalid, "too short"):
        show_records(RecordsClaim((replace(batch, openings=shifted),)))
    others = Batch(((0, opening_of(10)), (1, opening_of(20)), (4, opening_of(30)))).anchored(0, b"")
    with stopped(proof_checks.verify_multi_inclusion, ProofInvalid, "another root"):
        show_records(RecordsClaim((replace(batch, path=others.path),)))


def test_records_of_a_batch_that_the_log_does_not_hold() -> None:
    sound = records_claim(0, 1, 2)
    first, second, third = sound.batches
    strange = Batch(((6, opening_of(80, suite=2)),))
    forged = strange.anchored(second.index, strange.envelope(2, SOUTH))
    with stopped(proof_checks.verify_multi_inclusion, ProofInvalid, "another root"):
        show_records(replace(sound, batches=(first, forged, third)))


def test_records_whose_first_batch_stands_elsewhere() -> None:
    sound = records_claim(1, 2)
    receipt = Receipt(sound, path_to(ENVELOPES[0]), note_over())
    with stopped(claims._check_records, ReceiptInvalid, "does not stand where"):
        show(receipt)


def test_records_with_a_batch_told_twice() -> None:
    sound = records_claim(0, 1)
    with stopped(RecordsClaim.__post_init__, ReceiptInvalid, "rising order of log index"):
        replace(sound, batches=(sound.batches[0], sound.batches[0]))


# --- who signed -----------------------------------------------------------------------------------


def test_transaction_that_its_member_never_signed() -> None:
    body = Transaction(NETWORK, NORTH.public, 9, Anchor(filler(1), 1)).body()
    forged = seal_envelope(body, SOUTH.sign(b"something else"))
    with stopped(claims._read_signed, SignatureInvalid, "false"):
        show(receipt_of(TransactionClaim(forged), forged, (b"genesis", forged)))


def test_transaction_with_an_approval_nobody_gave() -> None:
    body = Transaction(NETWORK, NORTH.public, 9, Anchor(filler(1), 1)).body()
    forged = seal_envelope(body, NORTH.sign(signing_message(body)), [(SOUTH.public, bytes(64))])
    with stopped(claims._read_signed, SignatureInvalid, "false"):
        show(receipt_of(TransactionClaim(forged), forged, (b"genesis", forged)))


def test_transaction_of_another_network_put_into_the_log() -> None:
    """A member tried something in a test network; the operator of this log takes the envelope over."""
    envelope = sign(Transaction(filler(78), NORTH.public, 1, Anchor(filler(1), 1)), NORTH)
    text = receipt_of(TransactionClaim(envelope), envelope, (b"genesis", envelope)).encode()
    with stopped(receipts._check_signer, PolicyUnmet, "another network"):
        verify_receipt(text, policy=POLICY)
    # Whoever names no network in the policy is at least told which one it was.
    outcome = verify_receipt(text, policy=replace(POLICY, network=None))
    assert dict(outcome.details)["network"] == filler(78).hex()


def test_transaction_of_somebody_the_verifier_does_not_know() -> None:
    with stopped(receipts._check_signer, PolicyUnmet, "not among the policy's members"):
        verify_receipt(RECEIPTS["record"].encode(), policy=replace(POLICY, members=frozenset({SOUTH.public})))
