"""How the story looks: panels, tables and bars on a terminal, the same words on plain output."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fhir_bridge.cli.demo.timeline import Entry

STYLES = {"northgate": "cyan", "harbor": "magenta", "cedar": "yellow"}


class Pictures:
    """Prints the story."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._scene = 0

    def scene(self, title: str, why: str) -> None:
        """Open a scene: what it shows and why that matters."""
        self._scene += 1
        heading = Text(f"{self._scene}. {title}", style="bold")
        self._console.print()
        self._console.print(Panel(Text(why), title=heading, title_align="left", border_style="blue", padding=(0, 1)))

    def say(self, words: str) -> None:
        """Print a line."""
        self._console.print(Text(f"  {words}"))

    def proved(self, words: str) -> None:
        """Print something that the scene has checked."""
        self._console.print(Text("  ✓ ", style="bold green") + Text(words))

    def command(self, *words: str) -> None:
        """Show a command as a person would type it."""
        self._console.print(Text(f"  $ fhir-bridge {' '.join(words)}", style="dim"), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table, one line a row however narrow the screen; names of hospitals are coloured."""
        table = Table(header_style="bold", pad_edge=False)
        for index, column in enumerate(columns):
            width = max(len(cells) for cells in (column, *(row[index] for row in rows)))
            is_last = index == len(columns) - 1
            table.add_column(column, no_wrap=True, overflow="ellipsis", min_width=None if is_last else width)
        for row in rows:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        self._console.print(table)

    def records(self, found: Sequence[Entry]) -> None:
        """Print records as a timeline."""
        rows = [(e.date, e.source, e.type, e.quantity, e.words) for e in found]
        self.table(("when", "source", "record", "value", "what"), rows)

    def progress(self) -> Progress:
        """Give bars with a note beside each; nothing moves on plain output."""
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def end(self, title: str, lines: Sequence[str]) -> None:
        """Print the last words; long lines are not broken, so that they can be copied."""
        self._console.rule(title)
        for line in lines:
            self._console.print(Text(line), soft_wrap=True)
