"""``map coverage``: what a pack does with a sample of a hospital's feed, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fhir_bridge.cli import screen
from fhir_bridge.cli.feeds import Pack, Samples, sampled
from fhir_bridge.cli.map_lint import refuse_no_pack
from fhir_bridge.cli.options import AsJson

if TYPE_CHECKING:
    from fhir_bridge.mapping_tools.coverage import Coverage

Html = Annotated[Path | None, typer.Option("--html", help="Write a report there: one file that needs no other.")]


def coverage(
    pack: Pack,
    samples: Samples,
    html: Html = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Rows of each table on the screen.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Count what a pack does with a sample.

    Elements consumed, carried, kept in extensions, dropped; rules that act and that never do; codes in no table.
    """
    refuse_no_pack(pack)
    from fhir_bridge.mapping_tools.coverage import as_json as as_document
    from fhir_bridge.mapping_tools.coverage import cover

    with sampled(samples, "reading") as (messages, count):
        found = cover(pack, messages, count)
    if html is not None:
        from fhir_bridge.mapping_tools.coverage_page import coverage_page
        from fhir_bridge.mapping_tools.html_page import written

        html.write_text(written(coverage_page(found)), "utf-8")
        screen.remark(f"wrote {html}")
    if as_json:
        screen.print_json(as_document(found))
    else:
        _tell(found, top)


def _tell(found: Coverage, top: int) -> None:
    _records(found)
    _values(found, top)
    _rules(found, top)
    gaps = found.vocabulary.by_volume()
    _table(
        "Not in any table",
        [[g.kind, g.value or "-", g.system or "-", next(iter(g.displays), "-"), g.count] for g in gaps],
        ("kind", "value", "system", "shown as", "times"),
        top,
    )
    _table(
        "Units",
        [[u or "-", c or "-", n] for (u, c), n in found.vocabulary.units.most_common()],
        ("unit", "code", "times"),
        top,
    )
    findings: list[list[str | int]] = [
        [kind, code, words, n] for (kind, code, words), n in found.findings.most_common()
    ]
    _table("Findings", findings, ("kind", "code", "finding", "times"), top)


def _records(found: Coverage) -> None:
    verdicts: Counter[str] = Counter()
    for (_type, verdict), count in found.records.items():
        verdicts[verdict] += count
    words = ", ".join(f"{count:,} {verdict}" for verdict, count in verdicts.most_common())
    print(
        screen.styled(f"{found.records.total():,} records of {found.messages:,} messages: {words or 'none'}", "bold")
    )


def _values(found: Coverage, top: int) -> None:
    from fhir_bridge.mapping_tools.fates import CARRIED, CONSUMED, DROPPED, EXTENSION, FATES, LOST

    totals: Counter[str] = Counter()
    for each in found.elements.values():
        totals += each.fates
    _table("Values", [[fate, totals[fate], FATES[fate]] for fate in FATES], ("fate", "values", ""), len(FATES))
    rows: list[list[str | int]] = [
        [fate, each.fates[fate], path, ", ".join(each.rules)]
        for path, each in found.elements.items()
        for fate in each.fates
        if fate != CARRIED
    ]
    order = [LOST, DROPPED, EXTENSION, CONSUMED]
    rows.sort(key=lambda row: (order.index(str(row[0])), -int(row[1]), row[2]))
    _table("Elements", rows, ("fate", "values", "element", "by"), top)
    _table("Read by nobody", [[path, n] for path, n in found.unknown.most_common()], ("element", "times"), top)


def _rules(found: Coverage, top: int) -> None:
    ordered = sorted(found.rules.items(), key=lambda item: -item[1].fired)
    _table("Rules", [[name, t.tried, t.fired] for name, t in ordered if t.fired], ("rule", "tried", "acted"), top)
    idle = [name for name, tally in ordered if not tally.fired and tally.tried]
    if idle:
        print(f"tried and never acted: {', '.join(idle)}")


def _table(title: str, rows: Sequence[Sequence[str | int]], head: tuple[str, ...], top: int) -> None:
    if not rows:
        return
    print(f"\n{screen.styled(title, 'bold')}")
    screen.print_aligned(rows[:top], head)
    if len(rows) > top:
        print(screen.styled(f"… {len(rows) - top:,} more (--top, --json, --html)", "dim"))
