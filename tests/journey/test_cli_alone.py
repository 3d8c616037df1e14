"""Commands do the same whether the service runs or not: without it they open the data directory themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_S = 240
PATIENT = {"resourceType": "Patient", "id": "p1", "gender": "female"}


def command(data: Path, *arguments: str, expect: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FHIR_BRIDGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "fhir_bridge.cli.main", *arguments, "--data", str(data)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_without_a_running_service_the_commands_serve_themselves(tmp_path: Path) -> None:
    data = tmp_path / "data"
    pack = str(ROOT / "mappings" / "northgate")
    command(data, "institution", "add", "northgate", "--ruleset", pack)
    (tmp_path / "p.json").write_text(json.dumps(PATIENT, indent=1))
    (tmp_path / "broken.json").write_text('{"resourceType": "Patient", "id": "p1", "id": "p2"}')

    told = json.loads(command(data, "ingest", "--institution", "northgate", str(tmp_path / "p.json"), "--json"))
    assert told["outcomes"] == {"201": 1}
    refused = command(data, "ingest", "--institution", "northgate", str(tmp_path / "broken.json"), expect=1)
    (letter,) = json.loads(command(data, "dead-letters", "list", "--json"))
    assert letter["id"] in refused
    assert "still refused" in command(data, "dead-letters", "replay", letter["id"], expect=1)
    command(data, "patient", "enrol", "--institution", "northgate", "--patient", "p1")
    for who in (("--institution", "northgate"), ("--institution", "northgate", "--patient", "p1")):
        token = command(data, "token", *who)
        assert token.count(".") == 2, "a signed token and nothing else"
    assert "agrees" in command(data, "fsck", "--deep")

    command(data, "backup", "--to", str(tmp_path / "backup"))
    copy = tmp_path / "copy"
    folders = ("--from", str(tmp_path / "backup" / "vault"), "--keys", str(tmp_path / "backup" / "keys"))
    command(copy, "restore", *folders)
    assert "agrees" in command(copy, "fsck", "--deep")
    again = json.loads(command(copy, "ingest", "--institution", "northgate", str(tmp_path / "p.json"), "--json"))
    assert again["outcomes"] == {"200": 1}, "the restored service knows what it had"


def test_a_command_beside_another_that_holds_the_directory_says_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command(data, "institution", "add", "northgate", "--ruleset", str(ROOT / "mappings" / "northgate"))
    lock = str(data / "lock")
    hold = f"import fcntl; f = open({lock!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        told = command(data, "institution", "list", expect=2)
        holder.kill()
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert "in use" in told
