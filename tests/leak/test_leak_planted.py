"""Every leak that is planted on purpose is caught, so that finding none means something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.leak.planting import PLANTS, channel_of, known_worlds, shown
from tests.support.worlds_service import Host

PATCHES = sorted(PLANTS.glob("*.patch"))


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


def test_at_least_forty_leaks_are_planted_in_every_channel_that_can_leak_here() -> None:
    assert len(PATCHES) >= 40
    assert len({channel_of(patch) for patch in PATCHES}) == 22


def test_worlds_are_known_of_leaks_that_are_planted() -> None:
    assert set(known_worlds()) <= {patch.stem for patch in PATCHES}


@pytest.mark.slow
@pytest.mark.timeout(1_900)
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_planted_leak_is_caught(
    patch: Path, host: Host, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcome, was_searched = shown(patch, tmp_path, host.template)
    if was_searched:
        record_property("searched", f"{patch.stem}: {outcome.cases} cases, world {outcome.seed}")
    assert outcome.seed is not None, f"{patch.stem} lived through {outcome.cases} cases"
