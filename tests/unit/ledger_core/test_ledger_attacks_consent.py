"""Institutions, owners and strangers that ask the machine for a consent, register or form that is not theirs."""

from dataclasses import replace

import pytest

from ledger_core import machine, transactions
from ledger_core.codec import Value, decode, encode
from ledger_core.errors import OpeningRefused
from ledger_core.keys import Identity
from ledger_core.machine import Genesis, begin, read_genesis
from ledger_core.payloads import (
    AccessHead,
    Anchor,
    Attest,
    ChangeOwner,
    Join,
    OpenPath,
    Payload,
    RegisterRuleset,
    Rejection,
    Restrict,
    SetConsent,
    SetThreshold,
    UseRuleset,
)
from ledger_core.rules import access, consent, ruleset
from ledger_core.transactions import Transaction, signing_message
from tests.unit.ledger_core.ledger_attacks import PATH, attacked_network, owned, refused, resealed, rewritten, stopped
from tests.unit.ledger_core.ledger_network import EAST, WEST, Network
from tests.unit.ledger_core.ledger_samples import NORTH, OPERATOR, PATIENT, SOUTH, filler

STRANGER = WEST


@pytest.fixture
def net() -> Network:
    return attacked_network()


# --- consent --------------------------------------------------------------------------------------


def test_institution_widens_a_consent(net: Network) -> None:
    envelope = owned(net, SetConsent(PATH, 1, filler(1)), NORTH)
    refused(net, envelope, Rejection.NOT_PERMITTED, consent._judge_owner)


def test_institution_replaces_the_owners_key(net: Network) -> None:
    envelope = owned(net, ChangeOwner(PATH, 1, EAST.public), NORTH, EAST)
    refused(net, envelope, Rejection.NOT_PERMITTED, consent._judge_owner)


def test_institution_attests_where_genesis_forbids_it(net: Network) -> None:
    strict = Network(begin(Genesis("strict.example", OPERATOR.public, may_attest=False)).state)
    assert strict.send(OpenPath(PATH, PATIENT.public, filler(3)), OPERATOR) == ""
    envelope = strict.envelope(Attest(PATH, 1, filler(1)), OPERATOR)
    refused(strict, envelope, Rejection.ATTEST_NOT_ALLOWED, consent._judge_institution)


@pytest.mark.parametrize("payload", [Restrict(PATH, 1, filler(1)), Attest(PATH, 1, filler(1))])
def test_another_institution_speaks_for_the_chart(net: Network, payload: Payload) -> None:
    refused(net, net.envelope(payload, SOUTH), Rejection.NOT_PERMITTED, consent._judge_institution)


def test_path_opened_again_by_another_institution(net: Network) -> None:
    """With an owner key of its own, which would then decide."""
    envelope = net.envelope(OpenPath(PATH, SOUTH.public, filler(4)), SOUTH)
    refused(net, envelope, Rejection.ALREADY_EXISTS, consent._judge_institution)


def test_path_opened_again_by_the_same_institution(net: Network) -> None:
    """To begin the counters anew and forget the owner's withdrawal."""
    envelope = net.envelope(OpenPath(PATH, PATIENT.public, filler(3)), NORTH)
    refused(net, envelope, Rejection.ALREADY_EXISTS, consent._judge_institution)


def test_withdrawn_consent_set_again_with_the_owners_old_words(net: Network) -> None:
    first = owned(net, SetConsent(PATH, 1, filler(1)), PATIENT)
    assert net.submit(first) == ""
    assert net.submit(owned(net, SetConsent(PATH, 2, filler(2)), PATIENT)) == ""
    refused(net, first, Rejection.COUNTER_STALE, consent._judge_owner)


def test_owners_counter_apart_from_what_orders_it(net: Network) -> None:
    """The counter is the nonce; two numbers could be played off against each other."""
    envelope = owned(net, SetConsent(PATH, 1, filler(1)), PATIENT, nonce=9)
    refused(net, envelope, Rejection.COUNTER_STALE, consent._judge_owner)


def test_institutions_counter_used_again(net: Network) -> None:
    assert net.send(Restrict(PATH, 5, filler(1)), NORTH) == ""
    envelope = net.envelope(Restrict(PATH, 5, filler(2)), NORTH)
    refused(net, envelope, Rejection.COUNTER_STALE, consent._judge_institution)


def test_owner_handed_over_to_a_key_that_did_not_agree(net: Network) -> None:
    envelope = owned(net, ChangeOwner(PATH, 1, EAST.public), PATIENT, STRANGER)
    refused(net, envelope, Rejection.APPROVALS_MISSING, consent._judge_owner)


def test_former_owner_goes_on(net: Network) -> None:
    assert net.submit(owned(net, ChangeOwner(PATH, 1, EAST.public), PATIENT, EAST)) == ""
    refused(net, owned(net, SetConsent(PATH, 2, filler(1)), PATIENT), Rejection.NOT_PERMITTED, consent._judge_owner)


def test_consent_moved_to_another_path(net: Network) -> None:
    other = filler(61)
    assert net.send(OpenPath(other, PATIENT.public, filler(3)), NORTH) == ""
    envelope = owned(net, SetConsent(PATH, 1, filler(1)), PATIENT)
    moved = rewritten(envelope, 5, {"op": "set", "path": other, "counter": 1, "list_hash": filler(1)})
    refused(net, moved, Rejection.BAD_SIGNATURE, machine._apply)


# --- registers ------------------------------------------------------------------------------------


def test_ruleset_taken_over_after_its_registration(net: Network) -> None:
    assert net.send(RegisterRuleset(filler(1)), NORTH) == ""
    refused(net, net.envelope(RegisterRuleset(filler(1)), SOUTH), Rejection.ALREADY_EXISTS, ruleset.judge)


