"""Other ledgers on the same disk, in the same run: immudb embedded, Tessera on POSIX files, pymerkle.

None of them verifies a signature for each entry or keeps provable state; what
is compared is the price of making an append durable.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.bench.ledger_load import fresh_folder
from tests.bench.ledger_parts import Figures, single_alone
from tests.peers.gotools import IMMUDB, ROOT, TESSERA, GoMissing, build

_LIMIT_S: Final = 600
_ENTRY_BYTES: Final = 280
"""About what a signed transaction of the ledger takes."""
_PROGRAMS: Final = {"immudb": IMMUDB, "tessera": TESSERA}


def beside(singles: int, entries: int, runs: int) -> dict[str, Figures]:
    """Measure the ledger's single writer and each peer in turn, several times over; return each one's middle run.

    A peer that cannot be built is said to be missing.
    """
    own: list[Figures] = []
    peers: dict[str, list[Figures]] = {"immudb": [], "tessera": [], "pymerkle": []}
    for number in range(runs):
        print(f"  single writers side by side, round {number + 1} of {runs} ...", file=sys.stderr, flush=True)
        own.append(single_alone(singles))
        for name, measured in peers.items():
            measured.append(_peer(name, singles, entries))
    found = {"ledger_single": _middle(own, "per_s")}
    found |= {f"peer_{name}": _middle(measured, "single.per_s") for name, measured in peers.items()}
    return found | {"single_writer": _compared(found)}


def _peer(name: str, singles: int, entries: int) -> Figures:
    with fresh_folder() as folder:
        if name == "pymerkle":
            module = "tests.bench.peers.pymerkle_appends"
            return _flat(_run([sys.executable, "-m", module, str(folder), str(singles), str(entries)]))
        try:
            program = build(_PROGRAMS[name])
        except GoMissing as missing:
            return {"not_measured": str(missing)}
        sizes = {"-singles": singles, "-entries": entries, "-size": _ENTRY_BYTES}
        options = [text for option, size in sizes.items() for text in (option, str(size))]
        return _flat(_run([str(program), "-dir", str(folder), *options]))


def _middle(runs: list[Figures], rate: str) -> Figures:
    ordered = sorted(runs, key=lambda run: float(run.get(rate) or 0))
    return ordered[len(ordered) // 2]


def _run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _flat(told: dict[str, Any]) -> Figures:
    figures: Figures = {"version": told["version"]}
    for part, content in told.items():
        if isinstance(content, dict):
            for name, value in content.items():
                figures[f"{part}.{name}"] = round(value, 2) if isinstance(value, float) else value
    return figures


def _compared(found: dict[str, Figures]) -> Figures:
    """Return how often the ledger's rate, receipt included, holds that of each single writer."""
    own = float(found["ledger_single"]["per_s"] or 0)
    return {
        f"times_{name.removeprefix('peer_')}_{kind}": round(own / float(rate), 2)
        for name, figures in found.items()
        for kind in ("single", "single_default", "single_published")
        if isinstance(rate := figures.get(f"{kind}.per_s"), int | float) and rate
    }
