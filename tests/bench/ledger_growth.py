"""How cost grows with the ledger: the same figures at each size, from one ledger that is filled on.

At every size the ledger is closed and a fresh process opens it, so that the
time of a restart, the memory held and the first, uncached proofs are those of a
program that has just been started.

``python -m tests.bench.ledger_growth PATH KEYS ROUNDS`` is that process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pygal  # type: ignore[import-untyped]  # the package has no types
from pygal.style import Style  # type: ignore[import-untyped]  # the package has no types

from tests.bench.ledger_load import envelopes, fresh_folder, open_bench_ledger, prepare
from tests.bench.ledger_parts import Figures, append, disk_bytes, log_proofs, resident, single, state_proofs
from tests.peers.gotools import ROOT

_LIMIT_S: Final = 1200
_LAST: Final = 10_000
_STEP: Final = 50_000
_EXTRAS: Final = re.compile(r"<!--.*?-->|<script.*?</script>", re.DOTALL)
_STYLE: Final = Style(
    background="white", plot_background="white", opacity=".9", font_family="sans-serif",
    colors=("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#111111"),
)  # fmt: skip

RATES: Final = {
    "append_tx_per_s": "signed durable tx/s, in groups",
    "single.per_s": "single durable append with receipt/s",
    "log.cached_per_s": "inclusion proofs/s, cached",
    "log.cold_per_s": "inclusion proofs/s, cold",
    "state.with_checkpoint_per_s": "state proofs/s, with signed checkpoint",
}
COSTS: Final = {
    "restart_s": "restart, seconds",
    "single.p50_ms": "single append with receipt, p50 ms",
    "disk_bytes_per_tx": "disk, bytes/tx",
    "memory_bytes_per_tx": "memory, bytes/tx",
}


def growth(sizes: Sequence[int], rounds: int) -> dict[str, Figures]:
    """Return the figures at each size; adding to one ledger from size to size."""
    found: dict[str, Figures] = {}
    with fresh_folder() as folder:
        path = folder / "growing.db"
        with open_bench_ledger(path) as ledger:
            network = ledger.network
        prepare(network, max(sizes))
        at = 0
        for size in sorted(sizes):
            figures: Figures = {"append_tx_per_s": _fill(path, network, at, size)} | _probe(path, size, rounds)
            found[f"growth_{size}"], at = figures, size
            print(f"  {size:,} transactions: {figures['append_tx_per_s']:,} tx/s", file=sys.stderr, flush=True)
    return found


def _fill(path: Path, network: bytes, start: int, stop: int) -> int:
    """Fill up to ``stop`` and return the rate of the last transactions before it."""
    with open_bench_ledger(path) as ledger:
        for begin in range(start, stop - _LAST, _STEP):
            append(ledger, envelopes(network, begin, min(begin + _STEP, stop - _LAST)))
            print(f"\r  filled: {begin:,}", end="", file=sys.stderr, flush=True)
        last = list(envelopes(network, max(start, stop - _LAST), stop))
        began = time.perf_counter()
        append(ledger, iter(last))
        spent = time.perf_counter() - began
    print(file=sys.stderr)
    return round(len(last) / spent)


def _probe(path: Path, keys: int, rounds: int) -> Figures:
    command = [sys.executable, "-m", "tests.bench.ledger_growth", str(path), str(keys), str(rounds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"the probe failed: {done.stderr[-2000:]}")
    figures: Figures = json.loads(done.stdout)
    return figures


def probe(path: Path, keys: int, rounds: int) -> Figures:
    """Open the ledger as a fresh process does, and measure what it gives."""
    before, began = resident(), time.perf_counter()
    with open_bench_ledger(path) as ledger:
        restart, memory = time.perf_counter() - began, resident() - before
        figures: Figures = {"restart_s": round(restart, 2), "memory_mib": memory >> 20}
        figures["memory_bytes_per_tx"] = round(memory / keys)
        figures["disk_bytes_per_tx"] = round(disk_bytes(path) / keys)
        figures |= _under("state", state_proofs(ledger, keys, rounds))
        figures |= _under("single", single(ledger, max(20, rounds // 20)))
    return figures | _under("log", log_proofs(path, rounds))


def draw(found: Mapping[str, Figures], folder: Path) -> list[Path]:
    """Draw rates and costs over size, on logarithmic scales, as SVG without scripts."""
    sizes = {int(name.removeprefix("growth_")): figures for name, figures in found.items() if "growth_" in name}
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, title, wanted in (
        ("ledger-growth-rates", "What the ledger does in a second, by its size", RATES),
        ("ledger-growth-costs", "What the ledger costs, by its size", COSTS),
    ):
        chart = pygal.Line(
            title=title, x_title="transactions", logarithmic=True, js=(), no_prefix=True, style=_STYLE,
            width=900, height=520, legend_at_bottom=True, legend_at_bottom_columns=1, truncate_legend=-1,
        )  # fmt: skip
        chart.x_labels = [f"{size:,}" for size in sorted(sizes)]
        for figure, label in wanted.items():
            chart.add(label, [sizes[size].get(figure) for size in sorted(sizes)])
        target = folder / f"{name}.svg"
        target.write_text(_EXTRAS.sub("", chart.render(is_unicode=True)) + "\n", encoding="utf-8")
        drawn.append(target)
    return drawn


def _under(name: str, figures: Figures) -> Figures:
    return {f"{name}.{figure}": value for figure, value in figures.items()}


if __name__ == "__main__":
    print(json.dumps(probe(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
