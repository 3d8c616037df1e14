"""Misuse of the command line: one clear line, an exit code that says so, and nothing left behind."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ledger_core import Identity, TransactionRefused
from ledger_core.cli import home, write
from ledger_core.cli.main import main
from ledger_core.errors import IntegrityBroken, LedgerUnavailable
from ledger_core.ledger import Ledger
from ledger_core.verify.command import PIPE_CLOSED
from ledger_core.verify.command import main as verify

ROOT = Path(__file__).parents[3]
FULL = Path("/dev/full")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "ledger"
    assert main(["init", str(folder), "--name", "example.org/ledger"]) == 0
    (tmp_path / "one").write_text("content of one\n")
    (tmp_path / "two").write_text("content of two\n")
    return folder


@pytest.fixture
def receipt(folder: Path, tmp_path: Path) -> Path:
    assert main(["append", str(folder), str(tmp_path / "one")]) == 0
    return tmp_path / "one.receipt.json"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that was said on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


def run(arguments: Sequence[str], stdout: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ledger_core", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)


def test_an_append_that_the_rules_refuse_leaves_nothing_and_can_be_repeated(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = folder / "keys" / "operator.key"
    own = key.read_text("ascii")
    key.write_text(Identity.generate().private_bytes().hex(), "ascii")
    append = ["append", str(folder), str(tmp_path / "one"), str(tmp_path / "two")]
    capsys.readouterr()
    assert main(append) == 1
    assert said(capsys) == "REFUSED (transaction-refused): transaction refused: not-a-member"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger", "one", "two"]
    key.write_text(own, "ascii")
    assert main(append) == 0


def test_an_append_that_cannot_write_its_receipts_anchors_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[Path] = []

    def fills_up(path: Path, content: bytes) -> None:
        if written:
            raise OSError(28, "No space left on device", str(path))
        path.write_bytes(content)
        written.append(path)

    monkeypatch.setattr(write, "write_durably", fills_up)
    with home.reopen(folder) as ledger:
        size = ledger.size
    capsys.readouterr()
    assert main(["append", str(folder), str(tmp_path / "one"), str(tmp_path / "two")]) == 3
    assert said(capsys).endswith("two.receipt.json.part: No space left on device")
    assert written
    assert not list(tmp_path.glob("*.part"))
    with home.reopen(folder) as ledger:
        assert ledger.size == size


@pytest.mark.parametrize("failure", [LedgerUnavailable("the disk is gone"), TransactionRefused("not-a-member")])
def test_what_may_have_been_anchored_keeps_its_salts(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: Exception,
) -> None:
    def fails(ledger: Ledger, envelope: bytes, *, timeout: float | None = None) -> None:
        raise failure

    append = ["append", str(folder), str(tmp_path / "one")]
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "submit", fails)
        assert main(append) == 1
    is_kept = isinstance(failure, LedgerUnavailable)
    assert (tmp_path / "one.receipt.json.part").exists() == is_kept
    capsys.readouterr()
    assert main(append) == int(is_kept)
    if is_kept:
        assert "one.receipt.json.part is of an append that was cut short" in said(capsys)


def test_an_import_that_fails_leaves_no_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "not-an-export").write_text("83\n", "ascii")
    capsys.readouterr()
    assert main(["import", str(tmp_path / "not-an-export"), str(tmp_path / "new" / "place")]) == 1
    assert said(capsys) == "REFUSED (integrity-broken): a line of the export is malformed"
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    assert main(["import", str(tmp_path / "not-an-export"), str(tmp_path / "old")]) == 1
    assert not list((tmp_path / "old").iterdir())
    capsys.readouterr()
    assert main(["export", str(folder)]) == 0
    (tmp_path / "export").write_text(capsys.readouterr().out, "ascii")
    assert main(["import", str(tmp_path / "export"), str(tmp_path / "new" / "place")]) == 0
    assert (tmp_path / "new" / "place" / "ledger.db").exists()


def test_a_quorum_of_nobody_is_a_usage_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    witness = ["--witness", "http://127.0.0.1:1", "key"]
    for arguments in (["--quorum", "1"], ["--quorum", "2", *witness], ["--quorum", "0", *witness]):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["checkpoint", str(folder), *arguments])
        assert ended.value.code == 3
        assert capsys.readouterr().out == ""
    assert main(["checkpoint", str(folder), "--quorum", "1", *witness]) == 1
    assert "verifier key is malformed" in capsys.readouterr().err


def test_no_height_lies_below_zero(folder: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prune", str(folder), "-5"])
    assert ended.value.code == 3


def test_a_file_that_is_no_text_is_named(receipt: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = str(folder / "ledger.db")
    policy = str(folder / "policy.json")
    for arguments in ([database, "--policy", policy], [str(receipt), "--policy", database]):
        capsys.readouterr()
        assert verify(arguments) == 3
        assert said(capsys) == f"cannot read: {database} is not text"
    assert verify([str(receipt), "--policy", str(folder / "none")]) == 3
    assert said(capsys) == f"cannot read {folder / 'none'}: No such file or directory"


def test_a_reader_who_goes_away_gets_no_traceback(receipt: Path, folder: Path) -> None:
    arguments = ["verify", str(receipt), "--policy", str(folder / "policy.json")]
    for form in ([], ["--json"]):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = run([*arguments, *form], writing)
        finally:
            os.close(writing)
        assert (done.returncode, done.stderr) == (PIPE_CLOSED, "")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_an_outcome_that_cannot_be_written_is_no_verdict(receipt: Path, folder: Path) -> None:
    arguments = ["verify", str(receipt), "--policy", str(folder / "policy.json")]
    with FULL.open("w") as full:
        done = run(arguments, full.fileno())
        exported = run(["export", str(folder)], full.fileno())
    assert (done.returncode, done.stderr) == (3, "cannot write the outcome: No space left on device\n")
    assert (exported.returncode, exported.stderr) == (3, "cannot read or write: No space left on device\n")


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _garbled_schema(content: bytes) -> bytes:
    # The text of the schema, on the first page: SQLite complains of it in words that are no UTF-8.
    return content.replace(b"CREATE TABLE meta", b"CREATE \xff\xfeBLE meta").replace(
        b"CREATE TABLE", b"CR\x8dATE TABLE"
    )


def _no_database(content: bytes) -> bytes:
    return b"a text of more than a hundred bytes, which is what SQLite's own heading takes " * 20


@pytest.mark.parametrize("harm", [_cut, _garbled_schema, _no_database])
def test_a_damaged_database_is_called_damaged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[bytes], bytes]
) -> None:
    database = folder / "ledger.db"
    whole = database.read_bytes()
    database.write_bytes(harm(whole))
    assert database.read_bytes() != whole
    for command in ("fsck", "export"):
        capsys.readouterr()
        assert main([command, str(folder)]) == 1
        assert "ledger.db is damaged, or no ledger: restore a snapshot" in said(capsys)
    for arguments in (["show", str(folder)], ["append", str(folder), str(tmp_path / "one")]):
        capsys.readouterr()
        assert main(arguments) == 1
        assert said(capsys).startswith(f"REFUSED ({IntegrityBroken.code}): ")
    assert not list(tmp_path.glob("*.part"))
