"""Lies about state, told under checkpoints that the log's key truly signed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from ledger_core import PolicyUnmet, ProofInvalid, ReceiptInvalid, verify_receipt
from ledger_core import proofs as proof_checks
from ledger_core.hashing import EMPTY_STATE, content_digest, sha256, state_leaf_hash, state_node_hash
from ledger_core.proofs import StateProof
from ledger_core.receipt import PastStateClaim, Receipt, RevocationClaim, StateClaim
from ledger_core.sparse import StateTree
from ledger_core.stateroot import StateEntry
from ledger_core.values import ConsentState, Held, Member, Ruleset, encode_held, state_path
from ledger_core.verify import claims, revocation, trust
from tests.unit.ledger_core.ledger_attacks import stopped
from tests.unit.ledger_core.ledger_receipt_samples import (
    ACTIVE,
    CONSENT,
    ENTRIES,
    ENVELOPES,
    GONE,
    PATH,
    POLICY,
    RECEIPTS,
    REVOKED,
    ROOTS,
    SIGNED_S,
    STATES,
    note_over,
    past_claim,
    path_to,
    receipt_of,
    state_claim,
)
from tests.unit.ledger_core.ledger_receipt_samples import revocation as revocation_claim
from tests.unit.ledger_core.ledger_samples import NORTH, filler

ABSENT = filler(200)
NOW = datetime.fromtimestamp(SIGNED_S, UTC)


def show(claim: StateClaim | PastStateClaim | RevocationClaim, primary: bytes, *entries: bytes) -> None:
    """Hand the claim to a verifier who trusts the log's key."""
    verify_receipt(receipt_of(claim, primary, entries or ENTRIES).encode(), policy=POLICY)


def show_tree(kind: str, key: bytes, value: bytes | None, tree: StateTree, *, suite: int = 1) -> None:
    """Show a state of the operator's own making: he signs whatever root he likes."""
    entry = StateEntry(9, 9, tree.root, suite).entry()
    show(StateClaim(kind, key, value, tree.prove(state_path(kind, key))[1], entry), entry, b"genesis", entry)


def show_root(key: bytes, proof: StateProof, root: bytes) -> None:
    """Show the absence of a consent under a state root of the operator's own making."""
    entry = StateEntry(9, 9, root).entry()
    show(StateClaim("consent", key, None, proof, entry), entry, b"genesis", entry)


# --- which state root -----------------------------------------------------------------------------


def test_stale_state_root_under_a_fresh_checkpoint() -> None:
    with stopped(claims._check_current, ReceiptInvalid, "last entry"):
        show(state_claim("consent", PATH, 1), ROOTS[1])


def test_stale_state_under_its_own_old_checkpoint() -> None:
    old = receipt_of(state_claim("consent", PATH, 1), ROOTS[1], ENTRIES[:4]).encode()
    later = NOW + timedelta(hours=1)
    verify_receipt(old, policy=POLICY, now=later)
    with stopped(trust._check_age, PolicyUnmet, "older"):
        verify_receipt(old, policy=replace(POLICY, max_age_ms=60_000), now=later)


def test_past_state_with_its_claim_renamed_to_current() -> None:
    text = RECEIPTS["past present"].encode().replace('"claim": "past-state"', '"claim": "state"')
    with stopped(claims._check_current, ReceiptInvalid, "last entry"):
        verify_receipt(text, policy=POLICY)


def test_past_state_offered_as_an_answer_about_today() -> None:
    """It is true and it verifies; the outcome never says less than the height it is of."""
    outcome = verify_receipt(RECEIPTS["past present"].encode(), policy=POLICY)
    assert outcome.claim == "state present as of height 1"


def test_transaction_passed_off_as_a_state_root() -> None:
    with stopped(claims._check_value, ReceiptInvalid, "must be a state root"):
        show(replace(state_claim("consent", PATH), entry=ENVELOPES[0]), ENVELOPES[0], b"genesis", ENVELOPES[0])


