"""What a block is, field by field, where mutation testing found it unstated; bytes by cbor2 and plain definitions."""

from dataclasses import replace
from typing import Any, Final

import cbor2
import pytest

from ledger_core.errors import IntegrityBroken, OpeningRefused
from ledger_core.machine import (
    BlockRow,
    Genesis,
    Header,
    Result,
    StateView,
    app_hash,
    apply_block,
    begin,
    prepare,
    read_genesis,
)
from ledger_core.payloads import Anchor, SetConsent
from ledger_core.sparse import StateTree
from ledger_core.transactions import Transaction, sign
from ledger_core.values import CONFIG_PATH, Member, encode_held, state_path
from tests.support.naive_trees import hashes_root, log_root, sha, state_root, tagged
from tests.unit.ledger_core.ledger_samples import NORTH, OPERATOR, filler

GENESIS: Final = Genesis("field.example", OPERATOR.public, "operators", 2, False, 1_000)
ENTRY: Final = [0, 1, "field.example", OPERATOR.public, "operators", 2, False, 1_000]


def app(size: int, root: bytes, state: bytes, suite: int = 1) -> bytes:
    return sha(tagged("ledger-core/app-hash/v1", size.to_bytes(8, "big"), root, state, suite.to_bytes(2, "big")))


def test_a_genesis_is_its_eight_parts_and_names_the_network() -> None:
    raw = cbor2.dumps(ENTRY, canonical=True)
    assert GENESIS.entry() == raw
    assert GENESIS.network == sha(tagged("ledger-core/network/v1", raw))
    assert read_genesis(raw) == GENESIS
    plain = cbor2.dumps([0, 1, "field.example", OPERATOR.public, "operator", 1, True, 0], canonical=True)
    assert Genesis("field.example", OPERATOR.public).entry() == plain


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 1), (1, 0), (1, 2), (2, b"n"), (3, "k" * 32), (4, b"n"), (5, "2"), (6, 1), (7, "0"), (7, None)],
)
def test_a_genesis_of_other_parts_is_refused(place: int, value: Any) -> None:
    with pytest.raises(OpeningRefused, match="not a genesis"):
        read_genesis(cbor2.dumps([*ENTRY[:place], value, *ENTRY[place + 1 :]], canonical=True))


@pytest.mark.parametrize(("place", "value"), [(0, False), (1, True), (5, True), (7, False)])
def test_a_truth_value_is_no_number_of_a_genesis(place: int, value: bool) -> None:
    with pytest.raises(OpeningRefused):
        read_genesis(cbor2.dumps([*ENTRY[:place], value, *ENTRY[place + 1 :]], canonical=True))


@pytest.mark.parametrize("raw", [b"", b"\xff", b"\x9f\xff"])
def test_a_genesis_that_is_not_canonical_is_refused(raw: bytes) -> None:
    with pytest.raises(OpeningRefused, match="not canonical"):
        read_genesis(raw)


@pytest.mark.parametrize("parts", [ENTRY[:7], [*ENTRY, 0], {"a": 1}, 0])
def test_a_genesis_of_another_shape_is_refused(parts: Any) -> None:
    with pytest.raises(OpeningRefused, match="not a genesis"):
        read_genesis(cbor2.dumps(parts, canonical=True))


def test_the_app_hash_is_framed() -> None:
    assert app_hash(258, filler(1), filler(2)) == app(258, filler(1), filler(2))
    assert app_hash(2**40, filler(1), filler(2), 2) == app(2**40, filler(1), filler(2), 2)


def test_the_first_block_holds_the_genesis_and_the_first_state() -> None:
    block = begin(GENESIS)
    member = cbor2.dumps(["member", 1, OPERATOR.public, "operators", "active", 0], canonical=True)
    config = cbor2.dumps(["config", 1, 2, False, [1, 0], 1, [1], [1], [1]], canonical=True)
    assert block.updates == {CONFIG_PATH: config, state_path("member", OPERATOR.public): member}
    root = state_root(dict(block.updates))
    entries = (cbor2.dumps(ENTRY, canonical=True), cbor2.dumps([2, 1, 0, 1_000, root], canonical=True))
    assert (block.entries, block.results) == (entries, ())
    assert block.leaves == tuple(sha(b"\x00" + entry) for entry in entries)
    assert (block.state.network, block.state.header) == (GENESIS.network, Header(0, 1_000))
    hashed = app(2, log_root(entries), root)
    assert block.state.row() == BlockRow(0, 1_000, 2, log_root(entries), root, hashed)
    assert block.state.app_hash == hashed


