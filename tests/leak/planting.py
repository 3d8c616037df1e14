"""Plant a leak in a copy of the code and let the hunt run against it, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLANTS = Path(__file__).resolve().parent / "plants"
CASES = 5_000
"""Within so many cases every planted leak must show."""

_LIMIT_S = 900


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the hunt said: cases tried until the first difference, and that difference; 0 if it found none."""

    cases: int
    found: bool
    said: str


class DoesNotApply(AssertionError):
    """The code has changed where a leak was to be planted: write that patch anew."""


def planted(patch: Path, folder: Path) -> Path:
    """Return a checkout whose bridge has the leak; everything else is linked to the real one.

    Raises:
        DoesNotApply: The patch no longer fits.
    """
    shutil.copytree(ROOT / "fhir_bridge", folder / "fhir_bridge", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "ledger_core", "mappings"):
        (folder / name).symlink_to(ROOT / name)
    done = subprocess.run(
        ["git", "apply", "-C1", "--include=fhir_bridge/*", str(patch)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)},
    )
    if done.returncode != 0:
        raise DoesNotApply(f"{patch.name} does not apply any more, write it anew: {done.stderr.strip()}")
    return folder


def hunted(checkout: Path, channel: int, *, cases: int = CASES) -> Outcome:
    """Hunt in a checkout until the first difference."""
    command = [sys.executable, "-m", "tests.leak.hunt", "--cases", str(cases), "--first", "--json"]
    done = subprocess.run(
        [*command, "--channel", str(channel)], cwd=checkout, capture_output=True, text=True, timeout=_LIMIT_S
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise AssertionError(f"the hunt broke off: {done.stderr[-2000:]}")
    tally = json.loads(done.stdout.splitlines()[-1])
    return Outcome(sum(tally["cases"].values()), done.returncode == 1, done.stderr)


def channel_of(patch: Path) -> int:
    """Return the channel that a plant is named by."""
    return int(patch.name[:2])
