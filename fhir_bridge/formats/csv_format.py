"""The source format CSV (``text/csv``, RFC 4180 and 7111): one institution's files, told apart by name or header.

A message is a header and rows. Its content type may say ``name`` (the file's, to tell which kind it is) and ``row``
(the number that its first row has in the whole file, for errors when a file is sent in pieces).

Invariants:
    * as many parts come out as rows go in; of a wide table that is spread, as many as it has cells filled, and one
      that is refused for a row of which nothing would be kept;
    * what is said of a header names only columns that the pack names: a file without a header has data there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from email.message import Message
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote

from fhir_bridge.errors import Issue, RecordRefused
from fhir_bridge.formats.csv_table import Table
from fhir_bridge.formats.csv_text import CsvText, Row, refusal
from fhir_bridge.ports.formats import Drawn

CSV_TYPE = "text/csv"
_UNCHECKED = "what the pack says of {!r} is a guess: check it in source.yaml, then take 'guess: true' away there"


class CsvFormat:
    """The CSV files of one institution. See :class:`fhir_bridge.ports.formats.SourceFormat`."""

    def __init__(self, tables: tuple[Table, ...]) -> None:
        self.tables = tables

    def unguessed(self) -> CsvFormat:
        """Return the format as it would be if every guess of the pack were right; for who looks at a sample."""
        return CsvFormat(tuple(replace(table, is_guess=False) for table in self.tables))

    def takes(self, content_type: str) -> bool:
        """See the port."""
        return content_type.partition(";")[0].strip().lower() == CSV_TYPE

    def table_of(self, name: str, message: bytes) -> Table:
        """Return the kind of a file: by its name, else by its header.

        Raises:
            RecordRefused: It is none of the pack's, or could be several.
        """
        by_name = [table for table in self.tables if fnmatchcase(name.casefold(), table.file.casefold())]
        if len(by_name) == 1:
            return by_name[0]
        fitting = [table for table in by_name or self.tables if _fits(table, message)]
        if len(fitting) == 1:
            return fitting[0]
        files = ", ".join(f"{table.name} ({table.file})" for table in self.tables)
        if fitting:
            raise refusal(f"the file could be several of the pack's: {files}; give it a name that only one matches")
        if name:
            raise refusal(f"neither name nor header of the file match one of the pack's files: {files}")
        raise refusal(f"the header matches none of the pack's files: {files}; say which in name= of the content type")

    def read(self, message: bytes, content_type: str, max_parts: int) -> tuple[Drawn, ...]:
        """See the port."""
        said = _parameters(content_type)
        table = self.table_of(said.get("name", ""), message)
        if table.is_guess:
            raise RecordRefused([Issue("error", "not-supported", _UNCHECKED.format(table.name))])
        _check_charset(said, table)
        return self._parts(message, table, int(said["row"]) if said.get("row", "").isdecimal() else 0, max_parts)

    def reread(self, original: bytes) -> Iterator[Drawn]:
        """See the port."""
        for table in self.tables:
            try:
                yield from self._parts(original, table, 0, sys.maxsize)
            except RecordRefused:
                continue

    @staticmethod
    def _parts(message: bytes, table: Table, first: int, max_parts: int) -> tuple[Drawn, ...]:
        text = CsvText(message, table.dialect)
        columns = _columns(text.header, table)
        first = first or text.header.number + 1
        header = text.bytes_of(text.header.start, text.header.end)
        found: list[Drawn] = []
        held: dict[str, tuple[str, bytes, dict[str, Any]]] = {}
        for row in text.rows:
            place = f"row {first + row.number - text.header.number - 1}"
            original = header + text.bytes_of(row.start, row.end)
            for body, issues, sources in _made(place, row, columns, len(text.header.cells), table):
                if len(found) == max_parts:
                    problem = (
                        f"a message may hold at most {max_parts} rows, or filled cells of columns that are 'spread': "
                        "send the file in pieces under the same header"
                    )
                    raise RecordRefused([Issue("error", "too-costly", problem)])
                if body is not None:
                    said = place, original, body
                    earlier = held.setdefault(body["id"], said)
                    doubt = [] if earlier[1:] == said[1:] else [_replaces(place, earlier[0])]
                    held[body["id"]] = said
                    issues = [*issues, *doubt]
                found.append(Drawn(len(found), place, original, body, tuple(issues), sources))
        return tuple(found)


def _made(
    place: str, row: Row, columns: Mapping[str, int], width: int, table: Table
) -> Iterator[tuple[dict[str, Any] | None, list[Issue], Mapping[str, str]]]:
    """Yield what one row makes: a resource or what is wrong with it, and where its elements come from."""
    if row.fault:
        yield None, [Issue("error", "structure", f"{place}, {row.fault}")], table.sources
        return
    if len(row.cells) != width:
        problem = f"{place} has {len(row.cells)} cells and the header {width}: quote cells that hold the delimiter"
        yield None, [Issue("error", "structure", problem)], table.sources
        return
    unnamed = [at + 1 for at in _unnamed(columns, table, width, row)]
    flags = [
        Issue(
            "information", "informational", f"{place}: column {number} is not in the pack and stays in the original"
        )
        for number in unnamed
    ]
    given = False
    for body, issues, sources in table.resources({name: row.cells[at] for name, at in columns.items()}, place):
        given = True
        yield body, (flags if body is not None else issues), sources
        # Once a row is enough.
        flags = [] if body is not None else flags
    if unnamed and not given:
        yield None, [_lost(place, unnamed[0])], table.sources


def _lost(place: str, column: int) -> Issue:
    """What the row says stands where nobody looks, and no record keeps its original."""
    text = (
        f"{place}: no column that is 'spread' is filled, and column {column}, which the pack does not name, is: "
        "name it under 'spread' and send the file again, or under 'ignore' if it is nothing"
    )
    return Issue("error", "structure", text)


def _replaces(place: str, earlier: str) -> Issue:
    text = f"{place}: says otherwise of the same record as {earlier}, and replaces it: does 'id' lack a column?"
    return Issue("warning", "duplicate", text)


def _unnamed(columns: Mapping[str, int], table: Table, width: int, row: Row) -> list[int]:
    known = set(columns.values())
    return [at for at in range(width) if at not in known and row.cells[at].strip() not in (*table.empty, "")]


def _columns(header: Row, table: Table) -> dict[str, int]:
    """Where each column that the pack names stands, ignored ones too.

    Raises:
        RecordRefused: One is missing, or stands there twice.
    """
    names = [cell.strip() for cell in header.cells]
    problems = []
    for name in (*table.named, *sorted(table.ignored)):
        if names.count(name) > 1:
            problems.append(f"the header has the column {name!r} twice")
        elif name not in names and name not in table.optional | table.ignored:
            near = get_close_matches(name.casefold(), [each.casefold() for each in names], 1, 0.6)
            where = (
                f"; column {[each.casefold() for each in names].index(near[0]) + 1} is nearly that" if near else ""
            )
            problems.append(f"the header has no column {name!r}, which the pack names for {table.name!r}{where}")
    problems += [
        f"the header has a column {name!r}, which the pack makes of the columns that are 'spread': "
        "name what is made otherwise"
        for name in sorted(table.spread.made if table.spread is not None else ())
        if name in names
    ]
    if table.spread is not None and table.spread.cells.keys().isdisjoint(names):
        listed = ", ".join(repr(name) for name in table.spread.cells)
        problems.append(f"the header has none of the columns that are 'spread' for {table.name!r}: {listed}")
    if problems:
        raise RecordRefused([Issue("error", "structure", problem) for problem in problems])
    return {name: names.index(name) for name in (*table.named, *table.ignored) if name in names}


def _fits(table: Table, message: bytes) -> bool:
    try:
        names = [cell.strip() for cell in CsvText(message, table.dialect).header.cells]
    except RecordRefused:
        return False
    has_any = table.spread is None or not table.spread.cells.keys().isdisjoint(names)
    return has_any and all(name in names for name in table.named if name not in table.optional)


def _check_charset(said: Mapping[str, str], table: Table) -> None:
    charset = said.get("charset", "").lower()
    if charset and charset.replace("_", "-") not in (table.dialect.encoding, "us-ascii"):
        told = f"the content type and the pack name other encodings; the pack's for {table.name!r} is"
        raise refusal(f"{told} {table.dialect.encoding}")


def _parameters(content_type: str) -> dict[str, str]:
    head = Message()
    head["Content-Type"] = " ".join(content_type.split())
    found = head.get_params(failobj=[]) or []
    return {str(name).lower(): unquote(str(value)) for name, value in found[1:]}
