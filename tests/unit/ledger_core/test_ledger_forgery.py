"""An operator who holds the log's key and lies: what the verifier still refuses.

Here the checkpoint is always truly signed; what stands under it is not what a
machine would have let in.
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger_core import (
    Anchor,
    Identity,
    LedgerError,
    Opening,
    OpenPart,
    Policy,
    PolicyUnmet,
    ProofInvalid,
    Receipt,
    ReceiptInvalid,
    RegisterRuleset,
    SealedPart,
    SignatureInvalid,
    Transaction,
    commit,
    seal_envelope,
    sign,
    verify_receipt,
)
from ledger_core.checkpoint import Checkpoint, cosigner_key, log_key, sign_checkpoint
from ledger_core.hashing import leaf_hash
from ledger_core.log import MerkleBatch
from ledger_core.proofs import StateProof
from ledger_core.receipt import (
    Claim,
    LogPath,
    PastStateClaim,
    RecordClaim,
    RecordsClaim,
    RevocationClaim,
    StateClaim,
    TransactionClaim,
)
from ledger_core.sparse import StateTree
from ledger_core.stateroot import StateEntry
from ledger_core.values import AccessState, Held, Member, Ruleset, encode_held, state_path
from tests.unit.ledger_core.ledger_receipt_samples import (
    ACTIVE,
    BATCHES,
    CONSENT,
    ENVELOPES,
    PATH,
    RECEIPTS,
    REVOKED,
    ROOTS,
    STATES,
    Batch,
    inclusion,
    multiproof,
    note_over,
    past_claim,
    path_to,
    receipt_of,
    records_claim,
    revocation,
    subtree,
)
from tests.unit.ledger_core.ledger_receipt_samples import POLICY as MADE_POLICY
from tests.unit.ledger_core.ledger_samples import LOG_KEY, NORTH, SOUTH, filler, sample_opening

ORIGIN = "test.example/ledger"
POLICY = Policy.for_log(ORIGIN, LOG_KEY.public)
NETWORK = filler(77)


def receipt_over(claim: Claim, entry: bytes, *, is_last: bool = True, origin: str = ORIGIN) -> str:
    """A receipt whose hashes and checkpoint are all true for a log of the operator's making."""
    entries = [b"first", b"second", entry] if is_last else [b"first", entry, b"third"]
    leaves = [leaf_hash(item) for item in entries]
    index = entries.index(entry)
    note = sign_checkpoint(Checkpoint(origin, 3, subtree(leaves)), LOG_KEY, time_s=1_700_000_000)
    return Receipt(claim, LogPath(index, inclusion(leaves, index)), note).encode()


def anchor(*leaves: bytes, signer: Identity = NORTH) -> bytes:
    batch = MerkleBatch(leaves)
    return sign(Transaction(NETWORK, signer.public, 1, Anchor(batch.root, batch.count)), signer)


def state_claim(kind: str, key: bytes, value: bytes | None, tree: StateTree) -> tuple[StateClaim, bytes]:
    _, proof = tree.prove(state_path(kind, key))
    entry = StateEntry(1, 1, tree.root).entry()
    return StateClaim(kind, key, value, proof, entry), entry


def test_the_same_construction_with_nothing_forged_verifies() -> None:
    envelope = anchor(filler(1), filler(2))
    verify_receipt(receipt_over(TransactionClaim(envelope), envelope), policy=POLICY)
    value = encode_held(Ruleset(filler(3)))
    claim, entry = state_claim("ruleset", filler(4), value, StateTree({state_path("ruleset", filler(4)): value}))
    verify_receipt(receipt_over(claim, entry), policy=POLICY)


def test_an_entry_that_is_no_transaction_is_refused() -> None:
    with pytest.raises(ReceiptInvalid, match="malformed"):
        verify_receipt(receipt_over(TransactionClaim(b"noise"), b"noise"), policy=POLICY)


