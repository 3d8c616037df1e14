"""What the machine accepts and refuses, code by code."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from ledger_core.codec import Value, decode, encode
from ledger_core.keys import Identity
from ledger_core.machine import Genesis, Header, State, StateView, apply_block, begin
from ledger_core.rules.view import find_config, find_consent, find_member
from ledger_core.transactions import (
    AccessHead,
    Anchor,
    Attest,
    ChangeOwner,
    Join,
    Leave,
    OpenPath,
    Payload,
    RegisterPolicy,
    RegisterRuleset,
    Rejection,
    Restrict,
    Rotate,
    SetConsent,
    Transaction,
    sign,
)
from ledger_core.values import ACTIVE, Member, state_path
from tests.unit.ledger_core.ledger_samples import GENESIS, NORTH, OPERATOR, PATIENT, SOUTH, filler, identity

EAST = identity(6)
PATH = filler(60)


@dataclass(slots=True)
class Net:
    """A machine with a state that advances; one transaction a block unless told otherwise."""

    state: State

    def envelope(self, payload: Payload, who: Identity, nonce: int, approvers: Sequence[Identity] = ()) -> bytes:
        return sign(Transaction(self.state.network, who.public, nonce, payload), who, approvers)

    def block(self, *envelopes: bytes) -> list[str]:
        header = Header(self.state.header.height + 1, self.state.header.time_ms + 1)
        result = apply_block(self.state, header, envelopes)
        self.state = result.state
        return [item.code for item in result.results]

    def send(self, payload: Payload, who: Identity, nonce: int = 1, approvers: Sequence[Identity] = ()) -> str:
        return self.block(self.envelope(payload, who, nonce, approvers))[0]

    @property
    def view(self) -> StateView:
        return StateView(self.state.tree)


@pytest.fixture
def net() -> Net:
    started = Net(begin(GENESIS).state)
    assert started.send(Join(NORTH.public, "north"), OPERATOR, 1, [NORTH]) == ""
    assert started.send(Join(SOUTH.public, "south"), OPERATOR, 2, [SOUTH]) == ""
    return started


@pytest.fixture
def opened(net: Net) -> Net:
    assert net.send(OpenPath(PATH, PATIENT.public, filler(61)), NORTH) == ""
    return net


def test_accepted_transactions_enter_the_log_and_a_state_root_ends_the_block() -> None:
    first = begin(GENESIS).state
    result = apply_block(
        first, Header(1, 0), [sign(Transaction(first.network, OPERATOR.public, 1, Anchor(filler(1), 2)), OPERATOR)]
    )
    assert [item.index for item in result.results] == [2]
    assert len(result.entries) == 2
    ending = decode(result.entries[-1])
    assert ending == (2, 1, 1, 0, result.state.tree.root)


def test_a_block_without_accepted_transactions_changes_no_hash(net: Net) -> None:
    before = net.state
    assert net.block() == []
    assert net.block(b"noise", b"") == [Rejection.MALFORMED] * 2
    assert (net.state.app_hash, net.state.log) == (before.app_hash, before.log)
    assert net.state.header.height == before.header.height + 2


def test_refused_transactions_leave_no_trace_beside_accepted_ones(net: Net) -> None:
    good = net.envelope(Anchor(filler(1), 2), NORTH, 1)
    stranger = net.envelope(Anchor(filler(1), 2), EAST, 1)
    header = Header(net.state.header.height + 1, 9)
    mixed = apply_block(net.state, header, [stranger, good, b"noise"])
    plain = apply_block(net.state, header, [good])
    assert mixed.state.app_hash == plain.state.app_hash
    assert mixed.entries == plain.entries


def test_nonces_must_rise_and_need_not_follow(net: Net) -> None:
    anchor = Anchor(filler(1), 1)
    assert net.send(anchor, NORTH, 5) == ""
    assert net.send(anchor, NORTH, 5) == Rejection.NONCE_STALE
    assert net.send(anchor, NORTH, 4) == Rejection.NONCE_STALE
    assert net.send(anchor, NORTH, 9) == ""


def test_the_same_envelope_twice_in_a_block_counts_once(net: Net) -> None:
    envelope = net.envelope(Anchor(filler(1), 1), NORTH, 1)
    assert net.block(envelope, envelope) == ["", Rejection.NONCE_STALE]


def test_a_refusal_uses_up_no_nonce(net: Net) -> None:
    assert net.send(Leave(EAST.public), NORTH, 7) == Rejection.NOT_FOUND
    assert net.send(Anchor(filler(1), 1), NORTH, 7) == ""


def _spoilt(envelope: bytes, place: int, value: Value) -> bytes:
    outer = list(decode(envelope))  # type: ignore[arg-type]
    outer[place] = value
    return encode(outer)


def test_forms_are_refused_by_their_codes(net: Net) -> None:
    good = net.envelope(Anchor(filler(1), 1), NORTH, 1)
    body = list(decode(decode(good)[1]))  # type: ignore[arg-type,index]

    def with_body(place: int, value: Value) -> bytes:
        changed = list(body)
        changed[place] = value
        raw = encode(changed)
        return encode((1, raw, NORTH.sign(b""), ()))

    cases = {
        b"x" * 65_536: Rejection.TOO_LARGE,
        b"x" * 65_535: Rejection.MALFORMED,
        encode(5): Rejection.MALFORMED,
        _spoilt(good, 0, 2): Rejection.MALFORMED,
        _spoilt(good, 0, True): Rejection.MALFORMED,
        _spoilt(good, 2, bytes(63)): Rejection.MALFORMED,
        _spoilt(good, 3, ((NORTH.public, bytes(64)),)): Rejection.MALFORMED,
        _spoilt(good, 3, ((SOUTH.public, bytes(64)), (SOUTH.public, bytes(64)))): Rejection.MALFORMED,
        _spoilt(good, 2, bytes(64)): Rejection.BAD_SIGNATURE,
        _spoilt(good, 3, ((SOUTH.public, bytes(64)),)): Rejection.BAD_SIGNATURE,
        with_body(0, filler(0)): Rejection.WRONG_NETWORK,
        with_body(1, "claim"): Rejection.UNKNOWN_KIND,
        with_body(2, 2): Rejection.UNKNOWN_VERSION,
        with_body(2, True): Rejection.MALFORMED,
        with_body(3, EAST.public): Rejection.NOT_A_MEMBER,
        with_body(4, 0): Rejection.MALFORMED,
        with_body(5, {}): Rejection.PAYLOAD_INVALID,
        with_body(5, {"root": filler(1), "count": 1, "suite": 2}): Rejection.UNKNOWN_SUITE,
        with_body(5, {"root": filler(1), "count": 1, "suite": 0}): Rejection.PAYLOAD_INVALID,
        with_body(5, {"root": filler(1), "count": 1, "suite": "1"}): Rejection.PAYLOAD_INVALID,
        with_body(5, {"root": filler(1), "count": 0, "suite": 1}): Rejection.PAYLOAD_INVALID,
        with_body(5, {"root": filler(1), "count": True, "suite": 1}): Rejection.PAYLOAD_INVALID,
        with_body(5, {"root": filler(1), "count": 1, "suite": 1, "more": 1}): Rejection.PAYLOAD_INVALID,
        with_body(5, {"root": filler(1), "count": 1, "suite": 1, "op": ""}): Rejection.PAYLOAD_INVALID,
    }
    for envelope, code in cases.items():
        assert net.block(envelope) == [code]


@pytest.mark.parametrize("body", [5, (), (1, 2, 3, 4, 5), "text", {"a": 1}])
def test_a_body_of_another_shape_is_malformed(net: Net, body: Value) -> None:
    assert net.block(encode((1, encode(body), bytes(64), ()))) == [Rejection.MALFORMED]
    assert net.block(encode((1, body, bytes(64), ()))) == [Rejection.MALFORMED]


@pytest.mark.parametrize(
    "approvals",
    [
        5,
        {},
        (5,),
        ((SOUTH.public,),),
        ((SOUTH.public, bytes(64), 1),),
        ((5, bytes(64)),),
        ((bytes(31), bytes(64)),),
        ((SOUTH.public, bytes(63)),),
        ((SOUTH.public, 5),),
        tuple((bytes([number]) * 32, bytes(64)) for number in range(65)),
    ],
)
def test_approvals_of_another_shape_are_malformed(net: Net, approvals: Value) -> None:
    good = net.envelope(Anchor(filler(1), 1), NORTH, 1)
    assert net.block(_spoilt(good, 3, approvals)) == [Rejection.MALFORMED]


def test_approvals_have_one_order(net: Net) -> None:
    good = decode(net.envelope(Anchor(filler(1), 1), NORTH, 1, [SOUTH, OPERATOR]))
    assert isinstance(good, tuple)
    assert isinstance(good[3], tuple)
    turned = encode((*good[:3], tuple(reversed(good[3]))))
    assert net.block(turned) == [Rejection.MALFORMED]
    assert net.block(encode(good)) == [""]


def test_signing_refuses_what_would_be_refused(net: Net) -> None:
    transaction = Transaction(net.state.network, NORTH.public, 1, Anchor(filler(1), 1))
    with pytest.raises(ValueError, match="not the signer"):
        sign(transaction, SOUTH)
    with pytest.raises(ValueError, match="payload-invalid"):
        sign(replace(transaction, payload=Anchor(filler(1), 0)), NORTH)
    with pytest.raises(ValueError, match="malformed"):
        sign(transaction, NORTH, [SOUTH, SOUTH])


@pytest.mark.parametrize("name", ["", "a" * 201, "two\nlines", "é" * 101, "turned\u202e"])
def test_names_are_short_and_hide_nothing(net: Net, name: str) -> None:
    with pytest.raises(ValueError, match="payload-invalid"):
        net.envelope(Join(EAST.public, name), OPERATOR, 3, [EAST])


def test_a_signature_belongs_to_one_network(net: Net) -> None:
    other = begin(replace(GENESIS, name="other.example/ledger")).state
    envelope = net.envelope(Anchor(filler(1), 1), OPERATOR, 9)
    result = apply_block(other, Header(1, 0), [envelope])
    assert result.results[0].code == Rejection.WRONG_NETWORK


def test_joining_takes_the_new_keys_own_signature(net: Net) -> None:
    assert net.send(Join(EAST.public, "east"), OPERATOR, 3) == Rejection.APPROVALS_MISSING
    assert net.send(Join(EAST.public, "east"), OPERATOR, 3, [SOUTH]) == Rejection.APPROVALS_MISSING
    assert net.send(Join(EAST.public, "east"), OPERATOR, 3, [EAST]) == ""
    assert net.send(Join(EAST.public, "east"), OPERATOR, 4, [EAST]) == Rejection.ALREADY_EXISTS


def test_k_of_n_members_admit_once_there_are_enough() -> None:
    net = Net(begin(Genesis("quorum.example", OPERATOR.public, threshold=2)).state)
    assert net.send(Join(NORTH.public, "north"), OPERATOR, 1, [NORTH]) == ""
    assert net.send(Join(SOUTH.public, "south"), OPERATOR, 2, [SOUTH]) == Rejection.APPROVALS_MISSING
    # The joining key signs too, but it is no member yet.
    assert net.send(Join(SOUTH.public, "south"), OPERATOR, 2, [SOUTH, EAST]) == Rejection.APPROVALS_MISSING
    assert net.send(Join(SOUTH.public, "south"), OPERATOR, 2, [SOUTH, NORTH]) == ""
    assert net.send(Leave(SOUTH.public), OPERATOR, 3) == Rejection.APPROVALS_MISSING
    assert net.send(Leave(SOUTH.public), OPERATOR, 3, [NORTH]) == ""
    assert find_config(net.view).active == 2


def test_a_member_may_leave_alone_but_not_as_the_last() -> None:
    net = Net(begin(GENESIS).state)
    assert net.send(Leave(OPERATOR.public), OPERATOR, 1) == Rejection.LAST_MEMBER
    assert net.send(Join(NORTH.public, "north"), OPERATOR, 1, [NORTH]) == ""
    assert net.send(Leave(NORTH.public), NORTH) == ""
    assert net.send(Anchor(filler(1), 1), NORTH, 2) == Rejection.NOT_A_MEMBER
    assert net.send(Join(NORTH.public, "north"), OPERATOR, 2, [NORTH]) == Rejection.ALREADY_EXISTS


def test_rotation_moves_the_member_and_ends_the_old_key(opened: Net) -> None:
    assert opened.send(Rotate(EAST.public), NORTH, 2) == Rejection.APPROVALS_MISSING
    assert opened.send(Rotate(SOUTH.public), NORTH, 2, [SOUTH]) == Rejection.ALREADY_EXISTS
    assert opened.send(Rotate(EAST.public), NORTH, 2, [EAST]) == ""
    assert opened.send(Anchor(filler(1), 1), NORTH, 3) == Rejection.NOT_A_MEMBER
    member = find_member(opened.view, EAST.public)
    assert member is not None
    assert (member.member, member.name, member.status) == (NORTH.public, "north", "active")
    assert opened.send(Restrict(PATH, 1, filler(70)), EAST) == ""


def test_only_the_owner_sets_the_owners_list(opened: Net) -> None:
    for stranger in (NORTH, OPERATOR, EAST):
        assert opened.send(SetConsent(PATH, 1, filler(70)), stranger, 1) == Rejection.NOT_PERMITTED
    assert opened.send(SetConsent(PATH, 1, filler(70)), PATIENT, 1) == ""
    state = find_consent(opened.view, PATH)
    assert state is not None
    assert (state.owner_counter, state.owner_list) == (1, filler(70))
    assert (state.institution_counter, state.institution_list) == (0, bytes(32))


def test_the_owners_counter_is_its_nonce_and_rises(opened: Net) -> None:
    assert opened.send(SetConsent(PATH, 2, filler(70)), PATIENT, 3) == Rejection.COUNTER_STALE
    assert opened.send(SetConsent(PATH, 2, filler(70)), PATIENT, 2) == ""
    assert opened.send(SetConsent(PATH, 2, filler(71)), PATIENT, 2) == Rejection.COUNTER_STALE
    assert opened.send(SetConsent(PATH, 1, filler(71)), PATIENT, 1) == Rejection.COUNTER_STALE
    assert opened.send(SetConsent(filler(1), 9, filler(71)), PATIENT, 9) == Rejection.NOT_FOUND


def test_an_owners_false_signature_is_refused(opened: Net) -> None:
    envelope = opened.envelope(SetConsent(PATH, 1, filler(70)), PATIENT, 1)
    assert opened.block(_spoilt(envelope, 2, bytes(64))) == [Rejection.BAD_SIGNATURE]


def test_only_the_institution_of_the_chart_restricts_or_attests(opened: Net) -> None:
    for payload in (Restrict(PATH, 1, filler(70)), Attest(PATH, 1, filler(70))):
        assert opened.send(payload, SOUTH, 1) == Rejection.NOT_PERMITTED
        assert opened.send(payload, PATIENT, 1) == Rejection.NOT_A_MEMBER
    assert opened.send(Restrict(PATH, 3, filler(70)), NORTH, 2) == ""
    assert opened.send(Restrict(PATH, 3, filler(71)), NORTH, 3) == Rejection.COUNTER_STALE
    assert opened.send(Attest(PATH, 4, filler(72)), NORTH, 3) == ""
    assert opened.send(Restrict(PATH, 5, filler(73)), NORTH, 4) == ""
    state = find_consent(opened.view, PATH)
    assert state is not None
    assert (state.institution_counter, state.institution_list, state.attested) == (5, filler(73), 4)
    assert (state.owner_counter, state.owner_list) == (0, bytes(32))


def test_a_network_may_forbid_attesting() -> None:
    net = Net(begin(replace(GENESIS, may_attest=False)).state)
    assert net.send(OpenPath(PATH, PATIENT.public, filler(61)), OPERATOR, 1) == ""
    assert net.send(Attest(PATH, 1, filler(70)), OPERATOR, 2) == Rejection.ATTEST_NOT_ALLOWED
    assert net.send(Restrict(PATH, 1, filler(70)), OPERATOR, 2) == ""


def test_a_path_is_opened_once(opened: Net) -> None:
    assert opened.send(OpenPath(PATH, EAST.public, filler(61)), SOUTH) == Rejection.ALREADY_EXISTS


def test_nothing_can_be_said_about_a_path_that_was_never_opened(net: Net) -> None:
    assert net.send(Restrict(PATH, 1, filler(70)), NORTH, 1) == Rejection.NOT_FOUND
    assert net.send(Attest(PATH, 1, filler(70)), NORTH, 1) == Rejection.NOT_FOUND


def test_an_owner_hands_over_to_a_key_that_agrees(opened: Net) -> None:
    assert opened.send(ChangeOwner(PATH, 1, EAST.public), PATIENT, 1) == Rejection.APPROVALS_MISSING
    assert opened.send(ChangeOwner(PATH, 1, EAST.public), EAST, 1) == Rejection.NOT_PERMITTED
    assert opened.send(ChangeOwner(PATH, 1, EAST.public), PATIENT, 1, [EAST]) == ""
    assert opened.send(SetConsent(PATH, 2, filler(70)), PATIENT, 2) == Rejection.NOT_PERMITTED
    assert opened.send(SetConsent(PATH, 2, filler(70)), EAST, 2) == ""


@pytest.mark.parametrize("payload", [RegisterRuleset(filler(5)), RegisterPolicy(filler(5))])
def test_the_first_registration_stands(net: Net, payload: Payload) -> None:
    assert net.send(payload, NORTH, 1) == ""
    assert net.send(payload, SOUTH, 1) == Rejection.ALREADY_EXISTS


def test_audit_epochs_rise_for_each_member(net: Net) -> None:
    assert net.send(AccessHead(0, filler(1), 0), NORTH, 1) == ""
    assert net.send(AccessHead(0, filler(2), 4), NORTH, 2) == Rejection.COUNTER_STALE
    assert net.send(AccessHead(3, filler(2), 4), NORTH, 2) == ""
    assert net.send(AccessHead(2, filler(2), 4), SOUTH, 1) == ""


def test_a_block_must_follow(net: Net) -> None:
    here = net.state.header
    for header in (Header(here.height, here.time_ms), Header(here.height + 1, here.time_ms - 1)):
        with pytest.raises(ValueError, match="must follow"):
            apply_block(net.state, header, [])


@pytest.mark.parametrize("is_read", [False, True])
def test_a_block_tells_which_values_it_replaced_whether_or_not_a_rule_read_them(is_read: bool) -> None:
    tree = begin(GENESIS).state.tree
    place, born = state_path(Member.kind, OPERATOR.public), filler(7)
    view = StateView(tree)
    for path in (place, born) if is_read else ():
        view.get(path)
    for nonce in (1, 2):
        changed = Member(OPERATOR.public, "operator", ACTIVE, nonce)
        view.write({place: changed, born: changed})
    assert view.replaced() == {place: tree.get(place)}
    assert tree.get(place) is not None
