"""``map bench``: how many records a second a pack takes, and which rules take the time."""

from __future__ import annotations

from typing import Annotated

import typer

from fhir_bridge.cli import screen
from fhir_bridge.cli.feeds import Pack, Samples, sampled
from fhir_bridge.cli.map_lint import refuse_no_pack
from fhir_bridge.cli.options import AsJson


def bench(
    pack: Pack,
    samples: Samples,
    top: Annotated[int, typer.Option("--top", min=1, help="Slowest rules to show.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Measure a pack on a sample.

    Records a second on one core, and the share of each step and rule. Nothing is stored.
    """
    refuse_no_pack(pack)
    from fhir_bridge.mapping_tools.benching import bench as measured

    with sampled(samples, "measuring") as (messages, count):
        speed = measured(pack, messages, count)
    in_rules = sum(tally.seconds for tally in speed.rules.values())
    rules = sorted(speed.rules.items(), key=lambda item: -item[1].seconds)
    if as_json:
        screen.print_json(
            {
                "records": speed.records,
                "seconds": speed.seconds,
                "records_per_second": speed.records / speed.seconds if speed.seconds else None,
                "steps": speed.steps,
                "rules": [
                    {"rule": name, "stage": t.stage, "tried": t.tried, "fired": t.fired, "seconds": t.seconds}
                    for name, t in rules
                ],
            }
        )
        return
    rate = speed.records / speed.seconds if speed.seconds else 0
    print(screen.styled(f"{rate:,.0f} records/s on one core ({speed.records:,} in {speed.seconds:.2f} s)", "bold"))
    steps = [[name, f"{seconds:.3f}", _share(seconds, speed.seconds)] for name, seconds in speed.steps.items()]
    screen.print_aligned(steps, ("step", "seconds", "share"))
    print()
    rows = [
        [name, t.stage, t.tried, f"{1e6 * t.seconds / t.tried:.1f}", f"{t.seconds:.3f}", _share(t.seconds, in_rules)]
        for name, t in rules[:top]
        if t.tried
    ]
    screen.print_aligned(rows, ("rule", "stage", "tried", "µs each", "seconds", "share of rules"))


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
