"""Loss of power under the whole pipeline: vault, key store, spool and ledger lose what was not synced, all at once.

Three people's records of two hospitals go in by bus and as HTTP brings them,
with messages that must be refused among them. At random moments the power
goes; what may be left is opened with the everyday driver: everything that a
sender was told of is there, no message is there in part, the bus is read to its
end, fsck finds nothing, and once the senders have repeated what they had no
answer to, the state is the one of the undisturbed life.

``PIPELINE_POWER_LOSSES=500`` asks for more moments than the few of a quick run;
every failure names the seed of its life. The last tests sync less on purpose,
to show that the harness would notice.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path

import pytest

from tests.fault.pipeline_lives import SETTINGS, Life, Told, live
from tests.support.bridge_world import fresh, running
from tests.support.hospitals import BROKEN, SMALL, Lane, directory, lanes
from tests.support.powerloss import Loss, Mark

LOSSES = int(os.environ.get("PIPELINE_POWER_LOSSES", "24"))
LOSSES_PER_LIFE = 12
FULL = "PRAGMA synchronous=FULL"
FAULTY = ("bad-gender.json", "json-truncated.json", "bundle-atomic.json", "type-missing.json")

pytestmark = [pytest.mark.timeout(900 + 30 * LOSSES)]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with two hospitals and their directories; the dead letter makes the key for ids of letters."""
    data = fresh(tmp_path_factory.mktemp("pipeline"))

    async def prepare() -> None:
        async with running(data) as world:
            for name in ("northgate", "harbor"):
                await world.send(directory(name), name)
                await world.send((BROKEN / "type-number.json").read_bytes(), name)

    asyncio.run(prepare())
    return data


def feed_of(rng: random.Random) -> list[Lane]:
    """Return one person's messages at both hospitals, and some that are refused, in an order of its own."""
    person = rng.choice(SMALL)
    sent = [lane for name in ("northgate", "harbor") for lane in lanes(name, [person])]
    sent += [Lane("northgate", name, ((BROKEN / name).read_bytes(),)) for name in FAULTY]
    rng.shuffle(sent)
    return sent


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_nothing_is_half_there(seed: Path, tmp_path: Path) -> None:
    done, number = 0, random.randrange(2**32)
    while done < LOSSES:
        number += 1
        rng = random.Random(number)
        life = asyncio.run(live(seed, tmp_path / "live", feed_of(rng), rng))
        shutil.rmtree(tmp_path / "live")
        for _ in range(min(LOSSES_PER_LIFE, LOSSES - done)):
            moment, loss = rng.randrange(len(life.history) + 1), rng.choice(list(Loss))
            problems = asyncio.run(life.problems(moment, loss, rng, tmp_path / "left"))
            assert problems == [], f"seed {number}, event {moment} of {len(life.history)}, {loss.name}"
            done += 1
        print(f"{done} of {LOSSES} losses of power survived", flush=True)


@pytest.mark.parametrize("weak", ["vault.db", "keys.db", "ledger.db"])
def test_a_store_that_does_not_sync_is_caught(seed: Path, tmp_path: Path, weak: str) -> None:
    assert _breaks_a_promise(seed, tmp_path, weak)


def test_the_same_life_of_honest_stores_breaks_none(seed: Path, tmp_path: Path) -> None:
    assert not _breaks_a_promise(seed, tmp_path, None)


def _breaks_a_promise(seed: Path, tmp_path: Path, weak: str | None) -> bool:
    """Cut the power after some acknowledgements, at a disk that keeps nothing unsynced."""
    rng = random.Random(5)
    instead = {FULL: "PRAGMA synchronous=OFF"} if weak else {}
    life = asyncio.run(live(seed, tmp_path / "live", feed_of(rng), rng, instead=instead, weak=weak))
    known = [place for place, event in enumerate(life.history) if _is_acknowledgement(event)]
    return any(_problems(life, place + 1, tmp_path / "left") for place in known[3::6][:4])


def _problems(life: Life, moment: int, folder: Path) -> list[str]:
    return asyncio.run(life.problems(moment, Loss.DROPPED, random.Random(moment), folder))


def _is_acknowledgement(event: object) -> bool:
    return isinstance(event, Mark) and isinstance(event.what, Told)