def test_ruleset_used_in_the_name_of_an_author_who_did_not_sign(net: Network) -> None:
    use = UseRuleset(filler(1), NORTH.public, EAST.public, 10_000)
    refused(net, net.envelope(use, NORTH), Rejection.APPROVALS_MISSING, ruleset._use)
    refused(net, net.envelope(use, NORTH, [PATIENT]), Rejection.APPROVALS_MISSING, ruleset._use)
    assert net.submit(net.envelope(use, NORTH, [PATIENT, EAST])) == ""


def test_ruleset_used_for_an_institution_that_did_not_sign_or_is_none(net: Network) -> None:
    for_south = UseRuleset(filler(1), SOUTH.public, NORTH.public, 10_000)
    refused(net, net.envelope(for_south, NORTH), Rejection.APPROVALS_MISSING, ruleset._use)
    for_nobody = UseRuleset(filler(1), EAST.public, NORTH.public, 10_000)
    refused(net, net.envelope(for_nobody, NORTH, [EAST]), Rejection.APPROVALS_MISSING, ruleset._use)
    assert net.submit(net.envelope(for_south, NORTH, [SOUTH])) == ""


def test_ruleset_withdrawn_that_nobody_knows(net: Network) -> None:
    def use(share: int) -> bytes:
        return net.envelope(UseRuleset(filler(1), NORTH.public, NORTH.public, share), NORTH)

    refused(net, use(0), Rejection.NOT_FOUND, ruleset._use)
    assert net.submit(use(1)) == ""
    assert net.submit(use(0)) == ""
    refused(net, net.envelope(RegisterRuleset(filler(1)), NORTH), Rejection.ALREADY_EXISTS, ruleset.judge)


def test_audit_epoch_closed_again_with_fewer_entries(net: Network) -> None:
    assert net.send(AccessHead(4, filler(1), 9), NORTH) == ""
    for epoch in (4, 3):
        envelope = net.envelope(AccessHead(epoch, filler(2), 1), NORTH)
        refused(net, envelope, Rejection.COUNTER_STALE, access.judge)


# --- sizes and spellings --------------------------------------------------------------------------


def test_envelope_larger_than_any(net: Network) -> None:
    refused(
        net,
        net.envelope(Anchor(filler(1), 1), NORTH) + bytes(65_535),
        Rejection.TOO_LARGE,
        transactions.read_envelope,
    )


def test_envelope_nested_a_thousand_times(net: Network) -> None:
    refused(net, b"\x81" * 1_000 + b"\x00", Rejection.MALFORMED, transactions.read_envelope)


def test_envelope_that_claims_more_than_it_holds(net: Network) -> None:
    for head in (b"\x9b", b"\x5b", b"\xbb"):
        refused(net, b"\x84\x01" + head + b"\xff" * 8, Rejection.MALFORMED, transactions.read_envelope)


def test_numbers_beyond_64_bits(net: Network) -> None:
    envelope = net.envelope(Anchor(filler(1), 1), NORTH)
    outer = decode(envelope)
    assert isinstance(outer, tuple)
    assert isinstance(outer[1], bytes)
    nonce = encode(net.nonces[NORTH.public])
    place = outer[1].index(NORTH.public) + 32
    assert outer[1][place:].startswith(nonce)
    for huge in (b"\xc2\x49\x01" + bytes(8), b"\xfb\x7f\xf0" + bytes(6)):
        body = outer[1][:place] + huge + outer[1][place + len(nonce) :]
        spoilt = encode((1, body, outer[2], outer[3]))
        refused(net, spoilt, Rejection.MALFORMED, transactions.read_envelope)
    for value in (0, -1, True):
        refused(net, rewritten(envelope, 4, value), Rejection.MALFORMED, transactions._read_transaction)


def test_approvals_without_end(net: Network) -> None:
    """Each costs a check of a signature."""
    keys = [Identity.from_private_bytes(number.to_bytes(32, "big")) for number in range(1000, 1065)]
    message = signing_message(body := Transaction(net.state.network, NORTH.public, 99, Anchor(filler(1), 1)).body())
    pairs = sorted((key.public, bytes(64)) for key in keys)
    envelope = encode((1, body, NORTH.sign(message), pairs))
    refused(net, envelope, Rejection.MALFORMED, transactions.read_envelope)


def test_one_approval_given_twice(net: Network) -> None:
    envelope = net.envelope(Join(EAST.public, "east"), OPERATOR, [EAST])

    def double(items: list[Value]) -> None:
        assert isinstance(items[3], tuple)
        items[3] = (*items[3], *items[3])

    refused(net, resealed(envelope, double), Rejection.MALFORMED, transactions.read_envelope)


def test_signer_approves_himself(net: Network) -> None:
    body = Transaction(net.state.network, NORTH.public, 99, SetThreshold(1)).body()
    signature = NORTH.sign(signing_message(body))
    envelope = encode((1, body, signature, [(NORTH.public, signature)]))
    refused(net, envelope, Rejection.MALFORMED, transactions.read_envelope)


def test_network_with_two_spellings_of_its_beginning() -> None:
    """One network id by the bytes of entry 0, another by what they say: two verifiers would part ways."""
    genesis = Genesis("attacked.example", OPERATOR.public)
    assert read_genesis(genesis.entry()) == genesis
    spelled = b"\x88\xf4\xf5" + genesis.entry()[3:]
    with stopped(read_genesis, OpeningRefused, "not spelled"):
        read_genesis(spelled)
    assert begin(replace(genesis, name="other")).state.network != genesis.network