def test_state_root_of_another_height_put_beside_the_proof() -> None:
    with stopped(proof_checks._climb_state, ProofInvalid, "another root"):
        show(replace(past_claim("consent", PATH, 1), entry=ROOTS[3]), ROOTS[3])


def test_state_root_edited_in_the_receipt() -> None:
    """A man in the middle writes his own root into the entry: the log's path no longer fits."""
    tree = StateTree({state_path("consent", PATH): encode_held(CONSENT)})
    entry = StateEntry(3, 1003, tree.root).entry()
    claim = StateClaim("consent", PATH, encode_held(CONSENT), tree.prove(state_path("consent", PATH))[1], entry)
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
        verify_receipt(Receipt(claim, path_to(ROOTS[3]), note_over()).encode(), policy=POLICY)


# --- which place and value ------------------------------------------------------------------------


def test_value_of_one_path_shown_for_another() -> None:
    with stopped(proof_checks._climb_state, ProofInvalid, "another root"):
        show(replace(state_claim("consent", PATH), key=filler(61)), ROOTS[3])


def test_withdrawn_value_put_into_the_proof_of_the_current_one() -> None:
    with stopped(proof_checks._climb_state, ProofInvalid, "another root"):
        show(replace(state_claim("consent", PATH), value=encode_held(CONSENT)), ROOTS[3])


def test_value_of_another_kind_planted_at_the_path() -> None:
    value = encode_held(Member(NORTH.public, "north", "active", 0))
    with stopped(claims._check_value, ReceiptInvalid, "another kind"):
        show_tree("consent", PATH, value, StateTree({state_path("consent", PATH): value, filler(9): b"x"}))


def test_value_with_its_version_spelled_as_a_boolean() -> None:
    value = encode_held(Ruleset(filler(1)))
    spoilt = value.replace(b"ruleset\x01", b"ruleset\xf5", 1)
    with stopped(claims._check_value, ReceiptInvalid, "does not know its form"):
        show_tree("ruleset", PATH, spoilt, StateTree({state_path("ruleset", PATH): spoilt, filler(9): b"x"}))


def test_answer_about_another_key_than_was_asked() -> None:
    """The operator is asked about one path and proves the absence of another: the outcome names the other."""
    outcome = verify_receipt(RECEIPTS["absent"].encode(), policy=POLICY)
    assert dict(outcome.details)["kind"] == "consent"
    assert dict(outcome.details)["key"] == ABSENT.hex() != PATH.hex()


def test_answer_about_a_misspelt_kind() -> None:
    """What no ledger can hold is absent from every one: that would be no answer about this one."""
    for kind, key in (("consemt", PATH), ("consent", PATH[:-1]), ("config", PATH), ("member", filler(1) + b"x")):
        claim = state_claim(kind, key)
        with stopped(claims._check_value, ReceiptInvalid, "no such kind"):
            show(claim, ROOTS[3])


# --- absence --------------------------------------------------------------------------------------


def test_absence_claimed_with_the_proof_of_presence() -> None:
    with stopped(proof_checks._climb_state, ProofInvalid, "another root"):
        show(replace(state_claim("consent", PATH), value=None), ROOTS[3])


def test_absence_of_a_present_key_with_itself_as_neighbour() -> None:
    sound = state_claim("consent", PATH)
    place, value = state_path("consent", PATH), sound.value or b""
    proof = StateProof(sound.proof.siblings, (place, sha256(value)))
    with stopped(proof_checks.verify_absence, ProofInvalid, "path itself"):
        show(replace(sound, value=None, proof=proof), ROOTS[3])


def test_absence_with_a_neighbour_that_does_not_stand_on_the_way() -> None:
    """The operator builds a tree in which some leaf stands where the asked one should."""
    place = state_path("consent", ABSENT)
    stray = bytes([place[0] ^ 0x80]) + place[1:]
    leaf = state_leaf_hash(stray, filler(1))
    pair = (leaf, EMPTY_STATE) if place[0] < 0x80 else (EMPTY_STATE, leaf)
    with stopped(proof_checks.verify_absence, ProofInvalid, "does not stand on the way"):
        show_root(ABSENT, StateProof((EMPTY_STATE,), (stray, filler(1))), state_node_hash(*pair))


