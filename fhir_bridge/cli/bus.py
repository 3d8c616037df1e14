"""``bus``: partitions that stand still because the broker lost what they should read next."""

from __future__ import annotations

from typing import Annotated

import typer

from fhir_bridge.cli import screen, service
from fhir_bridge.cli.options import AsJson, Data, data_directory

app = typer.Typer(help="What the bus holds back.", rich_markup_mode=None)


@app.command("halted")
def list_halted(data: Data = None, as_json: AsJson = False) -> None:
    """List partitions whose next message the broker no longer holds. They are not read on until you say so."""
    rows = service.get(data_directory(data), "/bus/halted")
    screen.print_rows(rows, ("stream", "partition", "offset"), as_json=as_json, empty="no partition is halted")


@app.command("go-on")
def go_on(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="As 'bus halted' names it.")],
    partition: Annotated[int, typer.Argument(metavar="PARTITION", help="Its number.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Read a halted partition on with the oldest message that is still there; what is gone must be sent again."""
    body = {"stream": stream, "partition": partition}
    answer = service.post(data_directory(data), "/bus/go-on", body)
    if as_json:
        screen.print_json(answer)
    else:
        print(f"{stream} partition {partition}: stood before {answer['stood']}, read on from {answer['offset']}")
