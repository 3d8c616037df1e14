"""``ConceptMap/$translate``: an institution's own maps, as R4 says it, for who may read ConceptMap."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.fhir.validate import is_refused, validate_r4
from fhir_bridge.lines.translating import Wanted, _matches
from fhir_bridge.normalize import CodeMap, MapRow
from fhir_bridge.normalize.code_maps import Target
from tests.support.bridge_world import ROOT, World, fresh, patient, running

HOUSE, LOINC, SNOMED = "http://cedar.example.org/codes", "http://loinc.org", "http://snomed.info/sct"
MAP = "http://cedar.example.org/ConceptMap/labs"
Json = dict[str, Any]

CONCEPT_MAP: Json = {
    "resourceType": "ConceptMap",
    "url": MAP,
    "version": "2",
    "status": "active",
    "sourceCanonical": "http://cedar.example.org/ValueSet/labs",
    "group": [
        {
            "source": HOUSE,
            "target": LOINC,
            "element": [
                {"code": "GLU", "target": [{"code": "2345-7", "display": "Glucose", "equivalence": "equivalent"}]},
                {"code": "WIDE", "target": [{"code": "1", "equivalence": "wider"}]},
                {"code": "NONE", "target": [{"equivalence": "unmatched"}]},
                {
                    "code": "DEP",
                    "target": [
                        {
                            "code": "9",
                            "equivalence": "equivalent",
                            "dependsOn": [{"property": "http://x.example/specimen", "value": "urine"}],
                        }
                    ],
                },
            ],
            "unmapped": {"mode": "fixed", "code": "OTHER"},
        },
        {
            "source": HOUSE,
            "target": SNOMED,
            "element": [{"code": "GLU", "target": [{"code": "33747003", "equivalence": "equal"}]}],
        },
    ],
}


async def cedar(world: World, folder: Path) -> dict[str, str]:
    """Register an institution whose pack has the ConceptMap; return the headers of its client."""
    (folder / "codes").mkdir(parents=True)
    (folder / "codes" / "labs.json").write_text(json.dumps(CONCEPT_MAP))
    (folder / "source.yaml").write_text("institution: cedar\nextends: core\nmaps: {labs: {file: codes/labs.json}}\n")
    body = {"name": "cedar", "fhir_version": "R4", "ruleset_dir": str(folder)}
    answer = await world.control.post("/institutions", json=body)
    assert answer.status_code == 200, answer.text
    return await world.token("cedar")


def matches(answer: Any) -> list[tuple[str, str, str]]:
    """Equivalence, system and code of each match; the answer must be valid R4."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert not is_refused(validate_r4(body))
    found = []
    for each in body["parameter"]:
        if each["name"] == "match":
            parts = {part["name"]: part for part in each["part"]}
            concept = parts.get("concept", {}).get("valueCoding", {})
            found.append((parts["equivalence"]["valueCode"], concept.get("system", ""), concept.get("code", "")))
    result = next(each["valueBoolean"] for each in body["parameter"] if each["name"] == "result")
    assert result is any(each[0] not in ("unmatched", "disjoint") for each in found)
    return found


async def ask(world: World, who: dict[str, str], **params: str) -> Any:
    return await world.http.get("/fhir/ConceptMap/$translate", params=params, headers=who)


async def post(world: World, who: dict[str, str], *parameters: Json) -> Any:
    body = {"resourceType": "Parameters", "parameter": list(parameters)}
    return await world.http.post("/fhir/ConceptMap/$translate", json=body, headers=who)


