"""``map new``: start a pack from a sample of what a hospital sends. What it cannot know it guesses, and marks.

Invariants:
    * a folder that holds something is never written into;
    * the pack it leaves behind loads, and its examples pass.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhir_bridge.cli import csv_files, messages, screen
from fhir_bridge.cli.csv_files import Format
from fhir_bridge.cli.failing import FAILED, SETUP, Failure
from fhir_bridge.cli.options import AsJson

if TYPE_CHECKING:
    from fhir_bridge.mapping_tools.newpack.csv_sample import FileSeen
    from fhir_bridge.mapping_tools.newpack.examples_of import Chooser
    from fhir_bridge.mapping_tools.newpack.survey import Survey

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


def new(
    folder: Annotated[Path, typer.Argument(help="Folder to make; its name is the institution's.")],
    samples: Annotated[
        list[Path], typer.Option("--from", help="What the hospital sends: JSON, NDJSON or CSV, also .gz. Repeatable.")
    ],
    dictionary: Annotated[
        list[Path] | None,
        typer.Option("--dictionary", help="Table of the hospital's codes, under any names of columns. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a rule pack: survey a sample, write rules, tables and examples, and mark every guess.

    Nothing of the sample is sent anywhere. Examples are scrubbed of names, addresses, numbers and free text.
    """
    _check(folder, samples)
    try:
        told = _make(folder, samples, dictionary or [])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if as_json:
        screen.print_json(told)
    else:
        _tell(folder, told)


def _check(folder: Path, samples: Sequence[Path]) -> None:
    if not _NAME.fullmatch(folder.name):
        problem = "the folder's name becomes the institution's: 1 to 40 of a-z, 0-9 and '-', a letter first"
        raise Failure(f"{folder.name!r} will not do; {problem}", exit_code=SETUP)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Failure(f"{folder} is there already; give a folder that is not, or is empty", exit_code=SETUP)
    for sample in samples:
        if not sample.is_file():
            raise Failure(f"{sample} is not a file", exit_code=SETUP)


def _make(folder: Path, samples: Sequence[Path], dictionary_files: Sequence[Path]) -> dict[str, Any]:
    from fhir_bridge.mapping_tools.newpack import csv_sample, dictionaries, examples_of, readme, writing
    from fhir_bridge.normalize import remaining_guesses, run_examples

    tables = [sample for sample in samples if csv_files.is_csv(sample.name, Format.AUTO)]
    files = [csv_sample.look_at(sample) for sample in tables]
    if len({seen.name for seen in files}) < len(files):
        raise Failure("two of the CSV samples have the same name: give one of each kind", exit_code=SETUP)
    chooser = examples_of.Chooser()
    rest = [sample for sample in samples if sample not in tables]
    survey = _surveyed(rest, chooser) if rest else None
    handed_over = dictionaries.read_dictionaries(dictionary_files)
    if files:
        survey = _with_rows(survey, folder, tables, files)
    parts = dictionaries.parts_of(handed_over, survey) if survey is not None else []
    writing.write_pack(folder, survey, files, handed_over, parts)
    if rest and survey is not None:
        examples_of.write_examples(folder, survey, chooser.chosen)
    for seen in files:
        examples_of.write_row_example(folder, seen)
    readme.write_readme(folder, survey, files, parts)
    examples = run_examples(folder)
    wrong = [each for each in examples if not each.passed]
    if wrong:
        raise Failure(f"the new pack's example {wrong[0].name} fails ({wrong[0].differences[0]}): please report this")
    return _told(survey, files, parts, len(examples), len(remaining_guesses(folder)), bool(handed_over))