def anchor(nonce: int) -> bytes:
    return sign(Transaction(GENESIS.network, OPERATOR.public, nonce, Anchor(filler(nonce), 1)), OPERATOR)


def test_a_block_says_what_became_of_each_transaction_and_where_it_stands() -> None:
    first = begin(GENESIS)
    envelopes = [anchor(1), b"noise", anchor(2)]
    for given in (
        envelopes,
        [prepare(each) for each in envelopes],
        [prepare(each, signatures=False) for each in envelopes],
    ):
        block = apply_block(first.state, Header(5, 1_000), given)
        assert block.results == tuple(
            Result(sha(tagged("ledger-core/envelope/v1", each)), code, index)
            for each, code, index in zip(envelopes, ("", "malformed", ""), (2, None, 3), strict=True)
        )
        member = cbor2.dumps(["member", 1, OPERATOR.public, "operators", "active", 2], canonical=True)
        assert block.updates == {state_path("member", OPERATOR.public): member}
        root = state_root({**first.updates, **block.updates})
        ending = cbor2.dumps([2, 1, 5, 1_000, root], canonical=True)
        assert block.entries == (envelopes[0], envelopes[2], ending)
        assert block.state.log.size == 5
        assert block.state.log.root() == hashes_root([*first.leaves, *block.leaves])
        assert block.state.header == Header(5, 1_000)


def test_a_block_of_refusals_moves_the_header_only() -> None:
    first = begin(GENESIS).state
    block = apply_block(first, Header(3, 2_000), [b"noise"])
    assert (block.entries, block.leaves, block.updates) == ((), (), {})
    assert block.state == replace(first, header=Header(3, 2_000))
    assert [each.code for each in block.results] == ["malformed"]


@pytest.mark.parametrize(("height", "time_ms"), [(0, 1_000), (-1, 1_000), (1, 999), (0, 1_001)])
def test_a_header_that_does_not_follow_is_the_engines_mistake(height: int, time_ms: int) -> None:
    with pytest.raises(ValueError, match="follow"):
        apply_block(begin(GENESIS).state, Header(height, time_ms), [])


def test_a_stored_value_that_is_none_stops_the_machine() -> None:
    state = begin(GENESIS).state
    spoilt = replace(state, tree=state.tree.updated({CONFIG_PATH: b"\xff"}))
    with pytest.raises(IntegrityBroken):
        apply_block(spoilt, Header(1, 1_000), [anchor(1)])


def test_a_view_reads_what_was_written_before_what_is_held() -> None:
    older, newer = Member(filler(1), "older", "active", 1), Member(filler(1), "newer", "active", 2)
    view = StateView(StateTree({filler(9): encode_held(older)}))
    assert (view.get(filler(9)), view.get(filler(8))) == (older, None)
    view.write({filler(9): newer})
    view.write({filler(8): older})
    assert (view.get(filler(9)), view.get(filler(8))) == (newer, older)
    assert view.updates() == {filler(9): encode_held(newer), filler(8): encode_held(older)}


def test_a_nonce_is_counted_for_the_member_who_signed_and_an_owner_has_none() -> None:
    first = begin(GENESIS).state
    word = sign(Transaction(first.network, NORTH.public, 1, SetConsent(filler(1), 1, filler(2))), NORTH)
    block = apply_block(first, Header(1, 1_000), [word, anchor(7)])
    assert [each.code for each in block.results] == ["not-found", ""]
    member = Member(OPERATOR.public, "operators", "active", 7)
    assert block.updates == {state_path("member", OPERATOR.public): encode_held(member)}


@pytest.mark.parametrize("threshold", [1, 16])
def test_a_genesis_may_have_any_threshold_in_bounds(threshold: int) -> None:
    assert begin(replace(GENESIS, threshold=threshold)).state.log.size == 2


@pytest.mark.parametrize(
    "change", [{"threshold": 0}, {"threshold": 17}, {"name": "n" * 201}, {"operator_name": "o" * 201}]
)
def test_a_genesis_out_of_bounds_begins_nothing(change: dict[str, Any]) -> None:
    with pytest.raises(OpeningRefused, match="needs two names"):
        begin(replace(GENESIS, **change))
