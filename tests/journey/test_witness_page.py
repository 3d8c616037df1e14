"""The witness page works as written: three witnesses behind ports, a log, its readers, and a fork that is found."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from tests.support.pages import ROOT, check_page, play, steps
from tests.support.ports import free_ports

PAGE = ROOT / "docs" / "witness.md"
PORTS = ("8481", "8482", "8483")


def test_every_command_of_the_page_does_what_it_shows(tmp_path: Path) -> None:
    for tool in ("bash", "curl", "jq"):
        assert shutil.which(tool), f"the page needs {tool}: apt-get install {tool}"
    page = with_free_ports(PAGE.read_text("utf-8"))
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "gather.py").write_text(program, "utf-8")
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, module in (("ledger-core", "-m ledger_core "), ("python", "")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        (commands / name).chmod(0o755)
    tour = steps(page)
    assert len(tour) > 30

    outputs = play(tour, tmp_path, path=commands)

    log = "".join(f"{file.name}: {file.read_text()[-1_000:]}\n" for file in sorted(tmp_path.glob("*.log")))
    check_page(tour, outputs, log=log)


def with_free_ports(page: str) -> str:
    for shown, free in zip(PORTS, free_ports(len(PORTS)), strict=True):
        assert shown in page
        page = re.sub(rf"\b{shown}\b", str(free), page)
    return page
