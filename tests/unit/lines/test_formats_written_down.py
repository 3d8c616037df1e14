"""Ids, versions, stamps, batch heads and consent paths, made again from docs/formats by a second, simpler reader."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest
from blake3 import blake3

from fhir_bridge.anchor import head_leaf, make_batch
from fhir_bridge.lines.notary import Notary
from fhir_bridge.model import ids
from fhir_bridge.model.ingest import ChartRef, IndexRow, Interaction, Normalized, pack_values, stamped
from ledger_core import MerkleBatch
from tests.support.access_world import CountingRandomness

KEY = bytes(range(32))
WHEN = datetime(2026, 3, 1, 10, 0, 0, 123_456, tzinfo=UTC)


def _k(*parts: bytes) -> bytes:
    joined = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return blake3(b"fhir-bridge/id/1" + joined, key=KEY).digest()


def _b32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().lower()


def test_names_are_as_written_down() -> None:
    digest = _k(b"record", b"Patient", b"p1")[:15]
    patient = _b32(digest + _k(b"check", digest)[:5])
    assert ids.canonical_id(KEY, "Patient", "p1") == patient
    assert ids.chart_id(KEY, patient) == _k(b"chart", patient.encode())[:16].hex()
    assert ids.directory_id(KEY) == _k(b"directory")[:16].hex()
    content = blake3(b"fhir-bridge/content/1\0" + b"{}", key=KEY).digest()[:16]
    assert ids.content_digest(KEY, b"{}") == content
    version = _b32(_k(b"version", patient.encode(), content + b"\0", b"2")[:15])[:20]
    assert ids.version_id(KEY, patient, content + b"\0", 2) == version
    token = hmac.new(KEY, b"fhir-bridge/identifier/1\0urn:a|1", hashlib.sha256).hexdigest()
    assert ids.identifier_token(KEY, "urn:a|1") == token


def test_an_id_is_recognised_by_its_own_key_and_by_no_other() -> None:
    made = ids.canonical_id(KEY, "Patient", "p1")
    assert ids.canonical_id(KEY, "Patient", made) == made
    assert ids.canonical_id(bytes(32), "Patient", made) != made
    for place in range(len(made)):
        other = made[:place] + ("a" if made[place] != "a" else "b") + made[place + 1 :]
        assert not ids.is_canonical(KEY, other)


@pytest.mark.parametrize(("rest", "comma"), [(b"}}", b""), (b'"source":"s"}}', b",")])
def test_the_stamp_goes_right_after_the_brace_of_meta(rest: bytes, comma: bytes) -> None:
    head = b'{"resourceType":"Patient","id":"x","meta":{'
    none = pack_values({})
    row = IndexRow("Patient", "x", "", False, "n", "institution", 0, None, None, (), (), None, none, (), b"")
    chart = ChartRef("n", "c", "x")
    interaction = Interaction("PUT", "Patient", "x")
    record = Normalized(0, interaction, chart, "Patient", "x", "x", b"", head + rest, len(head), row, (), b"[]", "")
    stamp = b'"versionId":"v1","lastUpdated":"2026-03-01T10:00:00.123Z"'
    assert stamped(record, version="v1", last_updated=WHEN) == head + stamp + comma + rest


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 200])
def test_a_batch_holds_every_commitment_once_and_one_head_leaf(count: int) -> None:
    commitments = [hashlib.sha256(str(number).encode()).digest() for number in range(count)]
    signed: list[tuple[bytes, int]] = []

    def sign(root: bytes, size: int) -> bytes:
        signed.append((root, size))
        return b"envelope"

    batch = make_batch(commitments, b"h" * 32, sign=sign, randomness=CountingRandomness())
    size = len(batch.leaves)
    assert size & (size - 1) == 0
    assert size < 2 * (count + 1)
    head = hashlib.sha256(b"fhir-bridge/journal-head/1\0" + batch.head_salt + b"h" * 32).digest()
    assert (batch.leaves[batch.head_index], head_leaf(batch.head_salt, b"h" * 32)) == (head, head)
    assert all(batch.leaves.count(each) == 1 for each in [*commitments, head])
    assert signed == [(MerkleBatch(batch.leaves).root, size)] == [(batch.root, size)]


def test_a_consent_path_hides_its_chart_and_can_be_opened() -> None:
    path = hmac.new(KEY, b"fhir-bridge/consent-path/1", hashlib.sha256).digest()
    assert Notary.consent_path(KEY) == path
    assert Notary.secret_commitment(KEY) == hashlib.sha256(b"fhir-bridge/consent-secret/1" + KEY).digest()
