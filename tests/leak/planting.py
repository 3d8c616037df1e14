"""Plant a leak in a copy of the code and let the hunt run against it, in a process of its own.

``plants/caught.toml`` keeps for each leak a world that shows it. That world is
tried first; should it no longer show the leak, the whole search is made, and
says so. ``python -m tests.leak.planting [NAME…]`` searches for all of them, or
for those named, and writes the file anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.leak.hunt import FEW_CASES_A_PAIR
from tests.support.worlds_service import Host

ROOT = Path(__file__).resolve().parents[2]
PLANTS = Path(__file__).resolve().parent / "plants"
CAUGHT = PLANTS / "caught.toml"
CASES = 5_000
"""Within so many cases every planted leak must show."""

_LIMIT_S = 1_800


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the hunt said.

    Attributes:
        cases: Tried until the first difference, or in all if there was none.
        seed: The world of the first difference, and ``in_world`` how many cases were tried in it; None without one.
    """

    cases: int
    seed: int | None
    in_world: int
    said: str


class DoesNotApply(AssertionError):
    """The code has changed where a leak was to be planted: write that patch anew."""


def planted(patch: Path, folder: Path) -> Path:
    """Return a checkout whose bridge has the leak; everything else is linked to the real one.

    Raises:
        DoesNotApply: The patch no longer fits.
    """
    # Compiled modules come along: only what the patch changes is compiled again.
    # Not what another process is just compiling: such a file is renamed while it is copied.
    shutil.copytree(ROOT / "fhir_bridge", folder / "fhir_bridge", ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in ("tests", "ledger_core", "mappings"):
        (folder / name).symlink_to(ROOT / name)
    done = subprocess.run(
        ["git", "apply", "-C1", "--include=fhir_bridge/*", str(patch)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)},
    )
    if done.returncode != 0:
        raise DoesNotApply(f"{patch.name} does not apply any more, write it anew: {done.stderr.strip()}")
    return folder


def shown(patch: Path, folder: Path, template: Path) -> tuple[Outcome, bool]:
    """Return where a planted leak shows, and whether it had to be searched for: its own world showed nothing."""
    checkout, known = planted(patch, folder), known_worlds().get(patch.stem)
    if known is not None:
        found = hunted(checkout, channel_of(patch), template, cases=FEW_CASES_A_PAIR, seed=known)
        if found.seed is not None:
            return found, False
    return hunted(checkout, channel_of(patch), template), True


def hunted(checkout: Path, channel: int, template: Path, *, cases: int = CASES, seed: int = 0) -> Outcome:
    """Hunt in a checkout until the first difference.

    Args:
        template: Where a host of the code without the leak begins; made once for all of them.
    """
    command = [sys.executable, "-m", "tests.leak.hunt", "--cases", str(cases), "--first", "--json"]
    done = subprocess.run(
        [*command, "--channel", str(channel), "--seed", str(seed), "--template", str(template)],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise AssertionError(f"the hunt broke off: {done.stderr[-2000:]}")
    tally = json.loads(done.stdout.splitlines()[-1])
    first = tally["first"] or {"seed": None, "cases": 0}
    return Outcome(sum(tally["cases"].values()), first["seed"], first["cases"], done.stderr)


def known_worlds() -> dict[str, int]:
    """Return the seed of a world that showed each leak when the file was written."""
    return {name: each["seed"] for name, each in tomllib.loads(CAUGHT.read_text()).items()} if CAUGHT.exists() else {}


def save(found: Mapping[str, tuple[int, int]]) -> None:
    """Write the file: name → seed of a world, and the cases until the leak showed in it."""
    lines = [f"{name} = {{ seed = {seed}, cases = {cases} }}" for name, (seed, cases) in sorted(found.items())]
    head = "# A world that shows each planted leak. Written by `python -m tests.leak.planting`.\n"
    CAUGHT.write_text(head + "\n".join(lines) + "\n")


def channel_of(patch: Path) -> int:
    """Return the channel that a plant is named by."""
    return int(patch.name[:2])


def main() -> int:
    """Search for all leaks, or for those named; exit code 1 if one is not found."""
    names = sys.argv[1:]
    held = tomllib.loads(CAUGHT.read_text()) if CAUGHT.exists() else {}
    patches = sorted(PLANTS.glob("*.patch"))
    found = {p.stem: (held[p.stem]["seed"], held[p.stem]["cases"]) for p in patches if p.stem in held}
    missed, host = 0, Host()
    for patch in patches:
        if names and patch.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcome = hunted(planted(patch, Path(folder)), channel_of(patch), host.template)
        print(f"{patch.stem}: {outcome.cases} cases, world {outcome.seed}", flush=True)
        if outcome.seed is None:
            missed += 1
            found.pop(patch.stem, None)
        else:
            found[patch.stem] = outcome.seed, outcome.in_world
        save(found)
    host.close()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
