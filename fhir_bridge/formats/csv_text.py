"""Cut the bytes of a CSV file into rows and cells, keeping each row's exact bytes.

RFC 4180, and what exports do beside it: any delimiter, LF or CR for CRLF, a byte order mark, blank lines, a quote
inside a cell that does not begin with one. Rows are numbered as a spreadsheet shows them, the header being one.

Invariants:
    * a cell's text is exactly what stands there, quoted new lines included;
    * a row that cannot be read (a quote never closed, bytes that are not of the encoding) is told and ends at its
      first line end, so that it takes no other row with it;
    * the bytes of all rows, blank lines aside, are the bytes of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fhir_bridge.errors import Issue, RecordRefused

ENCODINGS = (
    "utf-8",
    *(f"windows-{number}" for number in range(1250, 1259)),
    *(f"iso-8859-{number}" for number in (*range(1, 12), 13, 14, 15, 16)),
)
"""Encodings in which a quote and a line end are the bytes of ASCII."""

_BOM = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")
_LINE_END = re.compile(r"\r\n|\n|\r")
_UNREADABLE = re.compile("[\ud800-\udfff]")
_NOT_CLOSED = "a quote is opened and never closed, or text follows the closing one: write a quote inside as two"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How an institution writes CSV."""

    delimiter: str = ","
    encoding: str = "utf-8"


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        number: As a spreadsheet shows it, from 1; blank lines count.
        start: Where it begins in the text, in characters.
        end: Behind its line end.
        fault: Why its cells cannot be trusted; empty if they can.
    """

    number: int
    cells: tuple[str, ...]
    start: int
    end: int
    fault: str = ""


class CsvText:
    """A decoded file: ``header`` and the rows behind it."""

    def __init__(self, data: bytes, dialect: Dialect) -> None:
        """Decode.

        Raises:
            RecordRefused: Another encoding than the pack says, or no header.
        """
        self._encoding = dialect.encoding
        self._text = _decoded(data, dialect.encoding)
        quoted = r'"(?P<quoted>[^"]*+(?:""[^"]*+)*+)"'
        delimiter = re.escape(dialect.delimiter)
        self._cell = re.compile(rf"{quoted}(?=[{delimiter}\r\n]|\Z)|(?P<plain>[^{delimiter}\r\n]*+)")
        self._delimiter = dialect.delimiter
        rows = self._rows()
        header = next(rows, None)
        if header is None:
            raise refusal("the file is empty: its first row names the columns")
        if header.fault:
            raise refusal(f"the first row, which names the columns, cannot be read: {header.fault}")
        self.header = header
        self.rows = rows

    def bytes_of(self, start: int, end: int) -> bytes:
        """Return the bytes of a stretch of the text."""
        return self._text[start:end].encode(self._encoding, "surrogateescape")

    def _rows(self) -> Iterator[Row]:
        at, number = 0, 0
        while at < len(self._text):
            number += 1
            blank = _LINE_END.match(self._text, at)
            if blank is not None:
                at = blank.end()
                continue
            row = self._row(at, number)
            yield row
            at = row.end

    def _row(self, start: int, number: int) -> Row:
        text, at = self._text, start
        cells: list[str] = []
        while True:
            match = self._cell.match(text, at)
            assert match is not None, "a plain cell may be empty"
            quoted = match["quoted"]
            if quoted is None and text.startswith('"', at):
                return Row(number, (), start, self._line_end(at), f"column {len(cells) + 1}: {_NOT_CLOSED}")
            cells.append(match["plain"] if quoted is None else quoted.replace('""', '"'))
            at = match.end()
            if not text.startswith(self._delimiter, at):
                break
            at += 1
        end = _LINE_END.match(text, at)
        return Row(number, tuple(cells), start, at if end is None else end.end(), self._fault(cells))

    def _line_end(self, at: int) -> int:
        found = _LINE_END.search(self._text, at)
        return len(self._text) if found is None else found.end()

    def _fault(self, cells: list[str]) -> str:
        for number, cell in enumerate(cells, 1):
            if "\0" in cell:
                return f"column {number}: a NUL character stands in it"
            if _UNREADABLE.search(cell):
                return f"column {number}: bytes that are not {self._encoding}: set 'encoding' to what the export uses"
        return ""


def pieces(data: bytes, dialect: Dialect, rows: int) -> Iterator[tuple[int, bytes]]:
    """Yield a file as smaller ones of at most ``rows`` rows, each under the same header.

    Gives the number of the first row of each, as it stands in the whole file. A file that has only a header is
    given whole.

    Raises:
        RecordRefused: See :class:`CsvText`.
    """
    text = CsvText(data, dialect)
    header = text.bytes_of(text.header.start, text.header.end)
    held: list[Row] = []
    is_first = True
    for row in text.rows:
        held.append(row)
        if len(held) == rows:
            yield held[0].number, header + text.bytes_of(held[0].start, held[-1].end)
            held, is_first = [], False
    if held:
        yield held[0].number, header + text.bytes_of(held[0].start, held[-1].end)
    elif is_first:
        yield text.header.number + 1, header


def refusal(problem: str) -> RecordRefused:
    """Make the error of a whole file."""
    return RecordRefused([Issue("error", "structure", problem)])


def _decoded(data: bytes, encoding: str) -> str:
    if data.startswith(_OTHER_MARKS):
        raise refusal("the file is UTF-16: export it as CSV in UTF-8")
    if data.startswith(_BOM):
        if encoding != "utf-8":
            raise refusal(f"the file says that it is UTF-8 and the pack says {encoding}: set 'encoding: utf-8'")
        data = data[len(_BOM) :]
    return data.decode(encoding, "surrogateescape")
