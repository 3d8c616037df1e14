"""A sender searches its own records by its own ids, as it reads them; everybody else by canonical ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bridge_world import fresh, observation, patient, running


@pytest.mark.parametrize("query", ["Patient?_id=p1", "Observation?_id=o1", "Observation?patient=p1&_id=o1,o2"])
async def test_an_own_local_id_finds_what_it_reads(query: str, tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        await world.send(observation("o1", "p1"))
        type_name, local = ("Patient", "p1") if query.startswith("Patient") else ("Observation", "o1")
        own = await world.token()
        read = (await world.http.get(f"/fhir/{type_name}/{local}", headers=own)).json()
        found = (await world.http.get(f"/fhir/{query}", headers=own)).json()
        assert [entry["resource"] for entry in found.get("entry", [])] == [read]
        other = (await world.http.get(f"/fhir/{query}", headers=await world.token("harbor"))).json()
        assert other["total"] == 0