CASES: list[tuple[dict[str, str], list[tuple[str, str, str]]]] = [
    ({"code": "GLU"}, [("equivalent", LOINC, "2345-7"), ("equal", SNOMED, "33747003")]),
    ({"code": "GLU", "targetsystem": SNOMED}, [("equal", SNOMED, "33747003")]),
    ({"code": "GLU", "url": MAP}, [("equivalent", LOINC, "2345-7"), ("equal", SNOMED, "33747003")]),
    ({"code": "GLU", "url": MAP + "|2", "targetsystem": LOINC}, [("equivalent", LOINC, "2345-7")]),
    ({"code": "GLU", "source": "http://cedar.example.org/ValueSet/other"}, []),
    ({"code": "WIDE"}, [("wider", LOINC, "1")]),
    ({"code": "NONE"}, [("unmatched", "", "")]),
    ({"code": "DEP"}, []),
    ({"code": "ELSE"}, [("relatedto", LOINC, "OTHER")]),
    ({"code": "2345-7", "system": LOINC, "reverse": "true"}, [("equivalent", HOUSE, "GLU")]),
    ({"code": "1", "system": LOINC, "reverse": "true"}, [("narrower", HOUSE, "WIDE")]),
    ({"code": "2345-7", "system": LOINC}, []),
]


