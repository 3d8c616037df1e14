"""CSV comes apart as RFC 4180 says; Python's own reader is the second opinion."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fhir_bridge.errors import RecordRefused
from fhir_bridge.formats import CsvText, Dialect, pieces

_CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_TABLES = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(_CELL, min_size=width, max_size=width), min_size=1, max_size=6)
)
_DELIMITERS = st.sampled_from([",", ";", "\t", "|"])


def written(table: list[list[str]], delimiter: str, line_end: str) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL).writerows(table)
    return out.getvalue()


@given(_TABLES, _DELIMITERS, st.sampled_from(["\r\n", "\n", "\r"]), st.booleans())
@example([["a"], ['"'], ["\r\n"], [""]], ",", "\r\n", False)
def test_what_a_writer_writes_is_read_again_to_the_character(
    table: list[list[str]], delimiter: str, line_end: str, has_mark: bool
) -> None:
    text = written(table, delimiter, line_end)
    read = CsvText((b"\xef\xbb\xbf" if has_mark else b"") + text.encode(), Dialect(delimiter))
    rows = [read.header, *read.rows]
    assert [list(row.cells) for row in rows] == table
    assert [row.fault for row in rows] == [""] * len(table)
    assert b"".join(read.bytes_of(row.start, row.end) for row in rows) == text.encode()


_PLAIN = st.text(st.sampled_from('ab1;,. "\té'), max_size=8)


@given(st.lists(st.lists(_PLAIN, min_size=2, max_size=3), min_size=1, max_size=5))
def test_unquoted_cells_are_read_as_pythons_reader_reads_them(table: list[list[str]]) -> None:
    lines = [";".join(cell.lstrip('"').replace(";", ",") or "x" for cell in row) for row in table]
    text = "\n".join(lines) + "\n"
    read = CsvText(text.encode(), Dialect(";"))
    assert [list(r.cells) for r in (read.header, *read.rows)] == list(csv.reader(io.StringIO(text), delimiter=";"))


def test_rows_are_numbered_as_a_spreadsheet_shows_them() -> None:
    read = CsvText(b'h\n"a\nb"\n\nc\n', Dialect())
    assert [(row.number, row.cells) for row in read.rows] == [(2, ("a\nb",)), (4, ("c",))]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ('1;"open', "column 2: a quote is opened"),
        ('1;"shut" and more', "column 2: a quote is opened"),
        ("1;a\0b", "column 2: a NUL"),
    ],
)
def test_a_row_that_cannot_be_read_takes_no_other_with_it(bad: str, words: str) -> None:
    read = CsvText(f'a;b\n{bad}\n2;"x"\n3;y\n'.encode(), Dialect(";"))
    rows = list(read.rows)
    assert [row.number for row in rows] == [2, 3, 4]
    assert rows[0].fault.startswith(words)
    assert [row.cells for row in rows[1:]] == [("2", "x"), ("3", "y")]


def test_bytes_of_another_encoding_fault_their_row_alone() -> None:
    data = b"a;b\n1;M\xfcller\n2;M\xc3\xbcller\n"
    read = CsvText(data, Dialect(";"))
    rows = list(read.rows)
    assert "not utf-8: set 'encoding'" in rows[0].fault
    assert rows[1].cells == ("2", "Müller")
    assert read.bytes_of(rows[0].start, rows[1].end) == data[4:]


@pytest.mark.parametrize(
    ("data", "encoding", "words"),
    [
        (b"", "utf-8", "the file is empty"),
        (b"\r\n\n", "utf-8", "the file is empty"),
        ("a;b\n".encode("utf-16"), "utf-8", "the file is UTF-16"),
        (b"\xef\xbb\xbfa;b\n", "windows-1252", "set 'encoding: utf-8'"),
        (b'"a;b\n', "utf-8", "the first row, which names the columns, cannot be read"),
    ],
)
def test_a_file_that_is_no_csv_of_this_kind_is_refused_whole(data: bytes, encoding: str, words: str) -> None:
    with pytest.raises(RecordRefused) as refused:
        CsvText(data, Dialect(";", encoding))
    assert words in refused.value.issues[0].diagnostics


@given(_TABLES.filter(lambda table: any(table[0])), st.integers(1, 3), _DELIMITERS)
def test_pieces_hold_every_row_once_under_the_same_header(table: list[list[str]], rows: int, delimiter: str) -> None:
    data = written(table, delimiter, "\n").encode()
    dialect = Dialect(delimiter)
    found: list[list[str]] = []
    for first, piece in pieces(data, dialect, rows):
        read = CsvText(piece, dialect)
        assert list(read.header.cells) == table[0]
        here = [list(row.cells) for row in read.rows]
        assert len(here) <= rows
        assert first == len(found) + 2
        found += here
    assert found == table[1:]
