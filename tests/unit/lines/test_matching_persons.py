"""Suggesting, linking, parting and unlinking charts, by the operator's commands' routes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.bridge_world import Json, World, consent, fresh, observation, patient, running

SSN = "http://hl7.org/fhir/sid/us-ssn"
ANNA: Json = {
    "name": [{"family": "Zzyzxcanary", "given": ["Anna"]}],
    "birthDate": "1980-03-05",
    "gender": "female",
    "address": [{"line": ["1 Canary Street"], "city": "Boston"}],
}


async def _suggest(world: World, **asked: Any) -> tuple[list[Json], Json, str]:
    answer = await world.control.post("/persons/suggest", json=asked)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    return [e["suggestion"] for e in lines if "suggestion" in e], lines[-1]["done"], answer.text


async def _three(world: World) -> tuple[str, str, str]:
    """Anna at two hospitals, and her twin Berta at the second."""
    await world.send(patient("a1", **ANNA))
    await world.send(patient("a2", **ANNA), "harbor")
    await world.send(patient("b2", **(ANNA | {"name": [{"family": "Zzyzxcanary", "given": ["Berta"]}]})), "harbor")
    return (
        await world.patient_id("a1"),
        await world.patient_id("a2", "harbor"),
        await world.patient_id("b2", "harbor"),
    )


async def test_a_pair_is_suggested_linked_by_who_decides_and_unlinked_again(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        one, two, twin = await _three(world)
        (pair,), done, text = await _suggest(world)
        assert {pair["one"]["patient"], pair["two"]["patient"]} == {one, two}
        assert done["patients"] == 3
        assert "canary" not in text.casefold()
        assert "1980" not in text

        await world.send(observation("o2", "a2"), "harbor")
        agent = await world.enrol("a1")
        assert len(await world.timeline(agent, one)) == 1
        answer = await world.control.post("/persons/accept", json={"one": one, "two": two})
        assert answer.json() == {"linked": 2}
        assert len(await world.timeline(agent, one)) == 3
        assert (await _suggest(world))[0] == []
    async with running(data) as world:
        # As stored: what was decided stands after a restart.
        shown = (await world.control.get("/persons/linked", params={"patient": one})).json()
        assert {each["assurance"] for each in shown} == {"reviewed"}
        assert {each["patient"] for each in shown} == {one, two}
        assert (await world.control.post("/persons/unlink", json={"patient": two})).json() == {"unlinked_from": 1}
        agent = await world.enrol("a1")
        assert len(await world.timeline(agent, one)) == 1
        assert len((await _suggest(world))[0]) == 1
    assert twin


async def test_a_permit_signed_before_the_link_does_not_reach_the_linked_chart(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        one, two, _ = await _three(world)
        await world.send(observation("o2", "a2"), "harbor")
        agent, who = await world.enrol("a1"), await world.token("northgate")
        permit = consent(f"Patient/{one}", permit=f"Organization/{await world.organization('northgate')}")
        assert (await world.http.post("/fhir/Consent", headers=agent, json=permit)).status_code == 201
        await world.control.post("/persons/accept", json={"one": one, "two": two})
        assert not any(name.startswith("Observation/") for name in await world.timeline(who, one))


async def test_who_was_told_two_is_not_suggested_again_and_cannot_be_linked(tmp_path: Path) -> None:
    data = fresh(tmp_path)
    async with running(data) as world:
        one, two, _ = await _three(world)
        assert (await world.control.post("/persons/refuse", json={"one": two, "two": one})).status_code == 200
    async with running(data) as world:
        assert (await _suggest(world))[0] == []
        refused = await world.control.post("/persons/accept", json={"one": one, "two": two})
        assert refused.status_code == 400
        await world.control.post("/persons/unlink", json={"patient": one})
        assert len((await _suggest(world))[0]) == 1


async def test_a_shared_number_links_by_itself_only_where_that_is_asked_for_and_nothing_speaks_against_it(
    tmp_path: Path,
) -> None:
    async with running(fresh(tmp_path)) as world:
        number = {"identifier": [{"system": SSN, "value": "999-11-1111"}]}
        await world.send(patient("a1") | ANNA | number)
        await world.send(patient("a2") | ANNA | number, "harbor")
        other = {"name": [{"family": "Zzyzxcanary", "given": ["Berta"]}]}
        await world.send(patient("b1") | ANNA | number | other)
        found, done, _ = await _suggest(world)
        assert len(found) == 3
        assert done["linked"] == 0
        found, done, _ = await _suggest(world, link_identifiers=True)
        assert done["linked"] == 1
        assert len(found) == 2
        one = await world.patient_id("a1")
        shown = (await world.control.get("/persons/linked", params={"patient": one})).json()
        assert {each["assurance"] for each in shown} == {"identifier"}
        assert len(shown) == 2


async def test_who_was_told_two_is_not_made_one_by_way_of_a_third(tmp_path: Path) -> None:
    """One and two are two humans: whoever is one's cannot be two's, by a score no more than by a command."""
    async with running(fresh(tmp_path)) as world:
        number = {"identifier": [{"system": SSN, "value": "999-11-1111"}]}
        await world.send(patient("a1") | ANNA | number)
        await world.send(patient("a2") | ANNA | number, "harbor")
        await world.send(patient("a3") | ANNA | number)
        one, two = await world.patient_id("a1"), await world.patient_id("a2", "harbor")
        third = await world.patient_id("a3")
        await world.control.post("/persons/refuse", json={"one": one, "two": two})
        _, done, _ = await _suggest(world, link_identifiers=True)
        assert done["linked"] == 1
        linked = [
            {each["patient"] for each in (await world.control.get("/persons/linked", params={"patient": p})).json()}
            for p in (one, two)
        ]
        assert sorted(map(len, linked)) == [1, 2]
        # The pair that is left cannot be one human's, so nobody is asked about it.
        assert (await _suggest(world))[0] == []
        alone = one if len(linked[0]) == 1 else two
        for merge in (False, True):
            asked = {"one": alone, "two": third, "merge": merge}
            answer = await world.control.post("/persons/accept", json=asked)
            assert answer.status_code == 400
            assert "two humans" in answer.text


async def test_two_groups_are_one_human_only_where_somebody_says_so(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        one, two, twin = await _three(world)
        await world.send(patient("b1"))
        other = await world.patient_id("b1")
        for pair in ((one, two), (twin, other)):
            await world.control.post("/persons/accept", json={"one": pair[0], "two": pair[1]})
        asked = {"one": one, "two": twin}
        assert (await world.control.post("/persons/accept", json=asked)).status_code == 400
        assert (await world.control.post("/persons/accept", json=asked | {"merge": True})).json() == {"linked": 4}
        assert (await world.control.post("/persons/refuse", json=asked)).status_code == 400
        itself = await world.control.post("/persons/accept", json={"one": one, "two": f"Patient/{one}"})
        assert itself.status_code == 400
        unknown = await world.control.post("/persons/accept", json={"one": one, "two": "nobody"})
        assert unknown.status_code == 400
