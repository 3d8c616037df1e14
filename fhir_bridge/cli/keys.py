"""``keys``: wrap the data keys under new key-encryption keys."""

from __future__ import annotations

from typing import Annotated

import typer

from fhir_bridge.cli import screen, service
from fhir_bridge.cli.options import AsJson, Data, data_directory

app = typer.Typer(help="Change the keys that wrap all others.", no_args_is_help=True)


@app.callback()
def _keys() -> None:
    pass


@app.command()
def rotate(
    institution: Annotated[str | None, typer.Option("--institution", help="Only this institution's keys.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Wrap every key under a new key-encryption key, while the service goes on. Safe to break off and to repeat."""
    chosen = {} if institution is None else {"institution": institution}
    rotated = service.post(data_directory(data), "/keys/rotate", chosen)
    screen.print_rows(rotated, ("institution", "old_epoch", "new_epoch"), as_json=as_json, empty="nothing to rotate")
