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
from tests.support.service import running

pytestmark = pytest.mark.slow


def typed(data: Path, *arguments: str, expect: int = 0) -> tuple[str, str]:
    """Run a command beside the service; return what it printed on standard output and on standard error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FHIR_BRIDGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "fhir_bridge.cli.main", *arguments],
        cwd=ROOT, env=environment | {"FHIR_BRIDGE_DATA": str(data)},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_a_change_of_rules_from_the_command_line(tmp_path: Path) -> None:
    data, pack = tmp_path / "data", marking_pack(tmp_path / "pack", "one")
    with running(data, FHIR_BRIDGE_RULES_FOUR_EYES="true") as service:
        add = ("institution", "add", "northgate", "--ruleset", str(pack), "--author", "Anna")
        assert "four eyes" in typed(data, *add, expect=2)[1]
        typed(data, *add, "--approver", "Ben")
        for resource in (patient("p1"), observation("o1", "p1")):
            service.ingest("northgate", json.dumps(resource).encode())

        (pack / "second.yaml").write_text("rule: [\n")
        _, why = typed(data, "rules", "propose", "northgate", str(pack), "--author", "Anna", expect=2)
        assert why.startswith("error: pack/second.yaml:")
        out, told = typed(data, "rules", "propose", "northgate", str(marking_pack(pack, "two")), "--author", "Anna")
        digits = out.strip()[:6]
        assert len(out.strip()) == 64
        assert "1 examples pass" in told
        assert "changed rules: marks/first, marks/second" in told
        assert "four eyes" in typed(data, "rules", "activate", "northgate", digits, expect=2)[1]
        named = ("rules", "activate", "northgate", digits, "--author", "Mallory")
        assert "who proposed it answers for it" in typed(data, *named, expect=2)[1]
        assert "approved by ben" in typed(data, "rules", "approve", "northgate", digits, "--approver", "Ben")[0]
        assert "does 5% of the patients" in typed(data, "rules", "canary", "northgate", digits, "--share", "5%")[0]
        assert "canary" in typed(data, "rules", "status")[0]
        assert "in force, height" in typed(data, "rules", "activate", "northgate", digits)[0]
        assert "by anna, approved by ben" in typed(data, "rules", "status", "northgate")[0]

        shadow = ("rules", "shadow", "northgate", str(marking_pack(pack, "three")))
        assert "say who answers" in typed(data, *shadow, expect=2)[1]
        assert "is no share" in typed(data, *shadow, "--share", "0", "--author", "anna", expect=2)[1]
        assert "beside the rules in force on 10%" in typed(data, *shadow, "--author", "anna")[0]
        typed(data, "rules", "withdraw", "northgate", "--author", "ben")
        typed(data, "rules", "rollback", "northgate", "--author", "ben")

        history, _ = typed(data, "rules", "history", "northgate")
        touching, _ = typed(data, "rules", "history", "northgate", "--touching", "marks/second")
    rows = [line.split("\t") for line in history.splitlines()]
    assert [row[1] for row in rows] == ["rolled back", "activated", "canary 5%", "activated"]
    assert [row[3] for row in rows] == ["ben", "anna", "anna", "anna"]
    assert [row[4] for row in rows] == ["-", "ben", "ben", "ben"]
    # Records are told beside the ruleset that made them, whatever has been in force since.
    assert [row[6] for row in rows] == ["2", "0", "0", "2"]
    assert "-  - set: {path: bodySite.text, value: 'one'}" in touching
    assert "1 records name marks/second" in touching
