"""What a witness's command line says to whoever misuses it, and with which exit code."""

from pathlib import Path

import pytest

from ledger_core.checkpoint import log_key
from ledger_core.cli.main import main as ledger_core
from ledger_core.errors import LogMismatch, OpeningRefused
from ledger_core.static import write_static
from ledger_core.witness import commands
from ledger_core.witness.home import REPLAYING, WITNESS
from tests.unit.ledger_core.ledger_witness_samples import ORIGIN, OTHER, Bench, SampleLog, plain_entries

MISUSED = 3
LISTEN_WRONG = [
    "w.example:65536",
    "w.example:99999",
    "w.example:-1",
    "w.example:1²",
    "w.example:١",
    "w.example:+1",
    "w.example:",
    "w.example",
    ":8480",
    "::1:8480",
    "[]:8480",
    "[w.example]:8480",
    "",
]


def run(*arguments: str | Path) -> int:
    try:
        return commands.main([str(item) for item in arguments])
    except SystemExit as end:
        return int(str(end.code))


@pytest.mark.parametrize("listen", LISTEN_WRONG)
def test_a_wrong_address_to_listen_on_is_misuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], listen: str
) -> None:
    Bench(tmp_path / "w")
    assert run("serve", tmp_path / "w", f"--listen={listen}") == MISUSED
    told = capsys.readouterr().err
    assert "listen on HOST:PORT" in told
    assert "ledger-unavailable" not in told


@pytest.mark.parametrize(
    ("listen", "meant"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("w.example:65535", ("w.example", 65_535)),
        ("[::1]:8480", ("::1", 8480)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
    ],
)
def test_a_right_address_is_taken_apart(listen: str, meant: tuple[str, int]) -> None:
    assert commands.make_parser().parse_args(["serve", "w", "--listen", listen]).listen == meant


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "é" * 70 + ".example"])
def test_a_name_that_no_host_can_have_is_misuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    Bench(tmp_path / "w")
    assert run("serve", tmp_path / "w", "--listen", f"{host}:8480") == MISUSED
    assert "no host can have the name" in capsys.readouterr().err


@pytest.mark.parametrize("every", ["-1", "0", "nan", "inf", "1e9", "1e300", "often"])
def test_seconds_that_nobody_can_wait_are_misuse(tmp_path: Path, every: str) -> None:
    assert run("follow", tmp_path / "w", tmp_path, f"--every={every}") == MISUSED
    with pytest.raises(SystemExit) as end:
        ledger_core(["checkpoint", str(tmp_path), f"--timeout={every}"])
    assert end.value.code == MISUSED


@pytest.mark.parametrize(
    "arguments", [[], ["unknown"], ["init", "w"], ["check", "case"], ["serve", "w", "--speed", "9"]]
)
def test_misuse_is_not_the_code_that_means_not_authenticated(arguments: list[str]) -> None:
    assert run(*arguments) == MISUSED
    with pytest.raises(SystemExit) as end:
        ledger_core(["witness", *arguments])
    assert end.value.code == MISUSED


@pytest.mark.parametrize("role", [WITNESS, REPLAYING])
@pytest.mark.parametrize("every", [[], ["--every", "60"]])
def test_following_before_any_log_is_trusted_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], role: str, every: list[str]
) -> None:
    write_static(SampleLog(plain_entries(5)), tmp_path / "static")
    assert run("init", tmp_path / "w", "--name", "w.example/1", *(["--replaying"] if role == REPLAYING else [])) == 0
    assert run("follow", tmp_path / "w", tmp_path / "static", *every) == 1
    told = capsys.readouterr().err
    assert f"({OpeningRefused.code}): this witness trusts no log yet" in told
    assert f"ledger-core witness trust {tmp_path / 'w'} VKEY" in told


@pytest.mark.parametrize("role", [WITNESS, REPLAYING])
def test_following_a_log_other_than_the_trusted_one_names_whose_key_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    write_static(SampleLog(plain_entries(5)), tmp_path / "static")
    run("init", tmp_path / "w", "--name", "w.example/1", *(["--replaying"] if role == REPLAYING else []))
    run("trust", tmp_path / "w", log_key("log.example/another", OTHER.public).vkey())
    assert run("follow", tmp_path / "w", tmp_path / "static") == 1
    assert f"({LogMismatch.code}): no key of {ORIGIN} is trusted here" in capsys.readouterr().err


@pytest.mark.parametrize(("sizes", "counted"), [([], "no evidence"), ([5], "1 case"), ([5, 6], "2 cases")])
def test_evidence_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sizes: list[int], counted: str
) -> None:
    bench = Bench(tmp_path / "w")
    trunk, branch = SampleLog(plain_entries(9)), SampleLog(plain_entries(9, branch="b", shared=3))
    seen = 0
    for size in sizes:
        bench.add(trunk.body(size, seen))
        seen = size
        bench.add(branch.body(size, size))
    bench.records.close()
    assert run("evidence", tmp_path / "w") == bool(sizes)
    assert capsys.readouterr().out.splitlines()[-1] == counted


def test_naming_a_witness_twice_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "ledger"
    assert ledger_core(["init", str(folder), "--name", "log.example/made"]) == 0
    key = Bench(tmp_path / "w").home.vkeys()[0]
    for named in (
        ["--witness", "http://127.0.0.1:1", key, "--witness", "http://127.0.0.1:2", key],
        ["--witness", "http://127.0.0.1:1", f"{key},{key}"],
    ):
        assert ledger_core(["checkpoint", str(folder), *named]) == 1
        told = capsys.readouterr().err
        assert "REFUSED (policy-invalid)" in told
        assert key in told
