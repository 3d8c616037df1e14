"""Options that several commands share, and what stands behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fhir_bridge.cli.failing import SETUP, Failure

Data = Annotated[
    Path | None,
    typer.Option("--data", envvar="FHIR_BRIDGE_DATA", show_envvar=True, help="The service's data directory."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
InstitutionName = Annotated[str, typer.Option("--institution", help="Name of a registered institution.")]


def data_directory(data: Path | None, *, may_be_new: bool = False) -> Path:
    """Return the data directory that a command works on.

    Raises:
        Failure: None was given, or it holds no data of the service.
    """
    if data is None:
        raise Failure("no data directory (give --data DIR or set FHIR_BRIDGE_DATA)", exit_code=SETUP)
    if not may_be_new and not (data / "VERSION").is_file():
        raise Failure(
            f"{data} holds no data of fhir-bridge (check --data, or start with 'fhir-bridge institution add')",
            exit_code=SETUP,
        )
    return data.absolute()
