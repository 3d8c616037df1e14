"""The README of a new pack: what was seen, what was guessed, and what is to do, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fhir_bridge.fhir.code_systems import is_standard
from fhir_bridge.mapping_tools.newpack.csv_sample import FileSeen
from fhir_bridge.mapping_tools.newpack.dictionaries import Part
from fhir_bridge.mapping_tools.newpack.survey import Survey
from fhir_bridge.mapping_tools.newpack.writing import map_names
from fhir_bridge.mapping_tools.unit_guesses import guess_ucum
from fhir_bridge.normalize import remaining_guesses

_SHOWN = 20
_GUESSES = (
    "Every guess that is left is marked: `guess: true` (a table or file that is not used), `# GUESS` (a line "
    "to look at), the column `guess` of a table (a candidate beside an empty target). Nothing guessed is "
    "applied."
)


def write_readme(folder: Path, survey: Survey | None, files: Sequence[FileSeen], parts: Sequence[Part]) -> None:
    """Write README.md into a pack that is otherwise complete."""
    lines = [f"# {folder.name}", ""]
    if survey is not None:
        lines += _seen(survey)
    for seen in files:
        lines += _file_seen(seen)
    lines += ["", "## To do", ""]
    lines += [f"{n}. {text}" for n, text in enumerate(_to_do(folder, survey, files, parts), 1)]
    lines += [
        "",
        "Every guess that is left is marked: `guess: true` (a table or file that is not used), `# GUESS` (a line to",
    ]
    lines += [
        "look at), the column `guess` of a table (a candidate beside an empty target). Nothing guessed is applied."
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", "utf-8")


def _seen(survey: Survey) -> Iterator[str]:
    where = f"{survey.messages} FHIR messages" if survey.messages else "the rows"
    yield f"## Seen in {where}: {survey.types.total()} records, {survey.release}"
    yield ""
    yield "| records | |"
    yield "| --- | --- |"
    yield from (f"| {name} | {count} |" for name, count in survey.types.most_common())
    yield ""
    yield "| code system | codes | used | whose |"
    yield "| --- | --- | --- | --- |"
    for system, codes in sorted(survey.codes.items(), key=lambda pair: pair[0]):
        used = sum(seen.count for seen in codes.values())
        if used:
            whose = "a standard's" if is_standard(system) else "**the hospital's own**"
            yield f"| {system or '(none)'} | {len(codes)} | {used} | {whose} |"
    if survey.units or survey.coded_units:
        yield ""
        yield "| unit | used | UCUM |"
        yield "| --- | --- | --- |"
        yield from (f"| `{u}` | {n} | {_about(u)} |" for u, n in survey.units.most_common(_SHOWN))
        if len(survey.units) > _SHOWN:
            yield f"| … {len(survey.units) - _SHOWN} more | | codes/unit-spellings.csv has all |"
        if survey.coded_units:
            used = survey.coded_units.total()
            yield f"| {len(survey.coded_units)} units with a code | {used} | stated by the sender |"
    yield ""
    yield f"Identifier systems: {_listed(dict(survey.identifiers))}."
    yield f"Offsets of times: {_listed(dict(survey.offsets))}. Bases of absolute URLs: {_listed(dict(survey.bases))}."
    for reason, count in survey.refused.most_common(_SHOWN):
        yield f"Not surveyed: {count} × {reason}."


def _about(unit: str) -> str:
    guess = guess_ucum(unit)
    return "no idea" if not guess else "as written" if guess == unit else f"`{guess}`, a guess"


def _file_seen(seen: FileSeen) -> Iterator[str]:
    yield f"## Seen in {seen.file}: {seen.rows} rows, {len(seen.columns)} columns, {seen.dialect.encoding}"
    yield ""
    yield "| column | filled | different | looks like |"
    yield "| --- | --- | --- | --- |"
    for c in seen.columns:
        looks = f"date, {c.date.replace('|', ' or ')}" if c.date else "number" if c.is_number else ""
        looks = looks or (f"list of {len(c.words)} words" if c.words else "text")
        yield f"| {c.name} | {c.filled} | {c.distinct} | {looks} |"
    if seen.faults:
        yield f"\n{seen.faults} rows do not fit the header and will be refused."
    yield ""


_UNITS = (
    "Units: in `codes/unit-spellings.csv` move what is right from `guess` to `ucum`. Where a value must be "
    "converted, the table `measured` of source.yaml needs `canonical`, `factor` and `offset` (local = "
    "canonical × factor + offset). Try one value by hand: the wrong way round is the usual mistake."
)
_IDENTIFIERS = (
    "Identifiers: give aliases in `codes/identifier-systems.csv` the canonical system in `target_code`; leave "
    "empty what is canonical already."
)
_FILE = (
    "`{file}`: check type, `id` and each column under `csv: {name}:` in source.yaml, then take the line "
    "`guess: true` away. The id must be the same when a row is sent again."
)
_MARKS = "Look at each line marked `# GUESS` in source.yaml; take the mark away once it is right."
_EXAMPLES = (
    "Examples: they were made of records of the sample. Names, addresses, numbers, ids, days of dates and "
    "free text were replaced and lists cut; codes, units and values were kept: look through them all the "
    "same. They show what the pack does as it was started. Write into each `expected.json` what must come of "
    "it, from the dictionary."
)


def _to_do(folder: Path, survey: Survey | None, files: Sequence[FileSeen], parts: Sequence[Part]) -> Iterator[str]:
    if survey is not None:
        by_system = {part.system: part for part in parts}
        for system, name in map_names(survey).items():
            yield _about_codes(name, system, by_system.get(system))
        if survey.units:
            yield _UNITS
        if (folder / "codes" / "identifier-systems.csv").is_file():
            yield _IDENTIFIERS
    for seen in files:
        yield _FILE.format(file=seen.file, name=seen.name)
    yield _MARKS
    yield _EXAMPLES
    left = len(remaining_guesses(folder))
    yield (
        f"`fhir-bridge map test {folder.name}` and `fhir-bridge map lint {folder.name}`, which lists the guesses "
        f"that are left ({left} now); then docs/new-hospital.md."
    )


def _about_codes(name: str, system: str, part: Part | None) -> str:
    told = f"Codes of `{system or 'no system'}`"
    if part is None or "target_code" not in part.columns:
        fill = f"fill `target_system` and `target_code` in `codes/{name}.csv`"
        return f"{told}: {fill}; leave empty what nobody can say."
    check = f"check the dictionary's columns under `maps: {name}:`, then take its `guess: true` away."
    missing = f" {len(part.missing)} codes of the sample are not in it: they are kept and reported."
    return f"{told}: {check}{missing if part.missing else ''}"


def _listed(counts: dict[str, int]) -> str:
    return (
        ", ".join(f"{name} ({count})" for name, count in sorted(counts.items(), key=lambda p: -p[1])[:_SHOWN])
        or "none"
    )
