"""Worker processes that die: their messages are done again, and the one that kills them is refused alone."""

from __future__ import annotations

import asyncio
import os
import signal
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
GOOD = b'{"resourceType":"Patient","id":"p1"}'
SOURCE = SourceContext("northgate", "i", FhirVersion.R4, bytes(32), str(PACK))


def deadly_process(received: Received, source: SourceContext, limits: Limits) -> Processed:
    """Do a message as a worker does, but for one that ends it as running out of memory would."""
    if received.body == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return process(received, source, limits)


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
