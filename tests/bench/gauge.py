"""What a benchmark reads off: percentiles, CPU time and memory of a process tree, fsync calls, the machine itself.

CPU time stands beside every wall time, because it means the same on a busy
machine. Linux only: /proc is the source.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fhir_bridge.adapters.sqlite_support import open_database
from fhir_bridge.settings import AnswerSettings, IngestSettings

_TICKS = os.sysconf("SC_CLK_TCK")
_CALLS = ("fsync", "fdatasync")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and memory of one process."""

    cpu_s: float
    resident: int
    peak: int


@dataclass(slots=True)
class Cpu:
    """CPU seconds that a block cost: the serving process and its workers."""

    main_s: float = 0.0
    workers_s: float = 0.0
    wall_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Both together."""
        return self.main_s + self.workers_s


@contextmanager
def cpu_of(pid: int) -> Iterator[Cpu]:
    """Measure what a process and its children spend while the block runs; children that end meanwhile are lost."""
    spent = Cpu()
    before, started = tree(pid), time.perf_counter()
    yield spent
    spent.wall_s = time.perf_counter() - started
    for member, usage in tree(pid).items():
        cost = usage.cpu_s - (before[member].cpu_s if member in before else 0.0)
        if member == pid:
            spent.main_s += cost
        else:
            spent.workers_s += cost


def tree(pid: int) -> dict[int, Usage]:
    """Return the usage of a process and of all below it."""
    parents: dict[int, int] = {}
    cpu: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        member = int(folder.name)
        parents[member], cpu[member] = int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return {member: Usage(cpu[member], *_memory(member)) for member in found if member in cpu}


def proportional(pid: int) -> dict[int, int]:
    """Return the bytes that a process and all below it take, those that several share counted once (proc(5), Pss)."""
    found: dict[int, int] = {}
    for member in tree(pid):
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        size = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
        found[member] = int(size[1]) << 10 if size else 0
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of a non-empty sequence."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1)]


def sync_calls(pid: int, work: Callable[[], object]) -> dict[str, int] | None:
    """Count the calls of fsync and fdatasync that a process tree makes while ``work`` runs.

    strace is attached meanwhile, which slows everything: use it apart from what is timed. None without strace.
    """
    if shutil.which("strace") is None:
        return None
    with TemporaryDirectory() as folder:
        report = Path(folder) / "calls"
        command = ["strace", "-f", "-c", "-U", "name,calls", "-e", "trace=fsync,fdatasync", "-o", str(report)]
        tracer = subprocess.Popen(
            [*command, *(f"-p{member}" for member in tree(pid))], stderr=subprocess.PIPE, text=True
        )
        assert tracer.stderr is not None
        if "attached" not in tracer.stderr.readline():
            tracer.wait(10)
            return None
        work()
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=30)
        text = report.read_text()
    found = {name: re.search(rf"^\s*{name}\s+(\d+)", text, re.MULTILINE) for name in _CALLS}
    return {name: int(match[1]) if match else 0 for name, match in found.items()}


def loop_ms() -> float:
    """Time a fixed piece of work of one core: how fast this machine is just now, to compare runs by."""
    best = float("inf")
    for _ in range(5):
        started = time.thread_time()
        digest = b""
        for number in range(20_000):
            digest = hashlib.sha256(digest + number.to_bytes(8, "big")).digest()
        best = min(best, time.thread_time() - started)
    return round(best * 1000, 2)


def machine() -> dict[str, object]:
    """Describe the machine and the settings in use, as far as they bear on the numbers."""
    ingest, answer = IngestSettings(), AnswerSettings()
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "loop_ms": loop_ms(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "store": _store_settings(),
        "workers": ingest.workers,
        "group_max_messages": ingest.group_max_messages,
        "group_max_bytes": ingest.group_max_bytes,
        "caches": f"up to {answer.index_max_rows} opened index rows; no record body, page or answer is ever kept",
    }


def _store_settings() -> dict[str, object]:
    """Ask a connection opened as the vault, the key store and the spool open theirs."""
    with TemporaryDirectory() as folder:
        connection = open_database(Path(folder) / "x.db", what="bench", version=1, schema="CREATE TABLE t (x)")
        names = ("journal_mode", "synchronous", "cache_size", "page_size")
        found: dict[str, object] = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}
        connection.close()
    found["synchronous"] = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}[int(str(found["synchronous"]))]
    return found


def _cpu_name() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory(pid: int) -> tuple[int, int]:
    """Return resident bytes now and at the most so far."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    sizes = {name: int(size) << 10 for name, size in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE)}
    return sizes.get("VmRSS", 0), sizes.get("VmHWM", 0)
