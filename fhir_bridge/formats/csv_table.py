"""One kind of CSV file of one institution: how a row of it becomes a resource, or one for each measurement in it.

Compiled from the rule pack by ``normalize/csv_choices.py``.

Invariants:
    * a row gives one resource or the reasons why not, never both, never an exception; so does each column of a
      wide row that is spread;
    * the id is the cell of the id column, or comes from the stated key columns and nothing else;
    * a constant beside columns is set only where one of them has a value: no half identifiers, no codes without code;
    * no two resources share an object, so that nothing of one row can get into another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from blake3 import blake3

from fhir_bridge.errors import Issue
from fhir_bridge.formats.csv_cells import CellWrong, Made
from fhir_bridge.formats.csv_text import Dialect

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_DERIVED = b"fhir-bridge/csv-id/1\0"


@dataclass(frozen=True, slots=True)
class Step:
    """One name of a path; ``index`` is its place in a list, None for what does not repeat."""

    key: str
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """What becomes of one column.

    Attributes:
        name: In the header.
        steps: Element that it fills.
        make: Its text, joined with that of ``beside`` columns by one blank, to the value.
        beside: Columns whose text is needed as well.
        also: Key in the value made → column that fills it (a unit, a display), where that is not empty.
        split: What separates several values in one cell.
        otherwise: Element that takes the text as it stands where ``make`` refuses it.
        whole: Value made from all texts one by one instead of joined: the id of what is referred to.
    """

    name: str
    steps: tuple[Step, ...]
    make: Made
    beside: tuple[str, ...] = ()
    also: tuple[tuple[str, str], ...] = ()
    split: str = ""
    otherwise: tuple[Step, ...] = ()
    whole: Callable[[Sequence[str]], Any] | None = None
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Constant:
    """A leaf that every row gets a copy of, or those in which one of ``beside`` columns has a value, if any are."""

    steps: tuple[Step, ...]
    value: Any
    beside: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Spread:
    """Columns of a wide table, each of which gives a resource of its own wherever it is filled.

    Attributes:
        value: Name that a column's cell goes by in the rest of the description.
        cells: Column → cells that stand beside its own, by the names that they go by: what it is called, its unit.
        sources: Column → element → words for the columns that it comes from.
    """

    value: str
    cells: Mapping[str, Mapping[str, str]]
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def made(self) -> frozenset[str]:
        """Names that no file has in its header."""
        return frozenset({self.value, *(name for cells in self.cells.values() for name in cells)})


@dataclass(frozen=True, slots=True)
class Table:
    """One kind of file.

    Attributes:
        name: What the pack calls it.
        file: Pattern of the names of such files.
        empty: Words that mean that there is nothing.
        id: Columns that say which record a row is about.
        id_empty: Those of them that may be empty: then that is part of the key.
        ignored: Columns that become nothing, knowingly.
        optional: Columns that a file may lack.
        is_guess: Nobody has checked yet what the pack says of these files; none is read.
        spread: What makes several resources of a row; None where a row is one.
    """

    name: str
    file: str
    type_name: str
    dialect: Dialect
    empty: frozenset[str]
    id: tuple[str, ...]
    columns: tuple[Column, ...]
    constants: tuple[Constant, ...]
    ignored: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    sources: Mapping[str, str] = field(default_factory=dict)
    is_guess: bool = False
    spread: Spread | None = None
    id_empty: frozenset[str] = frozenset()

    @property
    def named(self) -> list[str]:
        """Every column that the pack names, ignored ones aside, in its order."""
        names = [*self.id]
        for column in self.columns:
            names += [column.name, *column.beside, *(name for _, name in column.also)]
        if self.spread is not None:
            names = [name for name in names if name not in self.spread.made] + list(self.spread.cells)
        return list(dict.fromkeys(names))

    def resources(
        self, cells: Mapping[str, str], place: str
    ) -> Iterator[tuple[dict[str, Any] | None, list[Issue], Mapping[str, str]]]:
        """Yield what a row's cells make: a resource or what is wrong, and where its elements come from.

        One each row; of a table that is spread, one for each of its columns that is filled.
        """
        if self.spread is None:
            yield *self.resource(cells, place), self.sources
            return
        rest = {name: text for name, text in cells.items() if name not in self.spread.cells}
        for name, beside in self.spread.cells.items():
            if self._is_given(cells.get(name, "")):
                made = {**rest, **beside, self.spread.value: cells[name]}
                told = dict.fromkeys(self.spread.made, name)
                yield *self.resource(made, place, told), self.spread.sources.get(name, {})

    def _is_given(self, text: str) -> bool:
        return bool(text.strip()) and text.strip() not in self.empty

    def resource(
        self, cells: Mapping[str, str], place: str, told: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any] | None, list[Issue]]:
        """Return what cells make, and what is wrong with them.

        Args:
            told: What the sender calls a column that the description calls otherwise.
        """
        found = self._resource(cells, place)
        if not told or not found[1]:
            return found
        return found[0], [_renamed(issue, told) for issue in found[1]]

    def _resource(self, cells: Mapping[str, str], place: str) -> tuple[dict[str, Any] | None, list[Issue]]:
        given = {name: text for name, text in cells.items() if self._is_given(text)}
        body: dict[str, Any] = {"resourceType": self.type_name}
        issues = [
            _wrong(place, name, "required", "is empty, and says which record the row is about")
            for name in self.id
            if name not in given and name not in self.id_empty
        ]
        if not issues:
            body["id"] = id_from([given.get(name, "") for name in self.id])
        for constant in self.constants:
            if not constant.beside or not constant.beside.isdisjoint(given):
                put(body, constant.steps, deepcopy(constant.value))
        for column in self.columns:
            issues += self._fill(body, column, given, place)
        return (None, issues) if issues else (pruned(body), [])

    def _fill(self, body: dict[str, Any], column: Column, given: Mapping[str, str], place: str) -> Iterable[Issue]:
        if column.name not in given:
            if column.is_required:
                yield _wrong(place, column.name, "required", "is empty, and the pack says that it is required")
            return
        missing = [name for name in column.beside if name not in given]
        if missing and column.whole is not None:
            yield _wrong(place, missing[0], "required", f"is empty, and column {column.name!r} needs it")
            return
        texts = [given[column.name], *(given[name] for name in column.beside if name in given)]
        if column.whole is not None:
            put(body, column.steps, column.whole(texts))
            return
        joined = " ".join(text.strip() for text in texts) if len(texts) > 1 else texts[0]
        for part in joined.split(column.split) if column.split else [joined]:
            if column.split and not part.strip():
                continue
            try:
                made = column.make(part)
            except CellWrong as wrong:
                if not column.otherwise:
                    yield _wrong(place, column.name, wrong.code, str(wrong))
                    return
                put(body, column.otherwise, part.strip())
                continue
            for key, name in column.also:
                if name in given:
                    made = {**made, key: given[name].strip()}
            put(body, column.steps, made)


def id_from(texts: Sequence[str]) -> str:
    """Return the local id that key cells mean: the one cell itself if FHIR takes it as an id, else a digest."""
    parts = [text.strip() for text in texts]
    if len(parts) == 1 and _ID.fullmatch(parts[0]):
        return parts[0]
    hasher = blake3(_DERIVED)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "big") + data)
    return hasher.digest()[:16].hex()


def put(body: dict[str, Any], steps: Sequence[Step], value: Any) -> None:
    """Set an element, making its parents; a second value of a list goes behind the first."""
    holder = body
    for step in steps[:-1]:
        holder = _child(holder, step)
    last = steps[-1]
    if last.index is None:
        here = holder.get(last.key)
        # Two columns may fill one Coding or Quantity between them.
        holder[last.key] = {**here, **value} if type(here) is dict and type(value) is dict else value
        return
    values = holder.setdefault(last.key, [])
    if len(values) <= last.index:
        values.extend({} for _ in range(last.index + 1 - len(values)))
    if values[last.index] == {}:
        values[last.index] = value
    else:
        values.append(value)


def _child(holder: dict[str, Any], step: Step) -> dict[str, Any]:
    if step.index is None:
        child: dict[str, Any] = holder.setdefault(step.key, {})
        return child
    values = holder.setdefault(step.key, [])
    values.extend({} for _ in range(step.index + 1 - len(values)))
    found: dict[str, Any] = values[step.index]
    return found


def pruned(value: Any) -> Any:
    """Return a value without the empty places that gaps in a list have left."""
    if type(value) is dict:
        return {k: pruned(v) for k, v in value.items() if v not in ({}, [])}
    if type(value) is list:
        return [pruned(v) for v in value if v not in ({}, [])]
    return value


def _renamed(issue: Issue, told: Mapping[str, str]) -> Issue:
    text = issue.diagnostics
    for name, real in told.items():
        text = text.replace(f"column {name!r}", f"column {real!r}")
    return replace(issue, diagnostics=text)


def _wrong(place: str, column: str, code: str, text: str) -> Issue:
    return Issue("error", code, f"{place}, column {column!r}: {text}")
