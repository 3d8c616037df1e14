"""The clock jumps a day ahead and back while records come in: none is lost, and the newest stays the newest."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from fhir_bridge.adapters.access import request_token_async
from fhir_bridge.adapters.ambient import SystemRandomness
from fhir_bridge.lines.checking import Finding
from fhir_bridge.wiring import check
from tests.support.bridge_world import World, fresh, patient, running
from tests.support.state import read_state

DAY = timedelta(days=1)


class JumpingClock:
    """The machine's clock, and how far it is off."""

    def __init__(self) -> None:
        self.off = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.off


@pytest.mark.parametrize("jumps", [(DAY, timedelta(0)), (-DAY, timedelta(0)), (DAY, -DAY), (-DAY, DAY)])
async def test_a_clock_that_jumps_loses_nothing_and_keeps_the_order(
    tmp_path: Path, jumps: tuple[timedelta, timedelta]
) -> None:
    clock, data = JumpingClock(), fresh(tmp_path)
    async with running(data, clock=clock) as world:
        newest = [await version_of(world, clock, gender="unknown")]
        for jump, gender in zip(jumps, ("male", "female"), strict=True):
            clock.off = jump
            newest.append(await version_of(world, clock, gender=gender))
            # A record that is new, too, on the other way in.
            await world.send(patient(f"new-{gender}"))
        assert (await world.http.get("/health/ready")).json()["parts"]["lines"]
    assert len(set(newest)) == 3
    state = read_state(data)
    assert tuple(newest) in state.histories.values()
    assert len(state.histories) == 3
    assert [each for each in check(data, deep=True) if isinstance(each, Finding)] == []


async def version_of(world: World, clock: JumpingClock, **more: str) -> str:
    """Update the patient over HTTP with a token of the moment; return the version that a read gives next."""
    headers = await token(world, clock)
    path = "/fhir/Patient/" + await told_id(world, headers, **more)
    answer = await world.http.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["gender"] == more["gender"]
    return str(found["meta"]["versionId"])


async def told_id(world: World, headers: dict[str, str], **more: str) -> str:
    answer = await world.http.put("/fhir/Patient/one", json=patient("one", **more), headers=headers)
    assert answer.status_code in (200, 201), answer.text
    return str(httpx.URL(answer.headers["location"]).path.split("/")[3])


async def token(world: World, clock: JumpingClock) -> dict[str, str]:
    """Return the headers of northgate's requester, whose own clock jumps along."""
    given = json.loads((world.data / "credentials" / "northgate.json").read_text())
    granted = await request_token_async(world.http, given, clock.now(), SystemRandomness())
    return {"Authorization": f"Bearer {granted}"}
