"""The tour works as written: every command of docs/tour.md, in one shell, against a live service."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "docs" / "tour.md"
LIMIT_S = 240


@dataclass(frozen=True)
class Step:
    """A command and the output that the page shows; nothing shown means that nothing is promised."""

    command: str
    shown: tuple[str, ...]

    def matches(self, output: str) -> bool:
        """``…`` stands for anything within a line; a line that holds nothing else stands for any number of lines."""
        if not self.shown:
            return True
        lines = [r"(?:.*\n)*" if line == "…" else _pattern(line) + r"\n" for line in self.shown]
        return re.fullmatch("".join(lines), output) is not None


def steps(page: str) -> list[Step]:
    """Read the commands of every console block, in order."""
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```", page, re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:], ()))
            elif line.startswith("> "):
                found[-1] = Step(f"{found[-1].command}\n{line[2:]}", ())
            else:
                found[-1] = Step(found[-1].command, (*found[-1].shown, line))
    return found


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
    for step, (output, status) in zip(tour, outputs, strict=False):
        assert status == 0, f"{step.command}\nended with {status}:\n{output}\n{log[-2_000:]}"
        assert step.matches(output), f"{step.command}\nshowed:\n{output}\ninstead of:\n" + "\n".join(step.shown)
    assert len(outputs) == len(tour), f"the shell ended after {tour[len(outputs) - 1].command}"


def play(tour: list[Step], where: Path) -> list[tuple[str, int]]:
    """Run all commands in one shell; stop at the first that fails. Returns output and status of each."""
    script = ["set -m", *(f'{step.command}\nprintf "\\001%s\\002" $?' for step in tour)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FHIR_BRIDGE_")}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(where)}
    shell = subprocess.Popen(
        ["bash", "--norc", "-c", "\n".join(script)],
        cwd=where,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        end_session(shell.pid)
        output, _ = shell.communicate()
    finally:
        end_session(shell.pid)
    return [(text, int(status)) for text, status in re.findall(r"(.*?)\x01(\d+)\x02", output, re.S)]


def end_session(leader: int) -> None:
    """Kill what the shell started and left running: job control gives each job a process group, but one session."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, session = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[3])
            if session == leader:
                os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.split("…"))