def test_absence_with_a_forged_value_of_the_neighbour() -> None:
    claim = next(item for item in map(_absent, range(256)) if item.proof.neighbour is not None)
    assert claim.proof.neighbour is not None
    forged = StateProof(claim.proof.siblings, (claim.proof.neighbour[0], filler(1)))
    with stopped(proof_checks._climb_state, ProofInvalid, "another root"):
        show(replace(claim, proof=forged), ROOTS[3])


def test_absence_by_an_inner_node_taken_for_a_leaf() -> None:
    """At depth 0 any leaf stands on the way; the two children of the root are offered as path and value hash."""
    left, right = (state_leaf_hash(bytes([first]) * 32, sha256(b"value")) for first in (0x00, 0xFF))
    root = StateTree({bytes(32): b"value", b"\xff" * 32: b"value"}).root
    with stopped(proof_checks._climb_state, ProofInvalid, "another root"):
        show_root(PATH, StateProof((), (left, right)), root)


def test_absence_at_a_prefix_shorter_than_the_subtree() -> None:
    sound = state_claim("consent", PATH)
    for depth in range(len(sound.proof.siblings)):
        with stopped(proof_checks._climb_state, ProofInvalid, "another root"):
            show(replace(sound, value=None, proof=StateProof(sound.proof.siblings[:depth])), ROOTS[3])


def test_absence_below_the_leaf_that_is_there() -> None:
    """One level under a leaf both places look empty; but a subtree with one leaf is that leaf."""
    sound = state_claim("consent", PATH)
    place, value = state_path("consent", PATH), sound.value or b""
    below = StateProof((*sound.proof.siblings, state_leaf_hash(place, sha256(value))))
    with stopped(proof_checks._climb_state, ProofInvalid, "another root"):
        show(replace(sound, value=None, proof=below), ROOTS[3])


def test_state_path_longer_than_the_tree_is_high() -> None:
    with stopped(proof_checks._climb_state, ProofInvalid, "longer than the tree"):
        show(replace(state_claim("consent", ABSENT), proof=StateProof((EMPTY_STATE,) * 257)), ROOTS[3])


# --- suites ---------------------------------------------------------------------------------------


def test_state_tree_of_one_suite_under_the_name_of_the_other() -> None:
    value = encode_held(Ruleset(filler(3)))
    for suite in (1, 2):
        tree = StateTree({state_path("ruleset", PATH): value, filler(9): b"x"}, suite=suite)
        show_tree("ruleset", PATH, value, tree, suite=suite)
        with stopped(proof_checks._climb_state, ProofInvalid, "another root"):
            show_tree("ruleset", PATH, value, tree, suite=3 - suite)


def test_state_tree_of_a_suite_nobody_knows() -> None:
    entry = StateEntry(9, 9, STATES[3].root, 3).entry()
    with stopped(claims._check_value, ReceiptInvalid, "must be a state root"):
        show(replace(state_claim("consent", PATH), entry=entry), entry, b"genesis", entry)


def test_suite_edited_in_the_receipt() -> None:
    """A downgrade on the way: the entry is hashed into the log with the suite it names."""
    entry = StateEntry(3, 1003, STATES[3].root, 2).entry()
    with stopped(proof_checks.verify_inclusion, ProofInvalid, "another root"):
        claim = replace(state_claim("consent", PATH), entry=entry)
        verify_receipt(Receipt(claim, path_to(ROOTS[3]), note_over()).encode(), policy=POLICY)


def test_value_hashed_with_the_function_of_the_other_suite() -> None:
    value = encode_held(Ruleset(filler(3)))
    place = state_path("ruleset", PATH)
    entry = StateEntry(9, 9, state_leaf_hash(place, content_digest(value, 1), 1)).entry()
    with stopped(proof_checks._climb_state, ProofInvalid, "another root"):
        show(StateClaim("ruleset", PATH, value, StateProof(()), entry), entry, b"genesis", entry)


