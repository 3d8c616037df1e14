"""FHIR clients that nobody here wrote, against the running service: what their users do first, and how it fails.

Each is a program in its own language (``tools/fetch-clients`` gets the libraries) that prints what it saw.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service, running

_HERE = Path(__file__).parent
_BUILD = _HERE.parents[1] / ".build" / "clients"
_LIMIT_S = 800
_OBSERVATIONS = 25

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Command = Callable[[], list[str]]

CLIENTS: Mapping[str, Command] = {
    "fhirpy": lambda: [str(_BUILD / "python/bin/python"), str(_HERE / "python/with_fhirpy.py")],
    "fhirclient": lambda: [str(_BUILD / "python/bin/python"), str(_HERE / "python/with_fhirclient.py")],
    "fhir-kit-client": lambda: [_tool("node"), _beside_its_modules(_HERE / "node/client.js")],
    "hapi": lambda: [_tool("java"), "-cp", f"{_BUILD}/java/*", str(_HERE / "java/HapiClient.java")],
}
ERRORS: Mapping[str, Mapping[str, str]] = {
    "fhirpy": {
        "400": "OperationOutcome",
        "401": "AuthorizationError",
        "403": "ForbiddenError",
        "404": "ResourceNotFound",
    },
    "fhirclient": {
        "400": "HTTPError",
        "401": "FHIRUnauthorizedException",
        "403": "FHIRPermissionDeniedException",
        "404": "FHIRNotFoundException",
    },
    "fhir-kit-client": {"400": "Error", "401": "Error", "403": "Error", "404": "Error"},
    "hapi": {
        "400": "InvalidRequestException",
        "401": "AuthenticationException",
        "403": "ForbiddenOperationException",
        "404": "ResourceNotFoundException",
    },
}
"""The exception that each client's documentation gives for a status."""


def _tool(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is missing: run tools/fetch-clients"
    return found


def _beside_its_modules(program: Path) -> str:
    """Return a copy where Node looks for what a program imports."""
    return str(shutil.copy(program, _BUILD / "node" / program.name))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("clients") / "data") as service:
        service.add_institutions(("northgate",))
        yield service


@pytest.fixture(scope="module", params=sorted(CLIENTS))
def told(request: pytest.FixtureRequest, service: Service) -> tuple[str, dict[str, Any]]:
    """Return what one client saw."""
    assert _BUILD.exists(), "the clients are missing: run tools/fetch-clients"
    tokens = {
        "FHIR_TOKEN": service.token("northgate"),
        "FHIR_NARROW_TOKEN": service.token("northgate", scope="system/*.rs"),
    }
    environment = {name: value["Authorization"].removeprefix("Bearer ") for name, value in tokens.items()} | {
        "FHIR_BAD_TOKEN": "e30.e30.",
        "FHIR_BASE": f"{service.base_url}/fhir",
        "CLIENT_SHARED": str(_HERE / "shared.json"),
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        CLIENTS[request.param](), env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return request.param, json.loads(done.stdout.splitlines()[-1])


def test_it_creates_reads_searches_and_updates(told: tuple[str, dict[str, Any]]) -> None:
    name, seen = told
    assert seen["read"] == ["female", name.removesuffix("-client")]
    assert seen["found"] == [seen["created"]]
    assert seen["updated"] is False


def test_it_stores_a_transaction_and_pages_to_the_end(told: tuple[str, dict[str, Any]]) -> None:
    _, seen = told
    assert [status[:3] for status in seen["stored"]] == ["201"] * _OBSERVATIONS
    assert len(seen["paged"]) == len(set(seen["paged"])) == _OBSERVATIONS


def test_it_gets_everything(told: tuple[str, dict[str, Any]]) -> None:
    _, seen = told
    assert sorted(seen["everything"]) == ["Observation"] * _OBSERVATIONS + ["Patient"]


def test_it_sees_errors_as_its_own_exceptions(told: tuple[str, dict[str, Any]]) -> None:
    name, seen = told
    assert {status: error for status, (error, _) in seen["errors"].items()} == ERRORS[name]
    missing = "Observation.status" if name == "hapi" else "Patient.birthDate"
    assert missing in seen["errors"]["400"][1], "the outcome says what to change"
