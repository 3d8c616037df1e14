"""Read what an institution's CSV files look like: ``csv`` of source.yaml.

For the loader of packs. Everything is checked when the pack loads, with line, column and the nearest known word:
elements against R4, forms of dates, systems of codes; what a column needs and the pack leaves open is an error here
and never a guess later.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as AnyMapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fhir_bridge.fhir.tables import r4
from fhir_bridge.formats import Column, CsvFormat, Dialect, Spread, Table
from fhir_bridge.formats.csv_text import ENCODINGS
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize.csv_columns import COLUMN_KEYS, Setting, compile_column
from fhir_bridge.normalize.csv_constants import compile_constants
from fhir_bridge.normalize.csv_places import Place, compile_place
from fhir_bridge.normalize.table_files import GUESS, guessed
from fhir_bridge.normalize.yaml_text import Keys, Mapping, Node, did_you_mean
from fhir_bridge.ports.formats import SourceFormat

TABLE_KEYS = (
    "file",
    "type",
    "delimiter",
    "encoding",
    "empty",
    "id",
    "id_empty",
    "spread",
    "columns",
    "constants",
    "ignore",
    GUESS,
    "why",
)
SPREAD_KEYS = ("name", "value", "columns", "optional")
DELIMITERS = {",": ",", ";": ";", "|": "|", "tab": "\t", "\t": "\t"}


@dataclass(frozen=True, slots=True)
class _Filled:
    """A column with the place it fills and whether a file may lack it."""

    column: Column
    place: Place
    is_optional: bool
    other: Place | None


def read_csv_format(
    source: Mapping, version: FhirVersion, constants: AnyMapping[str, str]
) -> tuple[SourceFormat, ...]:
    """Return the CSV format of a pack, or nothing where it describes none.

    Args:
        constants: What ``%source.name`` means; ``time_zone`` among them is the zone of times without an offset.

    Raises:
        RulesetBroken: With file, line and column.
    """
    described = described_files(source, version)
    return (CsvFormat(tuple(read_table(name, node, constants) for name, node in described)),) if described else ()


def described_files(source: Mapping, version: FhirVersion) -> list[tuple[str, Node]]:
    """Return the files that a pack describes, by name; none where it describes none.

    Raises:
        RulesetBroken: With file, line and column.
    """
    node = source.get("csv")
    if node is None:
        return []
    if version is not FhirVersion.R4:
        raise source.key_spot("csv").broken(f"CSV becomes R4, and this pack says that its records come as {version}")
    described = node.mapping("csv")
    if not described.names():
        raise node.spot.broken("'csv' names no file")
    return [(name, described.require(name)) for name in described.names()]


def read_table(name: str, node: Node, constants: AnyMapping[str, str]) -> Table:
    """Return one file as the pack describes it.

    Raises:
        RulesetBroken: With file, line and column.
    """
    entry = node.mapping(f"csv {name!r}")
    entry.only(TABLE_KEYS, "key")
    type_name = _type(entry)
    setting = Setting(type_name, constants, _zone(entry, constants))
    filled = list(_columns(entry, setting))
    places = [(each.column.name, [p.steps for p in (each.place, each.other) if p is not None]) for each in filled]
    fixed = compile_constants(entry, setting, places)
    _refuse_doubles(entry, filled)
    ids = _id(entry)
    spread, may_lack = _spread(entry, type_name, ids, filled)
    return Table(
        name=name,
        file=_optional(entry, "file") or f"{name}*.csv",
        type_name=type_name,
        dialect=Dialect(_delimiter(entry), _encoding(entry)),
        empty=frozenset(_words(entry, "empty")),
        id=ids,
        columns=tuple(each.column for each in filled),
        constants=fixed,
        ignored=frozenset(_words(entry, "ignore")),
        optional=(frozenset(each.column.name for each in filled if each.is_optional) | may_lack) - set(ids),
        sources=_sources(type_name, ids, filled),
        is_guess=guessed(entry),
        spread=spread,
        id_empty=_id_empty(entry, ids),
    )


def _type(entry: Mapping) -> str:
    node = entry.require("type")
    known = r4().resource_types()
    if node.value not in known:
        raise node.spot.broken(f"no resource type {node.value!r}{did_you_mean(str(node.value), known)}")
    return str(node.value)


def _zone(entry: Mapping, constants: AnyMapping[str, str]) -> ZoneInfo | None:
    name = constants.get("time_zone")
    if name is None:
        # Whose clocks they are must be said before the description is used, not before it is looked at.
        return ZoneInfo("UTC") if guessed(entry) else None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise entry.spot.broken("'time_zone' of the source is not an IANA time zone") from None


def _delimiter(entry: Mapping) -> str:
    node = entry.get("delimiter")
    if node is None:
        return ","
    if node.value not in DELIMITERS:
        raise node.spot.broken("'delimiter' must be one of ',' ';' '|' tab")
    return DELIMITERS[node.value]


def _encoding(entry: Mapping) -> str:
    node = entry.get("encoding")
    if node is None:
        return "utf-8"
    name = str(node.value).lower().replace("_", "-")
    if name not in ENCODINGS:
        raise node.spot.broken(
            f"'encoding' must be one of utf-8, windows-125x, iso-8859-x{did_you_mean(name, ENCODINGS)}"
        )
    return name


def _id(entry: Mapping) -> tuple[str, ...]:
    node = entry.get("id")
    if node is None:
        raise entry.spot.broken(
            "'id' is missing: name the column whose value says which record a row is about, or a list of columns "
            "that do so together; sent again, the row then updates its record"
        )
    names = [node.text("id")] if isinstance(node.value, str) else [each.text("id") for each in node.items("id")]
    if not names:
        raise node.spot.broken("'id' lists no column")
    return tuple(names)


def _id_empty(entry: Mapping, ids: tuple[str, ...]) -> frozenset[str]:
    node = entry.get("id_empty")
    if node is None:
        return frozenset()
    names = frozenset(_words(entry, "id_empty"))
    if not names < set(ids):
        raise node.spot.broken(
            "'id_empty' lists some of the columns of 'id', not all: something must tell records apart"
        )
    return names


def _spread(
    entry: Mapping, type_name: str, ids: tuple[str, ...], filled: list[_Filled]
) -> tuple[Spread | None, frozenset[str]]:
    """Return how a wide table is taken apart, and which of its columns a file may lack.

    ``name`` and ``value`` are what a column's name and cell are called in ``columns`` and ``id``; what else stands
    beside a column (its unit) goes by the names that the pack gives it.
    """
    node = entry.get("spread")
    if node is None:
        return None, frozenset()
    given = node.mapping("'spread'")
    given.only(SPREAD_KEYS, "key of 'spread'")
    called, value = given.require("name").text("name"), given.require("value").text("value")
    listed = given.require("columns")
    cells = _cells(given, value, {called, *ids, *_said_of(filled)} - {value})
    cells = {name: {called: name} | beside for name, beside in cells.items()}
    if not cells:
        raise listed.spot.broken("'spread' names no column")
    made = {value, *(key for each in cells.values() for key in each)}
    for name in (called, value):
        if not any(name in (each.column.name, *each.column.beside) for each in filled):
            raise given.key_spot("name" if name == called else "value").broken(
                f"'columns' say nothing about {name!r}: name the element that it becomes"
            )
    if called not in ids:
        raise entry.key_spot("id").broken(f"'id' needs {called!r}: else all records of a row would be one")
    if made.union(_words(entry, "id_empty")).issuperset(ids):
        raise entry.key_spot("id").broken(
            "'id' needs a column of the file that is never empty: what is made of columns is the same in every row"
        )
    doubled = sorted(made & cells.keys())
    if doubled:
        raise listed.spot.broken(
            f"{doubled[0]!r} is a column and the name of what is made of columns: name it otherwise"
        )
    ignored = sorted(made.intersection(_words(entry, "ignore")))
    if ignored:
        raise entry.key_spot("ignore").broken(
            f"{ignored[0]!r} is ignored and the name of what is made of columns: name it otherwise"
        )
    _refuse_one_record(entry, listed, cells, ids)
    sources = {
        name: _sources(type_name, tuple(name if i in made else i for i in ids), filled, dict.fromkeys(made, name))
        for name in cells
    }
    optional = given.get("optional")
    may_lack = frozenset(cells) if optional is not None and optional.value is True else frozenset()
    return Spread(value, cells, sources), may_lack


def _cells(given: Mapping, value: str, used: AbstractSet[str]) -> dict[str, dict[str, str]]:
    """Return each column of a wide table with the cells that stand beside its own.

    Args:
        value: What a column's own cell goes by.
        used: Other names that the description says something about; a cell by another would be lost.
    """
    listed = given.require("columns")
    if not isinstance(listed.value, Keys):
        return {each.text("columns"): {} for each in listed.items("'columns'")}
    cells = {}
    columns = listed.mapping("'columns'")
    for name in columns.names():
        beside = columns.require(name).mapping(f"column {name!r}")
        for key in beside.names():
            if key == value:
                raise beside.key_spot(key).broken(
                    f"{key!r} is the column's own cell: name what stands beside it otherwise"
                )
            if key not in used:
                told = f"'columns' and 'id' say nothing about {key!r}{did_you_mean(key, used)}"
                raise beside.key_spot(key).broken(told)
        cells[name] = {key: beside.require(key).text(key) for key in beside.names()}
    return cells


def _said_of(filled: list[_Filled]) -> Iterator[str]:
    """Every name that the description of columns reads."""
    for each in filled:
        yield from (each.column.name, *each.column.beside, *(name for _, name in each.column.also))


def _refuse_one_record(
    entry: Mapping, listed: Node, cells: AnyMapping[str, AnyMapping[str, str]], ids: tuple[str, ...]
) -> None:
    """Two columns whose cells of the key are the same: the later would silently win in every row."""
    empty = _words(entry, "empty")
    seen: dict[tuple[str, ...], str] = {}
    for name, beside in cells.items():
        texts = [beside.get(each, "").strip() for each in ids]
        first = seen.setdefault(tuple("" if text in empty else text for text in texts), name)
        if first != name:
            raise listed.spot.broken(
                f"{first!r} and {name!r} would be one record: give them other cells for what 'id' lists"
            )


def _columns(entry: Mapping, setting: Setting) -> Iterator[_Filled]:
    columns = entry.require("columns").mapping("'columns'")
    if not columns.names():
        raise entry.key_spot("columns").broken("'columns' names no column")
    for name in columns.names():
        node = columns.require(name)
        nodes = [node] if isinstance(node.value, str) or hasattr(node.value, "keys") else list(node.items(name))
        for each in nodes:
            yield _column(name, each, setting)


def _column(name: str, node: Node, setting: Setting) -> _Filled:
    if isinstance(node.value, str):
        place = compile_place(node.text(name), setting.type_name, node.spot)
        return _Filled(compile_column(name, None, place, setting, node.spot), place, False, None)
    given = node.mapping(f"column {name!r}")
    given.only(COLUMN_KEYS, "key of a column")
    path = given.require("path")
    place = compile_place(path.text("path"), setting.type_name, path.spot)
    column = compile_column(name, given, place, setting, path.spot)
    other = given.get("else")
    else_place = compile_place(other.text("else"), setting.type_name, other.spot) if other is not None else None
    optional = given.get("optional")
    return _Filled(column, place, optional is not None and optional.value is True, else_place)


def _refuse_doubles(entry: Mapping, filled: list[_Filled]) -> None:
    """Two columns for one element that takes one value: the later would silently win."""
    seen: dict[tuple[Any, ...], str] = {}
    for each in filled:
        if each.place.element.many:
            continue
        first = seen.setdefault(each.place.steps, each.column.name)
        if first != each.column.name:
            problem = f"columns {first!r} and {each.column.name!r} both fill {each.place.expression}"
            raise entry.key_spot("columns").broken(f"{problem}; join them with 'with', or choose one")


def _sources(
    type_name: str, ids: tuple[str, ...], filled: list[_Filled], called: AnyMapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Element → the words for the column that it comes from, by the name that the sender calls it."""
    found = {f"{type_name}.id": _told(ids)}
    for each in filled:
        names = (each.column.name, *each.column.beside)
        words = _told(tuple(dict.fromkeys(called.get(name, name) for name in names)))
        for place in (each.place, each.other):
            if place is not None:
                found.setdefault(place.expression, words)
    return found


def _told(names: tuple[str, ...]) -> str:
    return f"column {names[0]!r}" if len(names) == 1 else "columns " + ", ".join(repr(name) for name in names)


def _words(entry: Mapping, key: str) -> list[str]:
    node = entry.get(key)
    return [] if node is None else [str(each.value).strip() for each in node.items(key)]


def _optional(entry: Mapping, key: str) -> str | None:
    node = entry.get(key)
    return None if node is None else node.text(key)
