"""CSV files on the command line: told apart by their suffix, cut into messages as the pack reads them.

A message holds at most 500 rows under the file's header, so that a file of any length goes through the bus and one
answer is never long in coming. The service reads each row again and judges it; cutting alone needs the pack.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.messages import STANDARD_INPUT

if TYPE_CHECKING:
    from fhir_bridge.cli.control import Control
    from fhir_bridge.formats import CsvFormat

ROWS = 500
_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")


class Format(StrEnum):
    """What files hold."""

    AUTO = "auto"
    FHIR = "fhir"
    CSV = "csv"


FileFormat = Annotated[
    Format, typer.Option("--format", help="What the files hold; auto: CSV where a name ends in .csv, else FHIR.")
]


def is_csv(name: str, wanted: Format) -> bool:
    """Tell whether a file is CSV, by what was asked for or else by its name."""
    return wanted is Format.CSV or (wanted is Format.AUTO and name.lower().endswith(_SUFFIXES))


async def format_of(control: Control, institution: str) -> CsvFormat:
    """Return how an institution writes CSV, from the pack that it is registered with.

    Raises:
        Failure: There is no such institution, or its pack describes no CSV.
    """
    known = {each["name"]: each for each in await control.get("/institutions")}
    if institution not in known:
        raise Failure(f"no institution {institution!r}: see 'fhir-bridge institution list'", exit_code=SETUP)
    return format_in(Path(known[institution]["ruleset_dir"]))


def format_in(pack: Path) -> CsvFormat:
    """Return the CSV format of a pack.

    Raises:
        Failure: It describes none.
        RulesetBroken: It does not load.
    """
    from fhir_bridge.formats import CsvFormat
    from fhir_bridge.normalize import load_ruleset

    for each in load_ruleset(pack).formats:
        if isinstance(each, CsvFormat):
            return each
    raise Failure(f"{pack} describes no CSV: add 'csv' to its source.yaml (docs/csv.md)", exit_code=SETUP)


def cut(name: str, found: CsvFormat, rows: int = ROWS) -> Iterator[tuple[bytes, str]]:
    """Yield a file's messages with their content types.

    Raises:
        Failure: The file cannot be read, or is none that the pack describes.
    """
    from fhir_bridge.errors import RecordRefused
    from fhir_bridge.formats import CSV_TYPE, pieces

    data = _content(name)
    base = "" if name == STANDARD_INPUT else Path(name).name.removesuffix(".gz")
    try:
        table = found.table_of(base, data)
        # A wide row is as many records as it has cells filled, and a message holds so many records.
        rows = max(1, rows // len(table.spread.cells)) if table.spread is not None else rows
        for row, piece in pieces(data, table.dialect, rows):
            yield piece, f"{CSV_TYPE}; name={quote(base, safe='')}; row={row}" if base else f"{CSV_TYPE}; row={row}"
    except RecordRefused as refusal:
        raise Failure(f"{name}: {refusal.issues[0].diagnostics}", exit_code=FAILED) from None


def _content(name: str) -> bytes:
    data: Any = None
    try:
        data = sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).read_bytes()
        return bytes(gzip.decompress(data)) if data.startswith(b"\x1f\x8b") else bytes(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Failure(f"{name} is a damaged gzip file", exit_code=SETUP) from error
    except OSError as error:
        raise Failure(f"{name}: {error.strerror or 'not readable'}", exit_code=SETUP) from error
