"""Worker processes that die: their messages are done again, and the one that kills them is refused alone."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fhir_bridge.adapters.workers import WorkerRooms
from fhir_bridge.errors import RecordRefused
from fhir_bridge.intake import Limits
from fhir_bridge.lines.pure import process
from fhir_bridge.model.ingest import FhirVersion, Processed, Received, SourceContext

PACK = Path(__file__).resolve().parents[3] / "mappings" / "northgate"
DEADLY = b"deadly"
UNLUCKY = b"unlucky "
"""Followed by a file that counts: the first three workers that do it are killed by somebody else."""
GOOD = b'{"resourceType":"Patient","id":"p1"}'
SOURCE = SourceContext("northgate", "i", FhirVersion.R4, bytes(32), str(PACK))


def deadly_process(received: Received, source: SourceContext, limits: Limits) -> Processed:
    """Do a message as a worker does, but for one that ends it as running out of memory would."""
    if received.body == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    if received.body.startswith(UNLUCKY):
        with Path(os.fsdecode(received.body.removeprefix(UNLUCKY))).open("ab") as tries:
            tries.write(b"x")
        if tries_of(received.body) <= 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return process(_received(GOOD), source, limits)
    if received.content_type.startswith("/"):
        with Path(received.content_type).open("a") as done_by:
            done_by.write(f"{os.getpid()}\n")
        return process(_received(received.body), source, limits)
    return process(received, source, limits)


def tries_of(body: bytes) -> int:
    """Return how often workers began an unlucky message."""
    return Path(os.fsdecode(body.removeprefix(UNLUCKY))).stat().st_size


class DeadlyRooms(WorkerRooms):
    """Workers with a message that ends them."""

    work = staticmethod(deadly_process)


def _received(body: bytes) -> Received:
    return Received("northgate", FhirVersion.R4, body, datetime(2026, 1, 1, tzinfo=UTC))


async def test_a_deadly_message_is_refused_and_its_neighbours_are_done() -> None:
    rooms = DeadlyRooms(1, Limits())
    try:
        done = await asyncio.gather(
            *(rooms.process(_received(body), SOURCE) for body in (GOOD, DEADLY, GOOD)), return_exceptions=True
        )
    finally:
        await rooms.close()
    assert isinstance(done[1], RecordRefused)
    assert done[1].issues[0].code == "too-costly"
    for good in (done[0], done[2]):
        assert isinstance(good, Processed)
        assert [record.type for record in good.records] == ["Patient"]


async def test_a_message_is_not_blamed_for_one_kill_while_it_was_alone(tmp_path: Path) -> None:
    rooms, body = DeadlyRooms(1, Limits()), UNLUCKY + os.fsencode(tmp_path / "tries")
    try:
        done = await rooms.process(_received(body), SOURCE)
    finally:
        await rooms.close()
    assert [record.type for record in done.records] == ["Patient"]
    assert tries_of(body) == 4


async def test_one_worker_does_all_that_have_to_be_alone(tmp_path: Path) -> None:
    rooms, done_by = DeadlyRooms(1, Limits()), tmp_path / "done-by"
    noted = replace(_received(GOOD), content_type=str(done_by))
    try:
        neighbours = [rooms.process(noted, SOURCE) for _ in range(8)]
        await asyncio.gather(rooms.process(_received(DEADLY), SOURCE), *neighbours, return_exceptions=True)
        assert rooms._solitary is None, "nobody waits for it any more"
    finally:
        await rooms.close()
    workers = done_by.read_text().split()
    assert len(workers) == 8
    assert len(set(workers)) <= 3


async def test_a_worker_that_was_killed_is_replaced() -> None:
    rooms = WorkerRooms(1, Limits())
    try:
        await rooms.process(_received(GOOD), SOURCE)
        assert rooms._pool is not None
        for pid in list(rooms._pool._processes):
            os.kill(pid, signal.SIGKILL)
        done = await rooms.process(_received(GOOD), SOURCE)
    finally:
        await rooms.close()
    assert [record.type for record in done.records] == ["Patient"]


@pytest.mark.parametrize("body", [GOOD, b"{", b'{"resourceType":"Basic","id":"x"}'])
async def test_a_worker_gives_what_this_process_would(body: bytes) -> None:
    rooms = WorkerRooms(1, Limits())
    try:
        there = await rooms.process(_received(body), SOURCE)
    finally:
        await rooms.close()
    here = process(_received(body), SOURCE, Limits())
    assert (there.kind, there.refused, len(there.quarantined)) == (here.kind, here.refused, len(here.quarantined))
    assert [r.content for r in there.records] == [r.content for r in here.records]
