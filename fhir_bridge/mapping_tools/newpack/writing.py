"""Write the YAML of a new pack: source.yaml and one rule file for codes, units and identifiers each.

Invariants:
    * whatever is guessed bears ``guess: true``, ``# GUESS`` or the column ``guess``;
    * nothing that is guessed is used by a rule before an engineer has confirmed it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fhir_bridge.mapping_tools.newpack import tables_of_codes
from fhir_bridge.mapping_tools.newpack.csv_meanings import Meaning, id_of, meanings_of, type_of
from fhir_bridge.mapping_tools.newpack.csv_sample import FileSeen
from fhir_bridge.mapping_tools.newpack.dictionaries import Dictionary, Part
from fhir_bridge.mapping_tools.newpack.survey import CodeSeen, Survey

_SPELLINGS = "codes/unit-spellings.csv"
_UNITS = "codes/units-by-code.csv"
_IDENTIFIERS = "codes/identifier-systems.csv"
_UNIT_COLUMNS = ("code", "local_unit", "local_ucum", "canonical", "factor", "offset")
_WIDE = 4
"""So many columns that nobody knows may well be a column for each analyte."""
_MAP_COLUMNS = ("code", "target_system", "target_code", "target_display")


def write_pack(
    folder: Path,
    survey: Survey | None,
    files: Sequence[FileSeen],
    dictionaries: Sequence[Dictionary],
    parts: Sequence[Part],
) -> None:
    """Write everything but examples and README into an empty folder."""
    (folder / "codes").mkdir(parents=True)
    has_local_times = any("HH" in column.date for seen in files for column in seen.columns)
    lines = _head(folder.name, survey, has_local_times)
    if survey is not None:
        names = map_names(survey)
        lines += _tables(folder, survey, names, dictionaries, parts)
        _write_rules(folder, survey, names)
    if files:
        lines += ["csv:"]
        for seen in files:
            lines += _described(seen, folder.name)
    (folder / "source.yaml").write_text("\n".join(lines) + "\n", "utf-8")
    if not any((folder / "codes").iterdir()):
        (folder / "codes").rmdir()


def map_names(survey: Survey) -> dict[str, str]:
    """Return a name for the map of each system of the hospital's own: of its address, else of where it stands."""
    found: dict[str, str] = {}
    for system in survey.own_systems:
        words = [_slug(word) for word in re.split(r"[/:]", system)]
        name = next((word for word in reversed(words) if word), "")
        if not re.search(r"[a-z]", name):
            places = {place for seen in survey.codes[system].values() for place in seen.places}
            name = _slug(min(places, key=lambda place: (len(place), place)))
        while name in found.values() or name in (
            "dictionary",
            "unit-spellings",
            "units-by-code",
            "identifier-systems",
        ):
            name += "-2"
        found[system] = name
    return found


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def quoted(value: object) -> str:
    """Write a value as YAML reads it back (JSON is YAML)."""
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_.\-]*", text) and text.lower() not in (
        "true",
        "false",
        "null",
        "yes",
        "no",
    )
    return text if plain and isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _head(name: str, survey: Survey | None, has_local_times: bool) -> list[str]:
    lines = [
        "# Started by 'fhir-bridge map new'. README.md says what is to do; what is marked GUESS nobody has checked.",
        f"institution: {name}",
        f"fhir_version: {survey.release if survey is not None else 'R4'}",
        "extends: core",
    ]
    if survey is None:
        return [
            *lines,
            '# time_zone: "Europe/Berlin"   # GUESS: times in CSV files have no offset; whose clocks are they?',
        ]
    if survey.offsets:
        seen = ", ".join(f"{offset} ({count})" for offset, count in survey.offsets.most_common(4))
        lines.append(f'# time_zone: "Area/City"   # GUESS: offsets of times seen: {seen}')
    for base, count in survey.bases.most_common(3):
        lines.append(
            f"# base_urls: [{quoted(base)}]   # GUESS: {count} absolute URLs begin so; are they its own records?"
        )
    return lines


