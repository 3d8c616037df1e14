"""Waiting for a data directory, and starting on one that several want at once."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fhir_bridge import serving
from fhir_bridge.adapters.datadir import DataDirectory
from fhir_bridge.adapters.keyring_file import FileKeyring


def test_who_is_asked_to_end_just_when_its_turn_comes_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    handler = signal.getsignal(signal.SIGTERM)

    class Taken(DataDirectory):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(serving, "DataDirectory", Taken)
    assert serving._await_turn(data) is None
    assert signal.getsignal(signal.SIGTERM) is handler
    DataDirectory(data).close()


def test_two_may_begin_with_one_empty_directory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, sync, is_first = tmp_path / "data", os.fsync, True

    def meanwhile(descriptor: int) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            DataDirectory(data).close()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    DataDirectory(data).close()
    assert (data / "VERSION").read_text() == "1\n"
    assert [file.name for file in data.iterdir() if file.name.startswith(".")] == []


def test_a_draft_that_a_crash_left_is_no_content(tmp_path: Path) -> None:
    (tmp_path / ".VERSION.00ff00ff").write_text("")
    DataDirectory(tmp_path).close()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FHIR_BRIDGE_PASSPHRASE", "secret999", "passphrase"),
        ("FHIR_BRIDGE_INGEST_WORKERS", "secret999", "FHIR_BRIDGE_INGEST_WORKERS: "),
        ("FHIR_BRIDGE_CONSENT_POLICIES_FILE", "/nonexistent", "FHIR_BRIDGE_CONSENT_POLICIES_FILE cannot be read"),
        ("FHIR_BRIDGE_KAFKA", "http://nowhere", "the bus URL must read"),
    ],
)
def test_a_setting_that_will_not_do_is_told_while_the_other_still_serves(
    tmp_path: Path, name: str, value: str, words: str
) -> None:
    (tmp_path / "VERSION").write_text("1\n")
    FileKeyring(tmp_path / "keys" / "keyring")
    (tmp_path / "control.sock").touch()
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "fhir_bridge.cli.main", "serve", "--standby", "--data", str(tmp_path)]
        ended = subprocess.run(command, env={**os.environ, name: value}, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "secret999" not in ended.stderr
    assert ended.stderr.count("\n") == 1
