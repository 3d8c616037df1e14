"""The reference of settings says what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_settings_page_and_the_environment_file_are_fresh() -> None:
    check = [sys.executable, "-m", "tools.settings_page", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


def test_every_variable_is_named_once() -> None:
    lines = (ROOT / "deploy" / "settings.env").read_text("utf-8").splitlines()
    names = [line.split("=")[0] for line in lines if line.startswith("#FHIR_BRIDGE_")]
    assert len(names) == len(set(names)) > 10
