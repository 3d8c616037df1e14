"""Pages whose commands are tests: read the console blocks, run them in one shell, compare what they show."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_S = 600


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


def play(tour: list[Step], where: Path, *, path: Path | None = None) -> list[tuple[str, int]]:
    """Run all commands in one shell; stop at the first that fails. Returns output and status of each.

    ``path``, if given, is searched for commands first.
    """
    script = ["set -m", *(f'{step.command}\nprintf "\\001%s\\002" $?' for step in tour)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FHIR_BRIDGE_")}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(where)}
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
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


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.split("…"))


def check_page(page: list[Step], outputs: list[tuple[str, int]], *, log: str = "") -> None:
    """Fail unless every step ended well and showed what its page shows."""
    for step, (output, status) in zip(page, outputs, strict=False):
        assert status == 0, f"{step.command}\nended with {status}:\n{output}\n{log}"
        assert step.matches(output), f"{step.command}\nshowed:\n{output}\ninstead of:\n" + "\n".join(step.shown)
    assert len(outputs) == len(page), f"the shell ended after {page[len(outputs) - 1].command}"
