"""What is hidden takes the steps of what is absent, counted call by call: the cause of equal times, without a clock.

Charts are alike, so that one can stand in for another; the measurement over real
charts and sockets is ``python -m tests.bench.timing``.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import pytest

import fhir_bridge
from fhir_bridge.model.ids import canonical_id
from fhir_bridge.proof.decision import ChartGrounds
from tests.support.bridge_world import World, fresh, observation, patient, running

_OURS = str(Path(fhir_bridge.__file__).parent)
_LINES = tuple(f"{_OURS}/{room}" for room in ("lines", "consent", "query", "model", "seal", "proof", "http"))
_STANDING = (f"{_OURS}/lines/bus_reader.py", f"{_OURS}/lines/ingest.py")
"""What goes on beside answers."""
_ABSENT = "b7xk2ohq3v5dcm4nzr6tfy2wqaeuji3l"
_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"
_UNUSED = "0189" * 8
_HEX = str.maketrans(_DIGITS, "0189abcdef" * 3 + "01")
"""Turns an id that nobody has into one like an AuditEvent's: hexadecimal, and no base32."""
_STRANGERS = 8
_NAME_OF_A_TYPE = 4
"""Bytes by which what is kept may differ: who asks for a Provenance names no type; a stand-in's is its Patient."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """A world, ids of what is hidden in it from both who ask, a stranger's chart and doings, and ids of nothing."""

    world: World
    askers: dict[str, dict[str, str]]
    there: dict[str, str]
    nowhere: dict[str, str]


PATHS = (
    "Observation/{record}",
    "Observation/{record}/_history/aaaabbbbccccddddeeee",
    "Observation/{record}/_history/{version}",
    "Observation/{record}/_history",
    "Observation/{record}/$receipt",
    "Observation/{record}/_history/{version}/$receipt",
    "Observation/{record}/$explain",
    "Observation?_id={record}",
    "Provenance?target=Observation/{record}",
    "Provenance/{record}-{version}",
    "Provenance/{record}-{version}/$receipt",
    "Patient/{stranger}",
    "Patient/{stranger}/$everything",
    "Patient/{stranger}/Observation",
    "Patient/{stranger}/$explain",
    "Patient/{stranger}/$simulate",
    "Patient/{stranger}/$decisions",
    "Patient/{stranger}/$decision-opening?request={request}",
    "Patient/{own}/$decision-opening?request={request}",
    "AuditEvent/$decision-receipt?request={request}",
    "AuditEvent/{event}",
    "AuditEvent/{event}/_history",
    "AuditEvent?patient={stranger}",
    "Observation?patient={stranger}",
    "Observation?patient={stranger}&_summary=count",
    "Patient?_id={stranger}",
    "_history?patient={stranger}",
)


@pytest.fixture
async def hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hidden]:
    monkeypatch.setenv("FHIR_BRIDGE_AUDIT_EPOCH_S", "3600")
    async with running(fresh(tmp_path)) as world:
        await world.send(patient("n1"))
        askers = {"institution": await world.token(), "agent": await world.enrol("n1")}
        own = await world.patient_id("n1")
        found = [await _stranger(world, f"h{number}") for number in range(_STRANGERS)]
        while not _is_alike(world, own, found[-1]):
            found.append(await _stranger(world, f"h{len(found)}"))
        nobodys = (
            {"record": each, "stranger": each, "event": each.translate(_HEX)} for each in map(_absent, range(1_000))
        )
        nobody = next(each for each in nobodys if _is_alike(world, own, found[-1] | each))
        yield Hidden(
            world, askers, found[-1] | {"own": own}, found[-1] | {"own": own} | nobody | {"request": _UNUSED}
        )


@pytest.mark.parametrize("asker", ["institution", "agent"])
async def test_hidden_and_absent_call_the_same_functions_as_often(hidden: Hidden, asker: str) -> None:
    differing = {}
    for path in PATHS:
        there, nowhere = path.format_map(hidden.there), path.format_map(hidden.nowhere)
        for each in (there, nowhere) * 2:
            await _ask(hidden, each, asker)
        one, other = await _calls(hidden, there, asker), await _calls(hidden, nowhere, asker)
        assert one.total() > 50, "then nothing of ours was counted"
        if one != other:
            differing[path] = {"hidden": one - other, "absent": other - one}
    assert not differing


