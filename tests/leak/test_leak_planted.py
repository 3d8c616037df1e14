"""Leaks that are planted on purpose are caught, so that finding none means something.

Planted are those of which a world is known that shows them; ``LEAK_PLANTS=all``
plants the others too, each with a search of 5,000 cases.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.leak.planting import PLANTS, ROOT, channel_of, known_worlds, shown
from tests.support.worlds_service import Host

PATCHES = sorted(PLANTS.glob("*.patch"))
KNOWN = [patch for patch in PATCHES if patch.stem in known_worlds()]
ASKED = PATCHES if os.environ.get("LEAK_PLANTS") == "all" else KNOWN


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


def test_at_least_forty_leaks_are_planted_in_every_channel_that_can_leak_here() -> None:
    assert len(KNOWN) >= 40
    assert len({channel_of(patch) for patch in KNOWN}) == 22


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_leak_still_fits_where_it_is_planted(patch: Path) -> None:
    command = ["git", "apply", "--check", "-C1", "--include=fhir_bridge/*", str(patch)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"write it anew: {done.stderr}"


def test_worlds_are_known_of_leaks_that_are_planted() -> None:
    assert set(known_worlds()) <= {patch.stem for patch in PATCHES}


@pytest.mark.slow
@pytest.mark.timeout(1_900)
@pytest.mark.parametrize("patch", ASKED, ids=lambda patch: patch.stem)
def test_a_planted_leak_is_caught(
    patch: Path, host: Host, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcome, was_searched = shown(patch, tmp_path, host.template)
    if was_searched:
        record_property("searched", f"{patch.stem}: {outcome.cases} cases, world {outcome.seed}")
    assert outcome.seed is not None, f"{patch.stem} lived through {outcome.cases} cases"
