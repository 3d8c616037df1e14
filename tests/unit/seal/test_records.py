"""A record's envelopes open where they belong, and what they open to is what the commitment binds."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import cbor2
import pytest
from blake3 import blake3
from msgspec import structs

from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.errors import EnvelopeBroken
from fhir_bridge.model.ingest import Sealed
from fhir_bridge.seal import (
    LINEAGE,
    NORMALISED,
    ORIGINAL,
    RecordPlace,
    open_contents,
    open_normalised,
    open_part,
    open_segment,
    seal_record,
    seal_segment,
)
from tests.contract.vault_samples import CHART, OTHER_CHART, body_of, normalized, row

KEY = bytes(range(32))
RANDOM = SystemRandomness()
ROW = row("r1", "v1")
BODY = body_of(ROW, "text " * 50)
RECORD = structs.replace(normalized(ROW, BODY, original=b'{"original":1.10}'), lineage=b'[{"element":"id"}]')
WHERE = RecordPlace.of(CHART, ROW)


def sealed() -> Sealed:
    return seal_record(RECORD, CHART, BODY, "v1", KEY, RANDOM)


def frame(domain: str, *parts: bytes) -> bytes:
    """Join as docs/formats/ledger.md says: u8 length ‖ domain, then u64 length ‖ part for each."""
    return bytes((len(domain),)) + domain.encode() + b"".join(len(p).to_bytes(8, "big") + p for p in parts)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_every_part_comes_back_as_it_was() -> None:
    envelopes = sealed()
    opened = open_normalised(KEY, WHERE, envelopes.normalised)
    assert (opened.content, opened.ruleset) == (BODY, RECORD.ruleset)
    assert open_part(KEY, WHERE, ORIGINAL, envelopes.original).content == RECORD.original
    assert open_part(KEY, WHERE, LINEAGE, envelopes.lineage).content == RECORD.lineage
    assert open_contents(KEY, CHART, [ROW], [envelopes.normalised]) == [BODY]


def test_the_normalised_envelope_alone_gives_what_a_receipt_needs() -> None:
    """Recompute the commitment from the formats' text, with nothing but that one envelope and the contents."""
    envelopes = sealed()
    opened = open_normalised(KEY, WHERE, envelopes.normalised)
    contents = {NORMALISED: BODY, ORIGINAL: RECORD.original, LINEAGE: RECORD.lineage}
    digests = {
        part: sha256(frame("ledger-core/part/v1", opened.part_salts[part], blake3(content).digest()))
        for part, content in contents.items()
    }
    assert dict(opened.part_digests) == digests
    facts = {"id": "r1", "version": "v1", "ruleset": "c" * 64, "origin": "northgate"}
    body = cbor2.dumps({"facts": facts, "parts": digests, "suite": 1}, canonical=True)
    commitment = sha256(frame("ledger-core/commitment/v1", opened.commitment_salt, body))
    assert envelopes.commitment == commitment == opened.commitment
    assert opened.facts == facts


def test_salts_are_independent_and_fresh() -> None:
    salts = []
    for _ in range(2):
        opened = open_normalised(KEY, WHERE, sealed().normalised)
        salts += [opened.commitment_salt, *opened.part_salts.values()]
    assert len(set(salts)) == 8


def test_a_deletion_is_sealed_and_committed_too() -> None:
    gone = structs.replace(ROW, deleted=True)
    envelopes = seal_record(structs.replace(RECORD, content=b"", row=gone), CHART, b"", "v2", KEY, RANDOM)
    opened = open_normalised(KEY, replace(WHERE, version="v2"), envelopes.normalised)
    assert (opened.content, opened.commitment) == (b"", envelopes.commitment)


def test_the_chart_given_counts_not_the_one_a_deletion_came_without() -> None:
    envelopes = seal_record(RECORD, OTHER_CHART, BODY, "v1", KEY, RANDOM)
    assert envelopes.chart == OTHER_CHART
    assert open_normalised(KEY, replace(WHERE, chart=OTHER_CHART), envelopes.normalised).content == BODY


@pytest.mark.parametrize(
    "other",
    [
        replace(WHERE, chart=OTHER_CHART),
        replace(WHERE, id="r2"),
        replace(WHERE, version="v2"),
        replace(WHERE, origin="harbor"),
    ],
)
def test_no_envelope_opens_at_another_place(other: RecordPlace) -> None:
    envelopes = sealed()
    with pytest.raises(EnvelopeBroken):
        open_normalised(KEY, other, envelopes.normalised)
    with pytest.raises(EnvelopeBroken):
        open_part(KEY, other, ORIGINAL, envelopes.original)
    with pytest.raises(EnvelopeBroken):
        open_part(KEY, other, LINEAGE, envelopes.lineage)


def test_no_part_opens_as_another() -> None:
    envelopes = sealed()
    by_part = {NORMALISED: envelopes.normalised, ORIGINAL: envelopes.original, LINEAGE: envelopes.lineage}
    for asked, given in itertools.permutations(by_part, 2):
        with pytest.raises(EnvelopeBroken):
            open_part(KEY, WHERE, asked, by_part[given])
    with pytest.raises(EnvelopeBroken):
        open_normalised(KEY, WHERE, envelopes.original)


def test_a_segment_gives_its_rows_back() -> None:
    rows = [row(f"r{i}", search_is_odd) for i, search_is_odd in enumerate(["v1", "v2", "v3"])]
    assert open_segment(KEY, seal_segment(KEY, CHART, 4, rows, RANDOM)) == tuple(rows)


def test_a_segment_opens_only_as_its_number_in_its_chart() -> None:
    segment = seal_segment(KEY, CHART, 4, [ROW], RANDOM)
    for wrong in (replace(segment, number=5), replace(segment, chart=OTHER_CHART)):
        with pytest.raises(EnvelopeBroken):
            open_segment(KEY, wrong)
    with pytest.raises(EnvelopeBroken):
        open_segment(bytes(32), segment)


def test_a_segment_never_opens_as_a_record_nor_a_record_as_a_segment() -> None:
    segment = seal_segment(KEY, CHART, 0, [ROW], RANDOM)
    with pytest.raises(EnvelopeBroken):
        open_normalised(KEY, WHERE, segment.ciphertext)
    with pytest.raises(EnvelopeBroken):
        open_segment(KEY, replace(segment, ciphertext=sealed().normalised))


def test_no_value_shows_in_what_is_stored() -> None:
    envelopes, segment = sealed(), seal_segment(KEY, CHART, 0, [ROW], RANDOM)
    for stored in (envelopes.normalised, envelopes.original, envelopes.lineage, segment.ciphertext):
        for value in (b"loinc", b"8480-6", b"text text", b"original", b"element"):
            assert value not in stored


def test_opened_secrets_do_not_show_in_a_log() -> None:
    envelopes = sealed()
    opened = open_normalised(KEY, WHERE, envelopes.normalised)
    assert "text" not in repr(opened)
    assert "original" not in repr(open_part(KEY, WHERE, ORIGINAL, envelopes.original)).replace("OpenedPart", "")
