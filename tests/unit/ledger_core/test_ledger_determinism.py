"""One recorded list of blocks gives the same app hash at every height, wherever it is replayed.

The blocks hold every kind of transaction, both signature suites, a switch of
the state tree, and garbage: cut, flipped, spliced, replayed and random bytes.
"""

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from ledger_core.keys import SUITE_ML_DSA_44, Identity
from ledger_core.machine import BlockResult, Header, Prepared, State, apply_block, begin, prepare
from ledger_core.payloads import (
    AccessHead,
    AllowSuite,
    Anchor,
    Attest,
    ChangeOwner,
    Join,
    Leave,
    OpenPath,
    Payload,
    RegisterPolicy,
    RegisterRuleset,
    Restrict,
    RetireSuite,
    Rotate,
    SetConsent,
    SetThreshold,
)
from ledger_core.transactions import Transaction, sign
from tests.unit.ledger_core.ledger_samples import GENESIS, NORTH, OPERATOR, PATIENT, SOUTH, filler, identity

LATTICE, CRYSTAL = (Identity.from_private_bytes(filler(number), SUITE_ML_DSA_44) for number in (9, 8))
EAST = identity(10)
ROOT = Path(__file__).parents[3]

REPLAY = """
import sys
from ledger_core.machine import Header, apply_block, begin, prepare
from tests.unit.ledger_core.ledger_samples import GENESIS
state = begin(GENESIS).state
print(state.app_hash.hex())
for line in open(sys.argv[1], encoding="ascii"):
    envelopes = [bytes.fromhex(part) for part in line.rstrip("\\n").split(",")]
    if sys.argv[2] == "prepared":
        envelopes = [prepare(each) for each in envelopes]
    block = apply_block(state, Header(state.header.height + 1, state.header.time_ms + 7), envelopes)
    state = block.state
    print(state.app_hash.hex(), *(result.code or "accepted" for result in block.results))
"""


def _steps(rng: random.Random) -> list[tuple[Payload, Identity, int, list[Identity]]]:
    paths = [rng.randbytes(32) for _ in range(40)]
    steps: list[tuple[Payload, Identity, int, list[Identity]]] = [
        (Join(NORTH.public, "Ærø hospital"), OPERATOR, 1, [NORTH]),
        (Join(LATTICE.public, "lattice"), OPERATOR, 2, [LATTICE]),
        (AllowSuite("signature", 2), OPERATOR, 3, []),
        (Join(LATTICE.public, "İstanbul"), OPERATOR, 4, [LATTICE]),
        (Join(SOUTH.public, "south"), LATTICE, 1, [SOUTH]),
        (SetThreshold(2), SOUTH, 1, [LATTICE]),
        (Join(CRYSTAL.public, "crystal"), LATTICE, 2, [CRYSTAL, OPERATOR]),
        (AllowSuite("digest", 2), SOUTH, 2, [NORTH]),
        *((OpenPath(path, PATIENT.public, filler(7)), NORTH, 10 + at, []) for at, path in enumerate(paths)),
        *((SetConsent(path, 1, rng.randbytes(32)), PATIENT, 1, []) for path in paths),
        (AllowSuite("state-tree", 2), NORTH, 60, [OPERATOR]),
        *((Restrict(path, 3, rng.randbytes(32)), NORTH, 61 + at, []) for at, path in enumerate(paths[:9])),
        (Attest(paths[0], 4, filler(3)), NORTH, 80, []),
        (ChangeOwner(paths[1], 2, EAST.public), PATIENT, 2, [EAST]),
        (RegisterRuleset(filler(1), 2), SOUTH, 3, []),
        (RegisterPolicy(filler(2)), SOUTH, 4, []),
        (AccessHead(1, filler(4), 4), SOUTH, 5, []),
        (Rotate(EAST.public), SOUTH, 6, [EAST]),
        (Anchor(filler(5), 1), SOUTH, 7, []),
        (Leave(OPERATOR.public), NORTH, 81, [EAST]),
        (AllowSuite("state-tree", 1), NORTH, 82, [LATTICE]),
        (RegisterPolicy(filler(2)), EAST, 1, []),
        (RetireSuite("signature", 1), NORTH, 83, [LATTICE]),
        (RetireSuite("signature", 1), NORTH, 84, [LATTICE, CRYSTAL]),
        (Anchor(filler(6), 9), EAST, 2, []),
        (Anchor(filler(6), 9), CRYSTAL, 1, []),
    ]
    return steps


