"""Take each check away in a copy, and see the attacks that it stops turn red.

``test_ledger_attacks_teeth.toml`` lists the checks: a piece of a source file, what
stands there when the check is gone, and the attacks of which it is the last word. Those
must fail then; other checks may still refuse, but an attack's test asserts which one did.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PAGE = ROOT / "docs" / "ledger-threat-model.md"
# Those that pyproject.toml has settings for; finding and loading all the others takes a third of such a run.
PLUGINS = ("-p", "pytest_asyncio.plugin", "-p", "pytest_timeout")
# A control, and one that two checks stop, either without the other.
WITHOUT_A_CHECK = {
    "test_envelope_that_claims_more_than_it_holds",
    "test_honest_blocks_made_the_same_way_are_vouched_for",
}


@dataclass(frozen=True, slots=True)
class Check:
    """A check in ``file``: its text, what is put in its place, and the attacks it stops."""

    file: str
    old: str
    new: str
    stops: list[str]
    occurrence: int = 1

    def remove(self, source: str) -> str:
        parts = source.split(self.old)
        assert len(parts) > self.occurrence, (
            f"{self.file} no longer holds this check: name the one that took its place"
        )
        head, tail = parts[: self.occurrence], parts[self.occurrence :]
        return self.old.join(head) + self.new + self.old.join(tail)


CHECKS = [
    Check(**item) for item in tomllib.loads((HERE / "test_ledger_attacks_teeth.toml").read_text("utf-8"))["check"]
]
FILE_OF = {
    name: path.name
    for path in sorted(HERE.glob("test_ledger_attacks_*.py"))
    if path != Path(__file__)
    for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
}


def test_every_attack_has_a_check_that_was_seen_to_stop_it() -> None:
    stopped = {name for check in CHECKS for name in check.stops}
    assert stopped | WITHOUT_A_CHECK == FILE_OF.keys()


def test_the_threat_model_lists_every_attack_and_no_other() -> None:
    listed = re.findall(r"`(test_\w+)`", PAGE.read_text("utf-8"))
    assert sorted(listed) == sorted(FILE_OF)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the attacks need, compiled modules too; who changes a file puts it back."""
    made = tmp_path_factory.mktemp("teeth") / "copy"
    for folder in (ROOT / "ledger_core", HERE, ROOT / "tests" / "vectors" / "ledger"):
        shutil.copytree(folder, made / folder.relative_to(ROOT))
    shutil.copy(ROOT / "pyproject.toml", made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CHECKS)))
def test_without_its_check_an_attack_is_not_stopped(copy: Path, number: int) -> None:
    check = CHECKS[number]
    whole, changed = (root / "ledger_core" / check.file for root in (ROOT, copy))
    names = [f"{(HERE / FILE_OF[name]).relative_to(ROOT)}::{name}" for name in check.stops]
    command = [sys.executable, "-B", "-m", "pytest", *PLUGINS, "--tb=no", "-rfE", *names]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    try:
        changed.write_text(check.remove(whole.read_text("utf-8")), "utf-8")
        done = subprocess.run(command, cwd=copy, env=alone, capture_output=True, text=True, timeout=600)
    finally:
        # With its time, by which Python knows the source of a compiled module.
        shutil.copy2(whole, changed)
    red = set(re.findall(r"^(?:FAILED|ERROR) \S+::(test_\w+)", done.stdout, re.MULTILINE))
    assert red == set(check.stops), done.stdout
