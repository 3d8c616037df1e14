"""A PostgreSQL server of the system's packages in a folder of its own, for the benchmark's peer.

Its own defaults but for memory: ``shared_buffers`` 1 GB and ``max_wal_size``
4 GB, with fsync on. As root it runs under the account ``postgres``, because
PostgreSQL refuses root.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ACCOUNT = "postgres"
_SETTINGS = ("shared_buffers=1GB", "max_wal_size=4GB")
_PROGRAMS = Path("/usr/lib/postgresql")


def find_postgres() -> Path | None:
    """Return the folder of the newest server's programs; None without one."""
    found = [each for each in _PROGRAMS.glob("*/bin") if (each / "initdb").exists()]
    return max(found, key=lambda each: float(each.parent.name), default=None)


@contextmanager
def postgres(programs: Path) -> Iterator[tuple[str, str]]:
    """Serve an empty database on loopback; yield its JDBC URL and user."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="fhir-bridge-postgres-"))
    data = folder / "data"
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, ACCOUNT)
        folder.chmod(0o700)
        _run(programs / "initdb", "-D", data, "-U", ACCOUNT, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
        options = f"-h 127.0.0.1 -p {port} -k {folder} " + " ".join(f"-c {each}" for each in _SETTINGS)
        _run(programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        try:
            yield f"jdbc:postgresql://127.0.0.1:{port}/postgres", ACCOUNT
        finally:
            _run(programs / "pg_ctl", "-D", data, "-w", "-m", "fast", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(program: Path, *arguments: object) -> None:
    command = [str(program), *map(str, arguments)]
    if os.geteuid() == 0:
        command = ["runuser", "-u", ACCOUNT, "--", *command]
    # Not captured: the server inherits a pipe and would keep it open.
    with tempfile.TemporaryFile("w+") as told:
        done = subprocess.run(command, stdout=told, stderr=told, cwd="/", timeout=120, check=False)
        if done.returncode:
            told.seek(0)
            raise RuntimeError(f"{program.name} failed: {told.read()[-2000:]}")
