"""The tour works as written: every command of docs/tour.md, in one shell, against a live service."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.support.pages import ROOT, check_page, play, steps
from tests.support.ports import free_port

TOUR = ROOT / "docs" / "tour.md"


def test_every_command_of_the_tour_does_what_the_page_shows(tmp_path: Path) -> None:
    for tool in ("bash", "curl", "jq", "zcat"):
        assert shutil.which(tool), f"the tour needs {tool}: apt-get install {tool}"
    for part in ("tests", "mappings"):
        (tmp_path / part).symlink_to(ROOT / part)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    command = tmp_path / ".venv" / "bin" / "fhir-bridge"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fhir_bridge.cli.main "$@"\n')
    command.chmod(0o755)
    tour = steps(TOUR.read_text("utf-8").replace("PORT=8080", f"PORT={free_port()}"))
    assert len(tour) > 30

    outputs = play(tour, tmp_path)

    log = (tmp_path / "service.log").read_text() if (tmp_path / "service.log").is_file() else ""
    check_page(tour, outputs, log=log[-2_000:])