async def test_what_is_kept_of_hidden_and_absent_is_equally_long(
    hidden: Hidden, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, kept = ChartGrounds.encode, list[int]()

    def measured(grounds: ChartGrounds, asked: bytes | None = None) -> bytes:
        content = encode(grounds, asked)
        kept.append(len(content))
        return content

    monkeypatch.setattr(ChartGrounds, "encode", measured)
    differing = {}
    for path in PATHS:
        lengths = []
        for each in (path.format_map(hidden.there), path.format_map(hidden.nowhere)):
            kept.clear()
            await _ask(hidden, each, "institution")
            lengths.append(sorted(kept))
        if any(abs(one - other) > _NAME_OF_A_TYPE for one, other in zip(*lengths, strict=True)):
            differing[path] = lengths
    assert not differing


async def test_what_is_seen_takes_other_steps(hidden: Hidden) -> None:
    """Else nothing would be counted that depends on what is found."""
    await _ask(hidden, "Patient/n1", "institution")
    seen = await _calls(hidden, "Patient/n1", "institution")
    assert seen != await _calls(hidden, f"Patient/{_ABSENT}", "institution")


async def _stranger(world: World, name: str) -> dict[str, str]:
    """Send a patient with one Observation to harbor, who asks for it; return the ids of all that comes of it."""
    await world.send(patient(name), "harbor")
    await world.send(observation(f"{name}-o", name), "harbor")
    agent = await world.enrol(name, "harbor")
    told = (await world.http.get("/fhir/Observation", headers=agent)).json()["entry"][0]["resource"]
    asked = await world.http.get(f"/fhir/Observation/{told['id']}", headers=agent)
    events = (await world.http.get("/fhir/AuditEvent", headers=agent)).json()["entry"]
    return {
        "record": told["id"],
        "version": told["meta"]["versionId"],
        "stranger": await world.patient_id(name, "harbor"),
        "request": asked.headers["x-request-id"],
        "event": events[0]["resource"]["id"],
    }


def _is_alike(world: World, own: str, names: dict[str, str]) -> bool:
    """Tell whether strangers stand in for all that these ids may mean, the askers' own local ids included.

    What a chart takes depends on the chart, and the agent's is another than all the strangers'.
    """
    registry = world.bridge.services.answer._registry
    home = registry.chart_of_patient(own)
    assert home is not None
    keys = registry.id_key("northgate"), registry.agent_key(home)
    record = names["record"]
    named = [("Observation", record), ("Patient", names["stranger"]), ("AuditEvent", names["event"])]
    named.append(("Provenance", f"{record}-{names['version']}"))
    meant = {each for _, each in named} | {canonical_id(key, *each) for key in keys for each in named}
    stands_in = [registry.stand_in(each) for each in meant]
    return all(chart is not None and chart.institution == "harbor" for chart in stands_in)


def _absent(number: int) -> str:
    """Return an id that nobody has."""
    return _ABSENT[:-2] + _DIGITS[number // 32] + _DIGITS[number % 32]


async def _ask(hidden: Hidden, path: str, asker: str) -> int:
    answer = await hidden.world.http.get(f"/fhir/{path}", headers=hidden.askers[asker])
    return answer.status_code


async def _calls(hidden: Hidden, path: str, asker: str) -> Counter[str]:
    """Return how often an answer calls each function of ours, and each that ours call, on the loop's thread."""
    counted: Counter[str] = Counter()

    def is_ours(code: CodeType) -> bool:
        return code.co_filename.startswith(_LINES) and not code.co_filename.startswith(_STANDING)

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (is_ours(frame.f_code) or (frame.f_back is not None and is_ours(frame.f_back.f_code))):
            counted[f"{frame.f_code.co_filename.removeprefix(_OURS)}:{frame.f_code.co_qualname}"] += 1

    before: Callable[..., object] | None = sys.getprofile()
    # The collector comes when it likes, and calls whoever has asked to be told (hypothesis does).
    gc.disable()
    sys.setprofile(note)
    try:
        await _ask(hidden, path, asker)
    finally:
        sys.setprofile(before)
        gc.enable()
    return counted
