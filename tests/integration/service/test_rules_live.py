"""Rules in real services: killed in the middle of a change, taken over by another process, saved by an engineer."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.normalize import load_ruleset
from ledger_core import UseRuleset, read_transactions
from tests.support.bridge_world import observation, patient
from tests.support.packs import marking_pack
from tests.support.service import Service, running

LIMIT_S = 60.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path / "data") as made:
        pack = marking_pack(tmp_path / "pack", "0")
        made.order("/institutions", {"name": "northgate", "fhir_version": "R4", "ruleset_dir": str(pack)})
        made.ingest("northgate", json.dumps(patient("p1")).encode())
        yield made


def mark_of(service: Service, name: str) -> str:
    """Send an Observation; return which rules made it, which must be one."""
    send(service, name)
    answer = service.get(f"Observation/{name}", service.token("northgate"))
    content = answer.json()
    assert content["method"] == content["bodySite"]
    return str(content["method"]["text"])


def send(service: Service, name: str) -> None:
    service.ingest("northgate", json.dumps(observation(name, "p1")).encode())


def now(service: Service) -> dict[str, Any]:
    (found,) = service.ask("/rules", institution="northgate")
    assert isinstance(found, dict)
    return found


def propose(service: Service, pack: Path, mark: str) -> str:
    body = {"ruleset_dir": str(marking_pack(pack, mark)), "author": "anna"}
    return str(service.order("/rules/northgate/propose", body)["ruleset"])


@pytest.mark.slow
def test_killed_in_the_middle_of_a_change_it_is_made_or_not_made_and_never_half(
    service: Service, tmp_path: Path
) -> None:
    drawn = random.Random(20261129)
    pack = tmp_path / "next"
    asked: list[str] = []
    for turn in range(1, 4):
        mark = str(turn)
        asked.append(propose(service, pack, mark))
        before = now(service)["ruleset"]

        def change(ruleset: str = asked[-1]) -> None:
            try:
                service.control.post("/rules/northgate/activate", json.dumps({"ruleset": ruleset}).encode())
            except (OSError, HTTPException):
                return

        changing = threading.Thread(target=change)
        changing.start()
        time.sleep(drawn.uniform(0, 0.03))
        service.kill()
        changing.join()
        service.start()
        found = now(service)["ruleset"]
        assert found in (before, asked[-1])
        expected = mark if found == asked[-1] else mark_of(service, f"before-{turn}")
        assert mark_of(service, f"o{turn}") == expected
    made = [each["ruleset"] for each in service.ask("/rules/northgate/history")["changes"]]
    assert service.fsck() == []
    service.stop()
    used = [
        each.payload.digest.hex()
        for each in read_transactions(service.data / "ledger" / "ledger.db")
        if isinstance(each.payload, UseRuleset)
    ]
    # What the ledger knows is what was made, in the same order and once.
    assert used == made[::-1]


@pytest.mark.slow
def test_a_process_that_takes_over_does_messages_by_what_the_other_put_in_force(
    service: Service, tmp_path: Path
) -> None:
    successor = service.successor()
    try:
        successor.launch()
        ruleset = propose(service, tmp_path / "next", "1")
        canary = propose(service, tmp_path / "third", "2")
        service.order("/rules/northgate/activate", {"ruleset": ruleset})
        service.order("/rules/northgate/shadow", {"ruleset": canary, "share": 10_000})
        service.kill()
        successor.wait_ready()
        assert now(successor)["ruleset"] == ruleset
        assert mark_of(successor, "o1") == "1"
        trial = now(successor)["trial"]
        assert (trial["ruleset"], trial["messages"]) == (canary, 1)
        successor.stop()
    finally:
        successor.close()


@pytest.mark.slow
def test_what_an_engineer_saves_is_live_and_what_does_not_load_is_told(tmp_path: Path) -> None:
    pack = marking_pack(tmp_path / "pack", "0")
    with running(tmp_path / "data", FHIR_BRIDGE_RULES_WATCH="true") as service:
        service.order("/institutions", {"name": "northgate", "fhir_version": "R4", "ruleset_dir": str(pack)})
        service.ingest("northgate", json.dumps(patient("p1")).encode())
        wanted = load_ruleset(marking_pack(tmp_path / "same" / "pack", "1")).hash
        # What is saved before the first look at a pack shows no change, and nobody is told of that look: save again.
        for _ in range(30):
            time.sleep(0.2)
            marking_pack(pack, "1")
            if _holds(lambda: now(service)["ruleset"] == wanted, within_s=2.0):
                break
        assert mark_of(service, "o1") == "1"
        (pack / "first.yaml").write_text("rule: [")
        # Whoever looks between the two steps of a save may tell of an empty file first.
        _until(lambda: str(now(service)["watch_failure"]).startswith("pack/first.yaml:1:"))
        assert mark_of(service, "o2") == "1"
        marking_pack(pack, "2")
        _until(lambda: now(service)["ruleset"] == load_ruleset(pack).hash)
        assert mark_of(service, "o3") == "2"
        assert now(service)["watch_failure"] is None


def _until(holds: Any) -> None:
    assert _holds(holds, LIMIT_S)


def _holds(holds: Any, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(held)
