"""A receipt checked from its text down to every hash and signature, and what came of it.

Invariants:
    * whatever fails raises; an outcome never means less than it says;
    * only a policy can make an outcome authenticated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ledger_core.checkpoint import Checkpoint, Vouching, parse_checkpoint, split_note, verify_note
from ledger_core.commitment import Fact, Opening, OpenPart
from ledger_core.errors import PolicyUnmet, RecordMismatch
from ledger_core.hashing import content_digest
from ledger_core.policy import Policy
from ledger_core.receipt import Receipt
from ledger_core.transactions import Envelope
from ledger_core.verify.claims import check_claim
from ledger_core.verify.trust import NOBODY, WITNESSED, apply_policy


@dataclass(frozen=True, slots=True)
class ProvedRecord:
    """A record that the receipt opens; ``matched`` names its parts that are files at hand, byte for byte."""

    facts: Mapping[str, Fact]
    matched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a receipt proves, and on whose word.

    ``vouched`` is the strongest role met (one of the words in ``trust``), ``vouchers``
    holds who stands behind each role met. ``signed_at`` is the time they stand behind,
    None if they signed none; ``judged_at`` is when the verifier looked.
    """

    vouched: str
    claim: str
    checkpoint: Checkpoint
    signed_at: datetime | None
    judged_at: datetime
    vouchers: Mapping[str, tuple[str, ...]]
    records: tuple[ProvedRecord, ...]
    details: tuple[tuple[str, str], ...]

    @property
    def witnesses(self) -> tuple[str, ...]:
        """Names of the witnesses that cosigned, where the policy asks for them."""
        return self.vouchers.get(WITNESSED, ())

    @property
    def facts(self) -> Mapping[str, Fact]:
        """Facts of the record, if the receipt speaks of exactly one."""
        return self.records[0].facts if len(self.records) == 1 else {}

    @property
    def matched(self) -> str | None:
        """The part that the file at hand is, if the receipt speaks of exactly one record."""
        return next(iter(self.records[0].matched), None) if len(self.records) == 1 else None


def verify_receipt(
    receipt_text: str,
    *,
    record: bytes | None = None,
    records: Sequence[bytes] = (),
    policy: Policy | None = None,
    now: datetime | None = None,
) -> Outcome:
    """Check a receipt in either spelling.

    Args:
        receipt_text: The receipt exactly as it was written; from anybody.
        record: The record at hand; must be an opened part, byte for byte.
        records: Further records at hand; each must be an opened part.
        policy: Whom to trust; must not come with the receipt.
        now: Aware time to judge ages by; the system's clock by default.

    Raises:
        ReceiptInvalid, ProofInvalid, SignatureInvalid, NoteInvalid, NotCanonical: The receipt is not sound.
        RecordMismatch: A record is not one that the receipt speaks of.
        PolicyUnmet: Sound, but not what the policy asks for.
    """
    moment = datetime.now(UTC) if now is None else now
    receipt = Receipt.decode(receipt_text)
    text, vouchings = _read_note(receipt.checkpoint, policy)
    checkpoint = parse_checkpoint(text)
    proved = check_claim(receipt, checkpoint)
    at_hand = records if record is None else (record, *records)
    found = _match_records(proved.openings, at_hand)
    trust = NOBODY
    if policy is not None:
        trust = apply_policy(policy, checkpoint, vouchings, moment)
        for envelope in proved.envelopes:
            _check_signer(policy, envelope)
    return Outcome(
        vouched=trust.vouched,
        claim=proved.claim,
        checkpoint=checkpoint,
        signed_at=trust.signed_at,
        judged_at=moment,
        vouchers=trust.vouchers,
        records=found,
        details=proved.details,
    )


def _read_note(note: str, policy: Policy | None) -> tuple[str, tuple[Vouching, ...]]:
    return (split_note(note)[0], ()) if policy is None else verify_note(note, policy.keys)


def _check_signer(policy: Policy, envelope: Envelope) -> None:
    transaction = envelope.transaction
    if policy.network is not None and transaction.network != policy.network:
        raise PolicyUnmet("the transaction is of another network")
    if policy.members is not None and transaction.signer not in policy.members:
        raise PolicyUnmet("the transaction's signer is not among the policy's members")


def _match_records(openings: Sequence[Opening], files: Sequence[bytes]) -> tuple[ProvedRecord, ...]:
    if files and not openings:
        raise RecordMismatch("this receipt speaks of no record")
    matched: list[set[str]] = [set() for _ in openings]
    for content in files:
        found = _find_parts(openings, content)
        if not found:
            raise _mismatch(openings, content)
        for place, part in found:
            matched[place].add(part)
    paired = zip(openings, matched, strict=True)
    return tuple(ProvedRecord(opening.facts, tuple(sorted(parts))) for opening, parts in paired)


def _find_parts(openings: Sequence[Opening], content: bytes) -> list[tuple[int, str]]:
    """Every opening's place with each of its open parts that ``content`` is."""
    digests = {suite: content_digest(content, suite) for suite in {opening.suite for opening in openings}}
    return [
        (place, name)
        for place, opening in enumerate(openings)
        for name, part in opening.parts.items()
        if isinstance(part, OpenPart) and part.content == digests[opening.suite]
    ]


def _mismatch(openings: Sequence[Opening], content: bytes) -> RecordMismatch:
    if content.endswith(b"\n") and _find_parts(openings, content.removesuffix(b"\n")):
        return RecordMismatch("the file has one newline more than the record; remove it and try again")
    opened = {name for item in openings for name, part in item.parts.items() if isinstance(part, OpenPart)}
    parts = ", ".join(sorted(opened)) or "none"
    return RecordMismatch(f"the file is no part that this receipt opens (it opens: {parts})")
