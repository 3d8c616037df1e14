"""``Patient/id/$duplicates``: across linked charts, and never by the help of what is hidden."""

from __future__ import annotations

from pathlib import Path

import pytest

from fhir_bridge.fhir.validate import validate_r4
from tests.support.bridge_world import Json, World, consent, fresh, observation, patient, running

VALUE = {"value": 71, "system": "http://unitsofmeasure.org", "code": "/min"}
LAB = {"performer": [{"identifier": {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1"}}]}


async def _groups(world: World, who: dict[str, str], of: str, query: str = "") -> list[Json]:
    answer = await world.http.get(f"/fhir/Patient/{of}/$duplicates{query}", headers=who)
    assert answer.status_code == 200, answer.text
    assert validate_r4(answer.json()) == []
    return [each["resource"] for each in answer.json().get("entry", [])]


async def test_a_measurement_that_two_hospitals_tell_is_one_group_as_long_as_both_may_be_seen(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        for institution, local in (("northgate", "p1"), ("harbor", "h1")):
            await world.send(patient(local), institution)
            told = observation(f"o-{local}", local, valueQuantity=VALUE, **LAB)
            await world.send(told, institution)
        await world.send(observation("alone", "p1", valueQuantity=VALUE | {"value": 90}, **LAB))
        await world.link("x", ("northgate", "p1"), ("harbor", "h1"))
        agent, who = await world.enrol("p1"), await world.token()
        mine = await world.patient_id("p1")

        (group,) = await _groups(world, agent, mine)
        assert [tag["code"] for tag in group["meta"]["tag"]] == ["clinical"]
        seen = [
            (await world.http.get(f"/fhir/{i['resource']['reference']}", headers=agent)).json() for i in group["item"]
        ]
        assert sorted(each["identifier"][0]["value"] for each in seen) == ["o-h1", "o-p1"]
        assert await _groups(world, agent, mine, "?_type=Condition") == []

        # Nobody permitted northgate to see harbor's: its own value has no twin.
        assert await _groups(world, who, mine) == []
        permit = consent(f"Patient/{mine}", permit=f"Organization/{await world.organization('northgate')}")
        assert (await world.http.post("/fhir/Consent", headers=agent, json=permit)).status_code == 201
        assert len(await _groups(world, who, mine)) == 1


async def test_a_scope_that_leaves_out_a_type_leaves_out_its_twins(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        for name in ("o1", "o2"):
            await world.send(observation(name, "p1", valueQuantity=VALUE, **LAB))
        mine = await world.patient_id("p1")
        assert len(await _groups(world, await world.token(), mine)) == 1
        narrow = await world.token(scope="system/Patient.rs system/Condition.rs")
        assert await _groups(world, narrow, mine) == []


async def test_who_may_not_read_practitioners_is_not_told_which_two_are_one(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        for name in ("a", "b"):
            number = {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"}
            await world.send({"resourceType": "Practitioner", "id": name, "identifier": [number]})
            by = {"performer": [{"reference": f"Practitioner/{name}"}]}
            await world.send(observation(f"o-{name}", "p1", valueQuantity=VALUE, **by))
        mine = await world.patient_id("p1")
        assert len(await _groups(world, await world.token(), mine)) == 1
        narrow = await world.token(scope="system/Patient.rs system/Observation.rs")
        assert await _groups(world, narrow, mine) == []


async def test_comparisons_are_bounded_and_a_hidden_record_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of which each must be compared with each other cost the square of their number."""
    monkeypatch.setattr("fhir_bridge.lines.duplicates.MAX_COMPARED", 1)
    async with running(fresh(tmp_path)) as world:
        for institution, local, count in (("northgate", "p1", 2), ("harbor", "h1", 1)):
            await world.send(patient(local), institution)
            for number in range(count):
                told = observation(f"{local}-{number}", local, valueQuantity=VALUE, **LAB)
                await world.send(told, institution)
        await world.link("x", ("northgate", "p1"), ("harbor", "h1"))
        agent, who = await world.enrol("p1"), await world.token()
        mine = await world.patient_id("p1")
        assert len(await _groups(world, who, mine)) == 1
        answer = await world.http.get(f"/fhir/Patient/{mine}/$duplicates", headers=agent)
        assert answer.status_code == 400
        assert answer.json()["issue"][0]["code"] == "too-costly"
        assert await _groups(world, agent, mine, "?_type=Condition") == []


async def test_what_the_operation_does_not_know_is_refused_and_a_stranger_is_not_found(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("p1"))
        who = await world.token()
        other = await world.token("harbor")
        mine = await world.patient_id("p1")
        for query in ("?code=1", "?_type=Glucose"):
            answer = await world.http.get(f"/fhir/Patient/{mine}/$duplicates{query}", headers=who)
            assert answer.status_code == 400
        assert (await world.http.get(f"/fhir/Patient/{mine}/$duplicates", headers=other)).status_code == 404
