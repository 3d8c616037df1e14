"""Envelopes byte by byte, and their form at its edges; encoded by cbor2 and framed by the plain definition."""

from typing import Any, Final

import cbor2
import pytest

from ledger_core.payloads import Anchor, Join, Rejection
from ledger_core.transactions import (
    Envelope,
    Transaction,
    envelope_digest,
    prepare,
    read_envelope,
    seal_envelope,
    sign,
    signing_message,
)
from tests.support.naive_trees import sha, tagged
from tests.unit.ledger_core.ledger_network import LATTICE
from tests.unit.ledger_core.ledger_samples import NORTH, OPERATOR, SOUTH, filler, identity

PAYLOAD: Final = {"root": filler(1), "count": 2, "suite": 1}
BODY: Final = [filler(9), "anchor", 1, NORTH.public, 7, PAYLOAD]
ANCHOR: Final = Transaction(filler(9), NORTH.public, 7, Anchor(filler(1), 2))


def envelope(body: Any = None, signature: Any = bytes(64), approvals: Any = (), *more: Any, tag: Any = 1) -> bytes:
    raw = cbor2.dumps(BODY if body is None else body, canonical=True)
    return cbor2.dumps([tag, raw, signature, approvals, *more], canonical=True)


def changed(place: int, value: Any) -> list[Any]:
    return [*BODY[:place], value, *BODY[place + 1 :]]


def test_a_body_is_the_six_parts_in_their_order() -> None:
    assert ANCHOR.body() == cbor2.dumps(BODY, canonical=True)
    joining = Transaction(filler(9), NORTH.public, 7, Join(SOUTH.public, "south"))
    content = {"op": "join", "key": SOUTH.public, "name": "south"}
    assert joining.body() == cbor2.dumps([filler(9), "member", 1, NORTH.public, 7, content], canonical=True)


def test_what_is_signed_and_how_an_envelope_is_named_are_framed() -> None:
    body = ANCHOR.body()
    assert signing_message(body) == tagged("ledger-core/transaction/v1", body)
    signed = sign(ANCHOR, NORTH)
    assert signed == envelope(signature=NORTH.sign(tagged("ledger-core/transaction/v1", body)))
    assert envelope_digest(signed) == sha(tagged("ledger-core/envelope/v1", signed))


def test_an_envelope_is_read_back_whole() -> None:
    found = read_envelope(sign(ANCHOR, NORTH, [SOUTH, OPERATOR]))
    assert isinstance(found, Envelope)
    assert (found.transaction, found.body) == (ANCHOR, ANCHOR.body())
    assert found.keys() == (NORTH.public, *sorted([SOUTH.public, OPERATOR.public]))
    assert found.is_signed()
    assert found.signers() == frozenset([NORTH.public, SOUTH.public, OPERATOR.public])


def test_one_false_approval_makes_the_whole_unsigned() -> None:
    message = signing_message(ANCHOR.body())
    approvals = [(SOUTH.public, SOUTH.sign(message)), (OPERATOR.public, SOUTH.sign(message))]
    found = read_envelope(seal_envelope(ANCHOR.body(), NORTH.sign(message), approvals))
    assert isinstance(found, Envelope)
    assert not found.is_signed()
    assert found.signers() is None
    own = read_envelope(seal_envelope(ANCHOR.body(), SOUTH.sign(message), approvals[:1]))
    assert isinstance(own, Envelope)
    assert not own.is_signed()


def test_prepared_says_what_was_looked_at() -> None:
    good, forged, noise = sign(ANCHOR, NORTH), envelope(), b"noise"
    for data, with_signatures, is_signed in (
        (good, True, True),
        (good, False, None),
        (forged, True, False),
        (forged, False, None),
        (noise, True, None),
    ):
        found = prepare(data, signatures=with_signatures)
        assert (found.data, found.digest) == (data, sha(tagged("ledger-core/envelope/v1", data)))
        assert found.is_signed is is_signed
        assert found.transaction == (None if data == noise else ANCHOR)
    assert prepare(good).is_signed is True
    assert prepare(noise).found == Rejection.MALFORMED


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65])
def test_up_to_sixty_four_approvals_are_read(count: int) -> None:
    approvals = [[bytes([number]) * 32, bytes(64)] for number in range(100, 100 + count)]
    found = read_envelope(envelope(approvals=approvals))
    assert isinstance(found, Envelope) == (count <= 64)
    if isinstance(found, Envelope):
        assert len(found.keys()) == 1 + count


@pytest.mark.parametrize("nonce", [1, 2**64 - 1])
def test_every_positive_nonce_of_64_bits_is_read(nonce: int) -> None:
    found = read_envelope(envelope(changed(4, nonce)))
    assert isinstance(found, Envelope)
    assert found.transaction.nonce == nonce


