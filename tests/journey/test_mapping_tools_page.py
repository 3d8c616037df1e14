"""The page about the mapping tools works as written: every command of docs/mapping-tools.md, in one shell."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.support.pages import ROOT, check_page, play, steps

PAGE = ROOT / "docs" / "mapping-tools.md"


def test_every_command_of_the_page_does_what_it_shows(tmp_path: Path) -> None:
    for tool in ("bash", "zcat"):
        assert shutil.which(tool), f"the page needs {tool}: apt-get install {tool}"
    for part in ("tests", "mappings"):
        (tmp_path / part).symlink_to(ROOT / part)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    command = tmp_path / ".venv" / "bin" / "fhir-bridge"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fhir_bridge.cli.main "$@"\n')
    command.chmod(0o755)
    page = steps(PAGE.read_text("utf-8"))
    assert len(page) > 15

    outputs = play(page, tmp_path)

    check_page(page, outputs)
    assert (tmp_path / "results.xml").is_file()
    report = (tmp_path / "report.html").read_text("utf-8")
    assert "http-equiv" in report
    assert "<script" not in report
