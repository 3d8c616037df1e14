"""The CapabilityStatement is true: every parameter it lists is taken, and every other one is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.fhir.search import composite_of
from fhir_bridge.fhir.tables import search_parameters
from fhir_bridge.fhir.validate import validate_r4
from fhir_bridge.model.ids import DIRECTORY_TYPES
from tests.support.bridge_world import World, fresh, observation, patient, running

VALUES = {"date": "2026", "quantity": "1", "number": "1", "reference": "Patient/x", "special": "x"}
CONTROLS = ("_sort=_lastUpdated", "_count=1", "_total=none", "_summary=text", "_elements=id", "_lastUpdated=gt2020")
REFUSED = ("_filter", "_text", "_content", "_list", "_query", "_contained", "_containedType", "_has", "colour")
AT_ONCE = 16
Json = dict[str, Any]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(fresh(tmp_path)) as made:
        await made.send(patient("p1"))
        await made.send(observation("o1", "p1"))
        yield made


async def statement(world: World) -> Json:
    made: Json = (await world.http.get("/fhir/metadata")).json()
    return made


def about(type_name: str) -> str:
    """What a search of a type must say beside the parameter in question."""
    return "_id=x" if type_name in DIRECTORY_TYPES | {"Patient"} else "patient=p1"


def value_of(type_name: str, parameter: Json) -> str:
    if parameter["type"] == "composite":
        return "$".join(VALUES.get(kind, "x") for kind in composite_of(type_name, parameter["name"]).kinds)
    return VALUES.get(parameter["type"], "x")


async def statuses(world: World, paths: Iterable[str]) -> dict[str, int]:
    """Ask everything, many at once, so that the access log is written for many together."""
    headers, gate = await world.token(), asyncio.Semaphore(AT_ONCE)

    async def ask(path: str) -> tuple[str, int]:
        async with gate:
            return path, (await world.http.get(f"/fhir/{path}", headers=headers)).status_code

    return dict(await asyncio.gather(*(ask(path) for path in paths)))


async def test_the_statement_is_valid(world: World) -> None:
    assert not [issue for issue in validate_r4(await statement(world)) if issue.severity in ("error", "fatal")]


OF_ALL = {"receipt", "explain"}
OF_PATIENT = OF_ALL | {
    "everything",
    "duplicates",
    "simulate",
    "decisions",
    "decision-opening",
    "delegate",
    "end-delegation",
    "emergency-access",
    "attest-guardian",
    "end-guardianship",
    "attest-consent",
}
"""What docs/access.md, explain.md, decision-receipts.md and persons.md offer."""


async def test_the_operations_that_are_documented_are_listed_and_no_other(world: World) -> None:
    resources = (await statement(world))["rest"][0]["resource"]
    listed = {each["type"]: {one["name"]: one for one in each["operation"]} for each in resources}
    assert listed.pop("Patient").keys() == OF_PATIENT
    # Of code maps nothing is stored or searched.
    assert listed.pop("ConceptMap").keys() == {"translate"}
    assert listed.pop("AuditEvent").keys() == OF_ALL | {"decision-receipt"}
    assert {frozenset(each) for each in listed.values()} == {frozenset(OF_ALL)}
    assert all(one["definition"] and one["documentation"] for each in listed.values() for one in each.values())


@pytest.mark.slow
async def test_every_listed_parameter_is_taken_and_no_other(world: World) -> None:
    resources = (await statement(world))["rest"][0]["resource"]
    every = {name for rows in search_parameters().values() for name in rows}
    good, bad = [], []
    for resource in resources:
        type_name = resource["type"]
        if "searchParam" not in resource:
            continue
        listed = {each["name"] for each in resource["searchParam"]}
        if type_name == "Provenance":
            good.append("Provenance?target=Observation/o1")
            bad += [f"Provenance?target=Observation/o1&{name}=x" for name in sorted(every - listed)[:20]]
            continue
        for each in resource["searchParam"]:
            if each["name"] not in ("_id", "patient", "subject"):
                good.append(f"{type_name}?{about(type_name)}&{each['name']}={value_of(type_name, each)}")
        good += [f"{type_name}?{about(type_name)}&{control}" for control in CONTROLS]
        unlisted = sorted(every - listed - {"patient", "subject"})
        # A tenth of what other types have, another tenth for each type, and what no type has.
        bad += [f"{type_name}?{about(type_name)}&{name}=x" for name in unlisted[len(good) % 10 :: 10]]
        bad += [f"{type_name}?{about(type_name)}&{name}=x" for name in REFUSED]
    taken, refused = await statuses(world, good), await statuses(world, bad)
    assert {path for path, status in taken.items() if status != 200} == set()
    assert {path for path, status in refused.items() if status != 400} == set()
    assert len(taken) > 1_000


@pytest.mark.slow
async def test_every_listed_include_and_history_is_taken(world: World) -> None:
    resources = (await statement(world))["rest"][0]["resource"]
    good = []
    for resource in resources:
        start = f"{resource['type']}?{about(resource['type'])}"
        good += [f"{start}&_include={each}" for each in resource.get("searchInclude", [])]
        good += [f"{start}&_revinclude:iterate={each}" for each in resource.get("searchRevInclude", [])[::5]]
        if {"code": "history-type"} in resource.get("interaction", ()):
            good.append(f"{resource['type']}/_history?patient=p1")
    assert {path: status for path, status in (await statuses(world, good)).items() if status != 200} == {}
