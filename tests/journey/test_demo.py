"""The demo tells its whole story and ends well; it checks its own claims and fails when one does not hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
LIMIT_S = 600

SCENES = (
    "Three hospitals join the ledger",
    "Their bundles stream in",
    "Dr. A asks for a timeline",
    "The patient decides",
    "The same question again",
    "Evidence for somebody who trusts none of us",
    "Somebody edits the file",
    "The patient changes her mind",
    "Who saw what",
)


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FHIR_BRIDGE_")}
    return subprocess.run(
        [sys.executable, "-m", "fhir_bridge.cli.main", "demo", *arguments],
        cwd=ROOT, env=environment | {"COLUMNS": "120"}, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip


def test_the_story_is_told_to_its_end(tmp_path: Path) -> None:
    done = demo("--once", "--data", str(tmp_path / "data"), "--port", str(free_port()))
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr
    assert done.stderr == ""
    places = [done.stdout.find(scene) for scene in SCENES]
    assert -1 not in places
    assert places == sorted(places)
    assert "mg/dL" in done.stdout
    assert done.stdout.count("operator-attested") >= 3
    assert "TOKEN=" in done.stdout
    assert not (tmp_path / "data" / "control.sock").exists(), "the service has ended"


def test_a_directory_with_data_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    done = demo("--once", "--data", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
