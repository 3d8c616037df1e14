"""What the ledger does in a second: each function measures one thing and returns its figures.

Transactions are signed beforehand and every signature is verified by the ledger
while it is timed; what counts as done has been made durable (synchronous=FULL).
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from ledger_core import Accepted, Anchor, ConsentState, Identity, Ledger, MerkleBatch, Opening, OpenPart, Receipt
from ledger_core.checkpoint import parse_checkpoint, split_note
from ledger_core.errors import TransactionRefused
from ledger_core.hashing import leaf_hash
from ledger_core.proofs import verify_absence, verify_inclusion, verify_presence
from ledger_core.sparse import StateTree
from ledger_core.values import state_path
from tests.bench.gauge import percentile
from tests.bench.ledger_load import SINGLE, consent_path, envelopes, fresh_folder, open_bench_ledger, prepare

Figures = dict[str, float | int | str | None]

_GROUP: Final = 512
_IN_FLIGHT: Final = 8
_TIMEOUT_S: Final = 120
_T = TypeVar("_T")


def grouped(count: int) -> Figures:
    """Fill a fresh ledger by groups of ``submit_many``, and another by single submissions in flight."""
    with fresh_folder() as folder:
        with open_bench_ledger(folder / "many.db") as ledger:
            prepare(ledger.network, count)
            ready = list(envelopes(ledger.network, 0, count))
            began, cpu = time.perf_counter(), time.process_time()
            append(ledger, iter(ready))
            spent, busy = time.perf_counter() - began, time.process_time() - cpu
            blocks = ledger.height
        with open_bench_ledger(folder / "each.db") as ledger:
            began = time.perf_counter()
            waiting = [ledger.submit(envelope, timeout_ms=60_000) for envelope in ready]
            for future in waiting:
                future.result(_TIMEOUT_S)
            each = time.perf_counter() - began
    return {
        "tx_per_s": round(count / spent),
        "tx_per_s_submitted_singly": round(count / each),
        "cpu_us_per_tx": round(busy / count * 1e6, 1),
        "transactions": count,
        "mean_block": round(count / max(1, blocks)),
    }


def append(ledger: Ledger, ready: Iterator[bytes]) -> None:
    """Append all that is ready, a few groups in flight; a refusal is an error."""
    flying: deque[Future[list[Accepted | TransactionRefused]]] = deque()
    while group := list(islice(ready, _GROUP)):
        flying.append(ledger.submit_many(group, timeout_ms=60_000))
        while len(flying) > _IN_FLIGHT:
            _landed(flying.popleft())
    while flying:
        _landed(flying.popleft())


def _landed(future: Future[list[Accepted | TransactionRefused]]) -> None:
    refused = [outcome for outcome in future.result(_TIMEOUT_S) if isinstance(outcome, TransactionRefused)]
    if refused:
        raise refused[0]


def single(ledger: Ledger, rounds: int, signer: Identity = SINGLE) -> Figures:
    """Append one transaction after the other, each with its receipt before the next is sent."""
    roots = [os.urandom(32) for _ in range(rounds)]
    ready = [ledger.sign(Anchor(root, 1), signer) for root in roots]
    durable, receipted = [], []
    for envelope in ready:
        began = time.perf_counter()
        accepted = ledger.submit(envelope).result(_TIMEOUT_S)
        durable.append(time.perf_counter() - began)
        Receipt.decode(ledger.transaction_receipt(accepted.index))
        receipted.append(time.perf_counter() - began)
    return {
        "p50_ms": _ms(percentile(receipted, 0.5)),
        "p95_ms": _ms(percentile(receipted, 0.95)),
        "per_s": round(rounds / sum(receipted)),
        "append_only_p50_ms": _ms(percentile(durable, 0.5)),
        "append_only_per_s": round(rounds / sum(durable)),
        "rounds": rounds,
    }


def single_alone(rounds: int) -> Figures:
    """As ``single``, in a fresh ledger."""
    with fresh_folder() as folder, open_bench_ledger(folder / "single.db") as ledger:
        single(ledger, max(3, rounds // 10))
        return single(ledger, rounds)


def anchored(leaves: int, batch_size: int) -> Figures:
    """Anchor batches of commitments durably, with what an individual receipt needs for each leaf.

    ``leaves_per_s`` counts tree, every leaf's path and the durable anchor. ``receipts_per_s`` is what it takes
    to also write out a whole receipt text, which is done when somebody asks for it.
    """
    commitments = [os.urandom(32) for _ in range(batch_size)]
    opening = Opening(bytes(32), {"id": "x"}, {"record": OpenPart.of(bytes(32), b"{}")})
    commitments[0] = opening.commitment()
    with fresh_folder() as folder, open_bench_ledger(folder / "anchors.db") as ledger:
        rounds = max(1, leaves // batch_size)
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            batch = MerkleBatch(commitments)
            paths = batch.paths()
            accepted = ledger.send(Anchor(batch.root, batch.count), SINGLE).result(_TIMEOUT_S)
        spent, busy = time.perf_counter() - began, time.process_time() - cpu
        asked = 500
        began = time.perf_counter()
        for _ in range(asked):
            ledger.record_receipt(opening, batch_index=0, batch_path=paths[0], index=accepted.index)
        written = time.perf_counter() - began
    return {
        "leaves_per_s": round(rounds * batch_size / spent),
        "cpu_us_per_leaf": round(busy / (rounds * batch_size) * 1e6, 2),
        "receipts_per_s": round(asked / written),
        "batch": batch_size,
        "leaves": rounds * batch_size,
    }


def log_proofs(path: Path, rounds: int) -> Figures:
    """Prove random entries: from a ledger just opened, each in another tile, then with every tile at hand."""
    chance = random.Random(1)
    with open_bench_ledger(path, cache_tiles=16_384) as ledger:
        size = ledger.size
        tiles = list(range(size // 256)) or [0]
        cold = [
            min(size - 1, 256 * tile + chance.randrange(256))
            for tile in chance.sample(tiles, min(rounds, len(tiles)))
        ]
        cold_rate = _rate(cold, lambda index: ledger.prove_transaction(index, size))
        for tile in tiles:
            ledger.prove_transaction(256 * tile, size)
        warm = [chance.randrange(size) for _ in range(20 * rounds)]
        warm_rate = _rate(warm, lambda index: ledger.prove_transaction(index, size))
        _check_some(ledger, warm[:20], size)
    with open_bench_ledger(path) as ledger:
        for index in warm[: 2 * rounds]:
            ledger.prove_transaction(index, size)
        default_rate = _rate(warm[2 * rounds :], lambda index: ledger.prove_transaction(index, size))
    return {
        "cached_per_s": round(warm_rate),
        "cold_per_s": round(cold_rate),
        "default_cache_per_s": round(default_rate),
        "entries": size,
    }


def _check_some(ledger: Ledger, indices: Sequence[int], size: int) -> None:
    head = parse_checkpoint(split_note(ledger.checkpoint())[0])
    for index in indices:
        path = ledger.prove_transaction(index, size)
        verify_inclusion(leaf_hash(ledger.entry(index)), index=index, tree_size=size, path=path, root=head.root)


def state_proofs(ledger: Ledger, keys: int, rounds: int) -> Figures:
    """Prove consent states out of a ledger with so many: with the signed checkpoint, as a receipt, and alone."""
    chance = random.Random(2)
    paths = [consent_path(chance.randrange(keys)) for _ in range(rounds)]
    absent = [os.urandom(32) for _ in range(rounds)]
    assert ledger.prove_state(paths[0]).value is not None
    assert ledger.prove_state(absent[0]).value is None
    kind = ConsentState.kind
    return {
        "with_checkpoint_per_s": round(_rate(paths, ledger.prove_state)),
        "receipts_per_s": round(_rate(paths[: rounds // 4], lambda path: ledger.state_receipt(kind, path))),
    }


def state_tree(keys: int, rounds: int) -> Figures:
    """The state tree by itself: filled in blocks, updated in blocks, proved and verified, present and absent."""
    value = os.urandom(200)
    tree, places = StateTree(), [state_path("consent", consent_path(number)) for number in range(keys)]
    began = time.perf_counter()
    for start in range(0, keys, 5_000):
        tree = tree.updated(dict.fromkeys(places[start : start + 5_000], value))
    filled = time.perf_counter() - began
    chance = random.Random(3)
    chosen = [chance.choice(places) for _ in range(rounds * 4)]
    began = time.perf_counter()
    for start in range(0, len(chosen), _GROUP):
        changed = {path: path + value for path in chosen[start : start + _GROUP]}
        tree = tree.updated(changed)
    updated = time.perf_counter() - began
    wanted = [
        path for pair in zip(chosen[:rounds], (os.urandom(32) for _ in range(rounds)), strict=True) for path in pair
    ]
    began = time.perf_counter()
    proofs = [tree.prove(path) for path in wanted]
    proved = time.perf_counter() - began
    began = time.perf_counter()
    for path, (found, proof) in zip(wanted, proofs, strict=True):
        if found is None:
            verify_absence(path=path, proof=proof, root=tree.root)
        else:
            verify_presence(path=path, value=found, proof=proof, root=tree.root)
    verified = time.perf_counter() - began
    return {
        "filled_keys_per_s": round(keys / filled),
        "updates_per_s": round(len(chosen) / updated),
        "proofs_per_s": round(len(wanted) / proved),
        "verifications_per_s": round(len(wanted) / verified),
        "keys": keys,
    }


def resident() -> int:
    """Return the bytes of memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def disk_bytes(path: Path) -> int:
    """Return what a ledger takes on disk, write-ahead log and all."""
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))


def _rate(items: Sequence[_T], work: Callable[[_T], object]) -> float:
    began = time.perf_counter()
    for item in items:
        work(item)
    return len(items) / max(1e-9, time.perf_counter() - began)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
