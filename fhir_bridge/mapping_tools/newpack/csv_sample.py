"""Guess what a clinic's CSV export holds: delimiter, encoding, the kind of record, and what each column is.

Nothing of a cell goes into the pack but words of columns that look like lists of codes. The description made is
marked ``guess: true`` as a whole and its columns one by one; no row is read by it before the mark is gone.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fhir_bridge.errors import RecordRefused, SetupWrong
from fhir_bridge.formats import CsvText, Dialect

_LOOKED_AT = 5_000
_MOST_WORDS = 12
_EMPTY = frozenset({"null", "n/a", "na", "none", "-", "--", "?", "nil", "#n/a", ".", "unbekannt", "k.a."})
_NUMBER = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?")
_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_RESULT = re.compile(r"[<>≤≥]?=?\s*[+-]?[0-9]+(?:[.,][0-9]+)?")

_DATES = (
    (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), "YYYY-MM-DD"),
    (re.compile(r"[0-9]{8}"), "YYYYMMDD"),
    (re.compile(r"[0-9]{2}\.[0-9]{2}\.[0-9]{4}"), "DD.MM.YYYY"),
    (re.compile(r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}"), "D.M.YYYY"),
    (re.compile(r"[0-9]{2}-[A-Za-z]{3}-[0-9]{4}"), "DD-MMM-YYYY"),
    (re.compile(r"[0-9]{2}/[0-9]{2}/[0-9]{4}"), "DD/MM/YYYY|MM/DD/YYYY"),
    (re.compile(r"[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}"), "D/M/YYYY|M/D/YYYY"),
)
_CLOCKS = (
    (re.compile(r"[ T][0-9]{2}:[0-9]{2}"), "HH:mm"),
    (re.compile(r"[ T][0-9]{2}:[0-9]{2}:[0-9]{2}"), "HH:mm:ss"),
)


@dataclass(frozen=True, slots=True)
class ColumnSeen:
    """One column of a sample.

    Attributes:
        date: Pattern that every text fits, ``A|B`` where two do; empty for no date.
        words: Distinct texts where they are few and come again: a list of codes.
    """

    name: str
    filled: int
    distinct: int
    date: str
    is_number: bool
    has_comma: bool
    has_result: bool
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileSeen:
    """One sample file."""

    name: str
    file: str
    dialect: Dialect
    rows: int
    faults: int
    empty: tuple[str, ...]
    columns: tuple[ColumnSeen, ...]
    content: tuple[Mapping[str, str], ...] = field(repr=False)

    @property
    def keys(self) -> list[str]:
        """Columns that tell every row from every other."""
        return [c.name for c in self.columns if c.filled == self.rows == c.distinct]


def look_at(path: Path) -> FileSeen:
    """Read a sample file.

    Raises:
        SetupWrong: It is no CSV with a header and rows.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (OSError, EOFError, zlib.error) as error:
        raise SetupWrong(f"{path} cannot be read") from error
    dialect = _dialect(data)
    try:
        text = CsvText(data, dialect)
        header = [cell.strip() for cell in text.header.cells]
        rows = [row for _, row in zip(range(_LOOKED_AT), text.rows, strict=False)]
    except RecordRefused as refusal:
        raise SetupWrong(f"{path}: {refusal.issues[0].diagnostics}") from None
    if len(set(header)) < len(header) or not all(header):
        raise SetupWrong(f"{path}: every column needs a name of its own in the first row")
    good = [
        dict(zip(header, row.cells, strict=True)) for row in rows if not row.fault and len(row.cells) == len(header)
    ]
    if not good:
        raise SetupWrong(f"{path} holds no row that fits its header")
    empty = sorted({t.strip() for row in good for t in row.values() if t.strip().lower() in _EMPTY})
    columns = tuple(_column(name, [row[name].strip() for row in good], empty) for name in header)
    stem = re.sub(r"[^a-z0-9]+", "-", path.name.lower().partition(".")[0]).strip("-")
    name = re.sub(r"[-0-9]+$", "", stem) or "file"
    return FileSeen(
        name, _pattern(path.name), dialect, len(good), len(rows) - len(good), tuple(empty), columns, tuple(good)
    )


def _dialect(data: bytes) -> Dialect:
    try:
        data.decode("utf-8-sig")
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = "windows-1252"
    first = data.split(b"\n", 1)[0].decode("latin-1")
    return Dialect(max(",;\t|", key=first.count), encoding)


def _pattern(name: str) -> str:
    """The file's name with its digits (a date, a number) left open."""
    return re.sub(r"[0-9][0-9_\-]*", "*", name.removesuffix(".gz"))


def _column(name: str, texts: Sequence[str], empty: Sequence[str]) -> ColumnSeen:
    given = [text for text in texts if text and text not in empty]
    counts = Counter(given)
    date = _date(given)
    numbers = sum(bool(_RESULT.fullmatch(t)) for t in given)
    is_listed = len(counts) <= _MOST_WORDS and len(given) >= 2 * len(counts) and not date
    return ColumnSeen(
        name=name,
        filled=len(given),
        distinct=len(counts),
        date=date,
        is_number=bool(given) and all(_NUMBER.fullmatch(t) for t in given),
        has_comma=any(_COMMA.fullmatch(t.lstrip("<>=≤≥ ")) for t in given),
        has_result=numbers > len(given) / 2,
        words=tuple(sorted(counts)) if is_listed else (),
    )


def _date(texts: Sequence[str]) -> str:
    if not texts:
        return ""
    for day, pattern in _DATES:
        if all(day.fullmatch(text) for text in texts):
            return _told_apart(pattern, texts)
        for clock, form in _CLOCKS:
            whole = re.compile(day.pattern + clock.pattern)
            if all(whole.fullmatch(text) for text in texts):
                between = "T" if all("T" in text for text in texts) else " "
                return "|".join(f"{part}{between}{form}" for part in _told_apart(pattern, texts).split("|"))
    return ""


def _told_apart(pattern: str, texts: Sequence[str]) -> str:
    """Of day first and month first the one that no text speaks against; both if none does."""
    if "|" not in pattern:
        return pattern
    day_first, month_first = pattern.split("|")
    firsts = {int(text.split("/")[0]) for text in texts}
    seconds = {int(text.split("/")[1]) for text in texts}
    if max(firsts) > 12:
        return day_first
    return month_first if max(seconds) > 12 else pattern
