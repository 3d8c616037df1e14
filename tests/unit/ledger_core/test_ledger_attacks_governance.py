"""Members, thieves of a key, owners and institutions that ask the machine for what is not theirs."""

from collections.abc import Callable

import pytest

from ledger_core import machine, payloads, transactions
from ledger_core.codec import Value, decode, encode
from ledger_core.hashing import frame
from ledger_core.keys import Identity
from ledger_core.machine import Genesis, begin
from ledger_core.payloads import (
    AllowSuite,
    Anchor,
    Join,
    Leave,
    Payload,
    RegisterRuleset,
    Rejection,
    RetireSuite,
    Rotate,
    SetConsent,
    SetThreshold,
)
from ledger_core.rules import member, suite
from ledger_core.transactions import Transaction, signing_message
from tests.unit.ledger_core.ledger_attacks import PATH, attacked_network, owned, refused, resealed, rewritten
from tests.unit.ledger_core.ledger_network import CRYSTAL, EAST, LATTICE, WEST, Network
from tests.unit.ledger_core.ledger_samples import NORTH, OPERATOR, PATIENT, SOUTH, filler

STRANGER = WEST


@pytest.fixture
def net() -> Network:
    return attacked_network()


# --- envelopes used again -------------------------------------------------------------------------


def test_envelope_replayed(net: Network) -> None:
    envelope = net.envelope(Anchor(filler(1), 1), NORTH)
    assert net.submit(envelope) == ""
    refused(net, envelope, Rejection.NONCE_STALE, machine._judge)


def test_join_approvals_reused_in_another_network(net: Network) -> None:
    other = Network(begin(Genesis("another.example", OPERATOR.public)).state)
    envelope = other.envelope(Join(EAST.public, "east"), OPERATOR, [NORTH, EAST])
    refused(net, envelope, Rejection.WRONG_NETWORK, machine._judge)
    refused(net, rewritten(envelope, 0, net.state.network), Rejection.NONCE_STALE, machine._judge)
    moved = rewritten(rewritten(envelope, 0, net.state.network), 4, 1_000)
    refused(net, moved, Rejection.BAD_SIGNATURE, machine._apply)


def test_approvals_reused_under_another_nonce(net: Network) -> None:
    envelope = net.envelope(Join(EAST.public, "east"), OPERATOR, [NORTH, EAST])
    assert net.submit(envelope) == ""
    refused(net, rewritten(envelope, 4, 1_000), Rejection.BAD_SIGNATURE, machine._apply)


def test_approvals_moved_to_another_request(net: Network) -> None:
    """Two members agreed to admit somebody; the third makes it their agreement to admit a stranger."""
    agreed = decode(net.envelope(Join(EAST.public, "east"), OPERATOR, [NORTH, EAST]))
    assert isinstance(agreed, tuple)
    wanted = net.envelope(Join(STRANGER.public, "stranger"), OPERATOR, [STRANGER])

    def add(items: list[Value]) -> None:
        assert isinstance(items[3], tuple)
        assert isinstance(agreed[3], tuple)
        norths = [pair for pair in agreed[3] if isinstance(pair, tuple) and pair[0] == NORTH.public]
        items[3] = sorted([*items[3], *norths])

    refused(net, resealed(wanted, add), Rejection.BAD_SIGNATURE, machine._apply)


def test_approval_added_on_the_way(net: Network) -> None:
    """Whoever carries an envelope may approve it too: other bytes, but the same transaction, and it counts once."""
    envelope = net.envelope(Anchor(filler(1), 1), NORTH)

    def approve(items: list[Value]) -> None:
        assert isinstance(items[1], bytes)
        items[3] = [(STRANGER.public, STRANGER.sign(signing_message(items[1])))]

    assert net.submit(resealed(envelope, approve)) == ""
    refused(net, envelope, Rejection.NONCE_STALE, machine._judge)


def test_approval_given_before_a_rotation_used_after_it(net: Network) -> None:
    waiting = net.envelope(Join(STRANGER.public, "stranger"), OPERATOR, [NORTH, STRANGER])
    assert net.send(Rotate(EAST.public), NORTH, [EAST]) == ""
    refused(net, waiting, Rejection.APPROVALS_MISSING, member._join)