def _tables(
    folder: Path,
    survey: Survey,
    names: Mapping[str, str],
    dictionaries: Sequence[Dictionary],
    parts: Sequence[Part],
) -> Iterator[str]:
    by_system = {part.system: part for part in parts}
    for each in dictionaries:
        each.save(folder / each.file)
    yield from _maps(folder, survey, names, by_system)
    if survey.units:
        tables_of_codes.write_spellings(folder / _SPELLINGS, survey)
        yield "units:"
        measured = [part for part in parts if "canonical" in part.columns]
        if measured:
            part = measured[0]
            yield "  measured:"
            yield from _from_dictionary(part, _UNIT_COLUMNS, ("system",))
            yield f"    spellings: {_SPELLINGS}"
        else:
            tables_of_codes.write_units(folder / _UNITS, survey)
            yield f"  measured: {{file: {_UNITS}, spellings: {_SPELLINGS}}}"


def _maps(folder: Path, survey: Survey, names: Mapping[str, str], by_system: Mapping[str, Part]) -> Iterator[str]:
    aliases = tables_of_codes.own_identifier_systems(survey)
    if names or aliases:
        yield "maps:"
    for system, name in names.items():
        yield f"  {name}:"
        part = by_system.get(system)
        if part is not None and "target_code" in part.columns:
            yield from _from_dictionary(part, _MAP_COLUMNS, ("system", "target_system"))
            continue
        file = f"codes/{name}.csv"
        tables_of_codes.write_codes(folder / file, survey, system)
        yield f"    file: {file}"
        if system:
            yield f"    constants: {{system: {quoted(system)}}}"
    if aliases:
        tables_of_codes.write_identifiers(folder / _IDENTIFIERS, survey)
        yield f"  identifier-systems: {{file: {_IDENTIFIERS}}}"


def _from_dictionary(part: Part, ours: Sequence[str], fixed: Sequence[str]) -> Iterator[str]:
    yield "    guess: true   # take this line away once the columns are checked; nothing is translated before"
    yield f"    file: {part.file}"
    if part.where:
        told = ", ".join(f"{quoted(k)}: {quoted(v)}" for k, v in part.where.items())
        yield f"    where: {{{told}}}   # GUESS: all codes seen stand in such rows"
    yield "    columns:"
    for name in ours:
        if name in part.columns:
            yield f"      {name}: {quoted(part.columns[name])}   # GUESS: {part.evidence[name]}"
    constants = {name: part.constants[name] for name in fixed if name in part.constants}
    if constants:
        yield "    constants:"
        for name, value in constants.items():
            mark = f"   # GUESS: {part.evidence[name]}" if name in part.evidence else ""
            yield f"      {name}: {quoted(value)}{mark}"


def _write_rules(folder: Path, survey: Survey, names: Mapping[str, str]) -> None:
    codes = [line for system, name in names.items() for line in _code_rules(folder.name, name, survey.codes[system])]
    if codes:
        (folder / "codes.yaml").write_text("\n".join(codes) + "\n", "utf-8")
    if survey.quantities:
        (folder / "units.yaml").write_text("\n".join(_unit_rules(folder.name, survey)) + "\n", "utf-8")
    if tables_of_codes.own_identifier_systems(survey) and survey.identified:
        types = ", ".join(sorted(survey.identified))
        text = (
            f"rule: {folder.name}/identifier-systems\nversion: 1\non: [{types}]\ndo:\n"
            "  - identifier: {path: identifier, systems: identifier-systems}\n"
            'why: "aliases of identifier systems that the hospital uses, to the one canonical"\n'
        )
        (folder / "identifiers.yaml").write_text(text, "utf-8")


