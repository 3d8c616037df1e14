"""Every leak that is planted on purpose is caught, so that finding none means something."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.leak.planting import PLANTS, channel_of, hunted, planted

PATCHES = sorted(PLANTS.glob("*.patch"))


def test_at_least_forty_leaks_are_planted_in_every_channel_that_can_leak_here() -> None:
    assert len(PATCHES) >= 40
    assert len({channel_of(patch) for patch in PATCHES}) == 22


@pytest.mark.slow
@pytest.mark.timeout(1_000)
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_planted_leak_is_caught(patch: Path, tmp_path: Path) -> None:
    outcome = hunted(planted(patch, tmp_path), channel_of(patch))
    assert outcome.found, f"{patch.stem} lived through {outcome.cases} cases"
