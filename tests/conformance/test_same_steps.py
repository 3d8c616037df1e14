"""What is hidden takes the steps of what is absent, counted call by call: the cause of equal times, without a clock.

Charts are alike, so that one can stand in for another; the measurement over real
charts and sockets is ``python -m tests.bench.timing``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import pytest

import fhir_bridge
from tests.support.bridge_world import World, fresh, observation, patient, running

_OURS = str(Path(fhir_bridge.__file__).parent)
_LINES = tuple(f"{_OURS}/{room}" for room in ("lines", "consent", "query", "model", "seal", "proof", "http"))
_STANDING = (f"{_OURS}/lines/bus_reader.py", f"{_OURS}/lines/ingest.py")
"""What goes on beside answers."""
_ABSENT = "b7xk2ohq3v5dcm4nzr6tfy2wqaeuji3l"
_STRANGERS = 4


@dataclass(frozen=True, slots=True)
class Hidden:
    """A world and what is hidden in it from northgate: a stranger's records, and one record of an open chart."""

    world: World
    headers: dict[str, str]
    stranger: str
    record: str


@pytest.fixture
async def hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hidden]:
    monkeypatch.setenv("FHIR_BRIDGE_AUDIT_EPOCH_S", "3600")
    async with running(fresh(tmp_path)) as world:
        for number in range(_STRANGERS):
            await world.send(patient(f"h{number}"), "harbor")
            await world.send(observation(f"h{number}-o", f"h{number}"), "harbor")
        own = await world.token("harbor")
        told = await world.http.get("/fhir/Observation/h0-o", headers=own)
        stranger = await world.patient_id("h0", "harbor")
        yield Hidden(world, await world.token(), stranger, told.json()["id"])


@pytest.mark.parametrize(
    "path",
    [
        "Observation/{record}",
        "Observation/{record}/_history/aaaabbbbccccddddeeee",
        "Observation/{record}/_history",
        "Observation/{record}/$receipt",
        "Observation?_id={record}",
        "Provenance?target=Observation/{record}",
        "Patient/{stranger}",
        "Patient/{stranger}/$everything",
        "Observation?patient={stranger}",
        "Observation?patient={stranger}&_summary=count",
        "_history?patient={stranger}",
    ],
)
async def test_hidden_and_absent_call_the_same_functions_as_often(hidden: Hidden, path: str) -> None:
    there = path.format(record=hidden.record, stranger=hidden.stranger)
    nowhere = path.format(record=_ABSENT, stranger=_ABSENT)
    for each in (there, nowhere) * 2:
        await _ask(hidden, each)
    one, other = await _calls(hidden, there), await _calls(hidden, nowhere)
    assert one.total() > 50, "then nothing of ours was counted"
    assert one == other, f"hidden: {one - other}\nabsent: {other - one}"


async def test_what_is_seen_takes_other_steps(hidden: Hidden) -> None:
    """Else nothing would be counted that depends on what is found."""
    await hidden.world.send(patient("n1"))
    await _ask(hidden, "Patient/n1")
    assert await _calls(hidden, "Patient/n1") != await _calls(hidden, f"Patient/{_ABSENT}")


async def _ask(hidden: Hidden, path: str) -> int:
    answer = await hidden.world.http.get(f"/fhir/{path}", headers=hidden.headers)
    return answer.status_code


async def _calls(hidden: Hidden, path: str) -> Counter[str]:
    """Return how often an answer calls each function of the rooms and lines, on the loop's thread."""
    counted: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        code: CodeType = frame.f_code
        place = code.co_filename
        if event == "call" and place.startswith(_LINES) and not place.startswith(_STANDING):
            counted[f"{place.removeprefix(_OURS)}:{code.co_qualname}"] += 1

    before: Callable[..., object] | None = sys.getprofile()
    sys.setprofile(note)
    try:
        await _ask(hidden, path)
    finally:
        sys.setprofile(before)
    return counted