# --- revocation -----------------------------------------------------------------------------------


def show_revoked(past: Held, current: Held, *, heights: tuple[int, int] = (5, 6)) -> None:
    """Show two states that the operator made and signed, one after the other."""
    kind = past.kind
    trees = [StateTree({state_path(kind, PATH): encode_held(item), filler(9): b"x"}) for item in (past, current)]
    roots = [StateEntry(height, 1, tree.root).entry() for height, tree in zip(heights, trees, strict=True)]
    entries = (b"genesis", roots[0], b"between", roots[1])
    proofs = [tree.prove(state_path(kind, PATH)) for tree in trees]
    earlier, now = ((kind, PATH, value, proof, root) for (value, proof), root in zip(proofs, roots, strict=True))
    show(RevocationClaim(PastStateClaim(*earlier), path_to(roots[0], entries), StateClaim(*now)), roots[1], *entries)


def test_revocation_with_its_sides_exchanged() -> None:
    sound = revocation_claim("consent", PATH)
    past = PastStateClaim("consent", PATH, sound.current.value, sound.current.proof, sound.current.entry)
    current = StateClaim("consent", PATH, sound.past.value, sound.past.proof, sound.past.entry)
    with stopped(claims._check_current, ReceiptInvalid, "last entry"):
        show(RevocationClaim(past, path_to(ROOTS[3]), current), ROOTS[1])


def test_revocation_in_a_log_whose_state_went_back() -> None:
    show_revoked(CONSENT, REVOKED)
    with stopped(revocation._consent, ReceiptInvalid, "a counter fell"):
        show_revoked(REVOKED, CONSENT)


def test_revocation_with_heights_that_do_not_rise() -> None:
    for heights in ((6, 6), (7, 6)):
        with stopped(claims._check_revocation, ReceiptInvalid, "before the current"):
            show_revoked(CONSENT, REVOKED, heights=heights)


def test_revocation_made_of_two_keys() -> None:
    sound = revocation_claim("consent", PATH)
    with stopped(RevocationClaim.__post_init__, ReceiptInvalid, "one kind and key"):
        RevocationClaim(past_claim("member", NORTH.public, 1), path_to(ROOTS[1]), sound.current)
    other = replace(past_claim("member", NORTH.public, 1), kind="consent", key=PATH)
    with stopped(proof_checks._climb_state, ProofInvalid, "another root"):
        show(replace(sound, past=other), ROOTS[3])


def test_revocation_across_two_openings_of_a_path() -> None:
    for other in (replace(REVOKED, institution=filler(1)), replace(REVOKED, secret=filler(1))):
        with stopped(revocation._consent, ReceiptInvalid, "different paths"):
            show_revoked(CONSENT, other)


def test_revocation_where_only_a_counter_or_only_a_list_changed() -> None:
    unchanged: tuple[ConsentState, ...] = (
        replace(CONSENT, owner_counter=2),
        replace(CONSENT, owner_list=filler(1)),
        replace(CONSENT, owner_counter=2, institution_list=filler(1)),
    )
    for current in unchanged:
        with stopped(revocation._consent, ReceiptInvalid, "nothing was revoked"):
            show_revoked(CONSENT, current)


def test_revocation_of_a_membership_that_goes_on() -> None:
    show_revoked(ACTIVE, GONE)
    with stopped(revocation._member, ReceiptInvalid, "still active"):
        show_revoked(ACTIVE, replace(ACTIVE, nonce=9))


def test_revocation_of_one_member_by_the_departure_of_another() -> None:
    with stopped(revocation._member, ReceiptInvalid, "same member"):
        show_revoked(ACTIVE, replace(GONE, member=filler(1)))


def test_revocation_by_an_absence() -> None:
    sound = revocation_claim("consent", PATH)
    with stopped(RevocationClaim.__post_init__, ReceiptInvalid, "must be present"):
        replace(sound, current=replace(sound.current, value=None))


def _absent(number: int) -> StateClaim:
    claim = state_claim("consent", bytes([number, 99]) * 16)
    assert claim.value is None
    return claim
