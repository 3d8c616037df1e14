"""Reading files of messages, and what must stay in order."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.cli.failing import SETUP, Failure
from fhir_bridge.cli.messages import opened, order_key

ONE = b'{"resourceType":"Patient","id":"a"}'
TWO = b'{"resourceType":"Patient","id":"b","note":"1.10"}'


def read(path: Path) -> list[bytes]:
    with opened(str(path)) as (found, _):
        return list(found)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (ONE, [ONE]),
        (ONE + b"\n", [ONE]),
        (ONE + b"\n" + TWO + b"\n", [ONE, TWO]),
        (ONE + b"\r\n\n" + TWO, [ONE, TWO]),
        (b"\n\n" + ONE + b"\n" + TWO, [ONE, TWO]),
        (b"", []),
        (b" \n\n", []),
    ],
)
def test_a_document_a_line_is_a_message_a_line(tmp_path: Path, content: bytes, expected: list[bytes]) -> None:
    (tmp_path / "x").write_bytes(content)
    assert read(tmp_path / "x") == expected


def test_a_document_over_several_lines_is_one_message_with_its_bytes(tmp_path: Path) -> None:
    pretty = json.dumps(json.loads(TWO), indent=2).encode()
    (tmp_path / "x.json").write_bytes(pretty + b"\n")
    assert read(tmp_path / "x.json") == [pretty]


def test_what_is_no_json_is_passed_on_for_the_service_to_judge(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"MSH|^~\\&|\nPID|1")
    assert read(tmp_path / "x") == [b"MSH|^~\\&|\nPID|1"]


def test_compression_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "plain-name").write_bytes(gzip.compress(ONE + b"\n" + TWO))
    assert read(tmp_path / "plain-name") == [ONE, TWO]


def test_a_cut_off_gzip_file_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(range(256)) * 40)[:-20])
    with pytest.raises(Failure, match="damaged") as caught:
        read(tmp_path / "x.gz")
    assert caught.value.exit_code == SETUP


def test_the_position_reaches_the_raw_size_of_the_file(tmp_path: Path) -> None:
    raw = gzip.compress(b"\n".join([ONE, TWO] * 100))
    (tmp_path / "x.gz").write_bytes(raw)
    with opened(str(tmp_path / "x.gz")) as (found, position):
        assert len(list(found)) == 200
        assert position() == len(raw)


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(ONE + b"\n" + TWO)

    monkeypatch.setattr("sys.stdin", Stdin())
    with opened("-") as (found, _):
        assert list(found) == [ONE, TWO]


def bundle(*resources: dict[str, Any]) -> bytes:
    return json.dumps({"resourceType": "Bundle", "entry": [{"resource": r} for r in resources]}).encode()


PATIENT = {"resourceType": "Patient", "id": "p1"}
OBSERVATION = {"resourceType": "Observation", "id": "o1", "subject": {"reference": "Patient/p1"}}


@pytest.mark.parametrize(
    ("message", "key"),
    [
        (bundle(PATIENT, OBSERVATION), "p1"),
        (bundle(OBSERVATION), "p1"),
        (json.dumps(OBSERVATION).encode(), "p1"),
        (json.dumps(PATIENT).encode(), "p1"),
        (b'{"resourceType":"Immunization","id":"i","patient":{"reference":"http://h/fhir/Patient/p1"}}', "p1"),
        (b'{"resourceType":"Location","id":"l"}', "Location/l"),
        (b"{broken", ""),
        (b"[" * 100_000, ""),
        (b'{"resourceType":"Bundle","entry":"no list"}', "Bundle/None"),
    ],
)
def test_messages_are_ordered_by_their_patient(message: bytes, key: str) -> None:
    assert order_key(message) == key
