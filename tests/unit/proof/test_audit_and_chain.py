"""AuditEvents follow IHE BALP; their chain shows any entry that is dropped, moved or changed."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.errors import IntegrityBroken
from fhir_bridge.fhir.validate import validate_r4
from fhir_bridge.model.access import Requester
from fhir_bridge.proof import (
    GENESIS,
    Access,
    access_epoch,
    audit_event,
    blinded,
    chain_head,
    entry_commitment,
    verify_chain,
)
from ledger_core import MerkleBatch

ENTITY_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
OBJECT_ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
CLINICIAN = Requester(
    "client", institution="northgate", institution_id="org-n", practitioner="dr-a", roles=("urn:r|doc",)
)
QUERY = "GET /fhir/Observation?patient=p1&code=1-1"
SEARCH = Access(
    CLINICIAN,
    "search-type",
    QUERY,
    "0",
    datetime(2026, 3, 1, tzinfo=UTC),
    9,
    "fhir-bridge-consent/1",
    "consent",
    "p1",
    count=3,
    consents=(("cons1", "v2"),),
    client_address="192.0.2.7",
    request_id="req-1",
    site="http://bridge.example/fhir",
)
READ = replace(SEARCH, interaction="read", record="Observation/o1")


class SystemRandom:
    def token(self, length: int) -> bytes:
        return os.urandom(length)


def entities(event: dict[str, Any], kind: str, role: str) -> list[dict[str, Any]]:
    return [e for e in event["entity"] if e["type"]["code"] == kind and e.get("role", {}).get("code") == role]


def agent(event: dict[str, Any], system: str, code: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [
        each
        for each in event["agent"]
        if any(c["system"] == system and c["code"] == code for c in each["type"]["coding"])
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("interaction", ["read", "vread", "search-type", "history-instance", "operation", "update"])
@pytest.mark.parametrize("requester", [CLINICIAN, Requester("p", patient="p1", purpose=""), Requester("s")])
def test_every_event_is_valid_r4(interaction: str, requester: Requester) -> None:
    event = audit_event(replace(SEARCH, interaction=interaction, requester=requester), event_id="e1")
    assert not validate_r4(event)


def test_a_search_fits_balp_patient_query() -> None:
    # StructureDefinition IHE.BasicAudit.PatientQuery and its parent IHE.BasicAudit.Query
    event = audit_event(SEARCH, event_id="e1")
    assert (event["type"]["code"], event["action"], event["outcome"]) == ("rest", "E", "0")
    assert "search" in [each["code"] for each in event["subtype"]]
    for code in ("110153", "110152"):
        assert {"who", "network"} <= agent(event, DCM, code).keys()
    (patient,) = entities(event, "1", "1")
    assert patient["what"] == {"reference": "Patient/p1"}
    (query,) = entities(event, "2", "24")
    assert base64.b64decode(query["query"]).decode() == QUERY
    assert not {"what", "detail", "lifecycle"} & query.keys()


def test_a_read_fits_balp_patient_read() -> None:
    # StructureDefinition IHE.BasicAudit.PatientRead
    event = audit_event(READ, event_id="e1")
    assert event["action"] == "R"
    (data,) = entities(event, "2", "4")
    assert data["what"] == {"reference": "Observation/o1"}
    assert not entities(event, "2", "24")


def test_the_event_tells_who_for_what_purpose_and_which_consents_had_a_say() -> None:
    event = audit_event(SEARCH, event_id="e1")
    user = agent(event, "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "IRCP")
    assert user["who"] == {"reference": "Practitioner/dr-a"}
    assert user["requestor"] is True
    assert user["purposeOfUse"][0]["coding"][0]["code"] == "TREAT"
    assert [each["requestor"] for each in event["agent"]].count(True) == 1
    references = [each["what"].get("reference") for each in event["entity"] if "what" in each]
    assert "Consent/cons1/_history/v2" in references
    (patient,) = entities(event, "1", "1")
    assert {each["type"]: each["valueString"] for each in patient["detail"]} == {
        "height": "9",
        "evaluator": "fhir-bridge-consent/1",
        "basis": "consent",
        "records": "3",
    }


def test_a_commitment_and_a_head_are_what_the_format_says() -> None:
    salt = bytes(range(32))
    commitment = hashlib.sha256(b"fhir-bridge/audit-entry/1\0" + salt + hashlib.sha256(b"{}").digest()).digest()
    assert entry_commitment(salt, b"{}") == commitment
    head = hashlib.sha256(b"fhir-bridge/audit-head/1\0" + bytes(32) + (1).to_bytes(8, "big") + commitment).digest()
    assert chain_head(GENESIS, 1, commitment) == head


def head_of(commitments: list[bytes]) -> bytes:
    head = GENESIS
    for counter, commitment in enumerate(commitments, 1):
        head = chain_head(head, counter, commitment)
    return head


chains = st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=6, unique=True)


@given(chains, st.data())
def test_dropping_moving_or_changing_an_entry_breaks_the_chain(commitments: list[bytes], data: st.DataObject) -> None:
    head = head_of(commitments)
    verify_chain(commitments, head)
    place = data.draw(st.integers(0, len(commitments) - 1))
    other = (place + 1) % len(commitments)
    swapped = list(commitments)
    swapped[place], swapped[other] = swapped[other], swapped[place]
    dropped = commitments[:place] + commitments[place + 1 :]
    changed = [*commitments[:place], bytes(31) + b"\x01", *commitments[place + 1 :]]
    for wrong in (swapped, dropped, changed, [*commitments, bytes(32)], []):
        with pytest.raises(IntegrityBroken):
            verify_chain(wrong, head)


def test_lengths_and_counters_are_checked() -> None:
    with pytest.raises(ValueError, match="start at 1"):
        chain_head(GENESIS, 0, bytes(32))
    with pytest.raises(ValueError, match="32 bytes"):
        chain_head(b"", 1, bytes(32))
    with pytest.raises(ValueError, match="32 bytes"):
        entry_commitment(b"", b"{}")


@given(st.integers(0, 70))
def test_an_epoch_holds_every_head_once_and_shows_only_a_padded_number(count: int) -> None:
    heads = [(f"chain-{n}", n + 1, bytes([n]) * 32) for n in range(count)]
    epoch = access_epoch(heads, SystemRandom())
    assert epoch.count == max(16, 1 << max(count - 1, 0).bit_length())
    assert len({each.index for each in epoch.openings}) == count
    assert [(each.chain, each.counter, each.head) for each in epoch.openings] == heads
    for each in epoch.openings:
        assert epoch.leaves[each.index] == blinded(each.salt, each.chain, each.counter, each.head)
    assert epoch.root == MerkleBatch(epoch.leaves).root


def test_the_same_heads_look_unrelated_in_the_next_epoch() -> None:
    heads = [("chain", 1, bytes(32))]
    first, second = (access_epoch(heads, SystemRandom()) for _ in range(2))
    assert not set(first.leaves) & set(second.leaves)


def test_places_in_an_epoch_are_spread() -> None:
    places = {access_epoch([("chain", 1, bytes(32))], SystemRandom()).openings[0].index for _ in range(200)}
    assert len(places) == 16
