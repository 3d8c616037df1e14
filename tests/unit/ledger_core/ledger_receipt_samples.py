"""Receipts of every kind over a log made by hand: entries, roots and paths by the plainest definition.

Nothing here asks the engine, the store or ``log.py``; the trees follow the
recursion of RFC 9162 section 2.1.1, so that a shared mistake would show.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ledger_core import (
    Anchor,
    Identity,
    LedgerError,
    Opening,
    OpenPart,
    Policy,
    SealedPart,
    Transaction,
    sign,
    verify_receipt,
)
from ledger_core.checkpoint import Checkpoint, NoteKey, cosign, cosigner_key, sign_checkpoint
from ledger_core.receipt import (
    AnchoredRecords,
    Claim,
    LogPath,
    PastStateClaim,
    Receipt,
    RecordClaim,
    RecordsClaim,
    RevocationClaim,
    StateClaim,
    TransactionClaim,
)
from ledger_core.sparse import StateTree
from ledger_core.stateroot import StateEntry
from ledger_core.values import ConsentState, Held, Member, encode_held, state_path
from tests.unit.ledger_core.ledger_samples import LOG_KEY, NORTH, PATIENT, filler, identity, sample_opening

ORIGIN: Final = "test.example/ledger"
NETWORK: Final = filler(77)
PATH: Final = filler(60)
SIGNED_S: Final = 1_700_000_000
POLICY: Final = Policy.for_log(ORIGIN, LOG_KEY.public, network=NETWORK)

CONSENT: Final = ConsentState(PATIENT.public, NORTH.public, filler(61), 1, filler(62), 0, bytes(32), 0)
REVOKED: Final = replace(CONSENT, owner_counter=2, owner_list=filler(63))
ACTIVE: Final = Member(NORTH.public, "north", "active", 3)
GONE: Final = replace(ACTIVE, status="rotated", nonce=4)


def subtree(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162 over leaf hashes."""
    if len(leaves) == 1:
        return leaves[0]
    middle = _split(len(leaves))
    return hashlib.sha256(b"\x01" + subtree(leaves[:middle]) + subtree(leaves[middle:])).digest()