def _code_rules(pack: str, name: str, codes: Mapping[str, CodeSeen]) -> Iterator[str]:
    """One rule a resource type that bears codes of the system."""
    paths: dict[str, set[str]] = {}
    for seen in codes.values():
        for place in seen.places:
            type_name, _, path = place.partition(".")
            paths.setdefault(type_name, set()).add(path)
    for type_name in sorted(paths):
        yield f"- rule: {pack}/{name}-of-{type_name}"
        yield "  version: 1"
        yield f"  on: {type_name}"
        yield "  do:"
        for path in sorted(paths[type_name]):
            yield f"    - translate: {{path: {path}, map: {name}, unmapped: keep-and-report}}"
        yield f'  why: "codes of the hospital\'s own ({name}) to standard ones; its own stay beside them"'
        yield ""


def _unit_rules(pack: str, survey: Survey) -> Iterator[str]:
    paths: dict[str, set[str]] = {}
    for type_name, path in survey.quantities:
        paths.setdefault(type_name, set()).add(path)
    for type_name in sorted(paths):
        yield f"- rule: {pack}/units-of-{type_name}"
        yield "  version: 1"
        yield f"  on: {type_name}"
        yield "  do:"
        for path in sorted(paths[type_name]):
            yield f"    - unit: {{path: {path}, table: measured}}"
        yield '  why: "units in house spelling to UCUM, and to the canonical unit where the table has a factor"'
        yield ""


def _described(seen: FileSeen, pack: str) -> Iterator[str]:
    type_name = type_of(seen)
    meanings = meanings_of(seen, type_name, f"https://{pack}.example.org")
    yield f"  {seen.name}:"
    yield "    guess: true   # take this line away once the columns are checked; no row is taken before"
    yield f"    file: {quoted(seen.file)}   # GUESS: from the sample's name; * stands for anything"
    yield f"    type: {type_name}   # GUESS"
    yield f"    delimiter: {'tab' if seen.dialect.delimiter == chr(9) else quoted(seen.dialect.delimiter)}"
    if seen.dialect.encoding != "utf-8":
        yield f"    encoding: {seen.dialect.encoding}   # GUESS: it is not UTF-8"
    if seen.empty:
        yield f"    empty: {json.dumps(list(seen.empty), ensure_ascii=False)}   # GUESS: words that mean nothing"
    ids = ", ".join(quoted(name) for name in id_of(seen, meanings, type_name))
    yield f"    id: [{ids}]   # GUESS: what tells one record from another, and the same when it is sent again"
    yield "    columns:"
    yield from _columns(meanings)
    yield from _ignored(meanings)
    if type_name == "Observation" and not any(m.keys.get("path") == "status" for m in meanings):
        yield "    constants:"
        yield "      status: final   # GUESS: the file has no status"


def _columns(meanings: Sequence[Meaning]) -> Iterator[str]:
    known = [m for m in meanings if m.keys]
    for meaning in known:
        name = quoted(meaning.column.name)
        if list(meaning.keys) == ["path"]:
            text = f"      {name}: {quoted(meaning.keys['path'])}"
        else:
            told = ", ".join(f"{key}: {_flow(value)}" for key, value in meaning.keys.items())
            text = f"      {name}: {{{told}}}"
        yield f"{text}   # GUESS" + (f": {meaning.note}" if meaning.note else "")
    if not known:
        yield "      # GUESS: nothing; write COLUMN: element, such as 'Name: name.family'"
        yield f"      {quoted(meanings[0].column.name)}: identifier.value   # GUESS"


def _ignored(meanings: Sequence[Meaning]) -> Iterator[str]:
    lost = [m.column.name for m in meanings if not m.keys and not m.note]
    if lost:
        names = ", ".join(map(quoted, lost))
        several = "; where each is a measurement, 'spread' them (docs/csv.md)" if len(lost) >= _WIDE else ""
        yield f"    # GUESS: no idea what these are: {names}. Give them an element, or 'ignore' them{several}."


def _flow(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)}: {quoted(v)}" for k, v in value.items()) + "}"
    return quoted(value)
