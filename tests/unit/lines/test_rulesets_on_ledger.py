"""A ruleset is on the ledger before the first record that it made, also when the pack changed between two starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from fhir_bridge.lines import pure
from ledger_core import RegisterRuleset, read_transactions
from tests.support.bridge_world import ROOT, fresh, observation, patient, running


def registered(data: Path) -> set[str]:
    """Return the hashes of the rulesets that the ledger knows."""
    found = (t.payload for t in read_transactions(data / "ledger" / "ledger.db"))
    return {payload.digest.hex() for payload in found if isinstance(payload, RegisterRuleset)}


async def test_a_pack_changed_while_nobody_served_is_registered_before_it_is_used(tmp_path: Path) -> None:
    packs = tmp_path / "packs"
    shutil.copytree(ROOT / "mappings", packs)
    data = fresh(tmp_path)
    async with running(data) as world:
        body = {"name": "northgate", "fhir_version": "R4", "ruleset_dir": str(packs / "northgate")}
        assert (await world.control.post("/institutions", json=body)).status_code == 200
        await world.send(patient("p1"))
    before = registered(data)
    with (packs / "northgate" / "source.yaml").open("a") as source:
        source.write("# another day\n")
    pure._ruleset.cache_clear()  # what a new process would not have
    async with running(data) as world:
        await world.send(observation("o1", "p1"))
    added = registered(data) - before
    assert len(added) == 1
