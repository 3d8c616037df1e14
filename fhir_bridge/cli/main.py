"""Entry point of the command line: the list of commands, and how every one of them ends.

Invariants:
    * this module and the command modules import nothing heavy at the top, so ``--help`` stays instant;
    * whatever goes wrong leaves one line on standard error and a non-zero exit code.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from fhir_bridge import __version__
from fhir_bridge.cli import (
    bus,
    consent,
    decision,
    demo_command,
    guardians,
    institutions,
    keys,
    labels,
    ledger,
    letters,
    maps,
    patients,
    persons,
    rules,
    serving,
    signed,
    tokens,
    upkeep,
)
from fhir_bridge.cli.failing import SETUP, report
from fhir_bridge.cli.ingest import ingest

_GC_THRESHOLDS = (50_000, 20, 50)

app = typer.Typer(
    name="fhir-bridge",
    help="Hospitals push FHIR, patients decide, clinicians read one timeline, anyone can check the evidence.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(SETUP)


app.command()(demo_command.demo)
app.command()(serving.serve)
app.command()(serving.status)
app.add_typer(institutions.app, name="institution")
app.add_typer(patients.patient, name="patient")
app.add_typer(persons.person, name="person")
app.add_typer(guardians.app, name="guardian")
app.add_typer(consent.app, name="consent")
app.add_typer(decision.app, name="decision")
app.command()(tokens.token)
app.command()(ingest)
app.add_typer(maps.app, name="map")
app.add_typer(rules.app, name="rules")
app.add_typer(labels.app, name="labels")
app.add_typer(keys.app, name="keys")
app.add_typer(letters.app, name="dead-letters")
app.add_typer(signed.app, name="signed")
app.add_typer(bus.app, name="bus")
app.command()(ledger.verify)
app.add_typer(ledger.app, name="ledger")
app.command()(upkeep.fsck)
app.command()(upkeep.reindex)
app.command()(upkeep.backup)
app.command()(upkeep.restore)
app.command()(upkeep.migrate)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        code = _needed(given)(args=given, prog_name="fhir-bridge", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        print("error: " + " ".join(error.format_message().split()) + " (see --help)", file=sys.stderr)
        return SETUP
    except SystemExit as ended:
        # Typer's own way of saying that the reader of a pipe (`| head`) has gone.
        return ended.code if isinstance(ended.code, int) else SETUP
    except BaseException as error:  # noqa: BLE001 - the last line of defence turns everything into one line
        return report(error)
    return code if isinstance(code, int) else 0


def _needed(arguments: Sequence[str]) -> typer.Typer:
    """The whole list of commands, or the one group that is called: building all takes a tenth of a short command."""
    groups = [group for group in app.registered_groups if arguments and group.name == arguments[0]]
    if not groups:
        return app
    one = typer.Typer(name="fhir-bridge", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    one.registered_callback = app.registered_callback
    one.registered_groups = groups
    return one


def run() -> None:
    """Run the command that was typed and end the process with its exit code."""
    # Modules and definitions are loaded to stay: with the defaults the collector walked through them again and again,
    # a seventh of what the start of a service took (2026-11).
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.exit(main())


if __name__ == "__main__":
    run()
