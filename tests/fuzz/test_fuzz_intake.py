"""A short run of the fuzzer over the intake; ``make fuzz`` goes on for as long as wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.hospitals import ROOT

RUNS = int(os.environ.get("FUZZ_RUNS", "5000"))


def test_whatever_comes_is_taken_or_refused_with_reasons(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.intake", str(tmp_path / "corpus"), f"-runs={RUNS}"]
    command.append(f"-artifact_prefix={tmp_path}/")
    # libFuzzer's limit is on the peak of memory, which a process inherits from the one that it was split off from:
    # from a small shell, not from this test run.
    apart = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(apart, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert f"Done {RUNS} runs" in done.stderr