def test_a_transaction_that_nobody_signed_is_refused() -> None:
    body = Transaction(NETWORK, NORTH.public, 1, Anchor(filler(1), 2)).body()
    forged = seal_envelope(body, bytes(64))
    with pytest.raises(SignatureInvalid):
        verify_receipt(receipt_over(TransactionClaim(forged), forged), policy=POLICY)
    approved = seal_envelope(body, bytes(64), [(SOUTH.public, bytes(64))])
    with pytest.raises(SignatureInvalid):
        verify_receipt(receipt_over(TransactionClaim(approved), approved), policy=POLICY)


def test_a_state_claim_needs_a_state_root_at_the_end() -> None:
    tree = StateTree()
    claim, entry = state_claim("consent", filler(1), None, tree)
    verify_receipt(receipt_over(claim, entry), policy=POLICY)
    with pytest.raises(ReceiptInvalid, match="last entry"):
        verify_receipt(receipt_over(claim, entry, is_last=False), policy=POLICY)
    other = anchor(filler(1))
    wrong = StateClaim("consent", filler(1), None, StateProof(()), other)
    with pytest.raises(ReceiptInvalid, match="must be a state root"):
        verify_receipt(receipt_over(wrong, other), policy=POLICY)


def test_a_value_of_another_kind_at_the_path_is_refused() -> None:
    value = encode_held(Member(filler(1), "north", "active", 0))
    tree = StateTree({state_path("ruleset", filler(4)): value})
    claim, entry = state_claim("ruleset", filler(4), value, tree)
    with pytest.raises(ReceiptInvalid, match="another kind"):
        verify_receipt(receipt_over(claim, entry), policy=POLICY)


@pytest.mark.parametrize(
    "value", [b"", b"\x00", b"\x82\x61\x61\x01", b"\x83gruleset\x02\x00", b"\x83gruleset\x01\x00"]
)
def test_a_value_of_unknown_form_is_refused(value: bytes) -> None:
    tree = StateTree({state_path("ruleset", filler(4)): value})
    claim, entry = state_claim("ruleset", filler(4), value, tree)
    with pytest.raises(ReceiptInvalid, match="does not know"):
        verify_receipt(receipt_over(claim, entry), policy=POLICY)


def test_a_value_that_is_there_is_not_proved_absent() -> None:
    value = encode_held(Ruleset(filler(3)))
    tree = StateTree({state_path("ruleset", filler(4)): value, filler(9): b"x"})
    claim, entry = state_claim("ruleset", filler(4), None, tree)
    with pytest.raises(ProofInvalid):
        verify_receipt(receipt_over(claim, entry), policy=POLICY)


def test_a_checkpoint_of_another_log_under_the_same_key_is_refused() -> None:
    envelope = anchor(filler(1))
    text = receipt_over(TransactionClaim(envelope), envelope)
    decoded = Receipt.decode(text)
    other = Checkpoint("other.example/ledger", 3, base64.b64decode(decoded.checkpoint.split("\n")[2]))
    # Signed by the trusted key and under its name, but the text says another origin.
    note = f"{other.text()}\n"
    for key, message in (
        (log_key(ORIGIN, LOG_KEY.public), other.text().encode()),
        (cosigner_key(ORIGIN, LOG_KEY.public), b"cosignature/v1\ntime 5\n" + other.text().encode()),
    ):
        time = (5).to_bytes(8, "big") if key.type == 4 else b""
        note += f"— {ORIGIN} {base64.b64encode(key.id + time + LOG_KEY.sign(message)).decode()}\n"
    moved = Receipt(decoded.claim, decoded.log, note).encode()
    with pytest.raises(PolicyUnmet, match="another log"):
        verify_receipt(moved, policy=POLICY)


def test_a_node_of_the_batch_is_not_a_commitment() -> None:
    opening = sample_opening()
    envelope = anchor(opening.commitment(), filler(1), filler(2), filler(3))
    batch = MerkleBatch([opening.commitment(), filler(1), filler(2), filler(3)])
    sound = RecordClaim(opening, 0, batch.path(0), envelope)
    verify_receipt(receipt_over(sound, envelope), policy=POLICY)
    for claim in (
        RecordClaim(opening, 0, batch.path(0)[1:], envelope),
        RecordClaim(opening, 1, batch.path(0), envelope),
        RecordClaim(opening, 0, (*batch.path(0), filler(1)), envelope),
    ):
        with pytest.raises(LedgerError):
            verify_receipt(receipt_over(claim, envelope), policy=POLICY)


