"""Take a pack out of its engineer's hands: a copy that nobody edits, and what each of its rules rests on.

For the service, whose workers load nothing but copies: a folder that somebody works in may be half saved. A copy
holds every file that the pack's hash covers, with ``core`` beside it and the packages of its profiles, so it loads
wherever it is written, and to the same hash. Examples are no part of it: they change no record.

Invariants:
    * each file is read once, so a copy is what the folder held, file by file, and stays that;
    * a rule's print changes with its text, with the tables and constants that it names, and with nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from blake3 import blake3

from fhir_bridge.normalize.pack import Ruleset, files_of, label_of, layers_of, rule_files, source_of
from fhir_bridge.normalize.profile_choices import ELSEWHERE, package_place, package_texts
from fhir_bridge.normalize.same import Same
from fhir_bridge.normalize.tables import Tables
from fhir_bridge.normalize.yaml_text import load

_CONSTANT = re.compile(r"%source\.(\w+)")
_OWN = ("institution", "time_zone")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A pack's files by their path in the copy; ``name`` is the folder among them that holds the pack itself."""

    name: str
    files: Mapping[str, bytes] = field(repr=False)

    def write(self, folder: Path) -> Path:
        """Write the copy into a new folder, for its owner alone; return the folder of the pack in it."""
        for place, content in self.files.items():
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for path in folder.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
        return folder / self.name


def take_snapshot(directory: Path) -> Snapshot:
    """Read the pack in ``directory``, its ``core`` and the packages that it names.

    Raises:
        RulesetBroken: There is no pack there.
        OSError: A file went away meanwhile.
    """
    directory = directory.resolve()
    layers = layers_of(directory)
    files: dict[str, bytes] = {}
    for folder in layers:
        name = directory.name if folder == layers[-1] else "core"
        files |= {f"{name}/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in files_of(folder)}
    elsewhere: dict[str, str] = {}
    for text in package_texts(source_of(directory)):
        package = package_place(directory, text)
        inside = package.resolve().is_relative_to(directory) and not Path(text).is_absolute()
        place = (
            f"{directory.name}/{Path(text).as_posix()}" if inside else f"elsewhere/{len(elsewhere)}/{package.name}"
        )
        if not inside and text not in elsewhere:
            elsewhere[text] = place
        files |= {(f"{place}/{end}" if end else place): content for end, content in _package(package)}
    if elsewhere:
        files[ELSEWHERE] = json.dumps(elsewhere).encode()
    return Snapshot(directory.name, files)


def rule_prints(directory: Path, ruleset: Ruleset) -> dict[str, str]:
    """Return a digest for each rule of the pack in ``directory``: equal while the rule does the same.

    Args:
        ruleset: The pack as it was loaded. Of a table those rows and columns count that it takes from its file.
    """
    tables = _table_prints(ruleset.tables)
    constants: dict[str, Any] = {}
    rules: dict[str, Any] = {}
    for folder in layers_of(directory):
        source = source_of(folder).values
        constants |= {name: source[name] for name in _OWN if name in source} | (source.get("constants") or {})
        for path in rule_files(folder):
            held = load(path, label_of(folder, path)).value
            rules |= {rule["rule"]: rule for rule in ([held] if isinstance(held, dict) else held)}
    return {name: _rule_print(rule, tables, constants) for name, rule in rules.items()}


def _rule_print(rule: Any, tables: Mapping[str, str], constants: Mapping[str, Any]) -> str:
    written = _written(Same(rule))
    named = sorted(written.words & tables.keys())
    rests_on = [
        written.text,
        *(tables[name] for name in named),
        *(f"{name}={constants.get(name)}" for name in written.constants),
    ]
    return blake3(json.dumps(rests_on).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class _Written:
    """A rule as a text, the words in what it does, and the constants that it names."""

    text: str
    words: frozenset[str]
    constants: tuple[str, ...]


@lru_cache(maxsize=4096)
def _written(rule: Same[Any]) -> _Written:
    text = json.dumps(rule.value, sort_keys=True, default=str, ensure_ascii=False)
    words = frozenset(_texts(rule.value.get("do")))
    return _Written(text, words, tuple(sorted(set(_CONSTANT.findall(text)))))


def _table_prints(tables: Tables) -> dict[str, str]:
    """Return what each name stands for; a map and a unit table may share one."""
    found: dict[str, str] = {}
    for each in fields(tables):
        for name, table in getattr(tables, each.name).items():
            found[name] = blake3((found.get(name, "") + _content(Same(table))).encode()).hexdigest()
    return found


@lru_cache(maxsize=256)
def _content(table: Same[Any]) -> str:
    return _settled(table.value)


def _settled(value: Any) -> str:
    """Return a text that is the same for equal tables, in whatever order they were made."""
    if is_dataclass(value):
        return "(" + ",".join(_settled(getattr(value, each.name)) for each in fields(value)) + ")"
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{key!r}:{_settled(held)}" for key, held in value.items())) + "}"
    if isinstance(value, frozenset):
        return "{" + ",".join(sorted(map(repr, value))) + "}"
    return "[" + ",".join(map(_settled, value)) + "]" if isinstance(value, tuple | list) else repr(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield str(value)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _package(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a package by their path below it; one that is a single file has none."""
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            yield file.relative_to(path).as_posix(), file.read_bytes()
    else:
        yield "", path.read_bytes()
