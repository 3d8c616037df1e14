"""Read sample feeds for the mapping tools: files of any kind that ``ingest`` takes, with a bar on a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fhir_bridge.cli import csv_files, messages, screen
from fhir_bridge.cli.csv_files import Format

if TYPE_CHECKING:
    from fhir_bridge.mapping_tools.sample import Message

Pack = Annotated[Path, typer.Argument(help="Folder of the rule pack.", metavar="PACK")]
Samples = Annotated[
    list[str],
    typer.Argument(
        help="Resources or bundles, one a file or one a line, or CSV; gzip or not; - for stdin.", metavar="SAMPLE"
    ),
]


@contextmanager
def sampled(
    pack: Path, names: Sequence[str], file_format: Format, title: str
) -> Iterator[tuple[Iterator[Message], Callable[[int], None]]]:
    """Give the messages of sample files, and what counts their records for the bar on standard error.

    Args:
        pack: Whose records they are; it says how its institution's CSV files are cut.
    """
    total = sum(os.path.getsize(name) for name in names if name != messages.STANDARD_INPUT and os.path.exists(name))
    counted = 0

    with screen.metered(title, total or None) as meter:

        def count(records: int) -> None:
            nonlocal counted
            counted += records

        yield _metered(pack, names, file_format, meter, lambda: f"{counted:,} records"), count


def _metered(
    pack: Path, names: Sequence[str], file_format: Format, meter: screen.Meter, note: Callable[[], str]
) -> Iterator[Message]:
    for name in names:
        for message, size in messages_in(pack, name, file_format):
            yield message
            meter.advance(size, note())


def messages_in(pack: Path, name: str, file_format: Format) -> Iterator[tuple[Message, int]]:
    """Yield the messages of one file, each with the raw bytes read since the one before.

    Raises:
        Failure: The file cannot be read, or is CSV of which the pack says nothing.
    """
    from fhir_bridge.mapping_tools.sample import Message

    if csv_files.is_csv(name, file_format):
        for number, (body, content_type) in enumerate(csv_files.cut(name, csv_files.format_in(pack)), 1):
            yield Message(f"{name}:{number}", body, content_type), len(body)
        return
    with messages.opened(name) as (found, read):
        before = 0
        for number, body in enumerate(found, 1):
            yield Message(f"{name}:{number}", body), read() - before
            before = read()
