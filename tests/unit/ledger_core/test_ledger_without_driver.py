"""Whoever keeps a ledger in a file needs no PostgreSQL driver; whoever names a database without one is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from ledger_core.cli.main import main

_WITHOUT = """
import sys
sys.modules["psycopg"] = None
from ledger_core.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def without_driver(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _WITHOUT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_a_file_needs_no_driver_and_a_database_without_one_is_told(tmp_path: Path) -> None:
    assert without_driver("init", tmp_path / "home", "--name", "a.example/b").returncode == 0
    assert without_driver("fsck", tmp_path / "home").returncode == 0
    refused = without_driver("fsck", "postgresql://u:secret@db/x")
    assert refused.returncode == 1
    assert refused.stderr.startswith("REFUSED (opening-refused): a ledger on PostgreSQL needs psycopg 3")
    assert "secret" not in refused.stderr


def test_an_address_file_that_holds_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ledger.url").write_text("mysql://u:secret@db/x")
    assert main(["fsck", str(tmp_path)]) == 1
    assert "ledger.url holds no postgresql:// address" in capsys.readouterr().err
    assert main(["init", str(tmp_path / "new"), "--name", "a.example/b", "--database", "x:y"]) == 1
    assert not (tmp_path / "new").exists()
