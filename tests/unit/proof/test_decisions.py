"""Decisions' bytes are those of docs/formats/decisions.md, made again here with hashlib, blake3 and cbor2 alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.errors import IntegrityBroken
from fhir_bridge.model.access import Requester
from fhir_bridge.proof.chain import MIN_LEAVES
from fhir_bridge.proof.decision import (
    SLOTS,
    ChartGrounds,
    chart_digest,
    decision_commitment,
    decision_facts,
    decode_grounds,
    encode_asked,
    encode_grounds,
    encode_shown,
)
from fhir_bridge.proof.epochs import decision_epoch
from ledger_core import MerkleBatch, Opening, OpenPart
from tests.support.access_world import CountingRandomness

WHO = Requester(
    "client-1", institution="northgate", institution_id="org-n", practitioner="dr-a", roles=("urn:r|doc",), groups=()
)
REQUEST = b"GET /fhir/Observation?patient=p1"
GROUNDS = ChartGrounds(
    request=REQUEST,
    requester=WHO,
    chart="c" * 32,
    home="harbor",
    patient="p1",
    linked=("p2", "p1"),
    instant_us=1_800_000_000_000_000,
    height=7,
    batch=3,
    evaluator="fhir-bridge-consent/2",
    basis="consent",
    base_url="http://127.0.0.1:8080/fhir",
    policies=b"p" * 32,
    lists=(b"o" * 32, None, None),
    path=b"x" * 32,
    is_sound=True,
    is_attested=False,
    in_emergency=False,
    consents=(("cons", "v1"),),
    shown=(("Observation", "o1", "v2"),),
    withheld=(("Observation", "o9"),),
)


def test_grounds_have_the_bytes_that_are_written_down() -> None:
    asked = [REQUEST, "client-1", "northgate", "org-n", "dr-a", ["urn:r|doc"], "TREAT", None, None, None, []]
    plain = [
        1,
        cbor2.dumps(asked, canonical=True),
        "c" * 32,
        "harbor",
        "p1",
        ["p1", "p2"],
        1_800_000_000_000_000,
        7,
        3,
        "fhir-bridge-consent/2",
        "consent",
        "http://127.0.0.1:8080/fhir",
        b"p" * 32,
        [b"o" * 32, None, None],
        b"x" * 32,
        True,
        False,
        False,
        [["cons", "v1"]],
        b"Observation/o1/_history/v2\n",
        [["Observation", "o9"]],
    ]
    written = cbor2.dumps(plain, canonical=True)
    assert GROUNDS.encode() == written
    assert GROUNDS.encode(encode_asked(REQUEST, WHO)) == written
    assert ChartGrounds.decode(written) == replace(GROUNDS, linked=("p1", "p2"))


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"\xff",
        cbor2.dumps([2, *cbor2.loads(GROUNDS.encode())[1:]]),
        cbor2.dumps(cbor2.loads(GROUNDS.encode())[:-1]),
        cbor2.dumps({"format": 1}),
        GROUNDS.encode() + b"\0",
        GROUNDS.encode().replace(b"_history", b"_histori"),
        GROUNDS.encode().replace(b"\x82bp1bp2", b"\x82bp2bp1"),
    ],
)
def test_grounds_in_any_other_form_are_refused(broken: bytes) -> None:
    assert broken != GROUNDS.encode()
    with pytest.raises(IntegrityBroken):
        ChartGrounds.decode(broken)


def test_the_digest_of_a_chart_is_salted() -> None:
    content = GROUNDS.encode()
    inner = hashlib.sha256(content).digest()
    wanted = hashlib.sha256(b"fhir-bridge/decision-chart/1\0" + b"s" * 32 + inner).digest()
    assert chart_digest(b"s" * 32, content) == wanted
    with pytest.raises(ValueError, match="32"):
        chart_digest(b"short", content)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=20, unique=True))
def test_the_number_of_charts_is_coarse(digests: list[bytes]) -> None:
    content = encode_grounds(digests, CountingRandomness())
    found = decode_grounds(content)
    assert found >= set(digests)
    size = len(found)
    assert size >= SLOTS == 4
    assert size & (size - 1) == 0
    assert size == 4 or size < 2 * len(digests)
    name, listed = cbor2.loads(content)
    assert name == "fhir-bridge/decision-grounds/1"
    assert listed == sorted(listed), "an order would tell which are real"
    if len(digests) <= 4:
        assert len(content) == len(encode_grounds([], CountingRandomness()))


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        cbor2.dumps(["other", [bytes(32)] * 4]),
        cbor2.dumps(["fhir-bridge/decision-grounds/1", [b"b" * 32, b"a" * 32]]),
        cbor2.dumps(["fhir-bridge/decision-grounds/1", [b"short"]]),
        encode_grounds([], CountingRandomness()) + b"\0",
    ],
)
def test_a_list_of_digests_in_any_other_form_is_refused(broken: bytes) -> None:
    with pytest.raises(IntegrityBroken):
        decode_grounds(broken)


text = st.text(max_size=40)


@given(
    st.binary(min_size=32, max_size=32),
    st.dictionaries(st.text(max_size=30), text | st.integers(0, 2**64 - 1), max_size=16),
    st.dictionaries(st.text(max_size=30), st.binary(min_size=32, max_size=32), max_size=4),
)
def test_the_commitment_is_the_ledgers(salt: bytes, facts: dict[str, str | int], contents: dict[str, bytes]) -> None:
    parts = {name: OpenPart(salt, content) for name, content in contents.items()}
    sealed = {name: part.digest() for name, part in parts.items()}
    assert decision_commitment(salt, facts, sealed) == Opening(salt, facts, parts).commitment()


def test_facts_are_named_alike_whoever_asks_and_whatever_is_shown() -> None:
    told = [
        decision_facts(who, "0" * 32, instant="2026-03-01T10:00:00.000Z", evaluator="e", height=1, shown=shown)
        for who in (WHO, Requester("x", patient="p1"), Requester("y", patient="p1", delegate="d"))
        for shown in (0, 3)
    ]
    assert {tuple(each) for each in told} == {tuple(told[0])}
    assert [(each["outcome"], each["shown"]) for each in told[:2]] == [("deny", 0), ("permit", 3)]
    assert told[0]["institution"] == "org-n"
    assert told[2]["agent-of"] == "p1"


def test_what_was_shown_is_a_line_each() -> None:
    names = [("Observation", "o1", "v2"), ("Patient", "p", "v1")]
    assert encode_shown(names) == b"Observation/o1/_history/v2\nPatient/p/_history/v1\n"
    assert encode_shown([]) == b""


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
def test_an_epoch_holds_every_decision_once_among_padding(count: int) -> None:
    commitments = [hashlib.sha256(str(number).encode()).digest() for number in range(count)]
    epoch = decision_epoch(commitments, CountingRandomness())
    assert epoch.count >= MIN_LEAVES == 16
    assert epoch.count & (epoch.count - 1) == 0
    assert epoch.count == 16 or epoch.count < 2 * count
    assert all(epoch.leaves.count(each) == 1 for each in commitments)
    assert epoch.root == MerkleBatch(epoch.leaves).root
