"""A disk that is full, may not be written or fails to sync, beneath each store of a running bridge in turn.

While it lasts senders are told to try again, nothing is left hanging, and
readiness names the part. When it is over the bridge goes on by itself; only a
ledger whose disk failed must be opened again, so the service ends with an error
and its supervisor starts it. What was acknowledged is there in any case, also
if the power is lost right after.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from fhir_bridge.lines.checking import Finding
from fhir_bridge.wiring import check
from tests.support.bridge_world import World, bundle, fresh, observation, patient, running
from tests.support.powerloss import Create, Event, Loss, Mark, Platter, Sync, Truncate, Write, materialise
from tests.support.powerloss_vfs import PLANTED, Disk, disk_full, input_output_error
from tests.support.state import read_state

WRITES: tuple[type[Event], ...] = (Create, Write, Truncate)
SYNCS: tuple[type[Event], ...] = (Sync,)
LIMIT_S = 60.0

pytestmark = pytest.mark.timeout(900)


def read_only(_: Event) -> Exception:
    """Return what SQLite is told when the file system may not be written."""
    error = apsw.ReadOnlyError(f"read-only {PLANTED}")
    setattr(error, "extendedresult", apsw.SQLITE_READONLY)  # noqa: B010 - the stub does not know it
    return error


class Fault:
    """Refuses operations of some kinds on one store while it lasts; ``seen`` counts them."""

    def __init__(self, store: str, kinds: tuple[type[Event], ...], reason: Callable[[Event], Exception]) -> None:
        self.store, self.kinds, self.reason = store, kinds, reason
        self.lasts = False
        self.seen = 0

    def __call__(self, event: Event) -> Exception | None:
        if (
            not self.lasts
            or not isinstance(event, self.kinds)
            or not getattr(event, "name", "").startswith(self.store)
        ):
            return None
        self.seen += 1
        return self.reason(event)


FAULTS = {"full": (WRITES, disk_full), "read-only": (WRITES, read_only), "sync": (SYNCS, input_output_error)}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize(("store", "part"), [("vault.db", "vault"), ("keys/keys.db", "keys"), ("spool.db", "bus")])
async def test_a_store_that_cannot_write_is_told_and_goes_on(
    tmp_path: Path, store: str, part: str, name: str
) -> None:
    fault = Fault(store, *FAULTS[name])
    disk, image, data = await recorded(tmp_path, fault)
    async with running(data, connect=disk.connect) as world:
        await until(world, "", is_ready=True)
        headers = await world.token()
        assert await post(world, disk, "p1", headers) == 200
        fault.lasts = True
        # By bus is the way that needs every store; what is on the bus already is kept there and waits.
        waiting = asyncio.create_task(send(world, disk, "p2"))
        await until(world, part, is_ready=False)
        if part != "bus":
            assert await post(world, disk, "p3", headers) == 503
        assert fault.seen
        fault.lasts = False
        await until(world, part, is_ready=True)
        assert await asyncio.wait_for(waiting, LIMIT_S) in (200, 503)
        for number in range(4, 8):
            assert await send(world, disk, f"p{number}") == 200
        assert await post(world, disk, "p3", headers) == 200
        # Before the bridge is closed, for closing brings everything to the disk.
        history = tuple(disk.history)
    assert unsound(data) == []
    nothing_lost(image, history, tmp_path / "left")


@pytest.mark.parametrize("name", FAULTS)
async def test_a_ledger_that_cannot_write_ends_the_service_and_nobody_is_left_waiting(
    tmp_path: Path, name: str
) -> None:
    fault = Fault("ledger/ledger.db", *FAULTS[name])
    disk, image, data = await recorded(tmp_path, fault)
    async with running(data, connect=disk.connect) as world:
        await until(world, "", is_ready=True)
        headers = await world.token()
        assert await post(world, disk, "p1", headers) == 200
        fault.lasts = True
        assert await asyncio.wait_for(post(world, disk, "p2", headers), LIMIT_S) == 503
        await asyncio.wait_for(world.bridge.standing.fallen(), LIMIT_S)
        answer = await world.http.get("/health/ready")
        assert answer.status_code == 503
        # The bus is read until its reader notices, a moment later.
        parts = {name: good for name, good in answer.json()["parts"].items() if name != "bus"}
        assert parts == {"ledger": False, "vault": True, "keys": True, "disk": True, "lines": False}
        fault.lasts = False
    history = tuple(disk.history)
    async with running(data) as world:
        await until(world, "", is_ready=True)
        assert await post(world, disk, "p2", headers) == 200
    assert unsound(data) == []
    nothing_lost(image, history, tmp_path / "left")


async def recorded(tmp_path: Path, fault: Fault) -> tuple[Disk, dict[str, bytes], Path]:
    """Return a recorded disk with a fault, what it holds at first, and the data directory on it."""
    data = fresh(tmp_path)
    async with running(data) as world:
        # Makes the files of the institution's keyring, which no recorded disk is under.
        await world.send(patient("p0"))
    for left in [*data.rglob("*-shm"), *data.rglob("*.lock"), data / "lock"]:
        left.unlink(missing_ok=True)
    image = {str(file.relative_to(data)): file.read_bytes() for file in data.rglob("*") if file.is_file()}
    return Disk(data, refuse=fault, checkpoint_pages=20), image, data


async def post(world: World, disk: Disk, name: str, headers: dict[str, str]) -> int:
    """Send a patient over HTTP; return the status, and mark it if it was good."""
    body = bundle(
        ("PUT", f"Patient/{name}", patient(name)), ("PUT", f"Observation/o{name}", observation(f"o{name}", name))
    )
    answer = await world.http.post("/fhir", json=body, headers=headers)
    return told(disk, name, answer.status_code)


async def send(world: World, disk: Disk, name: str) -> int:
    """Send a patient by bus; return the status, and mark it if it was good."""
    answer = await world.control.post("/ingest", params={"institution": "northgate"}, json=patient(name))
    return told(disk, name, answer.status_code)


def told(disk: Disk, name: str, status: int) -> int:
    if status == 200:
        disk.mark(name)
    return status


async def until(world: World, part: str, *, is_ready: bool) -> None:
    """Wait until readiness says so of a part, and of no other."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            answer = await world.http.get("/health/ready")
            parts: dict[str, bool] = answer.json()["parts"]
            if [name for name, good in parts.items() if not good] == ([] if is_ready else [part]):
                assert answer.status_code == (200 if is_ready else 503)
                return
            await asyncio.sleep(0.02)


def nothing_lost(image: dict[str, bytes], history: tuple[Event, ...], folder: Path) -> None:
    """Cut the power after the last event, at a disk that keeps nothing unsynced: what was told is still there."""
    platter = Platter(image)
    for event in history:
        platter.apply(event)
    materialise(platter.after(Loss.DROPPED, random.Random(1)), folder)
    marks: list[Any] = [event.what for event in history if isinstance(event, Mark)]
    assert marks
    ids = {name.split("/")[1] for name, _ in read_state(folder).records}
    assert len(ids) >= len(marks) + 1
    assert unsound(folder) == []


def unsound(data: Path) -> list[Finding]:
    """Return what a deep check finds."""
    return [each for each in check(data, deep=True) if isinstance(each, Finding)]
