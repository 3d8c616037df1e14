"""Time pymerkle in a process of its own, and print JSON: its durable tree in SQLite, and its tree in memory.

pymerkle (GPL 3) hashes what it is given into one tree; it signs and verifies nothing and has no state.
``python -m tests.bench.peers.pymerkle_appends FOLDER [SINGLES] [ENTRIES]``
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from pymerkle import InmemoryTree, SqliteTree, __version__  # type: ignore[import-untyped]  # the package has no types

_ENTRY_BYTES = 280


def main() -> int:
    """Measure and print."""
    folder = Path(sys.argv[1])
    singles, entries = (int(sys.argv[place]) if len(sys.argv) > place else 2_000 for place in (2, 3))
    report = {
        "peer": "pymerkle",
        "version": __version__,
        "durable": True,
        "signed": False,
        "single": _single(folder / "single.db", singles),
        "batched": _batched(folder / "batched.db", entries),
        "in_memory": _in_memory(entries),
    }
    print(json.dumps(report))
    return 0


def _single(path: Path, count: int) -> dict[str, float]:
    times = []
    with SqliteTree(str(path)) as tree:
        for _ in range(count):
            began = time.perf_counter()
            tree.append_entry(os.urandom(_ENTRY_BYTES))
            times.append(time.perf_counter() - began)
    ordered = sorted(times)
    return {
        "per_s": round(count / sum(times)),
        "p50_ms": round(ordered[count // 2] * 1000, 2),
        "p95_ms": round(ordered[count * 95 // 100] * 1000, 2),
        "entries": count,
    }


def _batched(path: Path, count: int) -> dict[str, float]:
    data = [os.urandom(_ENTRY_BYTES) for _ in range(count)]
    with SqliteTree(str(path)) as tree:
        began = time.perf_counter()
        tree.append_entries(data)
        spent = time.perf_counter() - began
    return {"per_s": round(count / spent), "entries": count}


def _in_memory(count: int) -> dict[str, float]:
    tree = InmemoryTree()
    began = time.perf_counter()
    for _ in range(count):
        tree.append_entry(os.urandom(_ENTRY_BYTES))
    spent = time.perf_counter() - began
    asked = min(count, 500)
    began = time.perf_counter()
    for index in range(1, asked + 1):
        tree.prove_inclusion(index, count)
    proved = time.perf_counter() - began
    return {"per_s": round(count / spent), "proofs_per_s": round(asked / proved), "entries": count}


if __name__ == "__main__":
    sys.exit(main())
