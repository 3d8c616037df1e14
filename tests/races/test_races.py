"""Withdrawals and grants beside readers: no answer is stale, none is a mixture.

Persons change their minds one after the other while northgate asks about them;
:mod:`tests.support.registers` then judges each person's whole history. A race
is one withdrawal with at least one question under way between its sending and
the next grant. ``RACES`` says how many; ``make races`` runs ten thousand.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests.races.scene import CLOSED, OPEN, Scene, State, staged
from tests.support.bridge_world import World, fresh, running
from tests.support.registers import Change, Read, misplaced, raced

RACES = int(os.environ.get("RACES", "250"))
SEED = int(os.environ.get("RACES_SEED", "1"))
_PERSONS = 4
_A_PERSON = 50
"""Withdrawals of one person: each makes versions of a Consent, and a chart of thousands of them is another test."""


@dataclass(slots=True)
class History:
    """What happened to one person, in the order of one counter."""

    scene: Scene
    chance: random.Random
    changes: list[Change] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    clock: itertools.count[int] = field(default_factory=itertools.count)

    async def race(self) -> None:
        """Withdraw beside two readers and grant beside one; ask once more as soon as the withdrawal is answered."""
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(self.read(later=True))
            await self.pause()
            await self.change(CLOSED)
            await self.read(later=False)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.read(later=True))
            await self.change(OPEN)

    async def change(self, state: State) -> None:
        sent = next(self.clock)
        await self.scene.set(state)
        self.changes.append(Change(state, sent, next(self.clock)))

    async def read(self, *, later: bool) -> None:
        question = self.chance.choice(self.scene.questions)
        if later:
            await self.pause()
        sent = next(self.clock)
        values = await self.scene.ask(question)
        self.reads.append(Read(values, sent, next(self.clock), question.path))

    async def pause(self) -> None:
        """Let the loop go round some times, so that the others come first as often as not."""
        for _ in range(self.chance.choice((0, 1, 3, 10, 30, 100))):
            await asyncio.sleep(0)


async def _races(scene: Scene, rounds: int) -> History:
    history = History(scene, random.Random(SEED * 1_000_003 + scene.number))
    await history.change(OPEN)
    for _ in range(rounds):
        await history.race()
    return history


async def _campaign(world: World, races: int, http: httpx.AsyncClient) -> tuple[int, int]:
    """Race until so many withdrawals have been raced; return how many, and how many answers were judged."""
    done = answers = 0
    for number in itertools.count(0, _PERSONS):
        if done >= races:
            return done, answers
        scenes = [await staged(world, number + each, http) for each in range(_PERSONS)]
        rounds = min(_A_PERSON, -(-(races - done) // _PERSONS))
        for history in await asyncio.gather(*(_races(scene, rounds) for scene in scenes)):
            wrong = misplaced(history.changes, history.reads)
            assert not wrong, (
                f"{len(wrong)} of {len(history.reads)}, first: {wrong[0]}; person {history.scene.number}"
            )
            done += raced(history.changes, history.reads, CLOSED)
            answers += len(history.reads)
        if races > 1_000:  # a long run tells how far it is
            print(f"{done} races, {answers} answers, none stale", flush=True)
    raise AssertionError("unreachable")


@pytest.mark.slow
@pytest.mark.timeout(0 if RACES > 1_000 else 1_500)
async def test_no_answer_is_stale(world: World) -> None:
    """The whole service without sockets: every answer is made, sealed, recorded and put on the ledger as always."""
    done, answers = await _campaign(world, RACES, world.http)
    print(f"{done} races of revoke against read, {answers} answers, none stale")
    assert done >= RACES
    assert answers >= 4 * RACES


@pytest.mark.slow
async def test_no_answer_over_tcp_is_stale(tmp_path: Path) -> None:
    async with running(fresh(tmp_path)) as world, _served(world) as http:
        done, _ = await _campaign(world, min(RACES, 60), http)
        assert done >= min(RACES, 60)


@asynccontextmanager
async def _served(world: World) -> AsyncIterator[httpx.AsyncClient]:
    quiet: dict[str, Any] = {"log_config": None, "access_log": False, "timeout_graceful_shutdown": 2}
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(world.bridge.http, **quiet))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.005)
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=60) as http:
                yield http
        finally:
            server.should_exit = True
            await serving
