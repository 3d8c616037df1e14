"""Who may change a network: members, keys, threshold and suites, rule by rule."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ledger_core.codec import decode, encode
from ledger_core.errors import IntegrityBroken, OpeningRefused
from ledger_core.keys import SUITE_ML_DSA_44, Identity
from ledger_core.machine import Genesis, Header, StateView, apply_block, begin, read_genesis
from ledger_core.payloads import (
    KINDS,
    MAX_THRESHOLD,
    AllowSuite,
    Anchor,
    ChangeOwner,
    Join,
    Leave,
    OpenPath,
    Payload,
    RegisterPolicy,
    RegisterRuleset,
    Rejection,
    RetireSuite,
    Rotate,
    SetConsent,
    SetThreshold,
)
from ledger_core.rules import RULES
from ledger_core.rules.view import Request, find_member
from ledger_core.stateroot import read_state_entry
from ledger_core.transactions import MAX_ENVELOPE_BYTES, Transaction, sign
from ledger_core.values import CONFIG_PATH, Member, decode_any, encode_held, state_path, tree_suite_of
from tests.unit.ledger_core.ledger_network import CRYSTAL, EAST, LATTICE, WEST, Network
from tests.unit.ledger_core.ledger_samples import NORTH, OPERATOR, PATIENT, SOUTH, filler


@pytest.fixture
def net() -> Network:
    return Network(begin(Genesis("governed.example", OPERATOR.public)).state)


@pytest.fixture
def hybrid(net: Network) -> Network:
    """A network of three Ed25519 members and two of ML-DSA-44."""
    assert net.send(AllowSuite("signature", 2), OPERATOR) == ""
    net.admit(NORTH, SOUTH, LATTICE, CRYSTAL)
    return net


def test_every_kind_has_one_rule() -> None:
    assert RULES.keys() == KINDS


# -- threshold ------------------------------------------------------------------------------------


def test_a_threshold_rises_with_the_approval_it_asks_for(net: Network) -> None:
    net.admit(NORTH, SOUTH)
    assert net.send(SetThreshold(1), OPERATOR) == Rejection.ALREADY_EXISTS
    assert net.send(SetThreshold(3), OPERATOR, [NORTH]) == Rejection.APPROVALS_MISSING
    assert net.send(SetThreshold(3), OPERATOR, [NORTH, EAST]) == Rejection.APPROVALS_MISSING
    assert net.send(SetThreshold(3), OPERATOR, [NORTH, SOUTH]) == ""
    assert net.config.threshold == 3


def test_a_threshold_falls_with_the_approval_it_asked_for(net: Network) -> None:
    net.admit(NORTH, SOUTH)
    assert net.send(SetThreshold(3), OPERATOR, [NORTH, SOUTH]) == ""
    assert net.send(SetThreshold(1), OPERATOR, [NORTH]) == Rejection.APPROVALS_MISSING
    assert net.send(SetThreshold(1), OPERATOR, [NORTH, SOUTH]) == ""
    assert net.send(Join(EAST.public, "east"), SOUTH, [EAST]) == ""


def test_a_threshold_above_the_members_takes_all_of_them(net: Network) -> None:
    net.admit(NORTH)
    assert net.send(SetThreshold(9), OPERATOR) == Rejection.APPROVALS_MISSING
    assert net.send(SetThreshold(9), OPERATOR, [NORTH]) == ""
    assert net.send(Join(EAST.public, "east"), OPERATOR, [EAST]) == Rejection.APPROVALS_MISSING
    assert net.send(Join(EAST.public, "east"), OPERATOR, [EAST, NORTH]) == ""


@pytest.mark.parametrize("threshold", [0, MAX_THRESHOLD + 1])
def test_a_threshold_has_bounds(net: Network, threshold: int) -> None:
    with pytest.raises(ValueError, match=r"payload-invalid"):
        net.envelope(SetThreshold(threshold), OPERATOR)
    with pytest.raises(OpeningRefused):
        begin(Genesis("governed.example", OPERATOR.public, threshold=threshold))


def test_the_largest_threshold_can_be_met_by_large_keys_in_one_envelope() -> None:
    members = [Identity.generate(SUITE_ML_DSA_44) for _ in range(MAX_THRESHOLD + 1)]
    signer, new, *approvers = members
    payload = Join(new.public, "n" * 200)
    envelope = sign(Transaction(filler(1), signer.public, 2**64 - 1, payload), signer, [new, *approvers])
    assert len(approvers) == MAX_THRESHOLD - 1
    assert len(envelope) <= MAX_ENVELOPE_BYTES


# -- rotation and departure -----------------------------------------------------------------------


def test_a_rotated_key_can_do_nothing_any_more(net: Network) -> None:
    net.admit(NORTH, SOUTH)
    assert net.send(SetThreshold(2), OPERATOR, [NORTH]) == ""
    assert net.send(Rotate(EAST.public), NORTH, [EAST]) == ""
    for payload in (
        Anchor(filler(1), 1),
        Join(WEST.public, "west"),
        Rotate(WEST.public),
        Leave(NORTH.public),
        Leave(EAST.public),
        SetThreshold(1),
        OpenPath(filler(2), PATIENT.public, filler(3)),
        AllowSuite("digest", 2),
    ):
        assert net.send(payload, NORTH, [WEST, EAST, SOUTH]) == Rejection.NOT_A_MEMBER
    assert net.send(Leave(NORTH.public), OPERATOR, [SOUTH]) == Rejection.NOT_FOUND
    # As an approver it counts nothing; the key that replaced it does.
    assert net.send(Join(WEST.public, "west"), OPERATOR, [WEST, NORTH]) == Rejection.APPROVALS_MISSING
    assert net.send(Join(WEST.public, "west"), OPERATOR, [WEST, EAST]) == ""


def test_the_approval_of_a_member_who_left_counts_nothing(net: Network) -> None:
    net.admit(NORTH, SOUTH, EAST)
    assert net.send(SetThreshold(2), OPERATOR, [NORTH]) == ""
    assert net.send(Leave(NORTH.public), NORTH) == ""
    assert net.send(Leave(SOUTH.public), OPERATOR, [NORTH]) == Rejection.APPROVALS_MISSING
    assert net.send(Leave(SOUTH.public), OPERATOR, [EAST]) == ""


def test_both_keys_of_one_member_are_one_approval(net: Network) -> None:
    net.admit(NORTH, SOUTH)
    assert net.send(SetThreshold(3), OPERATOR, [NORTH, SOUTH]) == ""
    assert net.send(Rotate(EAST.public), NORTH, [EAST]) == ""
    assert net.send(SetThreshold(1), OPERATOR, [NORTH, EAST]) == Rejection.APPROVALS_MISSING


def test_a_key_that_was_ever_known_never_comes_back(net: Network) -> None:
    net.admit(NORTH, SOUTH)
    assert net.send(Rotate(EAST.public), NORTH, [EAST]) == ""
    assert net.send(Rotate(NORTH.public), EAST, [NORTH]) == Rejection.ALREADY_EXISTS
    assert net.send(Rotate(SOUTH.public), EAST, [SOUTH]) == Rejection.ALREADY_EXISTS
    assert net.send(Leave(EAST.public), OPERATOR) == ""
    for key in (NORTH, EAST):
        assert net.send(Join(key.public, "again"), OPERATOR, [key]) == Rejection.ALREADY_EXISTS


def test_what_was_signed_before_a_rotation_is_dead_after_it(net: Network) -> None:
    net.admit(NORTH)
    waiting = net.envelope(Anchor(filler(1), 1), NORTH)
    assert net.send(Rotate(EAST.public), NORTH, [EAST]) == ""
    assert net.submit(waiting) == Rejection.NOT_A_MEMBER


def test_a_new_keys_nonces_begin_anew_and_its_old_approvals_bind_to_their_body(net: Network) -> None:
    net.admit(NORTH)
    rotation = net.envelope(Rotate(EAST.public), NORTH, [EAST])
    assert net.submit(rotation) == ""
    member = find_member(StateView(net.state.tree), EAST.public)
    assert member == Member(NORTH.public, "member", "active", 0)
    assert net.submit(rotation) == Rejection.NOT_A_MEMBER
    # The approval is moved to another body: the signature is no longer true.
    outer = decode(rotation)
    assert isinstance(outer, tuple)
    outer_approvals = outer[3]
    other = decode(net.envelope(Join(EAST.public, "east"), OPERATOR))
    assert isinstance(other, tuple)
    moved = encode((1, other[1], other[2], outer_approvals))
    assert net.submit(moved) == Rejection.BAD_SIGNATURE


def test_accepted_governance_cannot_be_replayed(hybrid: Network) -> None:
    steps: list[tuple[Payload, list[Identity]]] = [
        (SetThreshold(2), [NORTH]),
        (SetThreshold(1), [NORTH]),
        (AllowSuite("digest", 2), []),
        (RetireSuite("digest", 2), []),
        (AllowSuite("state-tree", 2), []),
        (AllowSuite("state-tree", 1), []),
    ]
    for payload, by in steps:
        envelope = hybrid.envelope(payload, OPERATOR, by)
        assert hybrid.submit(envelope) == ""
        assert hybrid.submit(envelope) == Rejection.NONCE_STALE


def test_an_owners_old_word_is_not_taken_again_when_the_path_comes_back_to_him(net: Network) -> None:
    net.admit(NORTH)
    path = filler(60)
    assert net.send(OpenPath(path, PATIENT.public, filler(3)), NORTH) == ""

    def owner(payload: SetConsent | ChangeOwner, who: Identity, by: Sequence[Identity] = ()) -> bytes:
        return sign(Transaction(net.state.network, who.public, payload.counter, payload), who, by)

    first = owner(SetConsent(path, 1, filler(1)), PATIENT)
    assert net.submit(first) == ""
    assert net.submit(owner(ChangeOwner(path, 2, EAST.public), PATIENT, [EAST])) == ""
    assert net.submit(owner(ChangeOwner(path, 3, PATIENT.public), EAST, [PATIENT])) == ""
    assert net.submit(first) == Rejection.COUNTER_STALE


# -- suites ---------------------------------------------------------------------------------------


def test_a_network_begins_with_its_operators_suite() -> None:
    for operator, signatures, members in ((OPERATOR, (1,), (1, 0)), (LATTICE, (2,), (0, 1))):
        config = Network(begin(Genesis("governed.example", operator.public)).state).config
        assert (config.signatures, config.members) == (signatures, members)
        assert (config.state_tree, config.digests, config.batch_trees) == (1, (1,), (1,))


def test_a_suite_of_signatures_is_used_once_it_is_allowed(net: Network) -> None:
    joining = Join(LATTICE.public, "lattice")
    assert net.send(joining, OPERATOR, [LATTICE]) == Rejection.SUITE_NOT_ALLOWED
    # Neither in a payload, nor as approver, nor as signer.
    assert net.send(joining, OPERATOR) == Rejection.SUITE_NOT_ALLOWED
    assert net.send(Anchor(filler(1), 1), OPERATOR, [LATTICE]) == Rejection.SUITE_NOT_ALLOWED
    assert net.send(Anchor(filler(1), 1), LATTICE) == Rejection.SUITE_NOT_ALLOWED
    assert net.send(OpenPath(filler(1), LATTICE.public, filler(2)), OPERATOR) == Rejection.SUITE_NOT_ALLOWED
    assert net.send(Rotate(LATTICE.public), OPERATOR, [LATTICE]) == Rejection.SUITE_NOT_ALLOWED
    assert net.send(AllowSuite("signature", 2), OPERATOR) == ""
    assert net.send(AllowSuite("signature", 2), OPERATOR) == Rejection.ALREADY_EXISTS
    assert net.send(joining, OPERATOR, [LATTICE]) == ""
    assert net.send(Anchor(filler(1), 1), LATTICE) == ""
    assert net.config.members == (1, 1)


def test_a_member_moves_to_another_suite_by_rotation(hybrid: Network) -> None:
    new = Identity.generate(SUITE_ML_DSA_44)
    assert hybrid.send(Rotate(new.public), NORTH, [new]) == ""
    assert hybrid.config.members == (2, 3)
    assert hybrid.send(Anchor(filler(1), 1), new) == ""
    assert hybrid.send(Leave(new.public), new) == ""
    assert hybrid.config.members == (2, 2)


def test_retiring_a_suite_takes_enough_keys_that_stay(hybrid: Network) -> None:
    assert hybrid.send(SetThreshold(2), OPERATOR, [NORTH]) == ""
    retire = RetireSuite("signature", 1)
    assert hybrid.send(retire, OPERATOR, [NORTH, SOUTH]) == Rejection.APPROVALS_MISSING
    assert hybrid.send(retire, OPERATOR, [NORTH, LATTICE]) == Rejection.APPROVALS_MISSING
    assert hybrid.send(retire, OPERATOR, [LATTICE, CRYSTAL]) == ""
    assert hybrid.config.signatures == (2,)
    assert hybrid.config.active == 2


def test_few_keys_that_stay_cannot_take_over_a_network(hybrid: Network) -> None:
    assert hybrid.send(SetThreshold(3), OPERATOR, [NORTH, SOUTH]) == ""
    everyone = [NORTH, SOUTH, CRYSTAL, OPERATOR]
    assert hybrid.send(RetireSuite("signature", 1), LATTICE, everyone) == Rejection.APPROVALS_MISSING


def test_keys_of_a_retired_suite_count_for_nothing(hybrid: Network) -> None:
    assert hybrid.send(RetireSuite("signature", 1), LATTICE) == ""
    new = Identity.generate(SUITE_ML_DSA_44)
    assert hybrid.send(Anchor(filler(1), 1), NORTH) == Rejection.SUITE_NOT_ALLOWED
    assert hybrid.send(Rotate(new.public), NORTH, [new]) == Rejection.SUITE_NOT_ALLOWED
    assert hybrid.send(Join(new.public, "new"), LATTICE, [new, NORTH]) == Rejection.SUITE_NOT_ALLOWED
    # They no longer bind the others either: their members can be shown out, the last able one cannot go.
    assert hybrid.send(Leave(NORTH.public), LATTICE) == ""
    assert hybrid.send(Leave(LATTICE.public), LATTICE) == ""
    assert hybrid.send(Leave(CRYSTAL.public), CRYSTAL) == Rejection.LAST_MEMBER
    assert hybrid.config.active == 1


def test_what_was_retired_can_be_allowed_again(hybrid: Network) -> None:
    assert hybrid.send(RetireSuite("signature", 1), LATTICE) == ""
    assert hybrid.send(AllowSuite("signature", 1), LATTICE) == ""
    assert hybrid.send(Anchor(filler(1), 1), NORTH) == ""
    assert hybrid.config.active == 5


@pytest.mark.parametrize("use", ["signature", "state-tree", "digest", "batch-tree"])
def test_one_suite_always_stays(net: Network, use: str) -> None:
    assert net.send(RetireSuite(use, 1), OPERATOR) == Rejection.LAST_SUITE
    assert net.send(AllowSuite(use, 1), OPERATOR) == Rejection.ALREADY_EXISTS


@pytest.mark.parametrize("use", ["signature", "state-tree", "digest"])
def test_suites_are_changed_by_enough_members(net: Network, use: str) -> None:
    net.admit(NORTH)
    assert net.send(SetThreshold(2), OPERATOR, [NORTH]) == ""
    assert net.send(RetireSuite(use, 2), OPERATOR, [NORTH]) == Rejection.NOT_FOUND
    assert net.send(AllowSuite(use, 2), OPERATOR, [EAST]) == Rejection.APPROVALS_MISSING
    assert net.send(AllowSuite(use, 2), OPERATOR, [NORTH]) == ""
    if use == "digest":
        assert net.send(RetireSuite(use, 1), OPERATOR) == Rejection.APPROVALS_MISSING
        assert net.send(RetireSuite(use, 1), OPERATOR, [NORTH]) == ""
        assert net.config.digests == (2,)


@pytest.mark.parametrize(("use", "suite"), [("signature", 3), ("state-tree", 3), ("digest", 3), ("batch-tree", 2)])
def test_a_suite_nobody_knows_is_refused_whatever_a_network_wants(net: Network, use: str, suite: int) -> None:
    with pytest.raises(ValueError, match="unknown-suite"):
        net.envelope(AllowSuite(use, suite), OPERATOR)


@pytest.mark.parametrize(("use", "suite"), [("hash", 1), ("", 1), ("digest", 0)])
def test_a_use_nobody_knows_is_no_payload(net: Network, use: str, suite: int) -> None:
    with pytest.raises(ValueError, match="payload-invalid"):
        net.envelope(AllowSuite(use, suite), OPERATOR)


@pytest.mark.parametrize("kind", [RegisterRuleset, RegisterPolicy])
def test_content_is_named_by_a_digest_of_an_allowed_suite(
    net: Network, kind: type[RegisterRuleset | RegisterPolicy]
) -> None:
    assert net.send(kind(filler(1), 2), OPERATOR) == Rejection.SUITE_NOT_ALLOWED
    assert net.send(AllowSuite("digest", 2), OPERATOR) == ""
    assert net.send(kind(filler(1), 2), OPERATOR) == ""
    assert net.send(RetireSuite("digest", 1), OPERATOR) == ""
    assert net.send(kind(filler(2)), OPERATOR) == Rejection.SUITE_NOT_ALLOWED
    held = decode_any(net.state.tree.get(state_path(kind.kind, filler(1))) or b"")
    assert getattr(held, "suite", None) == 2


def test_the_state_tree_moves_to_its_new_suite_within_the_block(net: Network) -> None:
    net.admit(NORTH)
    for suite in (2, 1):
        before = net.state
        envelopes = [net.envelope(AllowSuite("state-tree", suite), OPERATOR)]
        envelopes += [net.envelope(OpenPath(filler(suite), PATIENT.public, filler(1)), NORTH)]
        block = apply_block(before, Header(before.header.height + 1, 0), envelopes)
        net.state = block.state
        ending = read_state_entry(block.entries[-1])
        assert ending is not None
        assert (ending.suite, ending.state_root) == (suite, net.state.tree.root)
        # The same contents, hashed anew by a tree that never had another suite.
        fresh = type(net.state.tree)(dict(net.state.tree.items()), suite=suite)
        assert fresh.root == net.state.tree.root
        assert tree_suite_of(net.state.tree.get(CONFIG_PATH)) == suite


# -- values and genesis ---------------------------------------------------------------------------


def test_the_suite_of_a_tree_is_read_from_its_configuration_only() -> None:
    assert tree_suite_of(None) == 1
    with pytest.raises(IntegrityBroken):
        tree_suite_of(encode_held(Member(filler(1), "north", "active", 0)))


@pytest.mark.parametrize("members", [("a",), (True, 1), 5, (1, b"")])
def test_counts_in_a_stored_configuration_are_integers(members: Any) -> None:
    config = Network(begin(Genesis("governed.example", OPERATOR.public)).state).config
    with pytest.raises(IntegrityBroken, match="members"):
        decode_any(encode_held(replace(config, members=members)))
    assert decode_any(encode_held(config)) == config


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "two\nlines"},
        {"operator": bytes(31)},
        {"operator_name": ""},
        {"threshold": True},
        {"time_ms": -1},
    ],
)
def test_a_genesis_has_its_form(change: dict[str, Any]) -> None:
    good = Genesis("governed.example", OPERATOR.public)
    assert read_genesis(good.entry()) == good
    bad = replace(good, **change)
    with pytest.raises(OpeningRefused):
        begin(bad)
    with pytest.raises(OpeningRefused):
        read_genesis(bad.entry())


def test_a_rule_for_members_is_never_asked_without_one() -> None:
    with pytest.raises(IntegrityBroken):
        _ = Request(b"", 1, Anchor(filler(1), 1), frozenset(), None).signer