def test_envelope_relabelled_as_another_kind(net: Network) -> None:
    """A registration of a ruleset and of a policy have the same fields."""
    envelope = net.envelope(RegisterRuleset(filler(1)), NORTH)
    refused(net, rewritten(envelope, 1, "policy"), Rejection.BAD_SIGNATURE, machine._apply)


def test_envelope_relabelled_as_another_version(net: Network) -> None:
    envelope = net.envelope(Anchor(filler(1), 1), NORTH)
    refused(net, rewritten(envelope, 2, 2), Rejection.UNKNOWN_VERSION, transactions._read_transaction)
    refused(net, rewritten(envelope, 2, True), Rejection.MALFORMED, transactions._read_transaction)


def test_envelope_under_another_members_name(net: Network) -> None:
    envelope = net.envelope(Anchor(filler(1), 1), NORTH)
    refused(net, rewritten(rewritten(envelope, 3, SOUTH.public), 4, 99), Rejection.BAD_SIGNATURE, machine._apply)


def test_signature_over_the_bare_body(net: Network) -> None:
    """A key that signs something else for its holder, without our frame, has not signed a transaction."""
    body = Transaction(net.state.network, NORTH.public, 99, Anchor(filler(1), 1)).body()
    for message in (body, frame("ledger-core/envelope/v1", body)):
        forged = encode((1, body, NORTH.sign(message), ()))
        refused(net, forged, Rejection.BAD_SIGNATURE, machine._apply)
    assert net.submit(encode((1, body, NORTH.sign(signing_message(body)), ()))) == ""


def test_signature_in_its_second_form(net: Network) -> None:
    """S plus the order of the group satisfies the same equation: the same words, a new envelope."""
    envelope = net.envelope(Anchor(filler(1), 1), NORTH)

    def stretch(items: list[Value]) -> None:
        assert isinstance(items[2], bytes)
        order = 2**252 + 27742317777372353535851937790883648493
        items[2] = items[2][:32] + (int.from_bytes(items[2][32:], "little") + order).to_bytes(32, "little")

    refused(net, resealed(envelope, stretch), Rejection.BAD_SIGNATURE, machine._apply)


# --- membership -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "by", "rule"),
    [
        (Join(STRANGER.public, "accomplice"), [STRANGER], member._join),
        (Leave(OPERATOR.public), [], member._leave),
        (SetThreshold(1), [], member._set_threshold),
        (AllowSuite("signature", 2), [], suite._allow),
        (AllowSuite("state-tree", 2), [], suite._allow),
    ],
    ids=["admit an accomplice", "show the others out", "lower the threshold", "allow a suite", "change the tree"],
)
def test_thief_of_one_key_governs(
    net: Network, payload: Payload, by: list[Identity], rule: Callable[..., object]
) -> None:
    refused(net, net.envelope(payload, NORTH, by), Rejection.APPROVALS_MISSING, rule)


def test_stranger_signs(net: Network) -> None:
    refused(net, net.envelope(Anchor(filler(1), 1), STRANGER), Rejection.NOT_A_MEMBER, machine._judge)


def test_strangers_approve(net: Network) -> None:
    by = [EAST, STRANGER]
    refused(net, net.envelope(Join(EAST.public, "east"), NORTH, by), Rejection.APPROVALS_MISSING, member._join)


def test_key_registered_without_its_holder(net: Network) -> None:
    """To put words under somebody else's key, or to use it up."""
    envelope = net.envelope(Join(EAST.public, "east"), OPERATOR, [NORTH])
    refused(net, envelope, Rejection.APPROVALS_MISSING, member._join)
    refused(net, net.envelope(Rotate(EAST.public), NORTH), Rejection.APPROVALS_MISSING, member._rotate)


def test_rotated_key_signs(net: Network) -> None:
    assert net.send(Rotate(EAST.public), NORTH, [EAST]) == ""
    refused(net, net.envelope(Anchor(filler(1), 1), NORTH), Rejection.NOT_A_MEMBER, machine._judge)


def test_rotated_key_approves(net: Network) -> None:
    assert net.send(Rotate(EAST.public), NORTH, [EAST]) == ""
    envelope = net.envelope(Join(STRANGER.public, "x"), EAST, [NORTH, STRANGER])
    refused(net, envelope, Rejection.APPROVALS_MISSING, member._join)


