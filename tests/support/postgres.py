"""A PostgreSQL server of the system's packages in a folder of its own, for tests and for the benchmark's peer.

As root it runs under the account ``postgres``, because PostgreSQL refuses root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_port

ACCOUNT = "postgres"
ROOMY = ("shared_buffers=1GB", "max_wal_size=4GB")
"""More memory and fewer checkpoints than PostgreSQL's own defaults; fsync stays on."""
_PROGRAMS = Path("/usr/lib/postgresql")


def find_postgres() -> Path | None:
    """Return the folder of the newest server's programs; None without one."""
    found = [each for each in _PROGRAMS.glob("*/bin") if (each / "initdb").exists()]
    return max(found, key=lambda each: float(each.parent.name), default=None)


class PostgresServer:
    """One server on a loopback port, which can be killed and started again."""

    def __init__(self, programs: Path, settings: Sequence[str] = ()) -> None:
        self.port = free_port()
        self._programs = programs
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="fhir-bridge-postgres-"))
        self._data = self._folder / "data"
        if os.geteuid() == 0:
            shutil.chown(self._folder, ACCOUNT)
        self._folder.chmod(0o700)
        locale = ("-E", "UTF8", "--locale=C.UTF-8")
        _run(programs / "initdb", "-D", self._data, "-U", ACCOUNT, "-A", "trust", *locale)

    def start(self) -> PostgresServer:
        """Serve; returns when it takes connections."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self._folder} " + " ".join(
            f"-c {each}" for each in self._settings
        )
        _run(self._programs / "pg_ctl", "-D", self._data, "-w", "-l", self._folder / "log", "-o", options, "start")
        return self

    def start_at_last(self) -> None:
        """Start after a kill: what is left of the one before holds its memory for a moment."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self.start()
                return
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def stop(self) -> None:
        """Stop as an operator does."""
        _run(self._programs / "pg_ctl", "-D", self._data, "-w", "-m", "fast", "stop")

    def kill(self) -> None:
        """SIGKILL the server and all its processes, which die with it."""
        os.kill(int((self._data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def url(self, database: str = "postgres") -> str:
        """Return a database's address for libpq."""
        return f"postgresql://{ACCOUNT}@127.0.0.1:{self.port}/{database}"

    def make(self, database: str) -> str:
        """Make an empty database; return its address."""
        where = ("-h", "127.0.0.1", "-p", str(self.port), "-U", ACCOUNT)
        _run(self._programs / "createdb", *where, database)
        return self.url(database)

    def remove(self) -> None:
        """Delete its files; what is left of a killed one writes on for a moment."""
        for _ in range(50):
            shutil.rmtree(self._folder, ignore_errors=True)
            if not self._folder.exists():
                return
            time.sleep(0.1)


@contextmanager
def postgres(programs: Path) -> Iterator[tuple[str, str]]:
    """Serve an empty database on loopback; yield its JDBC URL and user."""
    server = PostgresServer(programs, ROOMY)
    try:
        server.start()
        try:
            yield f"jdbc:{server.url().replace(f'{ACCOUNT}@', '')}", ACCOUNT
        finally:
            server.stop()
    finally:
        server.remove()


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
