"""The answer to a bundle of many entries is written while it leaves, and is the same text."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.json import render
from fhir_bridge.lines.write import response_blocks, response_bundle
from fhir_bridge.model.ingest import Outcome
from tests.support.bridge_world import bundle, fresh, observation, patient, running

BASE = "https://bridge.example.org"
NOW = datetime(2026, 11, 30, tzinfo=UTC)
ABOVE, BLOCK = 9, 4


def outcome(index: int) -> Outcome:
    if index % 3 == 2:
        return Outcome(index, "409 Conflict", "Patient", issues=(Issue("error", "conflict", 'say "why"'),))
    return Outcome(index, "201 Created", "Observation", f"o{index}", "v1", NOW)


async def blocks_of(kind: str, outcomes: list[Outcome]) -> list[bytes]:
    return [block async for block in response_blocks(kind, outcomes, BASE, BLOCK)]


@given(st.integers(0, 3 * BLOCK + 1), st.sampled_from(("transaction", "batch")))
def test_an_answer_in_blocks_is_the_answer(entries: int, kind: str) -> None:
    outcomes = [outcome(index) for index in range(entries)]
    blocks = asyncio.run(blocks_of(kind, outcomes))
    assert b"".join(blocks) == render(response_bundle(kind, outcomes, BASE))
    assert all(block.count(b'"status"') <= BLOCK for block in blocks)


async def test_the_sender_of_many_entries_gets_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_BRIDGE_ANSWER_STREAM_ABOVE", str(ABOVE))
    monkeypatch.setenv("FHIR_BRIDGE_ANSWER_STREAM_BLOCK", str(BLOCK))
    entries = [("PUT", f"Observation/o{n}", observation(f"o{n}", "p1")) for n in range(ABOVE + 1)]
    async with running(fresh(tmp_path)) as world:
        who = await world.token() | {"Content-Type": "application/fhir+json"}
        few = await world.http.post("/fhir", json=bundle(("PUT", "Patient/p1", patient("p1"))), headers=who)
        many = await world.http.post("/fhir", json=bundle(*entries), headers=who)
    assert "content-length" in few.headers
    assert "content-length" not in many.headers
    assert many.headers["content-type"] == few.headers["content-type"]
    assert many.json()["type"] == "transaction-response"
    assert [each["response"]["status"] for each in many.json()["entry"]] == ["201 Created"] * len(entries)
