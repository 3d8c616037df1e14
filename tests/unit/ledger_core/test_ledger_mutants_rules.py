"""What rules write, to the last field, where mutation testing found it unstated."""

import pytest

from ledger_core.errors import IntegrityBroken
from ledger_core.machine import Genesis, StateView, begin
from ledger_core.payloads import AllowSuite, Join, Leave, OpenPath, RetireSuite
from ledger_core.rules.view import find_active, find_config, find_consent, find_member
from ledger_core.sparse import StateTree
from ledger_core.values import ConsentState, Member, Ruleset, encode_held, state_path
from tests.unit.ledger_core.ledger_network import Network
from tests.unit.ledger_core.ledger_samples import NORTH, OPERATOR, PATIENT, filler


@pytest.fixture
def net() -> Network:
    return Network(begin(Genesis("written.example", OPERATOR.public)).state)


def test_a_new_member_is_active_and_has_used_no_nonce(net: Network) -> None:
    assert net.send(Join(NORTH.public, "north"), OPERATOR, [NORTH]) == ""
    assert find_member(StateView(net.state.tree), NORTH.public) == Member(NORTH.public, "north", "active", 0)


def test_whoever_leaves_keeps_the_nonce_he_left_with(net: Network) -> None:
    net.admit(NORTH)
    net.nonces[NORTH.public] = 6
    assert net.send(Leave(NORTH.public), NORTH) == ""
    assert find_member(StateView(net.state.tree), NORTH.public) == Member(NORTH.public, "member", "left", 7)


def test_a_path_is_opened_with_two_empty_lists_and_no_attestation(net: Network) -> None:
    assert net.send(OpenPath(filler(60), PATIENT.public, filler(61)), OPERATOR) == ""
    assert find_consent(StateView(net.state.tree), filler(60)) == ConsentState(
        owner=PATIENT.public,
        institution=OPERATOR.public,
        secret=filler(61),
        owner_counter=0,
        owner_list=bytes(32),
        institution_counter=0,
        institution_list=bytes(32),
        attested=0,
    )


def test_suites_are_kept_in_order_whatever_the_order_of_allowing(net: Network) -> None:
    for change in (AllowSuite("digest", 2), RetireSuite("digest", 1), AllowSuite("digest", 1)):
        assert net.send(change, OPERATOR) == ""
    assert net.config.digests == (1, 2)


def test_a_state_without_a_configuration_is_broken() -> None:
    with pytest.raises(IntegrityBroken, match="no configuration"):
        find_config(StateView(StateTree()))


def test_a_value_of_another_kind_than_its_place_is_broken() -> None:
    place = state_path("member", NORTH.public)
    tree = StateTree({place: encode_held(Ruleset(NORTH.public))})
    with pytest.raises(IntegrityBroken, match="something else"):
        find_member(StateView(tree), NORTH.public)


def test_active_signers_come_in_order_of_key() -> None:
    keys = [filler(number) for number in range(1, 40)]
    held = {state_path("member", key): encode_held(Member(key, "m", "active", 0)) for key in keys}
    held[state_path("member", filler(5))] = encode_held(Member(filler(5), "m", "left", 0))
    found = find_active(StateView(StateTree(held)), frozenset([*keys, filler(200)]))
    assert found == [key for key in keys if key != filler(5)]
