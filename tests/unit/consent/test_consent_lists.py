"""A consent list has one encoding and one hash, and the hash covers every fact of every entry."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import cbor2
import pytest

from fhir_bridge.consent import ConsentEntry, ConsentList, policy_commitment
from fhir_bridge.errors import IntegrityBroken

FIRST = ConsentEntry("a", "v1", "active", (0, 2**62), b"s" * 32, b"{}", 5, ("c1", "c2"))
SECOND = ConsentEntry("b", "v1", "inactive", (-5, 7), b"t" * 32, b"[]", 6, ())


def test_a_list_survives_its_encoding() -> None:
    both = ConsentList((FIRST, SECOND))
    assert ConsentList.decode(both.encode()) == both
    assert ConsentList.decode(ConsentList().encode()) == ConsentList()


def test_the_order_of_entries_does_not_matter() -> None:
    assert ConsentList((SECOND, FIRST)).encode() == ConsentList((FIRST, SECOND)).encode()
    assert ConsentList((SECOND, FIRST)).list_hash() == ConsentList((FIRST, SECOND)).list_hash()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "aa"},
        {"version": "v2"},
        {"status": "inactive"},
        {"valid": (1, 2**62)},
        {"body": b"{ }"},
        {"salt": b"u" * 32},
    ],
)
def test_every_fact_enters_the_hash(change: dict[str, Any]) -> None:
    assert ConsentList((replace(FIRST, **change), SECOND)).list_hash() != ConsentList((FIRST, SECOND)).list_hash()


def test_leaving_one_consent_out_changes_the_hash() -> None:
    assert len({ConsentList(entries).list_hash() for entries in ((), (FIRST,), (SECOND,), (FIRST, SECOND))}) == 4


def test_the_hash_is_sha256_over_domain_and_deterministic_cbor() -> None:
    inner = hashlib.sha256(b"fhir-bridge/consent-policy/1\0" + b"s" * 32 + hashlib.sha256(b"{}").digest()).digest()
    rows = cbor2.dumps([["a", "v1", "active", [0, 2**62], inner]], canonical=True)
    assert ConsentList((FIRST,)).list_hash() == hashlib.sha256(b"fhir-bridge/consent-list/1\0" + rows).digest()


def test_an_id_stands_once_and_replacing_keeps_the_others() -> None:
    with pytest.raises(ValueError, match="one id"):
        ConsentList((FIRST, replace(FIRST, version="v2")))
    changed = ConsentList((FIRST, SECOND)).with_entry(replace(FIRST, version="v2"))
    assert [(each.id, each.version) for each in changed.entries] == [("a", "v2"), ("b", "v1")]
    assert changed.find("b") == SECOND
    assert changed.find("c") is None


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\xff", cbor2.dumps([2, []]), cbor2.dumps([1, [["a"]]]), b"\x82\x01\x80\x00"]
)
def test_other_bytes_are_no_list(data: bytes) -> None:
    with pytest.raises(IntegrityBroken):
        ConsentList.decode(data)


def test_a_salt_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        policy_commitment(b"short", b"{}")
