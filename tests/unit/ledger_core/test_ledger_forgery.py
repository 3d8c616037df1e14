"""An operator who holds the log's key and lies: what the verifier still refuses.

Here the checkpoint is always truly signed; what stands under it is not what a
machine would have let in.
"""

import base64

import pytest

from ledger_core import (
    Anchor,
    Identity,
    LedgerError,
    Policy,
    PolicyUnmet,
    ProofInvalid,
    Receipt,
    ReceiptInvalid,
    SignatureInvalid,
    Transaction,
    seal_envelope,
    sign,
    verify_receipt,
)
from ledger_core.checkpoint import Checkpoint, cosigner_key, log_key, sign_checkpoint
from ledger_core.hashing import leaf_hash
from ledger_core.log import History, MerkleBatch
from ledger_core.proofs import StateProof
from ledger_core.receipt import Claim, LogPath, RecordClaim, StateClaim, TransactionClaim
from ledger_core.sparse import StateTree
from ledger_core.stateroot import StateEntry
from ledger_core.values import Member, Ruleset, encode_held, state_path
from tests.unit.ledger_core.ledger_samples import LOG_KEY, NORTH, SOUTH, filler, sample_opening

ORIGIN = "test.example/ledger"
POLICY = Policy.for_log(ORIGIN, LOG_KEY.public)
NETWORK = filler(77)


def receipt_over(claim: Claim, entry: bytes, *, is_last: bool = True, origin: str = ORIGIN) -> str:
    """A receipt whose hashes and checkpoint are all true for a log of the operator's making."""
    entries = [b"first", b"second", entry] if is_last else [b"first", entry, b"third"]
    history = History()
    history.extend(leaf_hash(item) for item in entries)
    index = entries.index(entry)
    note = sign_checkpoint(Checkpoint(origin, 3, history.root(3)), LOG_KEY, time_s=1_700_000_000)
    return Receipt(claim, LogPath(index, history.inclusion(index, 3)), note).encode()


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
