"""Offline verifier: ``python -m ledger_core.verify RECEIPT --record FILE --policy FILE``.

For somebody who does not trust us and has no network: it reads a receipt, a
policy that came from elsewhere, and the record at hand, and says in one line
what is proved and whose word it rests on.

    operator-attested   the log's key says so, nobody else
    witnessed           besides, a quorum of witnesses saw the log only grow
    not-authenticated   no policy: the receipt is sound in itself, nobody vouches

Invariants:
    * whatever fails raises; an outcome never means less than it says;
    * only a policy can make an outcome authenticated;
    * a state claim counts only for the last entry under its checkpoint, so an
      older state cannot be passed off under a fresh checkpoint.

Exit codes: 0 verified, 1 refused, 2 not authenticated, 3 usage or unreadable file.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from ledger_core.checkpoint import (
    Checkpoint,
    Vouching,
    parse_checkpoint,
    split_note,
    verify_note,
)
from ledger_core.commitment import Fact, Opening, OpenPart
from ledger_core.errors import (
    IntegrityBroken,
    LedgerError,
    NoteInvalid,
    PolicyUnmet,
    ReceiptInvalid,
    RecordMismatch,
    SignatureInvalid,
)
from ledger_core.hashing import content_digest, leaf_hash
from ledger_core.policy import Policy
from ledger_core.proofs import verify_absence, verify_inclusion, verify_presence
from ledger_core.receipt import LogPath, Receipt, RecordClaim, StateClaim
from ledger_core.stateroot import read_state_entry
from ledger_core.transactions import Anchor, Envelope, read_envelope
from ledger_core.values import decode_any, state_path

OPERATOR_ATTESTED: Final = "operator-attested"
WITNESSED: Final = "witnessed"
NOT_AUTHENTICATED: Final = "not-authenticated"

_CLOCK_SKEW: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a receipt proves, and on whose word.

    ``vouched`` is one of the three words above. ``signed_at`` is the latest time
    that the log (with a quorum: that many witnesses) signed, None if none did. ``matched``
    names the part of the record that the file at hand is, byte for byte.
    """

    vouched: str
    claim: str
    checkpoint: Checkpoint
    signed_at: datetime | None
    witnesses: tuple[str, ...]
    matched: str | None
    facts: Mapping[str, Fact]
    details: tuple[tuple[str, str], ...]


def verify_receipt(
    receipt_text: str,
    *,
    record: bytes | None = None,
    policy: Policy | None = None,
    now: datetime | None = None,
) -> Outcome:
    """Check a receipt from its text down to every hash and signature in it.

    Args:
        receipt_text: The receipt exactly as it was written; from anybody.
        record: The record at hand; must be an opened part, byte for byte.
        policy: Whom to trust; must not come with the receipt.
        now: Aware time to judge ages by; the system's clock by default.

    Raises:
        ReceiptInvalid, ProofInvalid, SignatureInvalid, NoteInvalid: The receipt is not sound.
        RecordMismatch: The record is not the one the receipt speaks of.
        PolicyUnmet: Sound, but not what the policy asks for.
    """
    receipt = Receipt.decode(receipt_text)
    text, vouchings = _read_note(receipt.checkpoint, policy)
    checkpoint = parse_checkpoint(text)
    envelope, details = _check_claim(receipt, checkpoint)
    matched, facts = _match_record(receipt, record)
    vouched = NOT_AUTHENTICATED
    signed_at: datetime | None = None
    witnesses: tuple[str, ...] = ()
    if policy is not None:
        signed_at, witnesses = _apply_policy(policy, checkpoint, vouchings, now or datetime.now(UTC))
        vouched = WITNESSED if policy.quorum else OPERATOR_ATTESTED
        _check_signer(policy, envelope)
    claim = _describe(receipt)
    return Outcome(vouched, claim, checkpoint, signed_at, witnesses, matched, facts, details)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parse(argv)
    try:
        receipt_text = Path(arguments.receipt).read_bytes().decode()
        record = None if arguments.record is None else Path(arguments.record).read_bytes()
        policy_text = None if arguments.policy is None else Path(arguments.policy).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        named = getattr(cause, "filename", None) or "a file"
        print(f"cannot read {named}: {type(cause).__name__}", file=sys.stderr)
        return 3
    try:
        policy = None if policy_text is None else Policy.decode(policy_text)
        outcome = verify_receipt(receipt_text, record=record, policy=policy)
    except LedgerError as refusal:
        print(f"REFUSED ({refusal.code}): {refusal}")
        return 1
    _print(outcome)
    return 2 if outcome.vouched == NOT_AUTHENTICATED else 0