def _surveyed(samples: Sequence[Path], chooser: Chooser) -> Survey:
    """Read the samples twice: for the release, then for everything else."""
    from fhir_bridge.errors import RecordRefused
    from fhir_bridge.mapping_tools.newpack import survey as surveying
    from fhir_bridge.normalize import load_ruleset, packaged_core

    found = surveying.Survey()
    unread = 0
    sent: list[tuple[dict[str, Any], str]] = []
    for sample in samples:
        with messages.opened(str(sample)) as (each, _):
            for message in each:
                found.messages += 1
                try:
                    sent += surveying.resources_in(message)
                except RecordRefused:
                    unread += 1
    if not sent:
        raise Failure(f"no FHIR resource in {samples[0]} (JSON, one document a file or one a line)", exit_code=FAILED)
    found.release = surveying.release_of(resource for resource, _ in sent)
    found.refused["a message that is not strict JSON"] += unread
    found.refused = +found.refused
    core = load_ruleset(packaged_core())
    for resource, full_url in sent:
        body = surveying.take(found, resource, full_url, core)
        if body is not None:
            chooser.look(resource, body)
    return found


def _with_rows(survey: Survey | None, folder: Path, samples: Sequence[Path], files: Sequence[FileSeen]) -> Survey:
    """Count the codes and units of CSV rows too, read as their guessed description has it."""
    from fhir_bridge.mapping_tools.newpack import survey as surveying
    from fhir_bridge.mapping_tools.newpack import writing
    from fhir_bridge.normalize import load_ruleset, packaged_core

    found = survey or surveying.Survey()
    # These would only tell of the guesses themselves.
    kept = (+found.offsets, +found.bases, +found.identifiers, +found.identified)
    writing.write_pack(folder, None, files, [], [])
    format_of_pack, core = csv_files.format_in(folder).unguessed(), load_ruleset(packaged_core())
    for sample in samples:
        for piece, content_type in csv_files.cut(str(sample), format_of_pack):
            for drawn in format_of_pack.read(piece, content_type, csv_files.ROWS):
                if drawn.resource is not None:
                    surveying.take(found, drawn.resource, "", core)
                else:
                    found.refused[f"{sample.name}: a row that does not fit the guesses"] += 1
    found.offsets, found.bases, found.identifiers, found.identified = kept
    shutil.rmtree(folder)
    return found


def _told(
    survey: Survey | None,
    files: Sequence[Any],
    parts: Sequence[Any],
    examples: int,
    guesses: int,
    has_dictionary: bool,
) -> dict[str, Any]:
    told: dict[str, Any] = {"guesses": guesses, "examples": examples}
    if survey is not None:
        told |= {
            "fhir_version": survey.release.value,
            "messages": survey.messages,
            "records": dict(survey.types.most_common()),
            "own_code_systems": {s: sum(1 for c in survey.codes[s].values() if c.count) for s in survey.own_systems},
            "units_without_code": len(survey.units),
            "identifier_systems": dict(survey.identifiers),
            "offsets": dict(survey.offsets),
            "not_surveyed": dict(survey.refused),
        }
    if has_dictionary:
        told["missing_in_dictionary"] = {part.system: list(part.missing) for part in parts}
    if files:
        told["csv"] = {seen.file: {"rows": seen.rows, "columns": len(seen.columns)} for seen in files}
    return told


def _tell(folder: Path, told: dict[str, Any]) -> None:
    if "records" in told:
        records, types = sum(told["records"].values()), len(told["records"])
        print(f"{told['messages']} FHIR messages; {records} records of {types} types, {told['fhir_version']}")
        for system, codes in told["own_code_systems"].items():
            print(f"  own codes: {codes} of {system or '(no system)'}")
        print(f"  units without a code: {told['units_without_code']} spellings")
        for reason, count in told["not_surveyed"].items():
            print(f"  not surveyed: {count} x {reason}")
    if told.get("offsets", {}).get("none"):
        count = told["offsets"]["none"]
        print(f"  times without an offset: {count}; refused until source.yaml's 'time_zone' says whose")
    for system, missing in told.get("missing_in_dictionary", {}).items():
        print(f"  in the feed and not in the dictionary: {len(missing)} codes of {system or '(no system)'}")
    for name, seen in told.get("csv", {}).items():
        print(f"{name}: {seen['rows']} rows, {seen['columns']} columns")
    print(f"{folder} loads; {told['examples']} examples pass")
    print(f"{told['guesses']} guesses to confirm: see {folder}/README.md")
