"""``make bench``: measure the main paths of a real service, then the ledger alone; print a table, keep it as JSON.

``python -m tests.bench.run [--quick] [--only ingest,http,...] [--out FILE]``. Nothing here judges: the
aims stand beside the figures, and docs/performance.md says what they were on which machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

from tests.bench import (
    asking,
    consent,
    crowd,
    enforcement,
    feeding,
    fhirpath,
    hapi,
    hapi_ingest,
    ingest_growth,
    large_chart,
    large_transaction,
    ledger,
    map_tools,
    opened_rows,
    rooms,
    rules,
    timing,
    versions,
)
from tests.bench.feeding import Figures
from tests.bench.gauge import machine

_SHARE_OF_RATE = 0.5
_AIMS = {
    "ingest_spool.resources_per_s": "1,500 or more on two cores",
    "everything_1000.p50_ms": "50",
    "everything_3000.p50_ms": "150",
    "large_chart_newest_50.p50_ms": "50, warm",
    **consent.AIMS,
    **enforcement.AIMS,
    **crowd.AIMS,
    **hapi_ingest.AIMS,
    **ledger.AIMS,
    **fhirpath.AIMS,
    **rooms.AIMS,
    **rules.AIMS,
    **map_tools.AIMS,
    **large_transaction.AIMS,
}
_PARTS = (
    "ingest",
    "http",
    "kafka",
    "visible",
    "post",
    "sync",
    "answers",
    "hapi",
    "hapi-ingest",
    "rooms",
    "validators",
    "fhirpath",
    "rules",
    "versions",
    "map-tools",
    "workers",
    "size",
    "consent",
    "enforcement",
    "crowd",
    "timing",
    "large",
    "large-transaction",
    "opened-rows",
    *(f"ledger-{name}" for name in ledger.PARTS),
)


def main() -> int:
    """Run what was asked for."""
    options = _options()
    parts = options.only.split(",") if options.only else _PARTS
    results: dict[str, Figures] = {}
    before = machine()
    _print({"machine": before})
    for name, measure in _plan(options.quick, results).items():
        if name in parts:
            print(f"\nmeasuring {name} ...", file=sys.stderr, flush=True)
            measured = measure()
            _print(measured)
            results |= measured
            _save(Path(options.out), {"machine": before, "after": _state(), "quick": options.quick, **results})
    if options.images:
        print("\n".join(f"plot: {path}" for path in ingest_growth.draw(results, Path(options.images))))
    print(f"\nfigures as JSON: {options.out}")
    return 0


def _plan(quick: bool, results: Mapping[str, Figures]) -> dict[str, Callable[[], dict[str, Figures]]]:
    limit, runs, rounds = (200, 1, 15) if quick else (None, 3, 60)
    return {
        "ingest": lambda: {"ingest_spool": middle([feeding.by_spool(limit) for _ in range(runs)])},
        "http": lambda: {"ingest_http": feeding.by_http(limit)},
        "kafka": lambda: {"ingest_kafka": middle([feeding.by_kafka(limit) for _ in range(runs)])},
        "visible": lambda: {"arrival_to_visible": feeding.at_a_rate(_half(results), 200 if quick else 500)},
        "post": lambda: {"single_post": feeding.single_posts(rounds * 3)},
        "sync": lambda: {"sync_calls": feeding.sync_counts(200)},
        "answers": lambda: asking.answers(rounds),
        "hapi": lambda: hapi.beside_hapi(rounds),
        "hapi-ingest": lambda: hapi_ingest.ingest_beside_hapi(1 if quick else 5, 4 if quick else 32),
        "rooms": lambda: rooms.rooms(4 if quick else 24),
        "validators": lambda: rooms.validators(3 if quick else 15),
        "fhirpath": lambda: fhirpath.fhirpath(3 if quick else 9),
        "rules": lambda: rules.rules(6 if quick else 24, 3 if quick else 9),
        "versions": lambda: versions.versions(10 if quick else 40, 3 if quick else 9, 2 if quick else 6),
        "map-tools": lambda: map_tools.map_tools(3 if quick else 9, 8 if quick else 20),
        "workers": lambda: ingest_growth.by_workers(1 if quick else 5),
        "size": lambda: ingest_growth.by_size((10_000,) if quick else ingest_growth.SIZES),
        "consent": consent.decisions,
        "enforcement": lambda: enforcement.enforcement(rounds),
        "crowd": lambda: crowd.crowd(rounds, 8 if quick else crowd.TIMES),
        "timing": lambda: timing.measure(1_000 if quick else timing.PAIRS),
        "large-transaction": lambda: (
            large_transaction.large_transaction(20 if quick else 100)
            | large_transaction.large_documents(20 if quick else 45)
            | large_transaction.large_import(20 if quick else 100)
        ),
        "opened-rows": lambda: opened_rows.opened_rows(2 if quick else 14),
        "large": lambda: large_chart.large_chart(5_000 if quick else large_chart.RECORDS, rounds),
    } | {f"ledger-{name}": measure for name, measure in ledger.plan(quick).items()}


def middle(runs: Sequence[Figures]) -> Figures:
    """Return the run whose rate is the median, with the rates of all."""
    wanted = median(run["resources_per_s"] for run in runs)  # type: ignore[type-var]
    chosen = next(run for run in runs if run["resources_per_s"] == wanted)
    return chosen | {"rates_of_all_runs": ", ".join(str(run["resources_per_s"]) for run in runs)}


def _state() -> dict[str, object]:
    """Return what tells whether the machine was left alone: load and speed at the end."""
    now = machine()
    return {name: now[name] for name in ("load_average", "loop_ms")}


def _half(results: Mapping[str, Figures]) -> float:
    """Return half of the rate just measured, or 500 resources/s if that part was left out."""
    measured = results.get("ingest_spool", {}).get("resources_per_s")
    return float(measured) * _SHARE_OF_RATE if measured else 500.0


def _save(path: Path, report: Mapping[str, object]) -> None:
    """Write after every part, so that a part that fails takes nothing with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


def _print(report: Mapping[str, object]) -> None:
    for part, figures in report.items():
        if not isinstance(figures, dict):
            continue
        print(f"\n{part}")
        for name, value in figures.items():
            aim = _AIMS.get(f"{part}.{name}")
            print(f"  {name:36}{_shown(value):>14}" + (f"   aim: {aim}" if aim else ""), flush=True)


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure the main paths of a real service.")
    parser.add_argument("--quick", action="store_true", help="one small run of each, about two minutes")
    parser.add_argument("--only", default="", help="comma-separated: " + ", ".join(_PARTS))
    parser.add_argument("--images", default="", help="folder for plots of workers and size; none by default")
    parser.add_argument("--out", default=".build/bench.json", help="where the JSON goes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