# The name under which the package's front door offers it.
verify_main = main


def _read_note(note: str, policy: Policy | None) -> tuple[str, tuple[Vouching, ...]]:
    if policy is None:
        return split_note(note)[0], ()
    return verify_note(note, (*policy.log_keys, *policy.witnesses))


def _check_claim(receipt: Receipt, checkpoint: Checkpoint) -> tuple[Envelope | None, tuple[tuple[str, str], ...]]:
    claim = receipt.claim
    if isinstance(claim, StateClaim):
        return None, _check_state(claim, receipt.log, checkpoint)
    _check_entry(claim.transaction, receipt.log, checkpoint)
    envelope = read_envelope(claim.transaction)
    if isinstance(envelope, str):
        raise ReceiptInvalid(f"the transaction would be refused: {envelope}")
    if envelope.signers() is None:
        raise SignatureInvalid("a signature of the transaction is false")
    if isinstance(claim, RecordClaim):
        _check_batch(claim, envelope)
    return envelope, _transaction_details(envelope)


def _check_batch(claim: RecordClaim, envelope: Envelope) -> None:
    payload = envelope.transaction.payload
    if not isinstance(payload, Anchor):
        raise ReceiptInvalid("the transaction of a record receipt must be an anchor")
    verify_inclusion(
        leaf_hash(claim.opening.commitment()),
        index=claim.batch_index,
        tree_size=payload.count,
        path=claim.batch_path,
        root=payload.root,
    )


def _check_state(claim: StateClaim, log: LogPath, checkpoint: Checkpoint) -> tuple[tuple[str, str], ...]:
    if log.index != checkpoint.size - 1:
        raise ReceiptInvalid("a state claim must rest on the last entry under its checkpoint")
    _check_entry(claim.entry, log, checkpoint)
    entry = read_state_entry(claim.entry)
    if entry is None:
        raise ReceiptInvalid("the entry of a state claim must be a state root")
    place = state_path(claim.kind, claim.key)
    height = (("height", str(entry.height)),)
    if claim.value is None:
        verify_absence(path=place, proof=claim.proof, root=entry.state_root)
        return (*height, ("value", "absent"))
    verify_presence(path=place, value=claim.value, proof=claim.proof, root=entry.state_root)
    return height + _value_details(claim)


def _value_details(claim: StateClaim) -> tuple[tuple[str, str], ...]:
    try:
        held = decode_any(claim.value or b"")
    except IntegrityBroken as cause:
        raise ReceiptInvalid("the value is proved, but this version does not know its form") from cause
    if held.kind != claim.kind:
        raise ReceiptInvalid("the value is of another kind than the receipt says")
    return tuple((item.name, _show(getattr(held, item.name))) for item in fields(held))


def _check_entry(entry: bytes, log: LogPath, checkpoint: Checkpoint) -> None:
    verify_inclusion(
        leaf_hash(entry), index=log.index, tree_size=checkpoint.size, path=log.path, root=checkpoint.root
    )


def _match_record(receipt: Receipt, record: bytes | None) -> tuple[str | None, Mapping[str, Fact]]:
    claim = receipt.claim
    if not isinstance(claim, RecordClaim):
        if record is not None:
            raise RecordMismatch("this receipt speaks of no record")
        return None, {}
    if record is None:
        return None, claim.opening.facts
    found = _find_part(claim.opening, record)
    if found is not None:
        return found, claim.opening.facts
    if record.endswith(b"\n") and _find_part(claim.opening, record.removesuffix(b"\n")):
        raise RecordMismatch("the file has one newline more than the record; remove it and try again")
    opened = sorted(name for name, part in claim.opening.parts.items() if isinstance(part, OpenPart))
    parts = ", ".join(opened) or "none"
    raise RecordMismatch(f"the file is no part that this receipt opens (it opens: {parts})")


def _find_part(opening: Opening, record: bytes) -> str | None:
    digest = content_digest(record)
    for name, part in sorted(opening.parts.items()):
        if isinstance(part, OpenPart) and part.content == digest:
            return name
    return None