def test_a_record_of_another_batch_is_not_among_the_records() -> None:
    sound = records_claim(0, 1, 2)
    first, second, third = sound.batches
    stray = (2, third.openings[0][1])
    for batches in (
        (replace(first, openings=(*first.openings[:2], (5, stray[1]))), second, third),
        (replace(first, path=second.path), second, third),
        (replace(first, path=(*first.path, filler(1))), second, third),
        (first, replace(second, openings=((5, second.openings[0][1]),)), third),
        (first, replace(second, transaction=third.transaction), third),
        (first, replace(second, index=second.index + 1), third),
        (replace(first, index=first.index + 1), second, third),
        (first, second),
    ):
        forged = replace(sound, batches=batches)
        with pytest.raises((ProofInvalid, ReceiptInvalid)):
            verify_receipt(receipt_of(forged, ENVELOPES[0]).encode(), policy=MADE_POLICY)


def test_records_have_one_order() -> None:
    sound = records_claim(0, 1, 2)
    first, second, third = sound.batches
    spoilt_claims: tuple[Callable[[], object], ...] = (
        lambda: replace(sound, batches=(second, first, third)),
        lambda: replace(sound, batches=(first, first, third)),
        lambda: replace(sound, batches=()),
        lambda: replace(sound, batches=(replace(first, openings=()), second)),
        lambda: replace(sound, batches=(replace(first, openings=first.openings[::-1]), second)),
        lambda: replace(sound, batches=(replace(first, openings=first.openings[:1] * 2), second)),
        lambda: replace(sound, batches=(first,)),
    )
    for spoilt in spoilt_claims:
        with pytest.raises(ReceiptInvalid):
            spoilt()


def test_records_of_a_transaction_that_anchors_nothing_or_is_unsigned_are_refused() -> None:
    opening = sample_opening()
    batch = Batch(((2, opening),))
    body = Transaction(NETWORK, NORTH.public, 1, Anchor(subtree(batch.leaves()), 7)).body()
    other = sign(Transaction(NETWORK, NORTH.public, 1, RegisterRuleset(filler(1))), NORTH)
    for envelope, error in ((seal_envelope(body, bytes(64)), SignatureInvalid), (other, ReceiptInvalid)):
        entries = (b"genesis", ENVELOPES[0], b"between", envelope)
        claim = RecordsClaim(
            (BATCHES[0].anchored(1, ENVELOPES[0]), batch.anchored(3, envelope)),
            multiproof([hashlib.sha256(b"\0" + item).digest() for item in entries], {3}),
        )
        with pytest.raises(error):
            verify_receipt(receipt_of(claim, ENVELOPES[0], entries).encode(), policy=MADE_POLICY)
    strange = replace(MADE_POLICY, members=frozenset({SOUTH.public}))
    with pytest.raises(PolicyUnmet, match="members"):
        verify_receipt(RECEIPTS["records"].encode(), policy=strange)


def test_a_past_state_is_never_called_current() -> None:
    stale = Receipt(StateClaim(*_parts(past_claim("consent", PATH, 1))), path_to(ROOTS[1]), note_over())
    with pytest.raises(ReceiptInvalid, match="last entry"):
        verify_receipt(stale.encode(), policy=MADE_POLICY)
    newest = receipt_of(past_claim("consent", PATH, 3), ROOTS[3])
    assert verify_receipt(newest.encode(), policy=MADE_POLICY).claim == "state present as of height 3"


def test_a_past_state_needs_a_state_root_and_its_own() -> None:
    claim = past_claim("consent", PATH, 1)
    for forged, primary in (
        (replace(claim, entry=ENVELOPES[0]), ENVELOPES[0]),
        (replace(claim, entry=ROOTS[0]), ROOTS[0]),
        (replace(claim, entry=ROOTS[3]), ROOTS[3]),
        (replace(claim, value=None), ROOTS[1]),
        (replace(claim, key=filler(200)), ROOTS[1]),
    ):
        with pytest.raises((ProofInvalid, ReceiptInvalid)):
            verify_receipt(receipt_of(forged, primary).encode(), policy=MADE_POLICY)


