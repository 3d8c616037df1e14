"""How fast the ledger's log grows and proves: ``python tests/bench/ledger_trees.py [entries]``.

Tiles go to a SQLite file as the store keeps them, in blocks of 512 leaves. Cold
proofs come from a log opened anew whose tile cache holds nothing of what they
need; the file itself may be in the system's cache. Times are CPU times, which mean
the same on a busy machine.
"""

import hashlib
import random
import sqlite3
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ledger_core.log import TiledLog
from ledger_core.proofs import verify_multi_inclusion

BLOCK = 512


class Tiles:
    """The tile table of a store."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(
            "CREATE TABLE tiles (level INTEGER, idx INTEGER, hashes BLOB, PRIMARY KEY (level, idx)) WITHOUT ROWID"
        )

    def read(self, level: int, index: int) -> bytes | None:
        found = self._connection.execute("SELECT hashes FROM tiles WHERE level = ? AND idx = ?", (level, index))
        row = found.fetchone()
        return None if row is None else row[0]

    def grow(self, log: TiledLog, leaves: list[bytes]) -> float:
        """Add leaves; return the seconds spent in the log, not in SQLite."""
        began = time.process_time()
        tiles = log.grow(leaves)
        grown = time.process_time()
        rows = [(tile.level, tile.index, tile.hashes) for tile in tiles]
        self._connection.executemany("INSERT OR REPLACE INTO tiles VALUES (?, ?, ?)", rows)
        stored = time.process_time()
        log.publish(tiles, log.size + len(leaves))
        return grown - began + time.process_time() - stored

    def begin(self) -> None:
        self._connection.execute("BEGIN")

    def commit(self) -> None:
        self._connection.execute("COMMIT")


def rate(count: int, work: Callable[[], object]) -> float:
    began = time.process_time()
    for _ in range(count):
        work()
    return count / (time.process_time() - began)


def say(what: str, figure: float, unit: str) -> None:
    print(f"{what:<58}{figure:>12,.1f} {unit}", flush=True)


def main(entries: int) -> None:
    dice = random.Random(1)
    leaves = [hashlib.sha256(b"%d" % number).digest() for number in range(entries)]
    with tempfile.TemporaryDirectory() as folder:
        tiles = Tiles(Path(folder) / "tiles.db")
        log, spent = TiledLog(tiles.read, 0), 0.0
        tiles.begin()
        for start in range(0, entries, BLOCK):
            spent += tiles.grow(log, leaves[start : start + BLOCK])
        tiles.commit()
        say(f"grow and publish in blocks of {BLOCK}, a leaf", spent / entries * 1e6, "us")
        probe = TiledLog(tiles.read, entries)
        one = [hashlib.sha256(b"one").digest()]
        say("grow by one leaf, at that size", 1e6 / rate(2000, lambda: probe.grow(one)), "us")

        tracemalloc.start()
        cold = TiledLog(tiles.read, entries, cache_tiles=1024)
        places = dice.sample(range(0, entries, 256), min(1024, entries // 256))
        for place in places:
            cold.inclusion(place, entries)
        say("memory of 1024 cached tiles", tracemalloc.get_traced_memory()[0] / 2**20, "MiB")
        tracemalloc.stop()

        # A cache of 64 tiles keeps the upper levels; the walk never comes back to a lower tile in time.
        few, walk = TiledLog(tiles.read, entries, cache_tiles=64), iter(range(0, entries, 257))
        say(
            "inclusion proofs, cold",
            rate(min(3000, entries // 257), lambda: few.inclusion(next(walk), entries)),
            "/s",
        )
        warm = [place + dice.randrange(256) for place in places[:900]]
        for index in warm:
            cold.inclusion(index % entries, entries)
        say("inclusion proofs, cached", rate(30_000, lambda: cold.inclusion(dice.choice(warm), entries)), "/s")
        older = entries - 12_345 if entries > 20_000 else entries - 1
        say("inclusion proofs, cached, under one older size",
            rate(30_000, lambda: cold.inclusion(dice.choice(warm) % older, older)), "/s")  # fmt: skip
        sizes = [dice.randrange(1, entries) for _ in range(200)]
        whole = TiledLog(tiles.read, entries, cache_tiles=8192)
        for size in sizes:
            whole.consistency(size, entries)
        say("consistency proofs, cached", rate(10_000, lambda: whole.consistency(dice.choice(sizes), entries)), "/s")
        asked = sorted(dice.sample(warm, min(100, len(warm))))
        path = cold.multiproof(asked, entries)
        say("multiproofs of 100 leaves, cached", rate(200, lambda: cold.multiproof(asked, entries)), "/s")
        say("hashes in one (100 single proofs have 100 times 20)", len(path), "")
        root, known = log.root(entries), {index: leaves[index] for index in asked}
        check = partial(verify_multi_inclusion, known, tree_size=entries, path=path, root=root)
        say("their verifications", rate(200, check), "/s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
