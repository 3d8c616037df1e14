"""What the ledger's state tree costs: load, updates, proofs, a past height; and memory per key.

``python -m tests.bench.ledger_state [--keys 1000000] [--suite 1]``. Rates are given by wall time and by CPU time;
only the latter means the same on a busy machine. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ledger_core.proofs import verify_absence, verify_presence
from ledger_core.sparse import StateTree
from ledger_core.versions import Versions

Result = TypeVar("Result")

_OPERATIONS = 20_000
_GROUP = 512
_VALUE_BYTES = 80
_PATH_BYTES = 32


def main() -> int:
    """Measure each operation once on one tree, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--suite", type=int, default=1)
    options = parser.parse_args()
    packed = _sorted_paths(options.keys)
    before = _resident()
    tree = _timed(
        "load from sorted rows", options.keys, lambda: StateTree.from_sorted(_rows(packed), suite=options.suite)
    )
    added = _resident() - before
    print(f"{'memory':<36}{added / len(tree):>12,.0f} bytes/key, of them {_VALUE_BYTES + 33} the value itself")
    source = random.Random(1)
    held = [_path(packed, source.randrange(options.keys)) for _ in range(_OPERATIONS)]
    absent = [hashlib.sha256(path).digest() for path in held]
    _reads(tree, held, absent)
    _writes(tree, held, absent)
    return 0


def _reads(tree: StateTree, held: Sequence[bytes], absent: Sequence[bytes]) -> None:
    _timed("get", len(held), lambda: [tree.get(path) for path in held])
    present = _timed("proofs of presence", len(held), lambda: [tree.prove(path) for path in held])
    missing = _timed("proofs of absence", len(absent), lambda: [tree.prove(path) for path in absent])
    root, suite = tree.root, tree.suite

    def verify() -> None:
        for path, (value, proof) in zip(held, present, strict=True):
            verify_presence(path=path, value=value or b"", proof=proof, root=root, suite=suite)
        for path, (_, proof) in zip(absent, missing, strict=True):
            verify_absence(path=path, proof=proof, root=root, suite=suite)

    _timed("verifications, half of absence", 2 * len(held), verify)


def _writes(tree: StateTree, held: Sequence[bytes], absent: Sequence[bytes]) -> None:
    one, two = b"1" * _VALUE_BYTES, b"2" * _VALUE_BYTES
    _timed("updates one by one", len(held), lambda: _one_by_one(tree, held, one))
    _timed("new keys one by one", len(absent), lambda: _one_by_one(tree, absent, one))
    _timed(f"updates in groups of {_GROUP}", len(held), lambda: _in_groups(tree, held, two))
    newest = _timed(f"new keys in groups of {_GROUP}", len(absent), lambda: _in_groups(tree, absent, two))
    versions = Versions(lambda height: dict.fromkeys(absent[height * _GROUP :]))
    top = -(-len(absent) // _GROUP)
    changed = len(absent) - _GROUP

    def look_back(height: int) -> StateTree:
        return versions.at(height, newest=newest, newest_height=top)

    _timed("looking back, changes undone", changed, lambda: look_back(1))
    _timed("a height beside, changes compared", changed, lambda: look_back(2))
    if look_back(0).root != tree.root:
        raise SystemExit("looking back gave another tree")


def _one_by_one(tree: StateTree, paths: Sequence[bytes], value: bytes) -> StateTree:
    for path in paths:
        tree = tree.updated({path: value})
    return tree


def _in_groups(tree: StateTree, paths: Sequence[bytes], value: bytes) -> StateTree:
    for begin in range(0, len(paths), _GROUP):
        tree = tree.updated(dict.fromkeys(paths[begin : begin + _GROUP], value))
    return tree


def _timed(what: str, count: int, work: Callable[[], Result]) -> Result:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:<36}{count / wall:>12,.0f}/s {count / cpu:>12,.0f}/s of CPU {wall:>9.2f} s", flush=True)
    return result


def _sorted_paths(count: int) -> bytes:
    source = random.Random(0)
    return b"".join(sorted(source.randbytes(_PATH_BYTES) for _ in range(count)))


def _rows(packed: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield rows as a database would: every path and value a new object."""
    for at in range(0, len(packed), _PATH_BYTES):
        yield packed[at : at + _PATH_BYTES], at.to_bytes(_VALUE_BYTES, "big")


def _path(packed: bytes, index: int) -> bytes:
    return packed[index * _PATH_BYTES : (index + 1) * _PATH_BYTES]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    raise SystemExit(main())
