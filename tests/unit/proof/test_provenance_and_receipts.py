"""Provenance tells what our rules changed and to whom it may be told; receipts verify outside of us."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fhir_bridge.errors import IntegrityBroken, Unavailable
from fhir_bridge.fhir.validate import validate_r4
from fhir_bridge.model.ingest import Change, IndexRow, pack_values
from fhir_bridge.ports.vault import StoredBatch
from fhir_bridge.proof import CHANGE_EXTENSION, provenance, record_receipt
from ledger_core import (
    Anchor,
    Genesis,
    Identity,
    Join,
    Ledger,
    MerkleBatch,
    RecordMismatch,
    commit,
    open_ledger,
    part_digest,
    verify_receipt,
)

ROW = IndexRow(
    type="Observation",
    id="o1",
    version="v1",
    deleted=False,
    origin="harbor",
    author="institution",
    last_updated_us=1_772_323_200_000_000,
    source_updated_us=None,
    dated_us=None,
    labels=(),
    codes=(),
    data_period_us=None,
    search=pack_values({}),
    references=(),
    content=b"",
)
CHANGES = (
    Change(
        "Observation.valueQuantity", {"value": 5, "unit": "SECRET-UNIT"}, {"value": 90}, "glucose-to-mgdl", "unit"
    ),
    Change("Observation.subject.display", "SECRET NAME", None, "drop-display", "would name a person"),
)


def written(**more: Any) -> dict[str, Any]:
    return provenance(ROW, CHANGES, ruleset="ab12", institution_id="org-h", **more)


def test_provenance_is_valid_and_names_target_sender_and_ruleset() -> None:
    made = written(whole=True)
    assert not validate_r4(made)
    assert made["target"] == [{"reference": "Observation/o1/_history/v1"}]
    assert made["recorded"] == "2026-03-01T00:00:00.000Z"
    assert made["policy"] == ["urn:fhir-bridge:ruleset:ab12"]
    assert made["agent"][0]["who"] == {"reference": "Organization/org-h"}


def test_values_before_and_after_are_told_only_to_who_may_read_the_whole() -> None:
    assert "SECRET" not in json.dumps(written())
    assert [each["url"] for each in written()["extension"]] == [CHANGE_EXTENSION] * 2
    told = json.dumps(written(whole=True))
    assert "SECRET-UNIT" in told
    assert "SECRET NAME" in told


def test_the_id_depends_on_the_target_alone() -> None:
    assert written()["id"] == written(whole=True)["id"]
    other = provenance(
        structs.replace(ROW, version="v2"),
        (),
        ruleset="ab12",
        institution_id="org-h",
    )
    assert other["id"] != written()["id"]
    assert "extension" not in other


NORMALISED = b'{"resourceType":"Observation","id":"o1"}'
ORIGINAL = b'{"resourceType":"Observation","id":"local"}'


@dataclass(frozen=True)
class Opened:
    """What an opened normalised envelope gives."""

    facts: dict[str, str | int | bytes]
    content: bytes
    commitment_salt: bytes
    part_salts: Mapping[str, bytes]
    part_digests: Mapping[str, bytes]


def opened() -> Opened:
    salts = {name: os.urandom(32) for name in ("normalised", "original", "lineage")}
    contents = {"normalised": NORMALISED, "original": ORIGINAL, "lineage": b"[]"}
    digests = {name: part_digest(salts[name], contents[name]) for name in salts}
    facts: dict[str, str | int | bytes] = {"id": "o1", "version": "v1", "ruleset": "ab12", "origin": "harbor"}
    return Opened(facts, NORMALISED, os.urandom(32), salts, digests)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    operator = Identity.generate()
    genesis = Genesis("test.example/ledger", operator.public)
    with open_ledger(tmp_path / "ledger.db", log_identity=Identity.generate(), genesis=genesis) as made:
        made.send(Join(HARBOR.public, "harbor"), operator, [HARBOR]).result()
        yield made


HARBOR = Identity.generate()


def anchored(ledger: Ledger, record: Opened) -> StoredBatch:
    leaves = (os.urandom(32), commit(record.commitment_salt, record.facts, record.part_digests))
    batch = MerkleBatch(leaves)
    envelope = ledger.sign(Anchor(batch.root, batch.count), HARBOR)
    accepted = ledger.submit(envelope).result()
    return StoredBatch(1, batch.root, leaves, envelope, bytes(32), 0, accepted.height, accepted.index)


def test_a_receipt_verifies_for_the_served_bytes_and_no_others(ledger: Ledger) -> None:
    record = opened()
    text = record_receipt(record, anchored(ledger, record), ledger)
    outcome = verify_receipt(text, record=NORMALISED, policy=ledger.policy())
    assert (outcome.vouched, outcome.matched) == ("operator-attested", "normalised")
    with pytest.raises(RecordMismatch):
        verify_receipt(text, record=NORMALISED + b" ", policy=ledger.policy())


def test_the_original_is_opened_only_when_disclosed(ledger: Ledger) -> None:
    record = opened()
    batch = anchored(ledger, record)
    with pytest.raises(RecordMismatch):
        verify_receipt(record_receipt(record, batch, ledger), record=ORIGINAL, policy=ledger.policy())
    text = record_receipt(record, batch, ledger, disclosed={"original": ORIGINAL})
    assert verify_receipt(text, record=ORIGINAL, policy=ledger.policy()).matched == "original"


def test_a_batch_without_the_record_or_not_yet_anchored_makes_no_receipt(ledger: Ledger) -> None:
    record = opened()
    batch = anchored(ledger, record)
    with pytest.raises(IntegrityBroken):
        record_receipt(opened(), batch, ledger)
    pending = StoredBatch(1, batch.root, batch.leaves, batch.envelope, bytes(32), 0, None, None)
    with pytest.raises(Unavailable):
        record_receipt(record, pending, ledger)
