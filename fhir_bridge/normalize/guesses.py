"""Find what ``map new`` has guessed in a pack and nobody has confirmed yet.

Three marks: the key ``guess: true`` (the table or CSV description is not used), a comment ``# GUESS`` (a line of YAML
that somebody should look at), and the column ``guess`` of a table (a candidate that stands beside an empty target).
An engineer confirms by taking the mark away, or by moving the candidate into the target's column.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fhir_bridge.normalize.table_files import GUESS

COMMENT = "# GUESS"
COLUMN = f"column {GUESS!r}"
TARGETS = ("target_code", "ucum", "canonical")
"""Columns that a guess stands beside, in the tables that ``map new`` writes."""

_KEY = re.compile(rf"(?:^|[\s{{,]){GUESS}:\s*true\b")


@dataclass(frozen=True, slots=True)
class Guess:
    """One guess: where it stands (lines from 1) and which mark it bears."""

    file: str
    line: int
    mark: str


def remaining_guesses(pack: Path) -> list[Guess]:
    """Return every guess of the pack in ``pack`` that is not confirmed, by file and line."""
    found: list[Guess] = []
    for path in sorted(pack.rglob("*")):
        name = path.relative_to(pack)
        if path.is_file() and "examples" not in name.parts:
            read = {".yaml": _in_yaml, ".csv": _in_table}.get(path.suffix)
            found += () if read is None else [Guess(name.as_posix(), line, mark) for line, mark in read(path)]
    return found


def _in_yaml(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        before, mark, _ = line.partition(COMMENT)
        if mark:
            yield number, COMMENT
        if _KEY.search(before.partition(" #")[0]):
            yield number, f"{GUESS}: true"


def _in_table(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.DictReader(stream)
        targets = [name for name in TARGETS if name in (reader.fieldnames or ())]
        if GUESS not in (reader.fieldnames or ()) or not targets:
            return
        for row in reader:
            if (row[GUESS] or "").strip() and not any((row[name] or "").strip() for name in targets):
                yield reader.line_num, COLUMN
