"""A crash between any two operations of a whole run, enumerated: the ledger is there and sound, or not there yet.

The run begins a ledger, commits blocks while the write-ahead log is folded into
the file again and again, keeps a checkpoint with another signature, prunes, closes,
and opens once more. Every prefix of what it did to the disk is opened: as kill -9
leaves it (everything written is kept), as loss of power leaves it (nothing
unsynced is kept), and with sectors torn at random.

Before it is opened again the file is put back into the format before, so that bringing
it up to date is part of the run.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from ledger_core import Accepted, Identity, Ledger, OpeningRefused, run_fsck
from ledger_core.checkpoint import cosign, cosigner_key
from tests.fault.ledger.ledger_lives import Life
from tests.fault.ledger.ledger_load import ANSWER_LIMIT_S, NAME, Writer, broken_promises, open_in
from tests.support.ledger_v2 import format_of, put_back
from tests.support.powerloss import Loss, Mark, Platter, materialise
from tests.support.powerloss_vfs import Disk

BLOCKS = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_500)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Life:
    folder = tmp_path_factory.mktemp("run")
    disk = Disk(folder, checkpoint_pages=20)
    for _ in range(2):
        with open_in(folder, connect=disk.connect) as ledger:
            _fill(ledger, disk)
            ledger.prune(ledger.height - 1)
            disk.mark(ledger.checkpoint())
        connection = disk.connect(folder / NAME, False)
        put_back(connection)
        connection.close()
        assert format_of(folder / NAME) == "ledger-core/sqlite/v2"
    return Life({}, (), tuple(disk.history))


@pytest.mark.parametrize("loss", list(Loss), ids=lambda loss: loss.name)
def test_every_prefix_is_a_sound_ledger_or_none_yet(run: Life, loss: Loss, tmp_path: Path) -> None:
    platter, seen = Platter(), set[tuple[object, ...]]()
    told: list[object] = []
    for moment in range(len(run.history) + 1):
        image = platter.after(loss, random.Random(moment))
        state = (len(told), *sorted(image.items()))
        if state not in seen:
            seen.add(state)
            assert _problems(image, told, tmp_path / "left") == [], f"before operation {moment}"
        for event in run.history[moment : moment + 1]:
            platter.apply(event)
            told += [event.what] if isinstance(event, Mark) else []
    assert len(seen) > BLOCKS


def test_the_run_reaches_what_it_is_about(run: Life) -> None:
    kinds = {type(event).__name__ for event in run.history}
    assert kinds == {"Create", "Write", "Truncate", "Sync", "Delete", "Mark"}
    last = run.at(len(run.history), Loss.DROPPED, random.Random(0))[1]
    assert sum(isinstance(item, Accepted) for item in last) == 2 * BLOCKS


def _fill(ledger: Ledger, disk: Disk) -> None:
    writer = Writer(ledger, random.Random(7 + ledger.size), disk.mark)
    for _ in range(BLOCKS):
        disk.mark(writer.submit().result(ANSWER_LIMIT_S))
    witness = Identity.from_private_bytes(bytes(32))
    key = cosigner_key("witness.example", witness.public)
    note = cosign(ledger.checkpoint(), key, witness, time_s=1)
    ledger.keep_checkpoint(note, [key])
    disk.mark(note)


def _problems(image: dict[str, bytes], told: list[object], folder: Path) -> list[str]:
    materialise(image, folder)
    try:
        return [*_first_look(folder, told), *broken_promises(folder, told)]
    finally:
        shutil.rmtree(folder)


def _first_look(folder: Path, told: list[object]) -> list[str]:
    """Check before anything is repaired by opening; "no ledger" is an answer while nothing was promised."""
    try:
        return [f"fsck first: {item.where}: {item.what}" for item in run_fsck(folder / NAME)]
    except OpeningRefused as error:
        return [f"fsck first: {error}"] if told else []
