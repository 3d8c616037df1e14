"""Loss of power at random moments under load: nothing acknowledged is lost, and the ledger goes on.

Several writers keep a ledger busy over a disk that records what was synced. At
random moments of that record the power goes; what may be left is opened with the
everyday driver and held to every promise made until that moment. One of the
survivors is what the next life starts from, so that recovery is cut short too.

``LEDGER_POWER_LOSSES=2000`` asks for more moments than the few of a quick run;
every failure names the seed of its life. The last tests weaken the store on
purpose, to show that the harness would notice.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from ledger_core import Accepted
from tests.fault.ledger.ledger_lives import Life, live
from tests.fault.ledger.ledger_load import NAME
from tests.support.powerloss import Loss, Mark, Platter, Sync, Truncate, Write

LOSSES = int(os.environ.get("LEDGER_POWER_LOSSES", "200"))
LOSSES_PER_LIFE = 20
# Begun anew from nothing then, so that checking a survivor stays quick.
MAX_TOLD = 500
FULL = "PRAGMA synchronous=FULL"

pytestmark = pytest.mark.timeout(600 + 3 * LOSSES)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_with_the_power(tmp_path: Path) -> None:
    done, number = 0, random.randrange(2**32)
    image: Mapping[str, bytes] = {}
    told: tuple[object, ...] = ()
    while done < LOSSES:
        number += 1
        rng = random.Random(number)
        life = live(tmp_path / "live", rng, image=image, told=told)
        shutil.rmtree(tmp_path / "live")
        for _ in range(min(LOSSES_PER_LIFE, LOSSES - done)):
            moment, loss = rng.randrange(len(life.history) + 1), rng.choice(list(Loss))
            problems = life.problems(moment, loss, rng, tmp_path / "left")
            assert problems == [], f"seed {number}, event {moment} of {len(life.history)}, {loss.name}"
            done += 1
        image, told = _next_start(life, rng)
        if done % 200 == 0 or done == LOSSES:
            print(f"{done} of {LOSSES} losses of power survived", flush=True)


def test_the_record_is_what_the_files_hold(tmp_path: Path) -> None:
    life = live(tmp_path / "live", random.Random(1), checkpoint_pages=6)
    files = {item.name: item.read_bytes() for item in (tmp_path / "live").iterdir() if item.suffix != ".lock"}
    left, _ = life.at(len(life.history), Loss.KEPT, random.Random(1))
    assert left == files
    assert files.keys() == {NAME}


@pytest.mark.parametrize("level", ["NORMAL", "OFF"])
def test_a_store_that_syncs_less_is_caught(tmp_path: Path, level: str) -> None:
    weaker = {FULL: f"PRAGMA synchronous={level}"}
    life = live(tmp_path / "live", random.Random(2), checkpoint_pages=1000, instead=weaker)
    assert _loses_an_acknowledgement(life, tmp_path)


def test_a_store_that_acknowledges_before_it_commits_is_caught(tmp_path: Path) -> None:
    life = live(tmp_path / "live", random.Random(3), checkpoint_pages=1000, postponed="COMMIT")
    assert _loses_an_acknowledgement(life, tmp_path)


def test_the_same_life_of_an_honest_store_loses_nothing(tmp_path: Path) -> None:
    life = live(tmp_path / "live", random.Random(2), checkpoint_pages=1000)
    assert not _loses_an_acknowledgement(life, tmp_path)


def test_a_sector_is_old_or_new_and_never_both() -> None:
    platter = Platter({"file": b"a" * 1024})
    for event in (Write("file", 0, b"b" * 1024), Write("file", 256, b"c" * 256)):
        platter.apply(event)
    seen = {platter.after(Loss.TORN_512, random.Random(seed))["file"] for seed in range(200)}
    first = (b"a" * 512, b"b" * 512, b"b" * 256 + b"c" * 256)
    assert seen == {one + other for one in first for other in (b"a" * 512, b"b" * 512)}


def test_a_truncation_is_whole_or_absent_and_so_is_what_follows_it() -> None:
    platter = Platter({"file": b"a" * 1024})
    for event in (Truncate("file", 0), Write("file", 0, b"b" * 512)):
        platter.apply(event)
    seen = {platter.after(Loss.TORN_512, random.Random(seed))["file"] for seed in range(200)}
    assert seen == {b"a" * 1024, b"", bytes(512), b"b" * 512}


def test_a_failed_sync_keeps_nothing_even_if_the_next_succeeds() -> None:
    platter = Platter({"file": b"old"})
    for event in (Write("file", 0, b"new"), Sync("file", True, succeeded=False), Sync("file", True)):
        platter.apply(event)
    assert platter.after(Loss.DROPPED, random.Random(1)) == {"file": b"old"}


def test_a_truncation_counts_once_it_is_synced() -> None:
    platter = Platter({"file": b"long"})
    platter.apply(Truncate("file", 1))
    assert platter.after(Loss.DROPPED, random.Random(1)) == {"file": b"long"}
    platter.apply(Sync("file", False))
    assert platter.after(Loss.DROPPED, random.Random(1)) == {"file": b"l"}


def _loses_an_acknowledgement(life: Life, tmp_path: Path) -> bool:
    """Cut the power after each of the first acknowledgements, at a disk that keeps nothing unsynced."""
    known = [place for place, event in enumerate(life.history) if _is_acknowledgement(event)]
    problems = [
        problem
        for place in known[:10]
        for problem in life.problems(place + 1, Loss.DROPPED, random.Random(place), tmp_path / "left")
    ]
    return any("acknowledged" in problem for problem in problems)


def _is_acknowledgement(event: object) -> bool:
    return isinstance(event, Mark) and isinstance(event.what, Accepted)


def _next_start(life: Life, rng: random.Random) -> tuple[Mapping[str, bytes], tuple[object, ...]]:
    if len(life.told) > MAX_TOLD:
        return {}, ()
    image, told = life.at(rng.randrange(len(life.history) + 1), rng.choice(list(Loss)), rng)
    return image, tuple(told)
