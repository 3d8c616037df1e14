"""What a command prints: tables and bars on a terminal, plain lines and JSON elsewhere.

Results go to standard output, progress and errors to standard error, so that a
result can be piped.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print rows as JSON, as a table on a terminal, or as lines with tabs; ``empty`` is told for none."""
    if as_json:
        print_json(rows)
    elif not rows:
        print(empty, file=sys.stderr)
    elif sys.stdout.isatty():
        _print_table(rows, columns)
    else:
        for row in rows:
            print("\t".join(_cell(row.get(column)) for column in columns))


_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def styled(text: str, style: str) -> str:
    """Return text in a style on a terminal that shows any, and plain elsewhere (https://no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def visible(text: str) -> str:
    """Return text with what would steer a terminal, or end a line, written out; a sender's texts are not obeyed."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_aligned(rows: Sequence[Sequence[Any]], head: Sequence[str], *, indent: str = "") -> None:
    """Print rows under a head in columns that line up, numbers to the right; for terminal and file alike."""
    cells = [[_shortened(each) for each in row] for row in rows]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    right = [all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) for i in range(len(head))]

    def line(texts: Sequence[str]) -> str:
        parts = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)]
        return (indent + "  ".join(parts)).rstrip()

    print(styled(line(head), "dim"))
    for row in cells:
        print(line(row))


_WIDEST = 64


def _shortened(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else "" if value is None else visible(str(value))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST // 2 - 1]}…{text[-_WIDEST // 2 :]}"


def remark(text: str) -> None:
    """Tell a person something that a script does not read, after what has been printed so far."""
    sys.stdout.flush()
    print(text, file=sys.stderr)


def issue_words(issue: Mapping[str, Any]) -> str:
    """Return an issue of an OperationOutcome, or of ours, in one line; neither holds a value of a record."""
    expression = issue.get("expression") or ""
    place = expression if isinstance(expression, str) else " ".join(expression)
    return f"{issue.get('code', 'refused')}: {issue.get('diagnostics', '')}" + (f" at {place}" if place else "")


class Meter(Protocol):
    """Shows how far a command has come."""

    def advance(self, amount: int, note: str) -> None:
        """Count ``amount`` more and show ``note`` beside the bar."""
        ...


@contextmanager
def metered(title: str, total: int | None) -> Iterator[Meter]:
    """Show a progress bar on a terminal and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress, progress.add_task(title, total=total, note=""))


class _Silent:
    def advance(self, amount: int, note: str) -> None:
        """Show nothing."""


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: int, note: str) -> None:
        """Move the bar."""
        self._progress.update(self._task, advance=amount, note=note)


def _print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*(column.replace("_", " ") for column in columns))
    for row in rows:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    Console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
