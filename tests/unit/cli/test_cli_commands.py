"""What commands send, print and return."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.cli.main import main

from .conftest import Call, Service

ROOT = Path(__file__).parents[3]

TAKEN = {"outcomes": {"201": 1}, "refused": [], "dead_letters": [], "height": 3}


@pytest.fixture(autouse=True)
def _no_directory_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FHIR_BRIDGE_DATA", raising=False)
    monkeypatch.delenv("FHIR_BRIDGE_DEBUG", raising=False)


def one_error_line(capsys: pytest.CaptureFixture[str]) -> str:
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("error: ")
    return shown.err


# --- calls that cannot be


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status"], "--data DIR"),
        (["nonsense"], "No such command"),
        (["institution"], "Missing command"),
        (["institution", "add"], "Missing argument"),
        (["institution", "add", "x", "--fhir-version", "DSTU2", "--ruleset", "."], "DSTU2"),
        (["status", "--data", "/nonexistent"], "holds no data"),
        (["ingest", "--institution", "x"], "Missing argument"),
        (["token", "--data", "{data}"], "--institution NAME or --patient ID"),
        (["token", "--patient", "x", "--purpose", "TREAT", "--data", "{data}"], "not for a patient"),
        (["ingest", "--institution", "x", "{data}/absent.json", "--data", "{data}"], "is not a file"),
        (["institution", "add", "x", "--ruleset", "/nonexistent", "--data", "{data}"], "is not a folder"),
        (["dead-letters", "replay", "--data", "{data}"], "which letters?"),
        (["dead-letters", "replay", "l1", "--institution", "x", "--data", "{data}"], "or else --reason"),
        (["dead-letters", "show", "", "--data", "{data}"], "which letter?"),
        (["person", "link", "/nonexistent.csv", "--data", "{data}"], "No such file"),
        (["serve", "--port", "0", "--data", "{data}"], "--port"),
        (["restore", "--from", "/tmp", "--keys", "/tmp", "--data", "{data}"], "is not empty"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([part.replace("{data}", str(data)) for part in arguments]) == 2
    assert words in one_error_line(capsys)


def test_an_unforeseen_error_is_named_by_type_and_place_and_tells_no_value(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer = lambda call: (200, "canary Mrs Example")
    assert main(["institution", "list", "--data", str(service.data)]) == 1
    assert "canary" not in one_error_line(capsys)


def test_help_and_bare_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert "dead-letters" in capsys.readouterr().out


def test_the_demo_keeps_off_the_stores_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from fhir_bridge.cli.demo import story

    seen: list[set[str]] = []
    monkeypatch.setenv("FHIR_BRIDGE_VAULT_URL", "postgresql://db/real")
    monkeypatch.setenv("FHIR_BRIDGE_LEDGER_URL", "postgresql://db/real")
    monkeypatch.setenv("FHIR_BRIDGE_KAFKA", "broker:9092")

    def told(**_: object) -> int:
        seen.append({"FHIR_BRIDGE_VAULT_URL", "FHIR_BRIDGE_LEDGER_URL", "FHIR_BRIDGE_KAFKA"} & os.environ.keys())
        return 0

    monkeypatch.setattr(story, "tell", told)
    assert main(["demo", "--once"]) == 0
    assert seen == [set()]


def test_starting_loads_nothing_heavy() -> None:
    heavy = (
        "fastapi",
        "httpx",
        "fhir",
        "pydantic",
        "rich",
        "joserfc",
        "fhir_bridge.wiring",
        "ledger_core",
        "asyncio",
    )
    code = f"import sys, fhir_bridge.cli.main as m; print([n for n in {heavy!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- listing


def test_listing_as_json_is_the_services_answer(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "harbor", "id": "x", "fhir_version": "R4", "ruleset": "ab", "topic": "fhir.harbor.in"}]
    service.answer = lambda call: (200, rows)
    assert main(["institution", "list", "--json", "--data", str(service.data)]) == 0
    assert json.loads(capsys.readouterr().out) == rows


def test_listing_into_a_pipe_is_one_line_a_row(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer = lambda call: (200, [{"id": "l1", "institution": "harbor", "reason": "structure", "entries": 2}])
    assert main(["dead-letters", "list", "--reason", "structure", "--data", str(service.data)]) == 0
    assert capsys.readouterr().out == "l1\tharbor\tstructure\t-\t-\t2\n"
    assert service.calls[0].params == {"reason": "structure"}


def test_the_directory_may_come_from_the_environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.answer = lambda call: (200, [])
    monkeypatch.setenv("FHIR_BRIDGE_DATA", str(service.data))
    assert main(["institution", "list"]) == 0


def test_an_id_is_one_part_of_the_address_whatever_it_holds(service: Service) -> None:
    service.answer = lambda call: (404, {})
    assert main(["dead-letters", "show", "../status", "--data", str(service.data)]) == 1
    assert service.calls[0].path == "/letters/..%2Fstatus"


def test_a_replay_names_what_is_still_refused(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    issue = {"code": "value", "diagnostics": "bad date", "expression": "Patient.birthDate"}
    why = [{"letter": "l1", "index": None, "issue": issue}, {"letter": "l2", "index": 3, "issue": issue}]
    service.answer = lambda call: (200, {"replayed": 4, "still_refused": 2, "why": why})
    assert main(["dead-letters", "replay", "--all", "--data", str(service.data)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "4 replayed, 2 still refused",
        "  l1: message: value: bad date at Patient.birthDate",
        "  l2: entry 3: value: bad date at Patient.birthDate",
    ]


def test_a_dead_letters_message_is_shown_only_on_request(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    issue = {"code": "value", "diagnostics": "bad date", "expression": "Patient.birthDate"}
    letter = {
        "id": "l1", "institution": "harbor", "reason": "value", "received_at": "2026-01-01T00:00:00Z",
        "findings": [{"index": 0, "issues": [issue]}], "message": "canary",
    }  # fmt: skip
    service.answer = lambda call: (200, letter)
    for extra in ([], ["--json"]):
        assert main(["dead-letters", "show", "l1", "--data", str(service.data), *extra]) == 0
        shown = capsys.readouterr().out
        assert "bad date" in shown
        assert "Patient.birthDate" in shown
        assert "canary" not in shown
    assert main(["dead-letters", "show", "l1", "--message", "--data", str(service.data)]) == 0
    assert capsys.readouterr().out == "canary\n"


# --- institutions, patients, persons


def test_adding_an_institution_sends_an_absolute_rule_pack(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pack").mkdir()
    monkeypatch.chdir(tmp_path)
    service.answer = lambda call: (200, {"name": "cedar", "id": "i", "topic": "t", "credentials": "c"})
    call = ["institution", "add", "cedar", "--fhir-version", "STU3", "--ruleset", "pack", "--data", str(service.data)]
    assert main(call) == 0
    assert service.calls[0].json == {"name": "cedar", "fhir_version": "STU3", "ruleset_dir": str(tmp_path / "pack")}


@pytest.mark.parametrize(
    ("call", "answer", "printed"),
    [
        (
            ["institution", "add", "x", "--fhir-version", "R4", "--ruleset", "{data}"],
            {"id": "network-a", "name": "x", "topic": "t", "credentials": "c.json"},
            "network-a\n",
        ),
        (
            ["patient", "enrol", "--institution", "x", "--patient", "p"],
            {"patient": "canonical", "charts": 1, "credentials": "c.json"},
            "canonical\n",
        ),
    ],
)
def test_a_script_reads_the_id_and_nothing_else(
    service: Service, capsys: pytest.CaptureFixture[str], call: list[str], answer: dict[str, object], printed: str
) -> None:
    service.answer = lambda _: (200, answer)
    assert main([*(word.format(data=service.data) for word in call), "--data", str(service.data)]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    "header", ["person,institution,patient", "person,hospital,patient_id", "Person, Hospital ,local patient id,extra"]
)
def test_a_feed_is_read_under_the_names_hospitals_use(service: Service, tmp_path: Path, header: str) -> None:
    feed = tmp_path / "feed.csv"
    feed.write_bytes(b"\xef\xbb\xbf" + f"{header}\nP1,harbor, a1 ,more\n".encode())
    service.answer = lambda call: (200, {"changed": 1})
    assert main(["person", "link", str(feed), "--data", str(service.data)]) == 0
    assert service.calls[0].json == {"rows": [{"person": "P1", "institution": "harbor", "patient": "a1"}]}


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        ("person,hospital\nP1,x\n", "no column 'patient'"),
        ("person,hospital,patient\nP1,x,\n", "line 2"),
        ("", "person"),
        ("person,hospital,patient\nP1,x,M\xfcller\n", "not UTF-8"),
        ("person,hospital,patient\nP1,x," + "9" * 200_000 + "\n", "cannot be read as CSV"),
    ],
    ids=["no column", "an empty cell", "empty", "not UTF-8", "one cell without end"],
)
def test_a_wrong_feed_changes_nothing(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], feed: str, words: str
) -> None:
    (tmp_path / "feed.csv").write_text(feed, encoding="latin-1")
    assert main(["person", "link", str(tmp_path / "feed.csv"), "--data", str(service.data)]) == 2
    assert words in one_error_line(capsys)
    assert service.calls == []


@pytest.mark.parametrize("share", ["NaN", "1e9999999", "inf", "-1", "0.001%", "101%", "five"])
def test_what_is_no_share_is_refused_before_anything_is_asked(
    service: Service, capsys: pytest.CaptureFixture[str], share: str
) -> None:
    call = ["rules", "canary", "harbor", "58de", f"--share={share}", "--data", str(service.data)]
    assert main(call) == 2
    assert "is no share" in one_error_line(capsys)
    assert service.calls == []


def test_a_name_with_signs_of_an_address_is_asked_about_as_it_stands(service: Service) -> None:
    service.answer = lambda call: (200, {"changes": [], "records_of_others": 0})
    assert main(["rules", "history", "a/../b?c=d", "--data", str(service.data)]) == 0
    assert service.calls[0].path.startswith("/rules/a%2F..%2Fb%3Fc%3Dd/history")


def test_evidence_is_a_number(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["person", "suggest", "--least-bits", "nan", "--data", str(service.data)]) == 2
    assert "--least-bits" in one_error_line(capsys)


# --- ingest


def write(path: Path, messages: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(message) for message in messages))
    return str(path)


def test_ingest_sends_every_message_with_its_bytes(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer = lambda call: (200, TAKEN)
    sent = [{"resourceType": "Patient", "id": str(number)} for number in range(30)]
    file = write(tmp_path / "x.ndjson", sent)
    assert main(["ingest", "--institution", "harbor", file, "--json", "--data", str(service.data)]) == 0
    assert sorted(c.body for c in service.calls) == sorted(json.dumps(message).encode() for message in sent)
    assert {(c.path, c.params["institution"]) for c in service.calls} == {("/ingest", "harbor")}
    summary = json.loads(capsys.readouterr().out)
    assert (summary["messages"], summary["entries"], summary["outcomes"]) == (30, 30, {"201": 30})


def test_messages_of_one_patient_are_never_in_flight_together(service: Service, tmp_path: Path) -> None:
    lock, flying, clashes = threading.Lock(), set[str](), list[str]()
    seen: dict[str, list[int]] = {}
    met = threading.Event()

    def answer(call: Call) -> tuple[int, Any]:
        patient, number = call.json["subject"]["reference"], call.json["number"]
        with lock:
            if patient in flying:
                clashes.append(patient)
            flying.add(patient)
            if len(flying) > 1:
                met.set()
            seen.setdefault(patient, []).append(number)
        met.wait(0.05)
        with lock:
            flying.discard(patient)
        return 200, TAKEN

    service.answer = answer
    sent = [
        {"resourceType": "Observation", "number": number, "subject": {"reference": f"Patient/{number % 5}"}}
        for number in range(40)
    ]
    file = write(tmp_path / "x.ndjson", sent)
    assert main(["ingest", "--institution", "harbor", file, "--data", str(service.data)]) == 0
    assert clashes == []
    assert met.is_set(), "other patients' messages go side by side"
    assert seen == {f"Patient/{p}": [n for n in range(40) if n % 5 == p] for p in range(5)}


def test_a_refused_message_gives_exit_code_1_and_names_the_letter(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issue = {"code": "structure", "diagnostics": "duplicate key", "expression": "Patient.name"}
    service.answer = lambda call: (200, {"outcomes": {}, "refused": [issue], "dead_letters": ["l9"], "height": 1})
    file = write(tmp_path / "x.json", [{}])
    assert main(["ingest", "--institution", "harbor", file, "--data", str(service.data)]) == 1
    shown = capsys.readouterr().out
    assert "l9" in shown
    assert "structure: duplicate key at Patient.name" in shown


def test_quarantined_entries_count_as_taken_and_are_told(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer = lambda call: (200, TAKEN | {"outcomes": {"201": 2, "202": 3}})
    file = write(tmp_path / "x.json", [{}])
    assert main(["ingest", "--institution", "harbor", file, "--data", str(service.data)]) == 0
    assert "3 entries quarantined" in capsys.readouterr().out


def test_a_busy_service_is_asked_again_and_nothing_is_dropped(service: Service, tmp_path: Path) -> None:
    service.headers = {"Retry-After": "0"}
    service.answer = lambda call: (429, {"issue": []}) if len(service.calls) == 1 else (200, TAKEN)
    file = write(tmp_path / "x.json", [{"id": "only"}])
    assert main(["ingest", "--institution", "harbor", file, "--data", str(service.data)]) == 0
    assert [c.body for c in service.calls] == [b'{"id": "only"}'] * 2


def test_ingest_ends_when_the_service_refuses_the_institution(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer = lambda call: (400, {"issue": [{"diagnostics": "no institution is called 'x'"}]})
    file = write(tmp_path / "x.ndjson", [{"id": str(n)} for n in range(100)])
    assert main(["ingest", "--institution", "x", file, "--data", str(service.data)]) == 2
    assert "no institution" in one_error_line(capsys)


# --- upkeep and evidence


def test_fsck_with_findings_names_the_places_and_fails(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"progress": "records"},
        {"finding": {"place": "records 7", "what": "changed"}},
        {"done": {"findings": 1}},
    ]
    service.answer = lambda call: (200, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    assert main(["fsck", "--deep", "--data", str(service.data)]) == 1
    assert capsys.readouterr().out == "records 7: changed\nchecked: 1 disagreements\n"
    assert service.calls[0].json == {"deep": True, "checkpoint": None}


def test_fsck_that_breaks_off_is_never_a_clean_bill(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer = lambda call: (200, b'{"progress": "records"}\n')
    assert main(["fsck", "--data", str(service.data)]) == 1
    assert "broke off" in one_error_line(capsys)


def test_a_download_that_is_refused_leaves_the_old_file(service: Service, tmp_path: Path) -> None:
    target = tmp_path / "policy.json"
    target.write_text("old")
    service.answer = lambda call: (500, {})
    assert main(["ledger", "policy", "--out", str(target), "--data", str(service.data)]) == 1
    assert target.read_text() == "old"
    service.answer = lambda call: (200, b"new")
    assert main(["ledger", "policy", "--out", str(target), "--data", str(service.data)]) == 0
    assert target.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "policy.json"]


def test_verify_passes_on_the_verifiers_exit_code(tmp_path: Path) -> None:
    (tmp_path / "no-receipt").write_text("{}")
    assert main(["verify", str(tmp_path / "no-receipt")]) == 1
    assert main(["verify", str(tmp_path / "absent")]) == 3


# --- maps


def pack(folder: Path, expected: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "examples").mkdir()
    head = (ROOT / "mappings" / "northgate" / "source.yaml").read_text("utf-8")
    (folder / "source.yaml").write_text(head.replace("../core", str(ROOT / "mappings" / "core")))
    sent = {"resourceType": "Basic", "id": "b", "code": {"text": "a note"}}
    (folder / "examples" / "a-note.input.json").write_text(json.dumps(sent))
    (folder / "examples" / "a-note.expected.json").write_text(json.dumps(sent | expected))
    return folder


def test_a_pack_whose_examples_hold_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", "test", str(pack(tmp_path / "pack", {}))]) == 0
    assert capsys.readouterr().out == "1 of 1 examples pass\n"


def test_an_example_that_comes_out_otherwise_is_named_with_its_element(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", "test", str(pack(tmp_path / "pack", {"created": "2026-01-01"}))]) == 1
    shown = capsys.readouterr().out
    assert "✗ a-note" in shown
    assert "created" in shown
    assert "0 of 1" in shown


def test_a_pack_without_examples_proves_nothing(tmp_path: Path) -> None:
    folder = pack(tmp_path / "pack", {})
    for example in (folder / "examples").iterdir():
        example.unlink()
    assert main(["map", "test", str(folder)]) == 1


def test_a_folder_that_is_no_pack_is_a_wrong_call(tmp_path: Path) -> None:
    assert main(["map", "test", str(tmp_path)]) == 2
    assert main(["map", "validate", str(tmp_path), "-"]) == 2
