"""``map import-map`` and ``map export-map``: code maps between tables and FHIR ConceptMap."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fhir_bridge.cli import screen
from fhir_bridge.cli.failing import SETUP, Failure
from fhir_bridge.cli.options import AsJson


def install(app: typer.Typer) -> None:
    """Add the commands to ``map``."""
    app.command("import-map")(import_map)
    app.command("export-map")(export_map)


def import_map(
    file: Annotated[Path, typer.Argument(help="A ConceptMap of R4, as JSON.")],
    to: Annotated[Path, typer.Option("--to", help="The table to write, such as PACK/codes/labs.csv.")],
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a table of a ConceptMap; print what to write into source.yaml. Exit code 1 if a table cannot hold it."""
    from fhir_bridge.normalize.concept_maps import NoConceptMap
    from fhir_bridge.normalize.map_exchange import imported

    if to.exists() and not force:
        raise Failure(f"{to} is there already (--force writes over it)", exit_code=SETUP)
    try:
        table = imported(to.stem, file.read_bytes())
    except NoConceptMap as error:
        raise Failure(f"{file}: {error}") from error
    to.write_text(table.csv, encoding="utf-8")
    pack = next((each for each in to.absolute().parents if (each / "source.yaml").is_file()), None)
    at = to.absolute().relative_to(pack).as_posix() if pack is not None else f"codes/{to.name}"
    if as_json:
        screen.print_json({"table": str(to), "rows": table.rows, "file": at, "url": table.url})
        return
    print(f"maps:\n  {to.stem}:\n    file: {at}" + (f"\n    url: {table.url}" if table.url else ""))
    screen.remark(f"{table.rows} rows in {to}; the lines above belong into source.yaml")
    for name in table.left_out:
        screen.remark(f"a table has no place for the map's {name}: left out")


def export_map(
    pack: Annotated[Path, typer.Argument(help="Folder of the rule pack: it holds source.yaml.")],
    name: Annotated[str, typer.Argument(help="Name of the map under 'maps' in source.yaml.")],
    to: Annotated[Path | None, typer.Option("--to", help="Where to write it; standard output if absent.")] = None,
) -> None:
    """Print a code map of a pack as ConceptMap, valid R4. Exit code 1 if it cannot be one."""
    if not (pack / "source.yaml").is_file():
        raise Failure(f"{pack} is not a rule pack (it holds no source.yaml)", exit_code=SETUP)
    from fhir_bridge.normalize.concept_maps import NoConceptMap
    from fhir_bridge.normalize.map_exchange import NoSuchMap, exported

    try:
        made = exported(pack, name)
    except NoSuchMap as error:
        raise Failure(str(error), exit_code=SETUP) from error
    except NoConceptMap as error:
        raise Failure(f"map {name}: {error}") from error
    if to is None:
        sys.stdout.write(made)
    else:
        to.write_text(made, encoding="utf-8")
