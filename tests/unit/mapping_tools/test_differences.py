"""Two versions of a pack: what comes out otherwise is counted by element, code and rule, and nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fhir_bridge.cli.main import main
from fhir_bridge.mapping_tools.differences import compare
from fhir_bridge.mapping_tools.revisions import NoSuchRevision, pack_at
from tests.unit.mapping_tools.samples import HOUSE, LABS, RULES, feed, house, observation

KEEPING = RULES.replace("remove: {path: note}", "narrative: {policy: drop}")
"""The rules of the house, but that notes are kept."""


def test_a_pack_and_its_copy_differ_in_nothing(tmp_path: Path) -> None:
    one, other = house(tmp_path / "a"), house(tmp_path / "b")
    found = compare(one, other, feed(observation("a", "GLU"), observation("b", "NEW", status="cancelled")))
    assert found.is_same
    assert (found.records, found.rules, found.differences, found.verdicts) == (2, [], {}, {})


def test_a_row_more_in_a_table_is_one_coding_more_and_one_flag_fewer(tmp_path: Path) -> None:
    one, other = house(tmp_path / "a"), house(tmp_path / "b", labs=LABS + "lab,NEW,New test,4548-4\n")
    found = compare(one, other, feed(observation("a", "GLU"), observation("b", "NEW"), observation("c", "NEW")))
    assert (found.records, found.differing, found.rules) == (3, 2, [])
    assert [(d.path, d.how, d.code, d.rule, d.count) for d in found.by_volume()] == [
        (f"Observation.code.coding.{key}", "added", f"{HOUSE}|NEW", "house/codes", 2)
        for key in ("code", "display", "system")
    ]
    assert [(e.record, e.place, e.before, e.after) for e in found.by_volume()[0].examples] == [
        ("Observation/b", "Observation.code.coding[0].code", "", '"4548-4"'),
        ("Observation/c", "Observation.code.coding[0].code", "", '"4548-4"'),
    ]
    assert list(found.flags.values()) == [-2]


def test_rules_added_removed_and_changed_are_told(tmp_path: Path) -> None:
    changed = RULES.replace("house/notes", "house/remarks").replace("urn:house:method", "urn:house:room")
    found = compare(
        house(tmp_path / "a"), house(tmp_path / "b", changed), feed(observation("a", "GLU", method={"text": "x"}))
    )
    assert found.rules == [("changed", "house/method"), ("removed", "house/notes"), ("added", "house/remarks")]
    assert [(d.path, d.how, d.rule) for d in found.by_volume()] == [
        ("Observation.extension.url", "changed", "house/method")
    ]


def test_a_record_that_is_quarantined_now_is_told_with_the_reason(tmp_path: Path) -> None:
    stricter = RULES.replace("status = 'cancelled'", "status = 'cancelled' or status = 'final'")
    one, other = house(tmp_path / "a"), house(tmp_path / "b", stricter)
    sent = [observation("a", "GLU"), observation("b", "GLU", status="cancelled")]
    there = compare(one, other, feed(*sent))
    assert there.verdicts == {("passed", "quarantined", "the house cancels by mistake"): 1}
    assert list(there.verdict_examples.values()) == [["Observation/a"]]
    back = compare(other, one, feed(*sent))
    assert back.verdicts == {("quarantined", "passed", "the house cancels by mistake"): 1}


def test_a_number_that_only_changes_its_text_is_a_change(tmp_path: Path) -> None:
    head = "- rule: r\n  version: 1\n  on: Observation\n  why: w\n"
    steps = head + "  do:\n    - set: {path: valueQuantity.value, value: %s}\n"
    one, other = house(tmp_path / "a", steps % "1.1"), house(tmp_path / "b", steps % "1.10")
    found = compare(one, other, feed(observation("a", "GLU", valueQuantity={"value": 1})))
    assert [(e.before, e.after) for d in found.by_volume() for e in d.examples] == [("1.1", "1.10")]


@pytest.fixture
def sample(tmp_path: Path) -> str:
    """A feed whose values must not be shown unasked."""
    path = tmp_path / "feed.ndjson"
    sent = observation("a", "GLU", note=[{"text": "Zzcanary"}])
    path.write_text(json.dumps(sent) + "\n")
    return str(path)


def test_exit_codes_are_those_of_diff(tmp_path: Path, sample: str, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (
        str(house(tmp_path / "a")),
        str(house(tmp_path / "b", KEEPING)),
    )
    assert main(["map", "diff", one, one, "--on", sample]) == 0
    assert main(["map", "diff", one, other, "--on", sample]) == 1
    assert main(["map", "diff", one, str(tmp_path), "--on", sample]) == 2
    assert main(["map", "diff", one, other, "--on", str(tmp_path / "none")]) == 2
    house(tmp_path / "b", "rule: r\n")
    assert main(["map", "diff", one, other, "--on", sample]) == 2


@pytest.mark.parametrize("form", [[], ["--json"], ["--html"]])
def test_values_are_shown_only_when_asked_for(
    tmp_path: Path, sample: str, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    one, other = (
        str(house(tmp_path / "a")),
        str(house(tmp_path / "b", KEEPING)),
    )
    page = tmp_path / "page.html"
    command = ["map", "diff", one, other, "--on", sample, *form, *([str(page)] if form == ["--html"] else [])]

    def shown() -> str:
        out = capsys.readouterr().out
        return page.read_text("utf-8") if form == ["--html"] else out

    assert main(command) == 1
    quiet = shown()
    assert "Observation.<wbr>note" in quiet or "Observation.note.text" in quiet
    assert "Zzcanary" not in quiet
    assert main([*command, "--show-values"]) == 1
    assert "Zzcanary" in shown()


def git(folder: Path, *words: str) -> None:
    given = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "PATH": os.environ["PATH"]}
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *words], cwd=folder, env=given, check=True, capture_output=True)


def test_a_pack_of_another_revision_comes_with_its_core(tmp_path: Path) -> None:
    core, mine = house(tmp_path / "packs" / "core", "[]\n", "why: x\n"), tmp_path / "packs" / "mine"
    house(mine, source=SOURCE_OVER_CORE)
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    (mine / "rules.yaml").write_text("[]\n")
    (core / "rules.yaml").unlink()
    with pack_at(f"{mine}@HEAD") as found:
        assert (found / "rules.yaml").read_text() == RULES
        assert (found.parent / "core" / "rules.yaml").read_text() == "[]\n"
    assert not found.exists()


SOURCE_OVER_CORE = "institution: house\nextends: core\n"


@pytest.mark.parametrize("name", ["nowhere", "nowhere@HEAD", "packs/mine@none", "packs/mine@--output=x"])
def test_what_is_no_pack_in_no_revision_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    house(tmp_path / "packs" / "mine")
    git(tmp_path, "init")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoSuchRevision), pack_at(name):
        pass


def test_what_a_new_rule_removes_is_told_of_the_new_rule(tmp_path: Path) -> None:
    one, other = house(tmp_path / "a", KEEPING), house(tmp_path / "b")
    found = compare(one, other, feed(observation("a", "GLU", note=[{"text": "asleep"}])))
    assert [(d.path, d.how, d.rule) for d in found.by_volume()] == [
        ("Observation.note.text", "removed", "house/notes")
    ]


def test_a_text_in_place_of_a_code_is_a_value_and_stays_out_of_sight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "named.ndjson"
    path.write_text(json.dumps(observation("a", "Zzcanary born 1970", note=[{"text": "asleep"}])) + "\n")
    packs = [str(house(tmp_path / "a")), str(house(tmp_path / "b", KEEPING))]
    page = tmp_path / "page.html"
    assert main(["map", "diff", *packs, "--on", str(path), "--html", str(page)]) == 1
    assert main(["map", "diff", *packs, "--on", str(path), "--json"]) == 1
    assert "Zzcanary" not in capsys.readouterr().out + page.read_text()
