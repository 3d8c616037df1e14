"""A whole bridge's life over a disk that records everything, and what must be true of whatever is left of it.

Vault, key store, spool and ledger lie on one recorded disk, so a loss of power
takes from all four at once. Every second lane of messages comes by bus, the
others as HTTP brings them. What a sender was told is marked in the record.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fhir_bridge.lines.checking import Finding
from fhir_bridge.model.ingest import Anchored, FhirVersion, Received
from fhir_bridge.wiring import check
from tests.support.bridge_world import World, running
from tests.support.hospitals import Lane
from tests.support.powerloss import Event, Loss, Mark, Platter, materialise
from tests.support.powerloss_vfs import Disk
from tests.support.state import State, committed, read_state, spooled

SETTINGS: Final = {
    "FHIR_BRIDGE_INGEST_GROUP_MAX_MESSAGES": "4",
    "FHIR_BRIDGE_INDEX_MERGE_AT": "3",
}
_DRAIN_LIMIT_S: Final = 120.0
_HOSPITALS: Final = {"northgate": FhirVersion.R4, "harbor": FhirVersion.R4, "cedar": FhirVersion.STU3}


@dataclass(frozen=True, slots=True)
class Told:
    """A message whose sender was told that it is durable: number of its lane and in it, and what it holds now."""

    lane: int
    number: int
    holds: frozenset[str]


@dataclass(frozen=True, slots=True)
class Life:
    """What the disk held at first, all that happened to it, and the state at its end."""

    image: Mapping[str, bytes]
    history: tuple[Event, ...]
    lanes: Sequence[Lane]
    end: State

    def at(self, moment: int, loss: Loss, rng: random.Random) -> tuple[dict[str, bytes], list[Told]]:
        """Return what is left when the power goes before event ``moment``, and what senders knew by then."""
        platter = Platter(self.image)
        for event in self.history[:moment]:
            platter.apply(event)
        return platter.after(loss, rng), _told(self.history[:moment])

    async def problems(self, moment: int, loss: Loss, rng: random.Random, folder: Path) -> list[str]:
        """Open what is left in the new ``folder``, let it catch up, send the rest; say which promise is broken."""
        image, told = self.at(moment, loss, rng)
        materialise(image, folder)
        try:
            found = _lost("at once", told, read_state(folder)) + self._halves(read_state(folder))
            async with running(folder) as world:
                await _drained(folder)
            found += _lost("after the restart", told, read_state(folder)) + _unsound(folder)
            async with running(folder) as world:
                await feed(world, self.lanes, done={(item.lane, item.number) for item in told})
            return found + _unsound(folder) + self._differences(read_state(folder))
        except Exception as error:
            return [f"does not go on: {error!r}"]
        finally:
            shutil.rmtree(folder)

    def _halves(self, state: State) -> list[str]:
        """Say which message is there in part: of what it alone brought, all is there or nothing."""
        held = _names(state)
        brought = Counter(name for item in _told(self.history) for name in item.holds)
        problems = []
        for item in _told(self.history):
            own = {name for name in item.holds if brought[name] == 1}
            if own & held and not own <= held:
                problems.append(f"message {item.lane}/{item.number} is half there")
        return problems

    def _differences(self, state: State) -> list[str]:
        found = []
        if state.lost(self.end) or state.doubled(self.end):
            found.append(f"lost {len(state.lost(self.end))}, doubled {len(state.doubled(self.end))} at the end")
        if state.histories != self.end.histories or state.letters != self.end.letters:
            found.append("histories or dead letters differ at the end")
        return found


async def live(
    seed: Path,
    folder: Path,
    to_send: Sequence[Lane],
    rng: random.Random,
    *,
    instead: Mapping[str, str] | None = None,
    weak: str | None = None,
) -> Life:
    """Take in everything over a recorded disk that begins as ``seed``, in the new ``folder``.

    Args:
        instead: Statements run in the place of others in the file named ``weak``.
    """
    shutil.copytree(seed, folder, ignore=shutil.ignore_patterns("*-shm", "*.lock", "lock", "*.sock"))
    disk = Disk(folder, sync_s=0.0003, instead=instead, weak=weak, checkpoint_pages=rng.choice((20, 200)))
    image = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    async with running(folder, connect=disk.connect) as world:
        await feed(world, to_send, disk=disk)
    return Life(image, tuple(disk.history), to_send, read_state(folder))


async def feed(
    world: World, to_send: Sequence[Lane], *, disk: Disk | None = None, done: set[tuple[int, int]] | None = None
) -> None:
    """Send the lanes side by side, each in its order, but for what is ``done``; mark each answer on the ``disk``."""

    async def send(number: int, lane: Lane) -> None:
        for place, message in enumerate(lane.messages):
            if (number, place) in (done or set()):
                continue
            answer = await _send(world, lane.hospital, message, by_bus=number % 2 == 0)
            if disk is not None:
                disk.mark(Told(number, place, _held(answer)))

    async with asyncio.TaskGroup() as senders:
        for number, lane in enumerate(to_send):
            senders.create_task(send(number, lane))


async def _send(world: World, hospital: str, message: bytes, *, by_bus: bool) -> Anchored:
    if by_bus:
        return await world.bridge.reader.feed(hospital, message, "application/fhir+json")
    received = Received(
        hospital, _HOSPITALS[hospital], message, datetime.now(UTC), "application/fhir+json", None, None
    )
    return await world.bridge.services.ingest.push(received)


def _held(answer: Anchored) -> frozenset[str]:
    return frozenset(f"{each.id}/{each.version}" for each in answer.outcomes if each.id and each.version)


async def _drained(data: Path) -> None:
    """Wait until the vault holds everything that the spool was ever given."""
    async with asyncio.timeout(_DRAIN_LIMIT_S):
        while committed(data, "spool") < spooled(data):
            await asyncio.sleep(0.01)


def _told(history: Sequence[Event]) -> list[Told]:
    return [event.what for event in history if isinstance(event, Mark) and isinstance(event.what, Told)]


def _names(state: State) -> set[str]:
    return {name.split("/", 1)[1] for name, _ in state.records}


def _lost(when: str, told: Sequence[Told], state: State) -> list[str]:
    held = _names(state)
    lost = [f"{item.lane}/{item.number}" for item in told if not item.holds <= held]
    return [f"acknowledged messages lost {when}: {lost}"] if lost else []


def _unsound(data: Path) -> list[str]:
    return [f"fsck: {item.place}: {item.what}" for item in check(data, deep=True) if isinstance(item, Finding)]