def _parts(claim: StateClaim | PastStateClaim) -> tuple[str, bytes, bytes | None, StateProof, bytes]:
    return claim.kind, claim.key, claim.value, claim.proof, claim.entry


def test_a_state_tree_of_another_suite_is_followed_and_not_confused() -> None:
    value = encode_held(Ruleset(filler(3), 1))
    place = state_path("ruleset", filler(4))
    tree = StateTree({place: value, filler(9): b"x"}, suite=2)
    _, proof = tree.prove(place)
    entry = StateEntry(1, 1, tree.root, 2).entry()
    sound = StateClaim("ruleset", filler(4), value, proof, entry)
    verify_receipt(receipt_over(sound, entry), policy=POLICY)
    renamed = StateEntry(1, 1, tree.root, 1).entry()
    with pytest.raises(ProofInvalid):
        verify_receipt(receipt_over(replace(sound, entry=renamed), renamed), policy=POLICY)
    _, absent = tree.prove(state_path("ruleset", filler(5)))
    gone = StateClaim("ruleset", filler(5), None, absent, entry)
    verify_receipt(receipt_over(gone, entry), policy=POLICY)


def revoked(past: Held, current: Held, *, key: bytes = PATH) -> str:
    """A receipt in which everything is true but perhaps what it is meant to show."""
    kind = past.kind
    trees = [StateTree({state_path(kind, key): encode_held(item), filler(9): b"x"}) for item in (past, current)]
    roots = [StateEntry(height, height, tree.root).entry() for height, tree in enumerate(trees, 5)]
    entries = (b"genesis", roots[0], b"between", roots[1])
    values = [tree.prove(state_path(kind, key)) for tree in trees]
    sides = [(kind, key, value, proof, root) for (value, proof), root in zip(values, roots, strict=True)]
    earlier = PastStateClaim(*sides[0])
    claim = RevocationClaim(earlier, path_to(roots[0], entries), StateClaim(*sides[1]))
    return receipt_of(claim, roots[1], entries).encode_text()


ATTESTED = replace(CONSENT, institution_counter=1, institution_list=filler(64), attested=1)


@pytest.mark.parametrize(
    ("past", "current", "said"),
    [
        (CONSENT, REVOKED, "owner's list replaced"),
        (CONSENT, ATTESTED, "institution's list replaced"),
        (
            CONSENT,
            replace(ATTESTED, owner_counter=9, owner_list=filler(1)),
            "owner's list replaced and institution's",
        ),
        (ACTIVE, replace(ACTIVE, status="left", nonce=4), "key has left"),
        (ACTIVE, replace(ACTIVE, status="left"), "key has left"),
        (ACTIVE, replace(ACTIVE, status="rotated", nonce=4), "key was rotated"),
    ],
)
def test_what_supersedes_is_said(past: Held, current: Held, said: str) -> None:
    outcome = verify_receipt(revoked(past, current), policy=MADE_POLICY)
    assert outcome.claim.startswith(f"state of height 5 revoked: {said}")
    assert dict(outcome.details)["height"] == "6"


