"""``ingest``: send an institution's messages through the bus and wait until each is anchored.

Invariants:
    * messages of one patient are sent one after another, others side by side;
    * a message the service was too busy for is sent again, any number of times: a repeated one changes nothing;
    * exit code 0 means that everything was taken, quarantined entries included.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zlib import crc32

import typer

from fhir_bridge.cli import csv_files, messages, screen
from fhir_bridge.cli.csv_files import FileFormat, Format
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson, Data, InstitutionName, data_directory
from fhir_bridge.cli.waiting import wait_for
from fhir_bridge.errors import BridgeError

if TYPE_CHECKING:
    import asyncio

    from fhir_bridge.cli.control import Control
    from fhir_bridge.formats import CsvFormat

_IN_FLIGHT = 8
_WAITING_PER_LANE = 4
_BUSY = frozenset({429, 503})
_PATIENCE_S = 120.0
_SHOWN_ISSUES = 5


@dataclass(frozen=True, slots=True)
class _Message:
    """What is sent, what it must stay in order with, and how far reading has come by it."""

    body: bytes
    order_key: str
    advance: int
    content_type: str = "application/fhir+json"


@dataclass(slots=True)
class Tally:
    """What became of the messages so far."""

    messages: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    issues: list[Mapping[str, Any]] = field(default_factory=list)
    dead_letters: list[str] = field(default_factory=list)
    refused: int = 0
    height: int | None = None
    failures: list[Exception] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def count(self, answer: Mapping[str, Any]) -> None:
        """Add the service's answer to one message."""
        self.messages += 1
        self.outcomes.update(answer["outcomes"])
        self.issues += answer["refused"]
        self.dead_letters += answer["dead_letters"]
        self.refused += bool(answer["refused"])
        self.height = answer["height"]

    @property
    def entries(self) -> int:
        """Entries answered, whatever the answer."""
        return self.outcomes.total()

    @property
    def seconds(self) -> float:
        """Time since the first message."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Entries a second."""
        return self.entries / max(self.seconds, 1e-6)


def ingest(
    institution: InstitutionName,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="JSON, NDJSON or CSV, also .gz; - for stdin.")
    ],
    file_format: FileFormat = Format.AUTO,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Send messages (JSON, one a file or one a line, or the rows of CSV) and wait until they are anchored."""
    directory = data_directory(data)
    total = _size(files)
    tally = wait_for(_ingest(directory, institution, files, file_format, total))
    if as_json:
        screen.print_json(_summary(institution, tally))
    else:
        _tell(institution, tally)
    if tally.refused:
        raise typer.Exit(FAILED)


async def _ingest(
    data: Path, institution: str, files: Sequence[str], file_format: Format, total: int | None
) -> Tally:
    from fhir_bridge.cli.control import open_control

    tally = Tally()
    with screen.metered(institution, total) as meter:
        async with open_control(data) as control, _lanes(control, institution, tally) as lanes:
            has_csv = any(csv_files.is_csv(name, file_format) for name in files)
            csv_format = await csv_files.format_of(control, institution) if has_csv else None
            for message in _read(files, file_format, csv_format):
                if tally.failures:
                    break
                await lanes[crc32(message.order_key.encode()) % len(lanes)].put(message)
                told = f"{tally.messages} messages, {tally.entries} entries, {tally.rate:.0f}/s"
                meter.advance(message.advance, told)
    if tally.failures:
        raise tally.failures[0]
    return tally


@asynccontextmanager
async def _lanes(
    control: Control, institution: str, tally: Tally
) -> AsyncIterator[list[asyncio.Queue[_Message | None]]]:
    """Give queues whose messages are sent in order within a queue; leaving waits until all are answered.

    After a failure what still waits is passed over and what is under way is answered: nothing is cancelled midway.
    """
    import asyncio

    lanes: list[asyncio.Queue[_Message | None]] = [asyncio.Queue(_WAITING_PER_LANE) for _ in range(_IN_FLIGHT)]
    try:
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(_drain(lane, control, institution, tally))
            yield lanes
            for lane in lanes:
                await lane.put(None)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _drain(lane: asyncio.Queue[_Message | None], control: Control, institution: str, tally: Tally) -> None:
    while (message := await lane.get()) is not None:
        if tally.failures:
            continue
        try:
            tally.count(await _send(control, institution, message))
        except (Failure, BridgeError, OSError) as failure:
            tally.failures.append(failure)


async def _send(control: Control, institution: str, message: _Message) -> Mapping[str, Any]:
    from asyncio import sleep

    from fhir_bridge.cli.control import Refused

    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            answer: Mapping[str, Any] = await control.put_through(
                "/ingest", message.body, message.content_type, institution=institution
            )
            return answer
        except Refused as refusal:
            if refusal.status not in _BUSY or time.monotonic() > deadline:
                raise
            await sleep(refusal.retry_after_s or 1)


def _read(files: Sequence[str], file_format: Format, csv_format: CsvFormat | None) -> Iterator[_Message]:
    """Yield messages, each with the raw bytes read since the one before; those of a CSV file stay in order."""
    for name in files:
        if csv_format is not None and csv_files.is_csv(name, file_format):
            for body, content_type in csv_files.cut(name, csv_format):
                yield _Message(body, f"csv/{name}", len(body), content_type)
            continue
        with messages.opened(name) as (found, position):
            before = 0
            for message in found:
                yield _Message(message, messages.order_key(message), position() - before)
                before = position()


def _size(files: Sequence[str]) -> int | None:
    """Return the bytes of all files; None when standard input is among them."""
    paths = [Path(name) for name in files if name != messages.STANDARD_INPUT]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise Failure(f"{missing[0]} is not a file", exit_code=SETUP)
    return None if len(paths) < len(files) else sum(path.stat().st_size for path in paths)


def _summary(institution: str, tally: Tally) -> dict[str, Any]:
    return {
        "institution": institution,
        "messages": tally.messages,
        "entries": tally.entries,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "refused_messages": tally.refused,
        "issues": tally.issues,
        "dead_letters": tally.dead_letters,
        "height": tally.height,
        "seconds": round(tally.seconds, 3),
        "entries_per_second": round(tally.rate, 1),
    }


def _tell(institution: str, tally: Tally) -> None:
    new, same = tally.outcomes["201"], tally.outcomes["200"]
    print(
        f"{institution}: {tally.messages} messages, {tally.entries} entries in {tally.seconds:.1f} s "
        f"({tally.rate:.0f}/s): {new} created, {same} updated or unchanged"
    )
    if tally.outcomes["202"]:
        print(
            f"  {tally.outcomes['202']} entries quarantined: taken, but a rule is missing (see 'dead-letters list')"
        )
    if tally.refused:
        part = f", {tally.outcomes['4xx']} entries of them alone" if tally.outcomes["4xx"] else ""
        print(f"  {tally.refused} messages refused{part}; dead letters: {' '.join(tally.dead_letters) or 'none'}")
        for issue in tally.issues[:_SHOWN_ISSUES]:
            print(f"    {screen.issue_words(issue)}")