def test_leaver_approves(net: Network) -> None:
    assert net.send(Leave(SOUTH.public), SOUTH) == ""
    envelope = net.envelope(Join(STRANGER.public, "x"), NORTH, [SOUTH, STRANGER])
    refused(net, envelope, Rejection.APPROVALS_MISSING, member._join)


def test_leaver_joins_again_with_the_same_key(net: Network) -> None:
    assert net.send(Leave(SOUTH.public), SOUTH) == ""
    envelope = net.envelope(Join(SOUTH.public, "south"), OPERATOR, [NORTH, SOUTH])
    refused(net, envelope, Rejection.ALREADY_EXISTS, member._join)


def test_rotation_onto_a_key_of_somebody_else(net: Network) -> None:
    refused(net, net.envelope(Rotate(SOUTH.public), NORTH, [SOUTH]), Rejection.ALREADY_EXISTS, member._rotate)


def test_threshold_of_nobody(net: Network) -> None:
    envelope = net.envelope(SetThreshold(1), OPERATOR, [NORTH])
    for threshold in (0, -1, 17, True):
        spoilt = rewritten(envelope, 5, {"op": "threshold", "threshold": threshold})
        refused(net, spoilt, Rejection.PAYLOAD_INVALID, payloads.read_payload)


def test_network_left_to_one_who_cannot_act(net: Network) -> None:
    """The last key of an allowed suite leaves: nobody could ever govern again."""
    assert net.send(AllowSuite("signature", 2), OPERATOR, [NORTH]) == ""
    assert net.send(Join(LATTICE.public, "lattice"), OPERATOR, [NORTH, LATTICE]) == ""
    assert net.send(Join(CRYSTAL.public, "crystal"), OPERATOR, [NORTH, CRYSTAL]) == ""
    assert net.send(RetireSuite("signature", 1), LATTICE, [CRYSTAL]) == ""
    assert net.send(Leave(LATTICE.public), LATTICE) == ""
    refused(net, net.envelope(Leave(CRYSTAL.public), CRYSTAL), Rejection.LAST_MEMBER, member._leave)


# --- suites ---------------------------------------------------------------------------------------


def test_key_of_a_retired_suite_signs_or_approves(net: Network) -> None:
    assert net.send(AllowSuite("signature", 2), OPERATOR, [NORTH]) == ""
    for key in (LATTICE, CRYSTAL):
        assert net.send(Join(key.public, "new"), OPERATOR, [NORTH, key]) == ""
    assert net.send(RetireSuite("signature", 1), LATTICE, [CRYSTAL]) == ""
    refused(net, net.envelope(Anchor(filler(1), 1), NORTH), Rejection.SUITE_NOT_ALLOWED, machine._judge)
    approved = net.envelope(SetThreshold(1), LATTICE, [NORTH])
    refused(net, approved, Rejection.SUITE_NOT_ALLOWED, machine._judge)
    owner = owned(net, SetConsent(PATH, 1, filler(1)), PATIENT)
    refused(net, owner, Rejection.SUITE_NOT_ALLOWED, machine._judge)


def test_minority_retires_the_suite_of_the_others(net: Network) -> None:
    assert net.send(AllowSuite("signature", 2), OPERATOR, [NORTH]) == ""
    assert net.send(Join(LATTICE.public, "lattice"), OPERATOR, [NORTH, LATTICE]) == ""
    envelope = net.envelope(RetireSuite("signature", 1), LATTICE, [OPERATOR, NORTH])
    refused(net, envelope, Rejection.APPROVALS_MISSING, suite._retire)


def test_last_suite_retired(net: Network) -> None:
    envelope = net.envelope(RetireSuite("signature", 1), OPERATOR, [NORTH])
    refused(net, envelope, Rejection.LAST_SUITE, suite._retire)


def test_downgrade_to_a_retired_digest(net: Network) -> None:
    assert net.send(AllowSuite("digest", 2), OPERATOR, [NORTH]) == ""
    assert net.send(RetireSuite("digest", 1), OPERATOR, [NORTH]) == ""
    refused(net, net.envelope(RegisterRuleset(filler(1), 1), NORTH), Rejection.SUITE_NOT_ALLOWED, machine._judge)
