"""kill -9 of a process that writes from several threads: nothing acknowledged is lost, nothing doubled.

One ledger goes on over all kills. Each new process first looks for what the last
ones were promised, and submits again what got no answer; every so often, and at
the end, the whole is replayed.
``LEDGER_KILLS=500`` asks for more kills than the few of a quick run.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from ledger_core import Accepted, LedgerLocked, envelope_digest
from tests.fault.ledger.ledger_child import Child, context
from tests.fault.ledger.ledger_load import broken_promises, open_in

KILLS = int(os.environ.get("LEDGER_KILLS", "40"))
REPLAYED_EVERY = 50
# Share of the lives that are ended while they open, perhaps while they recover.
STILLBORN = 0.2
LONGEST_LIFE_S = 0.15
# Looked for by each new process; the replays look for all.
RECENT = 200


@pytest.mark.slow
@pytest.mark.timeout(600 + 6 * KILLS)
def test_nothing_acknowledged_is_lost_with_the_process(tmp_path: Path) -> None:
    server, seed = context(), random.randrange(2**32)
    rng = random.Random(seed)
    told: list[Accepted] = []
    sent: dict[bytes, bytes] = {}
    unanswered: dict[bytes, bytes] = {}
    for number in range(1, KILLS + 1):
        child = Child(server, tmp_path, told[-RECENT:], list(unanswered.values()), rng.getrandbits(32))
        if rng.random() > STILLBORN:
            assert child.spoke.wait(60), f"seed {seed}: life {number} never opened the ledger"
        time.sleep(rng.uniform(0, LONGEST_LIFE_S))
        assert child.kill() == -9, f"seed {seed}, life {number}: {child.told[-1:]}"
        assert not [item for item in child.told if isinstance(item, str) and item != "opened"]
        told += [item for item in child.told if isinstance(item, Accepted)]
        fresh = {envelope_digest(item): item for item in child.told if isinstance(item, bytes)}
        sent |= fresh
        answered = {item.digest for item in child.told if isinstance(item, Accepted)}
        unanswered = {digest: item for digest, item in (unanswered | fresh).items() if digest not in answered}
        if number % REPLAYED_EVERY == 0 or number == KILLS:
            assert broken_promises(tmp_path, told, submits=number == KILLS) == [], f"seed {seed}, after kill {number}"
            print(f"{number} of {KILLS} kills survived, {len(told)} acknowledged", flush=True)
    places = {item.digest: item.index for item in told}
    assert len(set(places.values())) == len(places) > KILLS
    assert all(places[item.digest] == item.index for item in told)
    assert sent.keys() - unanswered.keys() == places.keys()
    assert any(item.is_repeat for item in told) or KILLS < 200, "no kill fell between a commit and its answer"


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    child = Child(context(), tmp_path, [], [], 1)
    try:
        assert child.spoke.wait(60)
        with pytest.raises(LedgerLocked, match="another process has this ledger open") as refused:
            open_in(tmp_path)
        assert refused.value.code == "ledger-locked"
    finally:
        assert child.kill() == -9
    accepted = [item for item in child.told if isinstance(item, Accepted)]
    assert broken_promises(tmp_path, accepted) == []