@pytest.mark.parametrize(
    ("past", "current"),
    [
        (CONSENT, CONSENT),
        (REVOKED, CONSENT),
        (CONSENT, replace(CONSENT, owner_list=filler(1))),
        (CONSENT, replace(CONSENT, owner_counter=2)),
        (CONSENT, replace(CONSENT, owner_counter=2, owner=filler(1))),
        (CONSENT, replace(CONSENT, institution_counter=1)),
        (CONSENT, replace(CONSENT, owner_counter=2, institution_list=filler(1))),
        (ATTESTED, replace(REVOKED, institution_counter=0)),
        (replace(CONSENT, owner_counter=3), ATTESTED),
        (CONSENT, replace(REVOKED, institution=filler(1))),
        (CONSENT, replace(REVOKED, secret=filler(1))),
        (ACTIVE, ACTIVE),
        (ACTIVE, replace(ACTIVE, nonce=9)),
        (replace(ACTIVE, status="rotated"), replace(ACTIVE, status="left")),
        (replace(ACTIVE, status="left"), ACTIVE),
        (ACTIVE, replace(ACTIVE, status="gone")),
        (ACTIVE, replace(ACTIVE, status="left", nonce=2)),
        (ACTIVE, replace(ACTIVE, status="left", member=filler(1))),
        (Ruleset(filler(1), 1), Ruleset(filler(2), 1)),
        (AccessState(1, filler(1), 1), AccessState(2, filler(1), 1)),
    ],
)
def test_what_does_not_show_by_itself_that_it_came_later_revokes_nothing(past: Held, current: Held) -> None:
    with pytest.raises(ReceiptInvalid):
        verify_receipt(revoked(past, current), policy=MADE_POLICY)


def test_a_revocation_needs_the_earlier_state_before_the_current_one() -> None:
    sound = revocation("consent", PATH)
    older = past_claim("consent", PATH, 1)
    for forged, primary in (
        # The current side taken from an earlier state root.
        (replace(sound, current=StateClaim(*_parts(older))), ROOTS[1]),
        # Both sides the same entry.
        (replace(sound, past=past_claim("consent", PATH, 3), past_log=path_to(ROOTS[3])), ROOTS[3]),
        (replace(sound, past_log=path_to(ROOTS[2])), ROOTS[3]),
        (replace(sound, past=replace(older, entry=ROOTS[0]), past_log=path_to(ROOTS[0])), ROOTS[3]),
    ):
        with pytest.raises((ReceiptInvalid, ProofInvalid)):
            verify_receipt(receipt_of(forged, primary).encode(), policy=MADE_POLICY)
    tree = StateTree({state_path("consent", PATH): encode_held(REVOKED)})
    roots = [StateEntry(height, 1, item.root).entry() for height, item in ((5, STATES[1]), (5, tree))]
    value, proof = tree.prove(state_path("consent", PATH))
    entries = (b"genesis", roots[0], roots[1])
    same_height = RevocationClaim(
        replace(older, entry=roots[0]),
        path_to(roots[0], entries),
        StateClaim("consent", PATH, value, proof, roots[1]),
    )
    with pytest.raises(ReceiptInvalid, match="before the current"):
        verify_receipt(receipt_of(same_height, roots[1], entries).encode(), policy=MADE_POLICY)


def test_a_revocation_speaks_of_one_place_and_of_two_values() -> None:
    sound = revocation("consent", PATH)
    spoilt_claims: tuple[Callable[[], object], ...] = (
        lambda: replace(sound, past=past_claim("member", NORTH.public, 1)),
        lambda: replace(sound, past=replace(sound.past, key=filler(1))),
        lambda: replace(sound, past=past_claim("consent", PATH, 0)),
        lambda: replace(sound, current=replace(sound.current, value=None)),
        lambda: replace(sound, current=replace(sound.current, proof=StateProof((), (filler(1), filler(2))))),
    )
    for spoilt in spoilt_claims:
        with pytest.raises(ReceiptInvalid):
            spoilt()


def test_unknown_content_suites_are_refused() -> None:
    with pytest.raises(ReceiptInvalid):
        replace(sample_opening(), suite=3)
    with pytest.raises(ReceiptInvalid, match="suite"):
        commit(filler(1), {}, {}, 3)
    # The suite is committed: naming another one gives another commitment.
    assert replace(sample_opening(), suite=2).commitment() != sample_opening().commitment()


@pytest.mark.parametrize("part", [OpenPart(bytes(31), bytes(32)), OpenPart(bytes(32), bytes(33)), SealedPart(b"")])
def test_salts_and_digests_of_an_opening_have_one_length(part: OpenPart | SealedPart) -> None:
    with pytest.raises(ReceiptInvalid, match="32 bytes"):
        Opening(filler(1), {}, {"original": part})
