"""Finding the service and saying what it answered."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fhir_bridge.cli.control import Refused, open_control, reachable_socket
from fhir_bridge.cli.failing import FAILED, SETUP

from .conftest import Service, listening


async def test_a_running_service_is_asked_through_its_socket(service: Service) -> None:
    service.answer = lambda call: (200, {"height": 7})
    async with open_control(service.data) as control:
        assert await control.get("/status", institution=None, patient="x") == {"height": 7}
        assert control.public is None
    assert [(c.method, c.path, c.params) for c in service.calls] == [("GET", "/status", {"patient": "x"})]


async def test_a_data_directory_beyond_the_length_of_a_socket_path_works(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 120)
    long.mkdir()
    near = tmp_path / "near"
    near.mkdir()
    with listening(near) as service:
        (near / "control.sock").rename(long / "control.sock")
        service.answer = lambda call: (200, [])
        async with open_control(long) as control:
            assert await control.get("/institutions") == []


def test_a_socket_file_that_a_killed_service_left_is_no_service(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert path.exists()
    with reachable_socket(path) as found:
        assert found is None


def test_no_socket_file_is_no_service(tmp_path: Path) -> None:
    with reachable_socket(tmp_path / "control.sock") as found:
        assert found is None


@pytest.mark.parametrize(("status", "exit_code"), [(400, SETUP), (403, FAILED), (404, FAILED), (500, FAILED)])
async def test_a_refusal_tells_the_diagnostics(service: Service, status: int, exit_code: int) -> None:
    issue = {"severity": "error", "code": "invalid", "diagnostics": "no such ruleset", "expression": ["Bundle.type"]}
    service.answer = lambda call: (status, {"resourceType": "OperationOutcome", "issue": [issue]})
    async with open_control(service.data) as control:
        with pytest.raises(Refused, match=r"^no such ruleset at Bundle\.type$") as caught:
            await control.post("/institutions", {})
    assert (caught.value.status, caught.value.exit_code) == (status, exit_code)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"issue": 3}', b"[]", b'{"issue": ["x"]}'])
async def test_a_refusal_without_an_outcome_still_ends_in_words(service: Service, body: bytes) -> None:
    service.answer = lambda call: (502, body)
    async with open_control(service.data) as control:
        with pytest.raises(Refused, match="answered 502"):
            await control.get("/status")


async def test_long_answers_come_in_pieces_and_refusals_of_them_in_words(service: Service) -> None:
    service.answer = lambda call: (200, b'{"progress":"a"}\n\n{"done":{}}\n')
    async with open_control(service.data) as control:
        assert [line async for line in control.lines("/fsck", {})] == ['{"progress":"a"}', '{"done":{}}']
        service.answer = lambda call: (503, {"issue": [{"diagnostics": "busy"}]})
        with pytest.raises(Refused, match="busy"):
            _ = [chunk async for chunk in control.chunks("/ledger/export")]
