"""The command line ledger-core: what it leaves, what it refuses, and how it ends."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ledger_core import Identity, Policy, Receipt, verify_receipt
from ledger_core.checkpoint import cosign, cosigner_key
from ledger_core.cli import home
from ledger_core.cli.main import main
from ledger_core.errors import LedgerUnavailable
from ledger_core.ledger import Ledger

WITNESS = Identity.from_private_bytes(bytes(range(32)))
WITNESS_KEY = cosigner_key("witness.example", WITNESS.public)
NOW_S = 1_700_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "ledger"
    assert main(["init", str(folder), "--name", "example.org/ledger"]) == 0
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"content of {name}\n")
    return folder


def policy_of(folder: Path) -> Policy:
    return Policy.decode((folder / "policy.json").read_text("utf-8"))


def test_files_are_anchored_together_and_each_receipt_proves_its_own(folder: Path, tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    assert main(["append", str(folder), *map(str, files)]) == 0
    for file in files:
        receipt = file.with_name(f"{file.name}.receipt.json").read_text("utf-8")
        outcome = verify_receipt(receipt, record=file.read_bytes(), policy=policy_of(folder))
        assert (outcome.matched, outcome.facts["name"]) == ("content", file.name)
    assert not list(tmp_path.glob("*.part"))


def test_an_earlier_receipt_is_never_written_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append = ["append", str(folder), str(tmp_path / "one")]
    assert main(append) == 0
    first = (tmp_path / "one.receipt.json").read_text("utf-8")
    with home.reopen(folder) as ledger:
        size = ledger.size
    assert main(append) == 1
    assert main([*append, "--receipts", str(tmp_path / "none")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert (tmp_path / "one.receipt.json").read_text("utf-8") == first
    with home.reopen(folder) as ledger:
        assert ledger.size == size


def test_an_append_cut_short_loses_no_salt(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(ledger: Ledger, receipt: str) -> str:
        raise LedgerUnavailable("the power went away")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "renewed", dies)
        assert main(["append", str(folder), str(tmp_path / "one")]) == 1
    part = tmp_path / "one.receipt.json.part"
    assert not (tmp_path / "one.receipt.json").exists()
    capsys.readouterr()
    assert main(["renew", str(folder), str(part)]) == 0
    record = (tmp_path / "one").read_bytes()
    assert verify_receipt(capsys.readouterr().out, record=record, policy=policy_of(folder)).matched == "content"


def test_a_receipt_is_renewed_under_what_witnesses_cosigned(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["append", str(folder), str(tmp_path / "one")]) == 0
    with home.reopen(folder) as ledger:
        note = cosign(ledger.checkpoint(), WITNESS_KEY, WITNESS, time_s=NOW_S)
        ledger.keep_checkpoint(note, [WITNESS_KEY])
        plain = policy_of(folder)
    demanding = Policy(plain.origin, plain.log_keys, (WITNESS_KEY,), 1)
    capsys.readouterr()
    renew = ["renew", str(folder), str(tmp_path / "one.receipt.json"), "--cosigned", "--form", "tlog-proof"]
    assert main(renew) == 0
    text = capsys.readouterr().out
    assert text.startswith("c2sp.org/tlog-proof@v1\n")
    assert verify_receipt(text, policy=demanding).vouched == "witnessed"
    other = tmp_path / "other"
    assert main(["init", str(other), "--name", "example.org/ledger"]) == 0
    assert main(["renew", str(other), str(tmp_path / "one.receipt.json")]) == 1
    assert "not in this log" in capsys.readouterr().err


def test_keeping_a_checkpoint_again_loses_no_cosignature(folder: Path) -> None:
    second = Identity.from_private_bytes(bytes(32))
    keys = [WITNESS_KEY, cosigner_key("second.example", second.public)]
    with home.reopen(folder) as ledger:
        ledger.keep_checkpoint(cosign(ledger.checkpoint(), WITNESS_KEY, WITNESS, time_s=NOW_S), keys)
        ledger.keep_checkpoint(cosign(ledger.checkpoint(), keys[1], second, time_s=NOW_S + 5), keys)
        receipt = ledger.state_receipt("member", WITNESS.public, is_cosigned=True)
    plain = policy_of(folder)
    assert verify_receipt(receipt, policy=Policy(plain.origin, plain.log_keys, tuple(keys), 2)).vouched == "witnessed"


@pytest.mark.parametrize("entry", ["0", "1", "3", "4"])
def test_what_is_no_transaction_gets_no_receipt(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: str
) -> None:
    assert main(["append", str(folder), str(tmp_path / "one")]) == 0
    capsys.readouterr()
    assert main(["prove", str(folder), "--entry", entry]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "REFUSED (not-found)" in said.err


def test_unknown_kinds_and_what_was_never_revoked_get_no_receipt(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with home.reopen(folder) as ledger:
        operator = ledger.genesis.operator.hex()
    capsys.readouterr()
    for arguments in (["--state", "membe", operator], ["--state", "member", operator, "--since", "0"]):
        assert main(["prove", str(folder), *arguments]) == 1
        assert capsys.readouterr().out == ""
    assert main(["prove", str(folder), "--state", "member", operator]) == 0
    assert verify_receipt(capsys.readouterr().out, policy=policy_of(folder)).claim == "state present"


def test_times_without_a_state_are_a_usage_error(folder: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prove", str(folder), "--entry", "2", "--since", "0"])
    assert ended.value.code == 3


def test_a_name_that_cannot_be_an_origin_leaves_nothing(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "new"), "--name", "two words"]) == 1
    assert not (tmp_path / "new").exists()


def test_keys_that_were_not_copied_are_asked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    assert main(["snapshot", str(folder), str(moved / "ledger.db")]) == 0
    assert main(["show", str(moved)]) == 1
    assert "log.key is missing" in capsys.readouterr().err
    shutil.copytree(folder / "keys", moved / "keys")
    assert main(["show", str(moved)]) == 0


def test_a_reader_who_has_seen_enough_is_no_failure(folder: Path) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'"{sys.executable}" -m ledger_core export "{folder}" | head -c 1; echo " ${{PIPESTATUS[0]}}"',
        ],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stderr == ""
    assert done.stdout.split()[-1] in {"0", "141"}


def test_the_secret_keys_are_for_their_owner_only(folder: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in (folder / "keys").iterdir()} == {0o600}
    secrets = [path.read_text("ascii").strip() for path in (folder / "keys").iterdir()]
    assert not any(secret in (folder / "policy.json").read_text("utf-8") for secret in secrets)
    assert json.loads((folder / "policy.json").read_text("utf-8"))["origin"] == "example.org/ledger"


def test_renewing_works_for_every_claim(folder: Path, tmp_path: Path) -> None:
    assert main(["append", str(folder), str(tmp_path / "one")]) == 0
    with home.reopen(folder) as ledger:
        operator = ledger.genesis.operator
        receipts = [
            ledger.transaction_receipt(2),
            ledger.state_receipt("member", operator),
            ledger.past_state_receipt("member", operator, 0),
            (tmp_path / "one.receipt.json").read_text("utf-8"),
        ]
        for receipt in receipts:
            renewed = ledger.renewed(Receipt.decode(receipt).encode_text())
            told = [verify_receipt(each, policy=ledger.policy()) for each in (receipt, renewed)]
            assert told[0].claim == told[1].claim