MALFORMED: Final = {
    "a fifth part": envelope(BODY, bytes(64), (), 1),
    "three parts": cbor2.dumps([1, cbor2.dumps(BODY, canonical=True), bytes(64)], canonical=True),
    "no array": cbor2.dumps({"a": 1}),
    "a tag of another type": envelope(tag=True),
    "a tag that is text": envelope(tag="1"),
    "another tag": envelope(tag=0),
    "a signature that is text": envelope(signature="s" * 64),
    "a signature too short": envelope(signature=bytes(63)),
    "a signature of the other suite": envelope(signature=bytes(2420)),
    "approvals that are a map": envelope(approvals={}),
    "approvals that are false": envelope(approvals=False),
    "approvals that are null": envelope(approvals=None),
    "an approval by the signer": envelope(approvals=[[NORTH.public, bytes(64)]]),
    "an approval of three": envelope(approvals=[[SOUTH.public, bytes(64), 0]]),
    "an approval that is bytes": envelope(approvals=[b"ab"]),
    "an approval that is text": envelope(approvals=["ab"]),
    "an approving key that is text": envelope(approvals=[["k" * 32, bytes(64)]]),
    "an approving signature that is text": envelope(approvals=[[SOUTH.public, "s" * 64]]),
    "an approving key of no suite": envelope(approvals=[[bytes(33), bytes(64)]]),
    "an approval whose signature is of the other suite": envelope(approvals=[[LATTICE.public, bytes(64)]]),
    "approvals out of order": envelope(approvals=[[filler(8), bytes(64)], [filler(7), bytes(64)]]),
    "approvals twice": envelope(approvals=[[filler(8), bytes(64)]] * 2),
    "a body of five": envelope(BODY[:5]),
    "a body of seven": envelope([*BODY, 1]),
    "a body that is text": envelope("abcdef"),
    "a body that is six bytes": envelope(b"abcdef"),
    "a network too short": envelope(changed(0, bytes(31))),
    "a network too long": envelope(changed(0, bytes(33))),
    "a network that is text": envelope(changed(0, "n" * 32)),
    "a kind that is a number": envelope(changed(1, 5)),
    "a kind that is bytes": envelope(changed(1, b"anchor")),
    "a version of another type": envelope(changed(2, True)),
    "a version that is text": envelope(changed(2, "1")),
    "a signer of no suite": envelope(changed(3, bytes(31))),
    "a signer that is text": envelope(changed(3, "k" * 32)),
    "a nonce of nought": envelope(changed(4, 0)),
    "a nonce below nought": envelope(changed(4, -1)),
    "a nonce that is true": envelope(changed(4, True)),
    "a nonce that is text": envelope(changed(4, "7")),
    "a payload that is an array": envelope(changed(5, [])),
    "a payload that is null": envelope(changed(5, None)),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_another_form_is_malformed(case: str) -> None:
    assert isinstance(read_envelope(envelope()), Envelope)
    assert read_envelope(MALFORMED[case]) == Rejection.MALFORMED


def test_a_body_that_is_no_byte_string_is_malformed() -> None:
    assert read_envelope(cbor2.dumps([1, "body", bytes(64), ()], canonical=True)) == Rejection.MALFORMED
    assert read_envelope(cbor2.dumps([1, b"\xff", bytes(64), ()], canonical=True)) == Rejection.MALFORMED


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [
        (1, "claim", Rejection.UNKNOWN_KIND),
        (1, "", Rejection.UNKNOWN_KIND),
        (2, 0, Rejection.UNKNOWN_VERSION),
        (2, 2, Rejection.UNKNOWN_VERSION),
        (5, {}, Rejection.PAYLOAD_INVALID),
    ],
)
def test_what_is_not_known_has_its_code(place: int, value: Any, code: str) -> None:
    assert read_envelope(envelope(changed(place, value))) == code


def test_an_envelope_may_be_65535_bytes() -> None:
    filled = envelope(changed(5, {"x": ""}))
    room = 65_535 - len(filled)
    # Three heads (text, body, and the map's key stays) grow by two bytes each.
    largest = envelope(changed(5, {"x": "a" * (room - 4)}))
    assert len(largest) in (65_534, 65_535)
    assert read_envelope(largest) == Rejection.PAYLOAD_INVALID
    assert read_envelope(envelope(changed(5, {"x": "a" * (room + 1)}))) == Rejection.TOO_LARGE


def test_an_approver_may_be_of_another_suite_and_stands_after_shorter_and_smaller_keys() -> None:
    signed = sign(ANCHOR, NORTH, [LATTICE, SOUTH, identity(33)])
    found = read_envelope(signed)
    assert isinstance(found, Envelope)
    assert list(found.keys()[1:]) == sorted([LATTICE.public, SOUTH.public, identity(33).public])
    assert found.is_signed()
