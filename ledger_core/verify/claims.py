"""What a receipt proves under its checkpoint's root, down to every hash and member's signature.

Whose word the root is, is another question: ``trust`` answers it.

Invariants:
    * whatever fails raises;
    * a state claim counts as current only for the last entry under the
      checkpoint, so an older state cannot be passed off under a fresh one;
    * any other state root proves a past state, and the outcome says as of which height.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from ledger_core.checkpoint import Checkpoint
from ledger_core.commitment import Opening
from ledger_core.errors import IntegrityBroken, ReceiptInvalid, SignatureInvalid
from ledger_core.hashing import leaf_hash
from ledger_core.proofs import verify_absence, verify_inclusion, verify_multi_inclusion, verify_presence
from ledger_core.receipt import (
    AnchoredRecords,
    LogPath,
    PastStateClaim,
    Receipt,
    RecordClaim,
    RecordsClaim,
    RevocationClaim,
    StateClaim,
    TransactionClaim,
)
from ledger_core.stateroot import StateEntry, read_state_entry
from ledger_core.transactions import Anchor, Envelope, read_envelope
from ledger_core.values import ConsentState, Held, can_hold, decode_any, state_path
from ledger_core.verify.revocation import check_superseded


@dataclass(frozen=True, slots=True)
class Proved:
    """What a claim says once its hashes and signatures have been checked.

    ``claim`` says it in a few words, ``details`` name by name. ``openings`` and
    ``envelopes`` are those the claim rests on.
    """

    claim: str
    details: tuple[tuple[str, str], ...] = ()
    openings: tuple[Opening, ...] = ()
    envelopes: tuple[Envelope, ...] = field(default=())


def check_claim(receipt: Receipt, checkpoint: Checkpoint) -> Proved:
    """Return what ``receipt`` proves under ``checkpoint``, which the caller judges.

    Raises:
        ReceiptInvalid, ProofInvalid, SignatureInvalid, NotCanonical: The receipt is not sound.
    """
    claim = receipt.claim
    match claim:
        case TransactionClaim():
            return _check_transaction(claim, receipt.log, checkpoint)
        case RecordClaim():
            return _check_record(claim, receipt.log, checkpoint)
        case RecordsClaim():
            return _check_records(claim, receipt.log, checkpoint)
        case StateClaim():
            return _check_state(claim, receipt.log, checkpoint)
        case PastStateClaim():
            return _check_past_state(claim, receipt.log, checkpoint)
        case RevocationClaim():
            return _check_revocation(claim, receipt.log, checkpoint)


def _check_transaction(claim: TransactionClaim, log: LogPath, checkpoint: Checkpoint) -> Proved:
    _check_entry(claim.transaction, log, checkpoint)
    envelope = _read_signed(claim.transaction)
    return Proved("transaction", _transaction_details(envelope), (), (envelope,))


def _check_record(claim: RecordClaim, log: LogPath, checkpoint: Checkpoint) -> Proved:
    _check_entry(claim.transaction, log, checkpoint)
    envelope = _read_signed(claim.transaction)
    anchor = _anchor_of(envelope)
    verify_inclusion(
        leaf_hash(claim.opening.commitment()),
        index=claim.batch_index,
        tree_size=anchor.count,
        path=claim.batch_path,
        root=anchor.root,
    )
    return Proved("record", _transaction_details(envelope), (claim.opening,), (envelope,))


def _check_records(claim: RecordsClaim, log: LogPath, checkpoint: Checkpoint) -> Proved:
    first, others = claim.batches[0], claim.batches[1:]
    if first.index != log.index:
        raise ReceiptInvalid("the first batch does not stand where the receipt's log path leads")
    _check_entry(first.transaction, log, checkpoint)
    if others:
        leaves = {batch.index: leaf_hash(batch.transaction) for batch in others}
        verify_multi_inclusion(leaves, tree_size=checkpoint.size, path=claim.path, root=checkpoint.root)
    envelopes = tuple(_check_batch(batch) for batch in claim.batches)
    openings = tuple(opening for batch in claim.batches for _, opening in batch.openings)
    details = tuple(
        (f"batch {number}, {name}", value)
        for number, envelope in enumerate(envelopes, 1)
        for name, value in _transaction_details(envelope)
    )
    return Proved(f"{len(openings)} records", details, openings, envelopes)


def _check_batch(batch: AnchoredRecords) -> Envelope:
    envelope = _read_signed(batch.transaction)
    anchor = _anchor_of(envelope)
    leaves = {place: leaf_hash(opening.commitment()) for place, opening in batch.openings}
    verify_multi_inclusion(leaves, tree_size=anchor.count, path=batch.path, root=anchor.root)
    return envelope


def _check_state(claim: StateClaim, log: LogPath, checkpoint: Checkpoint) -> Proved:
    entry, held = _check_current(claim, log, checkpoint)
    word = "absent" if held is None else "present"
    return Proved(f"state {word}", (*_place_details(claim), *_block_details(entry), *_value_details(held)))


def _check_past_state(claim: PastStateClaim, log: LogPath, checkpoint: Checkpoint) -> Proved:
    entry, held = _check_value(claim, log, checkpoint)
    word = "absent" if held is None else "present"
    details = (*_place_details(claim), *_block_details(entry), *_value_details(held))
    return Proved(f"state {word} as of height {entry.height}", details)


def _check_revocation(claim: RevocationClaim, log: LogPath, checkpoint: Checkpoint) -> Proved:
    entry, current = _check_current(claim.current, log, checkpoint)
    past_entry, past = _check_value(claim.past, claim.past_log, checkpoint)
    # The current entry is the log's last, so any other state root stands before it.
    if past_entry.height >= entry.height:
        raise ReceiptInvalid("the earlier state does not stand before the current one")
    how = check_superseded(past, current)
    before = tuple((f"earlier {name}", value) for name, value in (*_block_details(past_entry), *_value_details(past)))
    said = f"state of height {past_entry.height} revoked: {how}"
    return Proved(said, (*_place_details(claim.current), *_block_details(entry), *_value_details(current), *before))


def _check_current(claim: StateClaim, log: LogPath, checkpoint: Checkpoint) -> tuple[StateEntry, Held | None]:
    if log.index != checkpoint.size - 1:
        raise ReceiptInvalid("a state claim must rest on the last entry under its checkpoint")
    return _check_value(claim, log, checkpoint)


def _check_value(
    claim: StateClaim | PastStateClaim, log: LogPath, checkpoint: Checkpoint
) -> tuple[StateEntry, Held | None]:
    """Return the state root that ``claim`` rests on and the value it proves there (None: absent)."""
    _check_entry(claim.entry, log, checkpoint)
    entry = read_state_entry(claim.entry)
    if entry is None:
        raise ReceiptInvalid("the entry of a state claim must be a state root")
    # Else the absence of what no ledger can hold would be proved, say of a misspelt kind.
    if not can_hold(claim.kind, claim.key):
        raise ReceiptInvalid("state holds no such kind, or none under keys of this length")
    place = state_path(claim.kind, claim.key)
    if claim.value is None:
        verify_absence(path=place, proof=claim.proof, root=entry.state_root, suite=entry.suite)
        return entry, None
    verify_presence(path=place, value=claim.value, proof=claim.proof, root=entry.state_root, suite=entry.suite)
    try:
        held = decode_any(claim.value)
    except IntegrityBroken as cause:
        raise ReceiptInvalid("the value is proved, but this version does not know its form") from cause
    if held.kind != claim.kind:
        raise ReceiptInvalid("the value is of another kind than the receipt says")
    return entry, held


def _check_entry(entry: bytes, log: LogPath, checkpoint: Checkpoint) -> None:
    verify_inclusion(
        leaf_hash(entry), index=log.index, tree_size=checkpoint.size, path=log.path, root=checkpoint.root
    )


def _read_signed(transaction: bytes) -> Envelope:
    envelope = read_envelope(transaction)
    if isinstance(envelope, str):
        raise ReceiptInvalid(f"the transaction would be refused: {envelope}")
    if envelope.signers() is None:
        raise SignatureInvalid("a signature of the transaction is false")
    return envelope


def _anchor_of(envelope: Envelope) -> Anchor:
    payload = envelope.transaction.payload
    if not isinstance(payload, Anchor):
        raise ReceiptInvalid("the transaction of a record receipt must be an anchor")
    return payload


def _transaction_details(envelope: Envelope) -> tuple[tuple[str, str], ...]:
    transaction = envelope.transaction
    payload = transaction.payload
    kind = f"{payload.kind} {payload.op}".strip()
    network, signer = transaction.network.hex(), transaction.signer.hex()
    head = (("network", network), ("kind", kind), ("signer", signer), ("nonce", str(transaction.nonce)))
    return (*head, *_fields_of(payload), ("approvals", str(len(envelope.approvals))))


def _place_details(claim: StateClaim | PastStateClaim) -> tuple[tuple[str, str], ...]:
    """Say what was asked: a true answer about another key must not pass for one about this."""
    return ("kind", claim.kind), ("key", claim.key.hex())


def _block_details(entry: StateEntry) -> tuple[tuple[str, str], ...]:
    return ("height", str(entry.height)), ("block time in Unix ms", str(entry.time_ms))


def _value_details(held: Held | None) -> Sequence[tuple[str, str]]:
    if held is None:
        return (("value", "absent"),)
    if isinstance(held, ConsentState) and 0 < held.attested == held.institution_counter:
        said = f"attested by institution {held.institution.hex()}"
        return *_fields_of(held), ("institution's list", said)
    return _fields_of(held)


def _fields_of(shape: object) -> tuple[tuple[str, str], ...]:
    named = fields(shape)  # type: ignore[arg-type]  # payloads and held values are dataclasses
    return tuple((item.name, show(getattr(shape, item.name))) for item in named)


def show(value: object) -> str:
    """Return a value as people read it: bytes in hexadecimal."""
    return value.hex() if isinstance(value, bytes) else str(value)
