"""``map unmapped``: the work-list of codes, units and identifier systems that no table knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhir_bridge.cli import screen
from fhir_bridge.cli.feeds import Pack, Samples, sampled
from fhir_bridge.cli.map_lint import refuse_no_pack
from fhir_bridge.cli.options import AsJson

if TYPE_CHECKING:
    from fhir_bridge.mapping_tools.unmapped import Guess, Work


def unmapped(
    pack: Pack,
    samples: Samples,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write tables to fill in there, a file for each table of the pack.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Rows on the screen.")] = 40,
    as_json: AsJson = False,
) -> None:
    """List the codes and units that no table knows.

    The most frequent first, identifier systems among them, with guesses. A guess is never applied.
    """
    refuse_no_pack(pack)
    from fhir_bridge.mapping_tools.unmapped import as_tables, work_list

    with sampled(samples, "reading") as (messages, count):
        work = work_list(pack, messages, count)
    if csv is not None:
        csv.mkdir(parents=True, exist_ok=True)
        for name, text in as_tables(pack, work).items():
            (csv / name).write_text(text, "utf-8")
            screen.remark(f"wrote {csv / name}")
    if as_json:
        screen.print_json([_row(each) for each in work])
    elif work:
        head = ("times", "kind", "value", "system", "shown as", "table", "perhaps (a guess)")
        screen.print_aligned([_cells(each) for each in work[:top]], head)
        if len(work) > top:
            print(screen.styled(f"… {len(work) - top:,} more (--top, --json, --csv)", "dim"))
    else:
        screen.remark("the tables know every code, unit and identifier system of the sample")


def _cells(work: Work) -> list[Any]:
    gap = work.gap
    return [
        gap.count,
        gap.kind,
        gap.value or "-",
        gap.system or "-",
        next(iter(gap.displays), "-"),
        work.table or "-",
        "; ".join(_words(each) for each in work.guesses) or "-",
    ]


def _words(guess: Guess) -> str:
    return f"{guess.code} {guess.display}".strip() + ("?" if guess.likeness == 1 else f" ({guess.likeness:.0%})?")


def _row(work: Work) -> dict[str, Any]:
    gap = work.gap
    return {
        "kind": gap.kind,
        "system": gap.system,
        "value": gap.value,
        "count": gap.count,
        "displays": dict(gap.displays),
        "path": gap.path,
        "first": gap.first,
        "table": work.table,
        "guesses": [
            {"system": g.system, "code": g.code, "display": g.display, "likeness": round(g.likeness, 3)}
            for g in work.guesses
        ],
    }
