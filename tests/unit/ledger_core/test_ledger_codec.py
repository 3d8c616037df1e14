"""Deterministic CBOR, against RFC 8949's own examples and against cbor2 as a second definition."""

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.codec import decode, encode
from ledger_core.errors import NotCanonical
from tests.unit.ledger_core.ledger_samples import VECTORS

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=300)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc√", max_size=30), inner, max_size=4),
    max_leaves=12,
)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(("value", "encoded"), VECTORS["cbor"])
def test_examples_of_rfc_8949(value: Any, encoded: str) -> None:
    assert encode(value).hex() == encoded
    assert decode(bytes.fromhex(encoded)) == _tuples(value)


@given(VALUES)
def test_agrees_with_another_encoder(value: Any) -> None:
    encoded = encode(value)
    assert encoded == cbor2.dumps(value, canonical=True)
    assert decode(encoded) == _tuples(value)


@given(st.binary(max_size=40))
def test_whatever_is_read_has_that_one_spelling(data: bytes) -> None:
    try:
        value = decode(data)
    except NotCanonical:
        return
    assert encode(value) == data


@pytest.mark.parametrize(
    "spelling",
    [
        "1817",  # 23 in two bytes
        "190018",
        "1a000003e8",
        "1b0000000000000001",
        "3800",
        "5801ff",
        "780161",
        "980101",
        "b8016161 01",
        "9fff",  # indefinite array
        "5f41ffff",
        "7f6161ff",
        "bfff",
        "a2616201616101",  # keys out of order
        "a2616101616101",  # repeated key
        "a10101",  # a key that is no text
        "c100",  # tag
        "c249010000000000000000",  # bignum
        "f93c00",  # float
        "f7",  # undefined
        "f818",
        "61ff",  # not UTF-8
        "62c080",
        "0000",  # trailing byte
        "",
        "42ff",  # cut short
        "8201",
        "1c",
        "81" * 17 + "00",  # too deep
    ],
)
def test_other_spellings_are_refused(spelling: str) -> None:
    with pytest.raises(NotCanonical):
        decode(bytes.fromhex(spelling))


@pytest.mark.parametrize("value", [1.5, 2**64, -(2**64) - 1, {1: 2}, {"a": {3}}, "\ud800", bytearray(b"a")])
def test_values_outside_the_profile_are_refused(value: Any) -> None:
    with pytest.raises(NotCanonical):
        encode(value)


def test_a_huge_claimed_length_costs_nothing() -> None:
    with pytest.raises(NotCanonical):
        decode(bytes.fromhex("9bffffffffffffffff"))


def test_what_is_too_deep_to_read_is_not_written() -> None:
    value: list[Any] = []
    for _ in range(17):
        value = [value]
    with pytest.raises(NotCanonical, match="deeply"):
        encode(value)