async def test_codes_are_translated_as_the_map_says_and_by_get_as_by_post(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await cedar(world, tmp_path / "cedar")
        for given, expected in CASES:
            params = {"system": HOUSE, **given}
            assert matches(await ask(world, who, **params)) == expected, given
            kinds = {"code": "valueCode", "reverse": "valueBoolean"}
            sent = [
                {"name": k, kinds.get(k, "valueUri"): v == "true" if k == "reverse" else v} for k, v in params.items()
            ]
            assert matches(await post(world, who, *sent)) == expected, given


async def test_codings_and_concepts_are_asked_by_post(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await cedar(world, tmp_path / "cedar")
        coding = {"system": HOUSE, "code": "WIDE"}
        one = await post(world, who, {"name": "coding", "valueCoding": coding})
        concept = {"coding": [{"system": "http://x.example", "code": "x"}, coding]}
        same = await post(world, who, {"name": "codeableConcept", "valueCodeableConcept": concept})
        assert matches(one) == matches(same) == [("wider", LOINC, "1")]


REFUSED: list[dict[str, str]] = [
    {},
    {"code": "GLU"},
    {"system": HOUSE},
    {"code": "GLU", "system": HOUSE, "reverse": "perhaps"},
    {"code": "GLU", "system": HOUSE, "surprise": "x"},
    {"code": "GLU", "system": HOUSE, "dependency": "x"},
]


async def test_what_is_not_understood_is_refused(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await world.token()
        for given in REFUSED:
            assert (await ask(world, who, **given)).status_code == 400, given
        twice = await world.http.get(f"/fhir/ConceptMap/$translate?code=a&code=b&system={HOUSE}", headers=who)
        assert twice.status_code == 400
        wrong: list[Json] = [
            {"name": "coding", "valueCoding": {"system": HOUSE}},
            {"name": "coding", "valueString": "GLU"},
            {"name": "codeableConcept"},
            {"name": "code", "valueString": "GLU"},
            {"name": "conceptMap", "resource": CONCEPT_MAP},
        ]
        for each in wrong:
            assert (await post(world, who, each)).status_code == 400, each
        for body in (b"{", b"[]", b'{"resourceType":"Patient"}', b'{"resourceType":"Parameters","parameter":[1]}'):
            answer = await world.http.post("/fhir/ConceptMap/$translate", content=body, headers=who)
            assert answer.status_code == 400, body


async def test_an_institution_sees_its_own_maps_and_the_cores_and_no_others(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        pack = {"name": "harbor", "fhir_version": "R4", "ruleset_dir": str(ROOT / "mappings" / "harbor")}
        assert (await world.control.post("/institutions", json=pack)).status_code == 200
        own, other = await cedar(world, tmp_path / "cedar"), await world.token("harbor")
        assert matches(await ask(world, other, code="GLU", system=HOUSE)) == []
        hidden = await ask(world, other, code="GLU", system=HOUSE, url=MAP)
        absent = await ask(world, other, code="GLU", system=HOUSE, url=MAP + "-that-nobody-has")
        assert (hidden.status_code, hidden.json()) == (absent.status_code, absent.json())
        assert hidden.status_code == 404
        harbors = {"system": "https://harbor.example.org/codes/obs", "code": "LB6266"}
        assert matches(await ask(world, other, **harbors)) == [("equivalent", LOINC, "2339-0")]
        assert matches(await ask(world, own, **harbors)) == []
        # Core's table of categories that STU3 named otherwise.
        cores = {"system": "http://hl7.org/fhir/observation-category", "code": "laboratory"}
        r4 = "http://terminology.hl7.org/CodeSystem/observation-category"
        for who in (own, other):
            assert matches(await ask(world, who, **cores)) == [("equivalent", r4, "laboratory")]


async def test_who_may_ask_needs_a_token_of_an_institution_that_may_read_concept_maps(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        params = {"code": "GLU", "system": HOUSE}
        assert (await ask(world, {}, **params)).status_code == 401
        reads = await world.token(scope="system/Observation.rs system/ConceptMap.r")
        assert (await ask(world, reads, **params)).status_code == 200
        other = await world.token(scope="system/Observation.rs")
        assert (await ask(world, other, **params)).status_code == 403
        await world.send(patient("p1"))
        agent = await world.enrol("p1")
        assert (await ask(world, agent, **params)).status_code == 403


async def test_a_pack_that_no_longer_loads_is_told_as_a_part_that_is_away(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await cedar(world, tmp_path / "cedar")
        kept = list(tmp_path.rglob("labs.json"))
        assert len(kept) == 2
        for each in kept:
            each.chmod(0o600)
            each.write_text("{")
        answer = await ask(world, who, code="GLU", system=HOUSE)
        assert answer.status_code == 503
        assert "cedar" not in answer.text


async def test_maps_are_those_of_the_pack_in_force_and_not_what_is_being_edited(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await cedar(world, tmp_path / "cedar")
        edited = tmp_path / "cedar" / "codes" / "labs.json"
        edited.write_text(edited.read_text().replace("2345-7", "9999-9"))
        found = matches(await ask(world, who, code="GLU", system=HOUSE, targetsystem=LOINC))
        assert found == [("equivalent", LOINC, "2345-7")]


async def test_what_has_no_counterpart_is_not_the_answer_to_no_code(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        who = await cedar(world, tmp_path / "cedar")
        assert (await ask(world, who, code="", system=LOINC, reverse="true")).status_code == 400


def test_asking_the_other_way_round_does_not_read_the_map_for_each_code() -> None:
    """64 KiB of question hold some thousand codes, and a map some ten thousand rows: as many as their product."""
    rows = tuple(MapRow(HOUSE, f"c{n}", Target(LOINC, f"t{n % 1000}")) for n in range(20_000))
    codes = CodeMap("big", rows)
    wanted = Wanted(tuple((LOINC, f"u{n}", "") for n in range(4_000)), {"reverse": "true"})
    started = time.process_time()
    assert list(_matches(codes, wanted, {})) == []
    assert time.process_time() - started < 1
    one = Wanted(((LOINC, "t7", ""),), {"reverse": "true"})
    assert [row.target.code for row, _ in _matches(codes, one, {})] == [f"c{n}" for n in range(7, 20_000, 1000)]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_it_is_listed_as_the_operation_that_r4_defines(tmp_path: Path, method: str) -> None:
    async with running(fresh(tmp_path)) as world:
        statement = (await world.http.get("/fhir/metadata")).json()
        described = (await world.http.get("/openapi.json")).json()
    assert not is_refused(validate_r4(statement))
    (entry,) = [each for each in statement["rest"][0]["resource"] if each["type"] == "ConceptMap"]
    (operation,) = entry["operation"]
    assert operation["name"] == "translate"
    assert operation["definition"] == "http://hl7.org/fhir/OperationDefinition/ConceptMap-translate"
    assert method.lower() in described["paths"]["/fhir/ConceptMap/$translate"]
