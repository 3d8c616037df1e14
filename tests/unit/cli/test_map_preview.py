"""``map preview PACK FILE``: a pack and a message, no service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fhir_bridge.cli.main import main
from tests.unit.mapping_tools.samples import house, observation


@pytest.fixture
def message(tmp_path: Path) -> str:
    """Two messages; the second would not pass."""
    path = tmp_path / "feed.ndjson"
    lines = [
        observation("a", "TMP", valueQuantity={"value": 37.50, "unit": "deg"}),
        observation("b", "X", status="cancelled"),
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_each_change_shows_both_sides_and_the_rule(
    tmp_path: Path, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", "preview", str(house(tmp_path / "p")), message]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[:2] == ["Observation/a", "  Observation.code"]
    assert '    +       "code": "8310-5",' in lines
    assert '    -   "unit": "deg"' in lines
    assert '    +   "unit": "Cel",' in lines
    assert lines.count("    by house/codes: the house's dictionary") == 2
    assert "--all" in shown.err
    assert "records: 1, changed: 1, would not pass: 0" in shown.err


def test_it_waits_for_no_service_and_loads_nothing_that_could(tmp_path: Path, message: str) -> None:
    heavy = ("asyncio", "fastapi", "httpx", "fhir", "rich", "fhir_bridge.wiring", "ledger_core")
    code = (
        "import sys; from fhir_bridge.cli.main import main; "
        f"main({['map', 'preview', str(house(tmp_path / 'p')), message]!r}); "
        f"print([n for n in {heavy!r} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_all_messages_and_an_exit_code_for_what_would_not_pass(
    tmp_path: Path, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", "preview", str(house(tmp_path / "p")), message, "--all"]) == 1
    assert "  quarantined business-rule: the house cancels by mistake" in capsys.readouterr().out.splitlines()


def test_json_holds_the_result_and_keeps_numbers(
    tmp_path: Path, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(message).write_text(Path(message).read_text().replace("37.5,", "37.50,"))
    assert main(["map", "preview", str(house(tmp_path / "p")), message, "--json"]) == 0
    text = capsys.readouterr().out
    (row,) = json.loads(text)
    assert row["verdict"] == "passed"
    assert [change["rule"] for change in row["changes"]] == ["house/codes", "house/codes"]
    assert row["result"]["valueQuantity"]["code"] == "Cel"
    assert '"value":37.50' in text


def test_colour_is_for_terminals_and_can_be_refused(
    tmp_path: Path, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(house(tmp_path / "p"))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["map", "preview", folder, message]) == 0
    assert '\x1b[32m+   "unit": "Cel",\x1b[0m' in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["map", "preview", folder, message]) == 0
    assert "\x1b[" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [["only-one"], ["a", "b", "c"], ["--institution", "x", "a", "b"]])
def test_a_call_that_names_too_little_or_too_much_is_refused(words: list[str]) -> None:
    assert main(["map", "preview", *words]) == 2


def test_speed_is_told_by_step_and_rule(tmp_path: Path, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", "bench", str(house(tmp_path / "p")), message, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["records"] == 2
    assert {rule["rule"]: (rule["tried"], rule["fired"]) for rule in found["rules"]} == {
        "house/codes": (2, 2),
        "house/notes": (2, 0),
        "house/method": (2, 0),
        "house/cancelled": (2, 1),
    }
    assert found["seconds"] == pytest.approx(sum(found["steps"].values()))
    assert all(seconds >= 0 for seconds in found["steps"].values())
