"""What ``map backfill`` asks for, prints and returns."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhir_bridge.cli.main import main

from .conftest import Service

DONE: dict[str, Any] = {
    "charts": 3,
    "done": 3,
    "versions": 2,
    "looked_at": 5,
    "erased": 0,
    "refused": {},
    "failed": {},
    "elements": {"Observation.status": 1, "Observation.method.text": 2},
}


def answering(service: Service, *events: dict[str, Any]) -> None:
    service.answer = lambda call: (200, b"".join(json.dumps(each).encode() + b"\n" for each in events))


def test_it_tells_charts_versions_and_elements(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    answering(service, {"progress": DONE | {"done": 0}}, {"done": DONE})
    assert main(["map", "backfill", "harbor", "--rule", "r", "--data", str(service.data)]) == 0
    assert service.calls[0].json == {"institution": "harbor", "rule": "r", "since": "", "dry_run": False}
    assert capsys.readouterr().out.splitlines() == [
        "3 of 3 charts, 5 records made again",
        "2 got a new version",
        "  Observation.method.text: 2",
        "  Observation.status: 1",
    ]
    assert main(["map", "backfill", "harbor", "--dry-run", "--data", str(service.data)]) == 0
    assert "2 would get a new version" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("event", "code", "words"),
    [
        ({"done": DONE | {"refused": {"business-rule": 4}}}, 1, "4 records keep their version"),
        ({"done": DONE | {"failed": {"unavailable": 1}}}, 1, "1 charts not done: unavailable"),
        ({"refused": "a backfill goes on"}, 2, "a backfill goes on"),
        ({}, 1, "the backfill broke off"),
    ],
)
def test_what_is_not_done_is_told_and_ends_with_an_exit_code_of_its_own(
    service: Service, capsys: pytest.CaptureFixture[str], event: dict[str, Any], code: int, words: str
) -> None:
    answering(service, event)
    assert main(["map", "backfill", "harbor", "--data", str(service.data)]) == code
    assert words in capsys.readouterr().err


def test_two_ways_to_choose_are_one_too_many(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", "backfill", "harbor", "--rule", "r", "--since", "ab", "--data", str(service.data)]) == 2
    assert service.calls == []
    assert "give one" in capsys.readouterr().err