def _apply_policy(
    policy: Policy, checkpoint: Checkpoint, vouchings: Sequence[Vouching], now: datetime
) -> tuple[datetime | None, tuple[str, ...]]:
    if checkpoint.origin != policy.origin:
        raise PolicyUnmet("the checkpoint is of another log")
    # Both kinds where the policy names both: else a spoilt time would pass for an unknown key's.
    signed = {item.key.type for item in vouchings if item.key in policy.log_keys}
    if signed != {key.type for key in policy.log_keys}:
        raise PolicyUnmet("the log's key has not signed the checkpoint, or not its time")
    witnesses = {item.key.public: item for item in vouchings if item.key in policy.witnesses}
    if len(witnesses) < policy.quorum:
        raise PolicyUnmet(f"{len(witnesses)} witnesses cosigned, the policy asks for {policy.quorum}")
    # With a quorum the operator's own clock counts for nothing: it could re-date an old checkpoint.
    counted = list(witnesses.values()) if policy.quorum else vouchings
    signed_at = _signed_at(counted, max(policy.quorum, 1))
    _check_age(policy, signed_at, now)
    return signed_at, tuple(sorted(item.key.name for item in witnesses.values()))


def _signed_at(vouchings: Sequence[Vouching], needed: int) -> datetime | None:
    """The latest time that ``needed`` of these signers stand behind; None if too few signed one."""
    times = sorted((item.time_s for item in vouchings if item.time_s is not None), reverse=True)
    if len(times) < needed:
        return None
    try:
        return datetime.fromtimestamp(times[needed - 1], UTC)
    except (OverflowError, ValueError, OSError):
        raise NoteInvalid("a cosignature has an impossible time") from None


def _check_age(policy: Policy, signed_at: datetime | None, now: datetime) -> None:
    if signed_at is not None and signed_at > now + _CLOCK_SKEW:
        raise PolicyUnmet("the checkpoint is signed in the future")
    if policy.oldest_checkpoint is None and policy.max_age_ms is None:
        return
    if signed_at is None:
        raise PolicyUnmet("the policy asks for a fresh checkpoint, and no trusted key signed a time")
    if policy.oldest_checkpoint is not None and signed_at < policy.oldest_checkpoint:
        raise PolicyUnmet("the checkpoint is older than the policy accepts")
    if policy.max_age_ms is not None and now - signed_at > timedelta(milliseconds=policy.max_age_ms):
        raise PolicyUnmet("the checkpoint is older than the policy accepts")


def _check_signer(policy: Policy, envelope: Envelope | None) -> None:
    if envelope is None:
        return
    transaction = envelope.transaction
    if policy.network is not None and transaction.network != policy.network:
        raise PolicyUnmet("the transaction is of another network")
    if policy.members is not None and transaction.signer not in policy.members:
        raise PolicyUnmet("the transaction's signer is not among the policy's members")


def _describe(receipt: Receipt) -> str:
    claim = receipt.claim
    if isinstance(claim, RecordClaim):
        return "record"
    if isinstance(claim, StateClaim):
        return "state present" if claim.value is not None else "state absent"
    return "transaction"


def _transaction_details(envelope: Envelope) -> tuple[tuple[str, str], ...]:
    transaction = envelope.transaction
    payload = transaction.payload
    kind = f"{payload.kind} {payload.op}".strip()
    head = (("kind", kind), ("signer", transaction.signer.hex()), ("nonce", str(transaction.nonce)))
    body = tuple((item.name, _show(getattr(payload, item.name))) for item in fields(payload))
    return (*head, *body, ("approvals", str(len(envelope.approvals))))


def _show(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _print(outcome: Outcome) -> None:
    word = "NOT AUTHENTICATED" if outcome.vouched == NOT_AUTHENTICATED else "VERIFIED"
    by = f" by {', '.join(outcome.witnesses)}" if outcome.witnesses else ""
    matched = f", file is its {outcome.matched} form" if outcome.matched else ""
    print(f"{word}: {outcome.claim}{matched}; {outcome.vouched}{by}")
    if outcome.vouched == NOT_AUTHENTICATED:
        print("  no policy was given: the hashes agree, but nobody you trust vouches for them")
    print(f"  log: {outcome.checkpoint.origin}, size {outcome.checkpoint.size}")
    if outcome.signed_at is not None:
        print(f"  checkpoint signed at: {outcome.signed_at.isoformat()}")
    for name in sorted(outcome.facts):
        print(f"  fact {name}: {_show(outcome.facts[name])}")
    for name, value in outcome.details:
        print(f"  {name}: {value}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ledger_core.verify", description="Check a receipt, offline.", exit_on_error=True
    )
    parser.add_argument("receipt", help="receipt file")
    parser.add_argument("--record", help="the record at hand; must be a part the receipt opens, exactly")
    parser.add_argument("--policy", help="policy file; without one nothing is authenticated (exit code 2)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
