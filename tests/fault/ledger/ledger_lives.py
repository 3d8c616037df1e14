"""A ledger's life over a disk that records everything, and what is left of it at any moment."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.fault.ledger.ledger_load import broken_promises, drive, open_in
from tests.support.powerloss import Event, Loss, Mark, Platter, materialise
from tests.support.powerloss_vfs import Disk


@dataclass(frozen=True, slots=True)
class Life:
    """What a disk held when a ledger was opened, what was promised before, and all that happened."""

    image: Mapping[str, bytes]
    told: tuple[object, ...]
    history: tuple[Event, ...]

    def at(self, moment: int, loss: Loss, rng: random.Random) -> tuple[dict[str, bytes], list[object]]:
        """Return what is left when the machine stops before event ``moment``, and what was promised until then."""
        platter = Platter(self.image)
        past = self.history[:moment]
        for event in past:
            platter.apply(event)
        return platter.after(loss, rng), [*self.told, *(item.what for item in past if isinstance(item, Mark))]

    def problems(self, moment: int, loss: Loss, rng: random.Random, folder: Path) -> list[str]:
        """Open what is left in the new ``folder`` and say which promise is broken."""
        image, told = self.at(moment, loss, rng)
        materialise(image, folder)
        try:
            return broken_promises(folder, told)
        finally:
            shutil.rmtree(folder)


def live(
    folder: Path,
    rng: random.Random,
    *,
    image: Mapping[str, bytes] | None = None,
    told: tuple[object, ...] = (),
    checkpoint_pages: int | None = None,
    instead: Mapping[str, str] | None = None,
    postponed: str = "",
) -> Life:
    """Keep a ledger busy from opening to closing, in a new ``folder`` that begins with ``image``."""
    materialise(image or {}, folder)
    pages = checkpoint_pages or rng.choice((6, 25, 1000))
    disk = Disk(folder, sync_s=0.0003, checkpoint_pages=pages, instead=instead)
    with open_in(folder, connect=disk.connect, max_block=rng.choice((2, 8, 64))) as ledger:
        disk.postponed = postponed
        problems = drive(ledger, rng, disk.mark, writers=4, each=rng.randint(3, 25))
    if problems:
        raise AssertionError(problems)
    return Life(image or {}, told, tuple(disk.history))
