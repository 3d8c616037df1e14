"""``map import-map`` and ``map export-map``: there and back, and an honest no where a table cannot hold it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.cli.main import main
from fhir_bridge.fhir.validate import is_refused, validate_r4
from fhir_bridge.normalize import load_code_maps, load_ruleset

LOINC = "http://loinc.org"
MAP: dict[str, Any] = {
    "resourceType": "ConceptMap",
    "url": "http://h.example/ConceptMap/labs",
    "title": "Laboratory",
    "status": "active",
    "group": [
        {
            "source": "http://h.example/codes",
            "target": LOINC,
            "element": [
                {"code": "GLU", "display": "Glucose", "target": [{"code": "2345-7", "equivalence": "equivalent"}]},
                {"code": "OLD", "target": [{"code": "1", "equivalence": "inexact", "comment": "other method"}]},
                {"code": "NONE", "target": [{"equivalence": "unmatched"}]},
            ],
        }
    ],
}


def pack(folder: Path, body: dict[str, Any] = MAP) -> tuple[Path, Path]:
    """An empty pack, and a ConceptMap beside it."""
    (folder / "pack" / "codes").mkdir(parents=True)
    (folder / "pack" / "source.yaml").write_text("institution: x\n")
    file = folder / "map.json"
    file.write_text(json.dumps(body))
    return folder / "pack", file


def test_what_is_imported_loads_and_is_exported_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = pack(tmp_path)
    assert main(["map", "import-map", str(file), "--to", str(folder / "codes" / "labs.csv")]) == 0
    told = capsys.readouterr()
    assert "title: left out" in told.err
    assert "file: codes/labs.csv" in told.out
    (folder / "source.yaml").write_text("institution: x\n" + told.out)
    assert len(load_ruleset(folder).tables.maps["labs"].rows) == 3
    assert main(["map", "export-map", str(folder), "labs"]) == 0
    back = json.loads(capsys.readouterr().out)
    assert not is_refused(validate_r4(back))
    assert (back["url"], back["group"]) == (MAP["url"], MAP["group"])
    assert main(["map", "export-map", str(folder), "labs", "--to", str(tmp_path / "back.json")]) == 0
    assert json.loads((tmp_path / "back.json").read_text()) == back


def test_a_map_that_is_a_concept_map_is_exported_as_the_file_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = pack(tmp_path)
    (folder / "codes" / "labs.json").write_bytes(file.read_bytes())
    (folder / "source.yaml").write_text("institution: x\nmaps: {labs: {file: codes/labs.json}}\n")
    assert main(["map", "export-map", str(folder), "labs"]) == 0
    assert capsys.readouterr().out == file.read_text()


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = pack(tmp_path)
    to = folder / "codes" / "labs.csv"
    to.write_text("precious")
    assert main(["map", "import-map", str(file), "--to", str(to)]) == 2
    assert to.read_text() == "precious"
    assert "--force" in capsys.readouterr().err
    assert main(["map", "import-map", str(file), "--to", str(to), "--force", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["rows"], shown["file"], shown["url"]) == (3, "codes/labs.csv", MAP["url"])


BEYOND = [
    ({"unmapped": {"mode": "provided"}}, "unmapped mode provided"),
    ({"element": [{"code": "A"}]}, "codes without a target"),
    (
        {
            "element": [
                {
                    "code": "A",
                    "target": [
                        {
                            "code": "1",
                            "equivalence": "equal",
                            "product": [{"property": "http://x.example", "value": "y"}],
                        }
                    ],
                }
            ]
        },
        "depend on more than a code",
    ),
]


@pytest.mark.parametrize(("change", "words"), BEYOND)
def test_what_a_table_cannot_hold_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: str
) -> None:
    folder, file = pack(tmp_path, {**MAP, "group": [{**MAP["group"][0], **change}]})
    assert main(["map", "import-map", str(file), "--to", str(folder / "codes" / "labs.csv")]) == 1
    assert words in capsys.readouterr().err
    assert not (folder / "codes" / "labs.csv").exists()


def test_a_file_that_is_no_concept_map_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = pack(tmp_path, {"resourceType": "Patient"})
    assert main(["map", "import-map", str(file), "--to", str(folder / "codes" / "labs.csv")]) == 1
    assert "no ConceptMap" in capsys.readouterr().err


def test_a_map_that_r4_would_not_take_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = pack(tmp_path)
    (folder / "codes" / "t.csv").write_text("code,target_code,equivalence\nA,1,narrower\n")
    (folder / "source.yaml").write_text("institution: x\nmaps: {labs: {file: codes/t.csv}}\n")
    assert main(["map", "export-map", str(folder), "labs"]) == 1
    assert "cmd-1" in capsys.readouterr().err
    assert main(["map", "export-map", str(folder), "lab"]) == 2
    assert "did you mean 'labs'?" in capsys.readouterr().err
    assert main(["map", "export-map", str(tmp_path), "labs"]) == 2


@pytest.mark.parametrize("name", ["harbor", "core"])
def test_the_maps_of_the_packs_that_ship_are_valid_concept_maps(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(__file__).resolve().parents[3] / "mappings" / name
    for each in load_code_maps(folder):
        assert main(["map", "export-map", str(folder), each]) == 0
        assert not is_refused(validate_r4(json.loads(capsys.readouterr().out)))