def inclusion(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """PATH of RFC 9162."""
    if len(leaves) == 1:
        return ()
    middle = _split(len(leaves))
    if index < middle:
        return (*inclusion(leaves[:middle], index), subtree(leaves[middle:]))
    return (*inclusion(leaves[middle:], index - middle), subtree(leaves[:middle]))


def multiproof(leaves: Sequence[bytes], asked: set[int]) -> tuple[bytes, ...]:
    """Roots of the largest subtrees without an asked leaf, from left to right."""
    if not asked:
        return (subtree(leaves),)
    if len(leaves) == 1:
        return ()
    middle = _split(len(leaves))
    left = multiproof(leaves[:middle], {item for item in asked if item < middle})
    return (*left, *multiproof(leaves[middle:], {item - middle for item in asked if item >= middle}))


def _split(count: int) -> int:
    middle = 1
    while middle * 2 < count:
        middle *= 2
    return middle


def leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def opening_of(number: int, *, suite: int = 1) -> Opening:
    parts: dict[str, OpenPart | SealedPart] = {
        "normalised": OpenPart.of(filler(number), content_of(number), suite),
        "original": SealedPart(filler(number + 1)),
    }
    return Opening(filler(number + 2), {"id": f"r{number}", "version": number, "ruleset": filler(9)}, parts, suite)


def content_of(number: int) -> bytes:
    return b'{"resourceType":"Basic","id":"canary-%d"}' % number


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of seven commitments, some of them of openings we hold."""

    openings: tuple[tuple[int, Opening], ...]

    def leaves(self) -> list[bytes]:
        commitments = [filler(100 + number) for number in range(7)]
        for place, opening in self.openings:
            commitments[place] = opening.commitment()
        return [leaf(item) for item in commitments]

    def envelope(self, nonce: int, signer: Identity = NORTH, *, root: bytes | None = None) -> bytes:
        anchor = Anchor(subtree(self.leaves()) if root is None else root, 7)
        return sign(Transaction(NETWORK, signer.public, nonce, anchor), signer)

    def anchored(self, index: int, envelope: bytes) -> AnchoredRecords:
        path = multiproof(self.leaves(), {place for place, _ in self.openings})
        return AnchoredRecords(index, envelope, path, self.openings)


def state_of(consent: ConsentState | None, member: Member) -> StateTree:
    contents = {state_path("ruleset", filler(number)): b"other" for number in range(1, 9)}
    held: list[tuple[bytes, Held]] = [(NORTH.public, member)]
    if consent is not None:
        held.append((PATH, consent))
    for key, value in held:
        contents[state_path(value.kind, key)] = encode_held(value)
    return StateTree(contents)


BATCHES: Final = (
    Batch(((0, opening_of(10)), (1, opening_of(20)), (5, opening_of(30)))),
    Batch(((6, opening_of(40, suite=2)),)),
    Batch(((2, opening_of(50)), (3, sample_opening()))),
)
ENVELOPES: Final = tuple(batch.envelope(number) for number, batch in enumerate(BATCHES, 1))
STATES: Final = (
    state_of(None, ACTIVE),
    state_of(CONSENT, ACTIVE),
    state_of(CONSENT, ACTIVE),
    state_of(REVOKED, GONE),
)
ROOTS: Final = tuple(StateEntry(height, 1000 + height, tree.root).entry() for height, tree in enumerate(STATES))
ENTRIES: Final = (
    *(b"genesis", ROOTS[0], ENVELOPES[0], ROOTS[1], b"filler 1"),
    *(ENVELOPES[1], b"filler 2", ENVELOPES[2], ROOTS[2], b"filler 3", ROOTS[3]),
)


def note_over(entries: Sequence[bytes] = ENTRIES, *, origin: str = ORIGIN, time_s: int = SIGNED_S) -> str:
    root = subtree([leaf(item) for item in entries])
    return sign_checkpoint(Checkpoint(origin, len(entries), root), LOG_KEY, time_s=time_s)


def path_to(entry: bytes, entries: Sequence[bytes] = ENTRIES) -> LogPath:
    index = list(entries).index(entry)
    return LogPath(index, inclusion([leaf(item) for item in entries], index))


def receipt_of(claim: Claim, primary: bytes, entries: Sequence[bytes] = ENTRIES) -> Receipt:
    return Receipt(claim, path_to(primary, entries), note_over(entries))


def state_claim(kind: str, key: bytes, height: int = 3) -> StateClaim:
    value, proof = STATES[height].prove(state_path(kind, key))
    return StateClaim(kind, key, value, proof, ROOTS[height])


def past_claim(kind: str, key: bytes, height: int) -> PastStateClaim:
    found = state_claim(kind, key, height)
    return PastStateClaim(found.kind, found.key, found.value, found.proof, found.entry)


def revocation(kind: str, key: bytes, height: int = 1) -> RevocationClaim:
    return RevocationClaim(past_claim(kind, key, height), path_to(ROOTS[height]), state_claim(kind, key))


def records_claim(*numbers: int) -> RecordsClaim:
    batches = tuple(BATCHES[item].anchored(ENTRIES.index(ENVELOPES[item]), ENVELOPES[item]) for item in numbers)
    others = {batch.index for batch in batches[1:]}
    return RecordsClaim(batches, multiproof([leaf(item) for item in ENTRIES], others) if others else ())


def record_claim() -> RecordClaim:
    place, opening = BATCHES[0].openings[1]
    return RecordClaim(opening, place, inclusion(BATCHES[0].leaves(), place), ENVELOPES[0])


RECEIPTS: Final = {
    "record": receipt_of(record_claim(), ENVELOPES[0]),
    "records of one batch": receipt_of(records_claim(0), ENVELOPES[0]),
    "records": receipt_of(records_claim(0, 1, 2), ENVELOPES[0]),
    "transaction": receipt_of(TransactionClaim(ENVELOPES[1]), ENVELOPES[1]),
    "present": receipt_of(state_claim("consent", PATH), ROOTS[3]),
    "absent": receipt_of(state_claim("consent", filler(200)), ROOTS[3]),
    "past present": receipt_of(past_claim("consent", PATH, 1), ROOTS[1]),
    "past absent": receipt_of(past_claim("consent", PATH, 0), ROOTS[0]),
    "consent revoked": receipt_of(revocation("consent", PATH), ROOTS[3]),
    "member rotated": receipt_of(revocation("member", NORTH.public), ROOTS[3]),
}


def cosigner(number: int, name: str, *, suite: int = 1) -> tuple[NoteKey, Identity]:
    """A cosigner's key and identity from a fixed seed."""
    own = Identity.from_private_bytes(bytes([number]) * 32, suite) if suite != 1 else identity(number)
    return cosigner_key(name, own.public), own


def cosigned(receipt: Receipt, *cosigners: tuple[NoteKey, Identity], time_s: int = SIGNED_S) -> Receipt:
    note = receipt.checkpoint
    for key, own in cosigners:
        note = cosign(note, key, own, time_s=time_s)
    return replace(receipt, checkpoint=note)


KNOWN: Final = [receipt.claim for receipt in RECEIPTS.values()]


def refuse(text: str, policy: Policy = POLICY) -> None:
    """No error but ours, and nothing accepted that is not true and different.

    Two changes of a receipt give another true one: that of an absence, when the
    changed kind or key happens to be absent at the same place in the tree, and a
    current state called a past one, of which less is then said.
    """
    try:
        outcome = verify_receipt(text, policy=policy)
    except LedgerError:
        return
    claim = Receipt.decode(text).claim
    assert claim not in KNOWN, "accepted"
    assert isinstance(claim, StateClaim | PastStateClaim), "accepted"
    height = ROOTS.index(claim.entry)
    assert claim.value == STATES[height].get(state_path(claim.kind, claim.key)), "accepted and false"
    if isinstance(claim, PastStateClaim):
        assert outcome.claim.endswith(f"as of height {height}")
    else:
        assert claim.value is None, "accepted"
