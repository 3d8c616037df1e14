"""``serve`` and ``status``: run the service, ask it how it is."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from fhir_bridge.cli import screen, service
from fhir_bridge.cli.options import AsJson, Data, data_directory


def serve(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8080,
    kafka: Annotated[
        str | None,
        typer.Option(
            "--kafka",
            envvar="FHIR_BRIDGE_KAFKA",
            show_envvar=True,
            help="HOST:PORT of a broker, or kafkas://…; without it a spool.",
        ),
    ] = None,
    standby: Annotated[
        bool,
        typer.Option("--standby", help="Wait while another process serves the directory; take over when it ends."),
    ] = False,
    data: Data = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C."""
    directory = data_directory(data, may_be_new=True)
    from fhir_bridge.serving import serve as run_service

    _end(run_service(directory, port, kafka, standby=standby))


def _end(code: int) -> NoReturn:
    """End the process as it stands, everything closed: giving back a million opened index rows one by one took 12 s
    on a quiet machine and more than 90 on a busy one (2026-11), in which a supervisor may think that it hangs."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def status(data: Data = None, as_json: AsJson = False) -> None:
    """Tell how the service is: version, counters, ledger height."""
    found = service.get(data_directory(data), "/status")
    if as_json:
        screen.print_json(found)
        return
    rows = [{"what": name, "value": value} for name, value in _flat(found)]
    screen.print_rows(rows, ("what", "value"), as_json=False, empty="nothing to tell")


def _flat(found: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in found.items():
        rows += _flat(value) if isinstance(value, dict) else [(name, value)]
    return rows
