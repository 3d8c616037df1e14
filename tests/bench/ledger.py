"""``python -m tests.bench.ledger``: measure the ledger beside other people's; a part of ``make bench``.

``[--quick] [--scale 10000,100000,1000000] [--only groups,peers,...] [--out FILE] [--images FOLDER]``. Progress
goes to standard error. Nothing here judges: the aims stand beside the figures, and docs/ledger-performance.md says
what they were on which machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.gauge import loop_ms
from tests.bench.ledger_growth import draw, growth
from tests.bench.ledger_parts import Figures, anchored, grouped, state_tree
from tests.bench.ledger_peers import beside

AIMS: Final = {
    "ledger_groups.tx_per_s": "10,000 or more",
    "ledger_single.p50_ms": "5",
    "single_writer.times_immudb_single_default": "2",
    "single_writer.times_tessera_single": "2",
    "ledger_anchored.leaves_per_s": "250,000 or more",
    "growth_1000000.log.cached_per_s": "50,000 or more",
    "growth_1000000.log.cold_per_s": "3,000 or more",
    "growth_1000000.restart_s": "15",
    "ledger_state.updates_per_s": "10,000 or more",
    "ledger_state.proofs_per_s": "30,000 or more",
}
PARTS: Final = ("groups", "anchored", "state", "peers", "growth")
_SCALE: Final = (10_000, 100_000, 1_000_000)
_QUICK_SCALE: Final = (2_000, 10_000)


def main() -> int:
    """Run what was asked for."""
    options = _options()
    scale = tuple(int(size) for size in options.scale.split(",")) if options.scale else ()
    wanted = options.only.split(",") if options.only else PARTS
    results: dict[str, Figures] = {"machine": machine()}
    show(results)
    for name, measure in plan(options.quick, scale).items():
        if name in wanted:
            print(f"\nmeasuring {name} ...", file=sys.stderr, flush=True)
            measured = measure()
            show(measured)
            results |= measured
            _save(Path(options.out), results)
    if options.images and "growth" in wanted:
        print("\n".join(f"plot: {path}" for path in draw(results, Path(options.images))))
    print(f"\nfigures as JSON: {options.out}")
    return 0


def plan(is_quick: bool, scale: tuple[int, ...] = ()) -> dict[str, Callable[[], dict[str, Figures]]]:
    """Return the parts by name; the long run fills a million transactions and takes some minutes."""
    sizes = scale or (_QUICK_SCALE if is_quick else _SCALE)
    count, rounds = (5_000, 500) if is_quick else (50_000, 3_000)
    runs = 1 if is_quick else 3
    return {
        "groups": lambda: {"ledger_groups": _middle([grouped(count) for _ in range(runs)])},
        "anchored": lambda: {"ledger_anchored": anchored(100_000 if is_quick else 2_000_000, 4_096)},
        "state": lambda: {"ledger_state": state_tree(20_000 if is_quick else 1_000_000, 10 * rounds)},
        "peers": lambda: beside(rounds // 5, count, runs),
        "growth": lambda: growth(sizes, rounds),
    }


def machine() -> Figures:
    """Describe what bears on the figures; ``loop_ms`` is a fixed piece of work, to compare runs by."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_average": ", ".join(str(round(load, 1)) for load in os.getloadavg()),
        "loop_ms": loop_ms(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "durability": "SQLite WAL, synchronous=FULL",
    }


def show(report: Mapping[str, Figures], aims: Mapping[str, str] = AIMS) -> None:
    """Print figures as a table, each beside its aim."""
    for part, figures in report.items():
        print(f"\n{part}")
        for name, value in figures.items():
            shown = f"{value:,}" if isinstance(value, int | float) else str(value)
            aim = aims.get(f"{part}.{name}")
            print(f"  {name:36}{shown:>14}" + (f"   aim: {aim}" if aim else ""), flush=True)


def _middle(runs: list[Figures]) -> Figures:
    wanted = median(float(run["tx_per_s"] or 0) for run in runs)
    chosen = next(run for run in runs if float(run["tx_per_s"] or 0) == wanted)
    return chosen | {"rates_of_all_runs": ", ".join(str(run["tx_per_s"]) for run in runs)}


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _save(path: Path, report: Mapping[str, Figures]) -> None:
    """Write after every part, so that a part that fails takes nothing with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ledger", description="Measure the ledger.")
    parser.add_argument("--quick", action="store_true", help="small sizes, about a minute")
    parser.add_argument("--scale", default="", help="comma-separated sizes for growth, such as 10000,100000,1000000")
    parser.add_argument("--only", default="", help="comma-separated: " + ", ".join(PARTS))
    parser.add_argument("--out", default=".build/bench-ledger.json", help="where the JSON goes")
    parser.add_argument("--images", default="", help="folder for the growth plots; none by default")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
