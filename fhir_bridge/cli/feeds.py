"""Read sample feeds for the mapping tools: files of any kind that ``ingest`` takes, with a bar on a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fhir_bridge.cli import messages, screen

if TYPE_CHECKING:
    from fhir_bridge.mapping_tools.sample import Message

Pack = Annotated[Path, typer.Argument(help="Folder of the rule pack.", metavar="PACK")]
Samples = Annotated[
    list[str],
    typer.Argument(
        help="Resources or bundles, one a file or one a line, gzip or not; - for stdin.", metavar="SAMPLE"
    ),
]


@contextmanager
def sampled(names: Sequence[str], title: str) -> Iterator[tuple[Iterator[Message], Callable[[int], None]]]:
    """Give the messages of sample files, and what counts their records for the bar on standard error."""
    total = sum(os.path.getsize(name) for name in names if name != messages.STANDARD_INPUT and os.path.exists(name))
    counted = 0

    with screen.metered(title, total or None) as meter:

        def count(records: int) -> None:
            nonlocal counted
            counted += records

        yield _messages(names, meter, lambda: f"{counted:,} records"), count


def _messages(names: Sequence[str], meter: screen.Meter, note: Callable[[], str]) -> Iterator[Message]:
    from fhir_bridge.mapping_tools.sample import Message

    for name in names:
        with messages.opened(name) as (found, read):
            before = 0
            for number, body in enumerate(found, 1):
                yield Message(f"{name}:{number}", body)
                meter.advance(read() - before, note())
                before = read()
