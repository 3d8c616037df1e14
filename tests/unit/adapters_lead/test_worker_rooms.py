"""Worker processes that die: their messages are done again, and the one that kills them is refused alone."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.adapters import workers
from fhir_bridge.adapters.overflow import FileOverflows
from fhir_bridge.adapters.workers import Large, WorkerRooms
from fhir_bridge.errors import IntegrityBroken, RecordRefused, Unavailable
from fhir_bridge.intake import Limits
from fhir_bridge.lines.keeping import KeptRecords
from fhir_bridge.lines.pure import process
from fhir_bridge.model import shared_bytes
from fhir_bridge.model.ingest import FhirVersion, Processed, Received, SourceContext
from tests.support.bridge_world import observation, patient

PACK = Path(__file__).resolve().parents[3] / "mappings" / "northgate"
DEADLY = b"deadly"
FAILING = b"failing"
UNLUCKY = b"unlucky "
"""Followed by a file that counts: the first three workers that do it are killed by somebody else."""
GOOD = b'{"resourceType":"Patient","id":"p1"}'
SOURCE = SourceContext("northgate", "i", FhirVersion.R4, bytes(32), str(PACK))


def deadly_process(received: Received, source: SourceContext, limits: Limits) -> Processed:
    """Do a message as a worker does, but for one that ends it as running out of memory would."""
    if received.body == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    if received.body == FAILING:
        raise FileNotFoundError("pack")
    if received.content.startswith(UNLUCKY):
        with Path(os.fsdecode(received.content.removeprefix(UNLUCKY))).open("ab") as tries:
            tries.write(b"x")
        if tries_of(received.content) <= 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return process(_received(GOOD), source, limits)
    if received.content_type.startswith("/"):
        with Path(received.content_type).open("a") as begun_by:
            begun_by.write(f"{os.getpid()}\n")
        return process(_received(received.content), source, limits)
    return process(received, source, limits)


def tries_of(body: bytes) -> int:
    """Return how often workers began an unlucky message."""
    return Path(os.fsdecode(body.removeprefix(UNLUCKY))).stat().st_size


def many() -> bytes:
    """Return a bundle whose records come in more than one block."""
    made = [patient("p1"), *(observation(f"o{number}", "p1") for number in range(600))]
    return json.dumps(
        {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in made]}
    ).encode()


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


async def test_a_message_is_not_blamed_for_a_few_kills(tmp_path: Path) -> None:
    rooms, body = DeadlyRooms(1, Limits()), UNLUCKY + os.fsencode(tmp_path / "tries")
    try:
        done = await rooms.process(_received(body), SOURCE)
    finally:
        await rooms.close()
    assert [record.type for record in done.records] == ["Patient"]
    assert tries_of(body) == 4


async def test_neighbours_of_a_deadly_message_notice_nothing(tmp_path: Path) -> None:
    rooms, begun_by = DeadlyRooms(2, Limits()), tmp_path / "begun-by"
    noted = replace(_received(GOOD), content_type=str(begun_by))
    try:
        neighbours = [rooms.process(noted, SOURCE) for _ in range(8)]
        refused, *done = await asyncio.gather(
            rooms.process(_received(DEADLY), SOURCE), *neighbours, return_exceptions=True
        )
    finally:
        await rooms.close()
    assert isinstance(refused, RecordRefused)
    assert all(isinstance(each, Processed) for each in done)
    assert len(begun_by.read_text().split()) == 8, "each was begun once"


async def test_nothing_is_forgotten_while_workers_are_killed() -> None:
    rooms = WorkerRooms(2, Limits())
    waiting = [asyncio.create_task(rooms.process(_received(GOOD), SOURCE)) for _ in range(400)]
    try:
        for share in range(1, 6):
            while sum(task.done() for task in waiting) < share * 60:
                await asyncio.sleep(0.001)
            for pid in rooms.pids[: 1 + share % 2]:
                os.kill(pid, signal.SIGKILL)
        done = await asyncio.gather(*waiting)
    finally:
        await rooms.close()
    assert {record.type for each in done for record in each.records} == {"Patient"}
    assert not rooms.pids


async def test_a_worker_that_was_killed_is_replaced() -> None:
    rooms = WorkerRooms(1, Limits())
    try:
        await rooms.process(_received(GOOD), SOURCE)
        (before,) = rooms.pids
        os.kill(before, signal.SIGKILL)
        done = await rooms.process(_received(GOOD), SOURCE)
        assert rooms.pids != [before]
    finally:
        await rooms.close()
    assert [record.type for record in done.records] == ["Patient"]


async def test_an_error_of_the_work_is_no_death_of_the_worker() -> None:
    rooms = DeadlyRooms(1, Limits())
    try:
        await rooms.process(_received(GOOD), SOURCE)
        before = rooms.pids
        with pytest.raises(FileNotFoundError):
            await rooms.process(_received(FAILING), SOURCE)
        assert rooms.pids == before
    finally:
        await rooms.close()


async def test_closed_rooms_take_nothing() -> None:
    rooms = WorkerRooms(1, Limits())
    await rooms.close()
    with pytest.raises(Unavailable):
        await rooms.process(_received(GOOD), SOURCE)


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


@pytest.mark.parametrize("at_least", [1 << 30, 1 << 10])
async def test_an_answer_that_was_not_taken_whole_is_not_taken_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_least: int
) -> None:
    """Memory may run out on this side while the worker still sends."""
    rooms = WorkerRooms(1, Limits(), Large(at_least, FileOverflows(tmp_path)))

    def fail(*_: Any) -> Any:
        raise MemoryError

    try:
        with monkeypatch.context() as patched:
            patched.setattr(workers, "decode", fail)
            patched.setattr(KeptRecords, "put", fail)
            with pytest.raises(MemoryError):
                await rooms.process(_received(many()), SOURCE)
        done = await rooms.process(_received(GOOD), SOURCE)
        assert [record.type for record in done.records] == ["Patient"]
        assert len((await rooms.process(_received(many()), SOURCE)).records) == 601
    finally:
        await rooms.close()


async def test_an_answer_to_another_message_is_not_taken() -> None:
    rooms = WorkerRooms(1, Limits())
    try:
        await rooms.process(_received(GOOD), SOURCE)
        (worker,) = rooms._workers
        worker._send(_received(b"{"), SOURCE, Limits())
        worker._pipe.send_bytes(b"{")
        done = await rooms.process(_received(GOOD), SOURCE)
        assert [record.type for record in done.records] == ["Patient"]
        assert rooms.pids != [worker._process.pid]
    finally:
        await rooms.close()


@pytest.mark.parametrize(("where", "what"), [("memfd_create", errno.EMFILE), ("write", errno.ENOSPC)])
async def test_memory_that_is_used_up_is_not_blamed_on_the_message_or_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, what: int
) -> None:
    rooms = WorkerRooms(1, Limits(), Large(1 << 10, FileOverflows(tmp_path)))

    def fail(*_: Any) -> Any:
        raise OSError(what, "used up")

    try:
        await rooms.process(_received(GOOD), SOURCE)
        before = rooms.pids
        with monkeypatch.context() as patched:
            patched.setattr(shared_bytes, "os", _Instead(**{where: fail}))
            with pytest.raises(Unavailable):
                await rooms.process(_received(many()), SOURCE)
        assert rooms.pids == before
        assert len((await rooms.process(_received(many()), SOURCE)).records) == 601
    finally:
        await rooms.close()


async def test_descriptors_that_are_used_up_are_not_blamed_on_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = WorkerRooms(1, Limits(), Large(1 << 10, FileOverflows(tmp_path)))

    def fail(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "used up")

    monkeypatch.setattr(workers, "send_handle", fail)
    try:
        with pytest.raises(Unavailable):
            await rooms.process(_received(many()), SOURCE)
    finally:
        await rooms.close()


async def test_a_disk_that_is_full_ends_no_worker(tmp_path: Path) -> None:
    rooms = WorkerRooms(1, Limits(), Large(1 << 10, FileOverflows(tmp_path / "nowhere")))
    try:
        await rooms.process(_received(GOOD), SOURCE)
        before = rooms.pids
        with pytest.raises(Unavailable):
            await rooms.process(_received(many()), SOURCE)
        assert rooms.pids == before
    finally:
        await rooms.close()


async def test_a_large_message_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    rooms = WorkerRooms(1, Limits(), Large(1 << 10, FileOverflows(tmp_path)))
    try:
        for _ in range(3):
            with pytest.raises(IntegrityBroken):
                await rooms.process(_received(many()), replace(SOURCE, ruleset=PACK.parent.name))
        held = [fd for pid in rooms.pids for fd in Path(f"/proc/{pid}/fd").iterdir() if "memfd:" in os.readlink(fd)]
        assert held == []
        assert len((await rooms.process(_received(many()), SOURCE)).records) == 601
    finally:
        await rooms.close()


class _Instead:
    """The module ``os`` with some functions replaced, for one that imports it."""

    def __init__(self, **replaced: Any) -> None:
        self.__dict__.update(vars(os) | replaced)
