"""The OpenAPI description: a valid one, of the routes that there are, with what they ask for and answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from fhir_bridge.http import open_routes
from fhir_bridge.http.app import description
from fhir_bridge.http.description import describe
from tests.support.bridge_world import BASE, fresh, patient, running

Operation = tuple[str, str, dict[str, Any]]
TOLD = json.loads(description(BASE))


def _operations() -> Iterator[Operation]:
    for path, item in TOLD["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def _named(operation: dict[str, Any], where: str) -> set[str]:
    found = [TOLD["components"]["parameters"][each["$ref"].rpartition("/")[2]] for each in operation["parameters"]]
    return {each["name"] for each in found if each["in"] == where}


def test_it_is_a_valid_description() -> None:
    OpenAPIV31SpecValidator(TOLD).validate()


async def test_it_names_every_route_of_the_application_and_no_other(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        served = await world.http.get("/openapi.json")
        mounted = [*world.bridge.http.routes, *open_routes.router.routes]
    assert served.headers["content-type"] == "application/json"
    assert served.json() == TOLD
    there = {(m, each.path_format) for each in mounted if isinstance(each, Route) for m in each.methods or ()}
    assert {(method, path) for method, path, _ in _operations()} == there
    assert len(there) > 50


def test_a_route_that_nobody_described_stops_the_start() -> None:
    async def surprise() -> None: ...

    with pytest.raises(KeyError):
        describe([Route("/surprise", surprise)], BASE)


@pytest.mark.parametrize(("method", "path", "operation"), list(_operations()))
def test_the_parts_of_a_path_are_its_parameters(method: str, path: str, operation: dict[str, Any]) -> None:
    assert _named(operation, "path") == set(re.findall(r"{(\w+)}", path))


async def test_a_token_is_needed_where_it_says_so_and_nowhere_else(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        for method, path, operation in _operations():
            address = path.replace("{type_name}", "Observation").replace("{", "").replace("}", "")
            answer = await world.http.request(method, address)
            assert (answer.status_code == 401) is bool(operation["security"]), (method, path)
            assert str(answer.status_code) in operation["responses"]


def test_an_error_below_fhir_is_told_as_an_outcome_with_the_id_of_its_request() -> None:
    for method, path, operation in _operations():
        for status, answer in operation["responses"].items():
            found = answer
            if "$ref" in answer:
                found = TOLD["components"]["responses"][answer["$ref"].rpartition("/")[2]]
            if int(status) < 400 or not path.startswith("/fhir"):
                continue
            assert status == "500" or "X-Request-Id" in found["headers"], (method, path, status)
            if method != "HEAD":
                schema = found["content"]["application/fhir+json"]["schema"]["$ref"]
                assert schema == "#/components/schemas/OperationOutcome"


@pytest.mark.parametrize(("method", "path", "operation"), list(_operations()))
def test_only_who_sends_a_body_is_told_what_can_be_wrong_with_one(
    method: str, path: str, operation: dict[str, Any]
) -> None:
    of_bodies = {"408", "413", "415"} & set(operation["responses"])
    assert bool(of_bodies) is ("requestBody" in operation), (method, path)


async def test_an_import_is_told_as_it_is_asked_for_and_answered(tmp_path: Path) -> None:
    begin, status = TOLD["paths"]["/fhir/$import"]["post"], TOLD["paths"]["/fhir/$import/{job}"]["get"]
    parameters, answers = TOLD["components"]["parameters"], TOLD["components"]["responses"]
    needed = [parameters[each["$ref"].rpartition("/")[2]] for each in begin["parameters"]]
    (prefer,) = [each for each in needed if each["name"] == "Prefer"]
    async with running(fresh(tmp_path)) as world:
        sent = {**await world.token(), "Content-Type": "application/fhir+ndjson"}
        line = json.dumps(patient("p1"))
        refused = await world.http.post("/fhir/$import", content=line, headers=sent)
        assert (refused.status_code == 400) is prefer["required"]
        asked = sent | {"Prefer": prefer["schema"]["const"]}
        address = (await world.http.post("/fhir/$import", content=line, headers=asked)).headers["Content-Location"]
        while (answer := await world.http.get(address, headers=asked)).status_code == 202:
            await asyncio.sleep(0.01)
    told = answers[status["responses"]["200"]["$ref"].rpartition("/")[2]]["headers"]
    assert {"X-Request-Id", "Expires"} == set(told)
    assert all(name in answer.headers for name in told)


def test_nothing_is_described_that_nothing_uses() -> None:
    text = json.dumps(TOLD)
    for kind, members in TOLD["components"].items():
        for name in members:
            used = f'"#/components/{kind}/{name}"' in text
            assert used or kind == "securitySchemes", f"{kind}/{name}"


async def test_there_is_no_page_that_loads_scripts_from_elsewhere(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world:
        for path in ("/docs", "/redoc"):
            assert (await world.http.get(path)).status_code == 404
