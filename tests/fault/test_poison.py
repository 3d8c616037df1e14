"""Poison in the stream: one message in twenty is broken, in every way we know of; its neighbours do not notice.

All come by bus. The neighbours end in the state that they make alone, each
message is taken in one attempt (the group around it is never taken apart), and
every poison is in the dead letters with the code, the place and what to change.
Run with ``-s`` the test tells how long neighbours waited beside poison and
without; it asserts nothing about time. ``POISON_EVERY=1`` takes every generated
fault (three minutes) instead of twenty of them.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge_world import World, bundle, fresh, observation, patient, running
from tests.support.faults import faults
from tests.support.hospitals import BROKEN
from tests.support.state import read_state

EVERY = "POISON_EVERY" in os.environ
IN_FLIGHT = 16
NEIGHBOURS = 19

Message = tuple[str, bytes]


def poisons() -> list[tuple[str, bytes, str]]:
    """Return name, bytes and issue code of every broken input that must be refused, by hand and generated."""
    with (BROKEN / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["expect"] == "reject"]
    by_hand = [(row["file"], (BROKEN / row["file"]).read_bytes(), row["issue_code"]) for row in rows]
    made = [(f"{each.type}-{each.name}", each.message, each.code) for each in faults()]
    return by_hand + (made if EVERY else random.sample(made, 20))


def neighbours(number: int) -> list[Message]:
    """Return good messages: small bundles of a patient each, and updates of it."""
    made = []
    for place in range(NEIGHBOURS):
        name = f"n{number}-{place % 5}"
        entries = bundle(
            ("PUT", f"Patient/{name}", patient(name)),
            ("PUT", f"Observation/o{name}", observation(f"o{name}", name, note=[{"text": f"{place}"}])),
        )
        made.append(("good", json.dumps(entries).encode()))
    return made


@pytest.fixture(scope="module")
def broken() -> list[tuple[str, bytes, str]]:
    return poisons()


async def test_poison_goes_to_the_dead_letters_and_its_neighbours_do_not_notice(
    tmp_path: Path, broken: list[tuple[str, bytes, str]]
) -> None:
    good = [neighbours(number) for number in range(len(broken))]
    (tmp_path / "calm").mkdir()
    calm = fresh(tmp_path / "calm")
    async with running(calm) as world:
        quiet = await _send_all(world, [each for group in good for each in group])
    (tmp_path / "met").mkdir()
    met = fresh(tmp_path / "met")
    stream = []
    for group, (name, message, _) in zip(good, broken, strict=True):
        stream += [*group[: len(group) // 2], (name, message), *group[len(group) // 2 :]]
    async with running(met) as world:
        waited = await _send_all(world, stream)
        assert world.bridge.services.ingest.counters["messages"] == len(stream)
        letters = await _letters(world)
    _tell("without poison", [took for name, took, _ in quiet if name == "good"])
    _tell("beside poison", [took for name, took, _ in waited if name == "good"])
    _tell("poison itself", [took for name, took, _ in waited if name != "good"])

    assert [answer["refused"] for name, _, answer in waited if name == "good" and answer["refused"]] == []
    assert _shape(met) == _shape(calm)
    codes = {name: code for name, _, code in broken}
    for name, _, answer in waited:
        if name != "good":
            assert len(answer["dead_letters"]) == 1, name
            _assert_tells_what_to_change(name, codes[name], letters[answer["dead_letters"][0]])


async def _send_all(world: World, stream: Sequence[Message]) -> list[tuple[str, float, dict[str, Any]]]:
    """Put everything on the bus in order, some in flight; return name, seconds until the answer, and the answer."""
    room = asyncio.Semaphore(IN_FLIGHT)

    async def send(name: str, message: bytes) -> tuple[str, float, dict[str, Any]]:
        try:
            began = time.perf_counter()
            answer = await world.send(message)
            return name, time.perf_counter() - began, answer
        finally:
            room.release()

    tasks = []
    for name, message in stream:
        await room.acquire()
        tasks.append(asyncio.create_task(send(name, message)))
    return list(await asyncio.gather(*tasks))


async def _letters(world: World) -> dict[str, dict[str, Any]]:
    listed = (await world.control.get("/letters")).json()
    return {each["id"]: (await world.control.get(f"/letters/{each['id']}")).json() for each in listed}


def _assert_tells_what_to_change(name: str, code: str, letter: dict[str, Any]) -> None:
    issues = [issue for finding in letter["findings"] for issue in finding["issues"]]
    assert code in {each["code"] for each in issues}, (name, issues)
    for each in issues:
        assert each["code"] != "exception", (name, issues)
        assert len(each["diagnostics"].split()) >= 3, (name, issues)


def _shape(data: Path) -> list[int]:
    """Return how many records there are of how many versions; ids and keys differ between two directories."""
    return sorted(len(versions) for versions in read_state(data).histories.values())


def _tell(what: str, seconds: Sequence[float]) -> None:
    p99 = statistics.quantiles(seconds, n=100)[98]
    print(
        f"{what}: {len(seconds)} messages, median {statistics.median(seconds) * 1000:.0f} ms, "
        f"p99 {p99 * 1000:.0f} ms, longest {max(seconds) * 1000:.0f} ms"
    )