def _garbage(rng: random.Random, envelopes: Sequence[bytes]) -> bytes:
    one, two = rng.choice(envelopes), rng.choice(envelopes)
    at = rng.randrange(len(one))
    return rng.choice(
        [
            rng.randbytes(rng.randrange(1, 200)),
            one[:at] or b"\0",
            one[:at] + bytes([one[at] ^ 1 << rng.randrange(8)]) + one[at + 1 :],
            one[:at] + two[at:],
            one,  # a replay
        ]
    )


@cache
def recorded() -> tuple[tuple[bytes, ...], ...]:
    rng = random.Random(20260)
    network = GENESIS.network
    good = [sign(Transaction(network, who.public, nonce, what), who, by) for what, who, nonce, by in _steps(rng)]
    blocks: list[tuple[bytes, ...]] = []
    at = 0
    while at < len(good):
        width = rng.choice([1, 1, 2, 5, 30])
        block = good[at : at + width]
        for _ in range(rng.randrange(4)):
            block.insert(rng.randrange(len(block) + 1), _garbage(rng, good[: at + 1]))
        blocks.append(tuple(block))
        at += width
    return tuple(blocks)


def replay(blocks: Sequence[Sequence[bytes | Prepared]]) -> list[BlockResult]:
    results = [begin(GENESIS)]
    for block in blocks:
        before: State = results[-1].state
        header = Header(before.header.height + 1, before.header.time_ms + 7)
        results.append(apply_block(before, header, block))
    return results


def report(results: Sequence[BlockResult]) -> list[str]:
    return [
        " ".join([each.state.app_hash.hex(), *(item.code or "accepted" for item in each.results)]) for each in results
    ]


def test_the_recording_is_worth_replaying() -> None:
    results = replay(recorded())
    codes = {item.code for each in results for item in each.results}
    assert {
        "",
        "malformed",
        "bad-signature",
        "nonce-stale",
        "suite-not-allowed",
        "already-exists",
        "approvals-missing",
    } <= codes
    refused = [Join, RegisterPolicy, RetireSuite, Anchor, Anchor]
    accepted = sum(item.code == "" for each in results for item in each.results)
    assert accepted == len(_steps(random.Random(1))) - len(refused)
    assert {each.state.tree.suite for each in results} == {1, 2}


@pytest.mark.parametrize(
    ("settings", "flags", "form"),
    [
        ({"PYTHONHASHSEED": "0"}, [], "bytes"),
        ({"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "UTC"}, ["-O"], "prepared"),
        ({"PYTHONHASHSEED": "12345", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"}, ["-OO"], "bytes"),
        ({"PYTHONHASHSEED": "77", "LANG": "de_DE.UTF-8", "PYTHONUTF8": "0", "TZ": "XXX+23"}, [], "prepared"),
    ],
)
def test_every_process_computes_the_same(
    settings: dict[str, str], flags: list[str], form: str, tmp_path: Path
) -> None:
    file = tmp_path / "blocks"
    file.write_text("".join(",".join(each.hex() for each in block) + "\n" for block in recorded()), "ascii")
    found = subprocess.run(
        [sys.executable, *flags, "-c", REPLAY, str(file), form],
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
    )
    assert found.stdout.splitlines() == report(replay(recorded()))


def test_results_do_not_depend_on_who_prepared() -> None:
    by_bytes = replay(recorded())
    with ThreadPoolExecutor(4) as pool:
        in_threads = [list(pool.map(prepare, block)) for block in recorded()]
    unchecked = [[prepare(each, signatures=False) for each in block] for block in recorded()]
    mixed = [[prepare(each) if at % 2 else each for at, each in enumerate(block)] for block in recorded()]
    for other in (in_threads, unchecked, mixed):
        assert report(replay(other)) == report(by_bytes)
        assert [each.entries for each in replay(other)] == [each.entries for each in by_bytes]


def test_how_transactions_are_grouped_changes_neither_codes_nor_state() -> None:
    grouped = replay(recorded())
    alone = replay([[each] for block in recorded() for each in block])
    codes = [item.code for each in grouped for item in each.results]
    assert [item.code for each in alone for item in each.results] == codes
    assert alone[-1].state.tree.root == grouped[-1].state.tree.root


def test_the_suite_of_the_state_tree_is_part_of_what_replicas_agree_on() -> None:
    state = begin(GENESIS).state
    assert replace(state, tree=state.tree.rehashed(2)).app_hash != state.app_hash
