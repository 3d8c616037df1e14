"""CSV on the command line: cut into messages that name their file and first row, by the pack of the institution."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fhir_bridge.cli.main import main
from tests.unit.cli.conftest import Call, Service

PACK = """institution: spring
csv:
  labs:
    type: Observation
    delimiter: ";"
    id: n
    columns: {n: identifier.value, s: status}
    constants: {code.text: x}
"""
TAKEN = {"outcomes": {"201": 1}, "refused": [], "dead_letters": [], "height": 1}


@pytest.fixture
def spring(service: Service, tmp_path: Path) -> Service:
    """A service that knows spring by its pack."""
    pack = tmp_path / "spring"
    pack.mkdir()
    (pack / "source.yaml").write_text(PACK)
    known = [{"name": "spring", "ruleset_dir": str(pack)}]

    def answer(call: Call) -> tuple[int, Any]:
        return 200, known if call.path == "/institutions" else TAKEN

    service.answer = answer
    return service


def _ingest(service: Service, *arguments: str) -> int:
    return main(["ingest", "--institution", "spring", *arguments, "--data", str(service.data)])


def _sent(service: Service) -> list[Call]:
    return [call for call in service.calls if call.path == "/ingest"]


def test_a_long_file_goes_in_messages_under_its_header_that_name_file_and_row(
    spring: Service, tmp_path: Path
) -> None:
    rows = [f'{n};"fi\nnal"\r\n' for n in range(1_100)]
    (tmp_path / "labs März.csv").write_text("n;s\r\n" + "".join(rows), "utf-8", newline="")
    assert _ingest(spring, str(tmp_path / "labs März.csv")) == 0
    sent = _sent(spring)
    assert [call.content_type for call in sent] == [
        f"text/csv; name=labs%20M%C3%A4rz.csv; row={row}" for row in (2, 502, 1002)
    ]
    assert b"".join(call.body.removeprefix(b"n;s\r\n") for call in sent) == "".join(rows).encode()


def test_compressed_files_and_standard_input_are_csv_too(
    spring: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labs.csv.gz").write_bytes(gzip.compress(b"n;s\n1;final\n"))
    assert _ingest(spring, str(tmp_path / "labs.csv.gz")) == 0
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"n;s\n2;final\n")))
    assert _ingest(spring, "--format", "csv", "-") == 0
    assert [(call.content_type, call.body) for call in _sent(spring)] == [
        ("text/csv; name=labs.csv; row=2", b"n;s\n1;final\n"),
        ("text/csv; row=2", b"n;s\n2;final\n"),
    ]


def test_fhir_beside_csv_goes_as_it_always_did(spring: Service, tmp_path: Path) -> None:
    (tmp_path / "labs.csv").write_text("n;s\n1;final\n")
    (tmp_path / "p.json").write_text('{"resourceType": "Patient"}')
    assert _ingest(spring, str(tmp_path / "labs.csv"), str(tmp_path / "p.json")) == 0
    assert {call.content_type for call in _sent(spring)} == {
        "text/csv; name=labs.csv; row=2",
        "application/fhir+json",
    }


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "other.csv",
            b"a;b\n1;2\n",
            "neither name nor header of the file match one of the pack's files: labs (labs*.csv)",
        ),
        ("labs.csv", b"", "the file is empty"),
        ("labs.csv.gz", b"\x1f\x8bnot gzip", "is a damaged gzip file"),
    ],
)
def test_a_file_that_is_none_of_the_packs_is_told_before_anything_is_sent(
    name: str, content: bytes, words: str, spring: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert _ingest(spring, str(tmp_path / name)) != 0
    assert words in capsys.readouterr().err
    assert _sent(spring) == []


def test_a_pack_without_csv_and_an_unknown_institution_are_told(
    spring: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labs.csv").write_text("n;s\n1;final\n")
    (tmp_path / "spring" / "source.yaml").write_text("institution: spring\n")
    assert _ingest(spring, str(tmp_path / "labs.csv")) == 2
    assert "describes no CSV: add 'csv' to its source.yaml" in capsys.readouterr().err
    assert main(["ingest", "--institution", "x", str(tmp_path / "labs.csv"), "--data", str(spring.data)]) == 2
    assert "no institution 'x'" in capsys.readouterr().err


def test_validate_judges_every_row_without_a_service(
    spring: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labs.csv").write_text("n;s\n1;final\n2;finished\n;final\n")
    assert main(["map", "validate", str(tmp_path / "spring"), str(tmp_path / "labs.csv")]) == 1
    told = capsys.readouterr()
    assert "row 3, column 's': must be one of" in told.out
    assert "row 4, column 'n': is empty" in told.out
    assert "1 messages, 2 errors, 0 warnings" in told.err
    assert spring.calls == []
