"""A change of rules as an engineer and an operator type it, from the proposal to the question who it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bridge_world import ROOT, observation, patient
from tests.support.packs import marking_pack

pytestmark = pytest.mark.slow


def typed(data: Path, *arguments: str, expect: int = 0, **settings: str) -> tuple[str, str]:
    """Run a command; return what it printed on standard output and on standard error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FHIR_BRIDGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "fhir_bridge.cli.main", *arguments],
        cwd=ROOT, env=environment | {"FHIR_BRIDGE_DATA": str(data)} | settings,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_a_change_of_rules_from_the_command_line(tmp_path: Path) -> None:
    data, pack = tmp_path / "data", marking_pack(tmp_path / "pack", "one")
    typed(data, "institution", "add", "northgate", "--ruleset", str(pack))
    for number, resource in enumerate((patient("p1"), observation("o1", "p1"))):
        (tmp_path / f"{number}.json").write_text(json.dumps(resource))
        typed(data, "ingest", "--institution", "northgate", str(tmp_path / f"{number}.json"))

    (pack / "second.yaml").write_text("rule: [\n")
    _, why = typed(data, "rules", "propose", "northgate", str(pack), "--author", "Anna", expect=2)
    assert why.startswith("error: pack/second.yaml:")
    marking_pack(pack, "two")
    out, told = typed(data, "rules", "propose", "northgate", str(pack), "--author", "Anna")
    digits = out.strip()[:6]
    assert len(out.strip()) == 64
    assert "1 examples pass" in told
    assert "changed rules: marks/first, marks/second" in told
    four = {"FHIR_BRIDGE_RULES_FOUR_EYES": "true"}
    assert "four eyes" in typed(data, "rules", "activate", "northgate", digits, expect=2, **four)[1]
    assert "approved by ben" in typed(data, "rules", "approve", "northgate", digits, "--approver", "Ben")[0]
    assert "in force, height" in typed(data, "rules", "activate", "northgate", digits, **four)[0]
    assert "by anna, approved by ben" in typed(data, "rules", "status", "northgate")[0]

    again = ("rules", "canary", "northgate", str(marking_pack(pack, "three")), "--share", "5%")
    assert "say who answers" in typed(data, *again, expect=2)[1]
    assert "does 5% of the patients" in typed(data, *again, "--author", "anna")[0]
    assert "canary" in typed(data, "rules", "status")[0]
    assert "is no share" in typed(data, "rules", "shadow", "northgate", digits, "--share", "0", expect=2)[1]
    typed(data, "rules", "withdraw", "northgate", "--author", "ben")
    typed(data, "rules", "rollback", "northgate", "--author", "ben")

    history, _ = typed(data, "rules", "history", "northgate")
    rows = [line.split("\t") for line in history.splitlines()]
    assert [row[1] for row in rows] == ["rolled back", "canary 5%", "activated", "activated"]
    assert [row[3] for row in rows] == ["ben", "anna", "anna", "the institution"]
    # Records are told beside the ruleset that made them, whatever has been in force since.
    assert [row[6] for row in rows] == ["2", "0", "0", "2"]
    touching, _ = typed(data, "rules", "history", "northgate", "--touching", "marks/second")
    assert "-  - set: {path: bodySite.text, value: 'one'}" in touching
    assert "1 records name marks/second" in touching
