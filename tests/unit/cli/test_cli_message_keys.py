"""What the commands about keys of messages and signed messages send, print, write and return."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.cli.main import main

from .conftest import Service

JWK = {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "k"}
EVIDENCE: dict[str, Any] = {
    "id": "ab",
    "institution": "northgate",
    "received_at": "2026-11-29T14:00:00.000Z",
    "signature": "head..tail",
    "key": JWK,
    "thumbprint": "known-by-this",
    "message": base64.b64encode(b"\xffmessage").decode(),
}
OF_A_RECORD = {name: base64.b64encode(name.encode()).decode() for name in ("original", "lineage")} | {"receipt": "{}"}


def exported(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@pytest.mark.parametrize(
    ("asked", "params", "found", "files"),
    [
        ("ab", {"message": "ab"}, EVIDENCE, {}),
        (
            "Patient/p/_history/1",
            {"record": "Patient/p/_history/1"},
            EVIDENCE | OF_A_RECORD,
            {"original": b"original", "lineage.json": b"lineage", "receipt.json": b"{}"},
        ),
    ],
)
def test_an_export_writes_what_an_auditor_checks_and_names_the_key_by_what_cannot_be_given_to_another(
    service: Service,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    asked: str,
    params: dict[str, str],
    found: dict[str, Any],
    files: dict[str, bytes],
) -> None:
    service.answer = lambda call: (200, found)
    to = tmp_path / "new" / "folder"
    assert main(["signed", "export", asked, "--to", str(to), "--data", str(service.data)]) == 0
    assert service.calls[0].params == params
    written = exported(to)
    assert json.loads(written.pop("key.jwk")) == JWK
    assert written == {"message": b"\xffmessage", "signature.jws": b"head..tail\n"} | files
    assert to.stat().st_mode & 0o777 == 0o700
    assert "known-by-this" in capsys.readouterr().err


def test_an_export_writes_over_nothing(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "message").write_bytes(b"another")
    service.answer = lambda call: (200, EVIDENCE)
    assert main(["signed", "export", "ab", "--to", str(tmp_path), "--data", str(service.data)]) == 2
    assert "File exists" in capsys.readouterr().err
    assert (tmp_path / "message").read_bytes() == b"another"
    assert not (tmp_path / "key.jwk").exists()


def test_keys_are_added_taken_back_and_listed(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = JWK | {"thumbprint": "known-by-this"}
    service.answer = lambda call: (200, [shown] if call.method == "GET" else shown)
    file = tmp_path / "key.jwk"
    file.write_text(json.dumps(JWK))
    order = ["institution", "signing-key", "northgate", "--data", str(service.data)]
    assert main([*order, "--add", str(file), "--remove", "old"]) == 0
    assert [call.json for call in service.calls if call.method == "POST"] == [{"add": JWK}, {"remove": "old"}]
    told = capsys.readouterr()
    assert "known-by-this" in told.out
    assert "known-by-this" in told.err


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ([], {"renew": False, "destroy_older": False}),
        (["--renew", "--require"], {"renew": True, "destroy_older": False, "must": True}),
        (["--destroy-older", "--optional"], {"renew": False, "destroy_older": True, "must": False}),
    ],
)
def test_the_key_to_encrypt_to_is_printed_as_json(
    service: Service, capsys: pytest.CaptureFixture[str], options: list[str], body: dict[str, bool]
) -> None:
    service.answer = lambda call: (200, JWK)
    assert main(["institution", "encryption-key", "northgate", *options, "--data", str(service.data)]) == 0
    assert service.calls[0].json == body
    assert json.loads(capsys.readouterr().out) == JWK


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{"])
def test_a_file_that_is_no_jwk_is_not_sent(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    file = tmp_path / "key.jwk"
    file.write_bytes(content)
    order = ["institution", "signing-key", "northgate", "--add", str(file), "--data", str(service.data)]
    assert main(order) == 2
    assert service.calls == []
    assert "JWK" in capsys.readouterr().err
