"""``map new`` writes what it saw, marks what it guesses, uses none of it, and keeps nobody's data."""

from __future__ import annotations

import csv
import gzip
import json
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_bridge.cli.main import main
from fhir_bridge.fhir.tables import patient_compartment, r4
from fhir_bridge.fhir.ucum import is_ucum
from fhir_bridge.mapping_tools.newpack.csv_sample import look_at
from fhir_bridge.mapping_tools.newpack.dictionaries import parts_of, read_dictionary
from fhir_bridge.mapping_tools.newpack.scrubbing import Scrubber
from fhir_bridge.mapping_tools.newpack.survey import Survey, release_of, resources_in, take
from fhir_bridge.mapping_tools.unit_guesses import guess_ucum
from fhir_bridge.model.ingest import FhirVersion
from fhir_bridge.normalize import load_ruleset, packaged_core, preview, remaining_guesses, run_examples
from tests.support.hospitals import FOLDER, VERSIONS, lanes
from tests.unit.fhir.filled_resources import Filler

DICTIONARY = FOLDER / "harbor" / "dictionary.csv"
OBSERVATIONS = "https://harbor.example.org/codes/obs"
SOMEBODY = {"northgate": ("P0022",), "harbor": ("P0024",), "cedar": ("P0022",)}
"""A person for each hospital with records of many kinds, and few enough."""


def sample(folder: Path, hospital: str) -> Path:
    """Write one person's messages as a file."""
    path = folder / f"{hospital}.ndjson"
    path.write_bytes(b"\n".join(message for lane in lanes(hospital, SOMEBODY[hospital]) for message in lane.messages))
    return path


@pytest.mark.parametrize("hospital", sorted(VERSIONS))
def test_a_new_pack_loads_in_its_release_and_its_examples_pass(
    hospital: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = tmp_path / "fresh"
    assert main(["map", "new", str(pack), "--from", str(sample(tmp_path, hospital)), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fhir_version"] == VERSIONS[hospital]
    assert load_ruleset(pack).fhir_version.value == VERSIONS[hospital]
    results = run_examples(pack)
    assert len(results) == told["examples"] > 5
    assert all(result.passed for result in results)
    assert told["guesses"] == len(remaining_guesses(pack)) > 0


def test_what_is_guessed_translates_nothing_and_is_reported_until_the_mark_is_gone(tmp_path: Path) -> None:
    pack = tmp_path / "fresh"
    main(["map", "new", str(pack), "--from", str(sample(tmp_path, "harbor")), "--dictionary", str(DICTIONARY)])
    observation: dict[str, Any] = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": OBSERVATIONS, "code": "LB2078"}]},
        "valueQuantity": {"value": Decimal("5.55"), "unit": "mmol/l"},
    }
    found = preview(observation, FhirVersion.R4, load_ruleset(pack))
    assert found.body == observation
    assert [flag.code for flag in found.flags] == ["code-invalid", "code-invalid"]
    source = (pack / "source.yaml").read_text()
    (pack / "source.yaml").write_text(re.sub(r"    guess: true.*\n", "", source))
    confirmed = preview(observation, FhirVersion.R4, load_ruleset(pack)).body
    assert confirmed["code"]["coding"][0] == {
        "system": "http://loinc.org", "code": "2345-7", "display": "Glucose [Mass/volume] in Serum or Plasma",
    }  # fmt: skip
    assert (confirmed["valueQuantity"]["value"], confirmed["valueQuantity"]["code"]) == (Decimal("100.000"), "mg/dL")


def test_every_code_and_unit_seen_has_a_row_with_an_empty_target(tmp_path: Path) -> None:
    pack = tmp_path / "fresh"
    file = sample(tmp_path, "harbor")
    main(["map", "new", str(pack), "--from", str(file)])
    sent = "\n".join(json.dumps(json.loads(line)) for line in file.read_text().splitlines())
    with (pack / "codes" / "obs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {r["code"] for r in rows} == set(re.findall(rf'"system": "{OBSERVATIONS}", "code": "(\w+)"', sent))
    assert {(r["target_system"], r["target_code"]) for r in rows} == {("", "")}
    assert sum(int(r["count"]) for r in rows) == sent.count(f'"system": "{OBSERVATIONS}"')
    with (pack / "codes" / "unit-spellings.csv").open(newline="") as stream:
        units = list(csv.DictReader(stream))
    assert {r["unit"] for r in units} == set(re.findall(r'"unit": "([^"]+)"(?!, "(?:system|code)")', sent))
    assert {r["ucum"] for r in units} == {""}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Fresh", "--from", "s.json"], "'Fresh' will not do"),
        (["there", "--from", "s.json"], "there is there already"),
        (["fresh", "--from", "none.json"], "none.json is not a file"),
        (["fresh", "--from", "empty.json"], "no FHIR resource in"),
        (["fresh", "--from", "s.json", "--dictionary", "s.json"], "is no table"),
        (["fresh", "--from", "twice.csv"], "every column needs a name of its own"),
    ],
)
def test_what_cannot_be_started_leaves_nothing_behind(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "source.yaml").write_text("institution: there\n")
    (tmp_path / "s.json").write_text('{"resourceType": "Patient", "id": "1"}')
    (tmp_path / "empty.json").write_text('{"resourceType": "Bundle", "type": "batch"}')
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n")
    assert main(["map", "new", *arguments]) != 0
    assert words in capsys.readouterr().err
    assert not (tmp_path / "fresh").exists()
    assert (tmp_path / "there" / "source.yaml").read_text() == "institution: there\n"


@given(seed=st.integers(0, 2**32), type_name=st.sampled_from(sorted(patient_compartment())))
@settings(max_examples=25, deadline=None)
def test_no_text_of_a_record_survives_scrubbing_but_codes_units_and_systems(seed: int, type_name: str) -> None:
    marked = _marked(Filler(["http://example.org/e"], seed).resource(type_name))
    scrubbed = Scrubber(r4()).scrubbed(marked)
    codes = {
        k
        for row in r4().types.values()
        for e in row.elements.values()
        for k, t in e.json_keys().items()
        if t == "code"
    }
    kept = codes | {"display", "unit", "system", "url"}
    for key, text in _texts(scrubbed):
        assert "SECRET" not in text or key in kept, (type_name, key)
    for key, text in _texts(scrubbed):
        if key == "reference":
            assert text in ("#inside", "urn:example") or re.search("example[- ]|-0000-4000-8000-", text), text


def _marked(value: Any, key: str = "") -> Any:
    """Put a mark on every text that is not a date, a code of FHIR's own or a reference."""
    if isinstance(value, dict):
        return {k: v if k == "resourceType" else _marked(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_marked(v, key) for v in value]
    is_free = isinstance(value, str) and re.fullmatch(r"[A-Za-z\[\]]+-\d+", value) and key not in ("reference", "url")
    return f"SECRET{value}" if is_free and not value.startswith("#") else value


def _texts(value: Any, key: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for k, v in value.items() for pair in _texts(v, k)]
    if isinstance(value, list):
        return [pair for v in value for pair in _texts(v, key)]
    return [(key, value)] if isinstance(value, str) else []


@pytest.fixture(scope="module")
def seen() -> Survey:
    found = Survey()
    core = load_ruleset(packaged_core())
    for lane in lanes("harbor", SOMEBODY["harbor"]):
        for message in lane.messages:
            for resource, url in resources_in(message):
                take(found, resource, url, core)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_columns_of_a_dictionary_are_known_by_what_stands_in_them(seed: int, seen: Survey, tmp_path: Path) -> None:
    """Under any names, in any order: the roles are those that the hospital's own names tell."""
    with DICTIONARY.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    order = list(rows[0])
    random.Random(seed).shuffle(order)
    renamed = {name: f"F{number}" for number, name in enumerate(order)}
    with (tmp_path / "d.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=";")
        writer.writerow(renamed[name] for name in order)
        writer.writerows([row[name] for name in order] for row in rows)
    found = {part.system: part for part in parts_of([read_dictionary(tmp_path / "d.csv")], seen)}
    part = found[OBSERVATIONS]
    roles = {"code": "local_code", "target_system": "standard_system", "target_code": "standard_code"}
    roles |= {"local_unit": "local_unit", "canonical": "canonical_ucum", "factor": "factor", "offset": "offset"}
    assert {role: part.columns.get(role) for role in roles} == {role: renamed[name] for role, name in roles.items()}
    assert part.missing == ()
    assert found["https://harbor.example.org/codes/dx"].columns["target_code"] == renamed["standard_code"]


@pytest.mark.parametrize(
    ("spelling", "code"),
    [("mg/dl", "mg/dL"), ("MG/DL", "mg/dL"), ("mmHg", "mm[Hg]"), ("pH", "[pH]"), ("K/uL", "10*3/uL"),
     ("G/l", "10*9/L"), ("µg/l", "ug/L"), ("deg F", "[degF]"), ("bpm", "/min"), ("IU/L", "[IU]/L"),
     ("mg per dl", "mg/dL"), ("kg/m2", "kg/m2"), ("fl", "fL"), ("furlongs per fortnight", ""), ("", "")],
)  # fmt: skip
def test_a_units_spelling_has_the_candidate_that_a_laboratory_would_name(spelling: str, code: str) -> None:
    assert guess_ucum(spelling) == code


@given(st.text(max_size=12))
def test_a_candidate_is_always_ucum(text: str) -> None:
    found = guess_ucum(text)
    assert not found or is_ucum(found)


def test_a_csv_sample_leaves_its_shape_in_the_pack_and_nobodys_data(tmp_path: Path) -> None:
    (tmp_path / "patients-2026-03.csv").write_text(
        "No,Last name,First name,DOB,Sex\n17,Zebrowski,Quirin,31/01/1980,M\n18,Yildiz,Xaver,02/03/1990,F\n"
        "19,Wuttke,Vroni,02/03/1990,F\n20,Ungerer,Thekla,02/03/1990,M\n"
    )
    (tmp_path / "labs.csv.gz").write_bytes(
        gzip.compress("PID;Date;Test;Result;Unit\n17;2026-03-04;GLU;5,6;mmol/l\n".encode("cp1252"))
    )
    pack = tmp_path / "fresh"
    given = ["--from", str(tmp_path / "patients-2026-03.csv"), "--from", str(tmp_path / "labs.csv.gz")]
    assert main(["map", "new", str(pack), *given]) == 0
    text = "".join(path.read_text() for path in pack.rglob("*") if path.is_file())
    for secret in ("Zebrowski", "Quirin", "1980-01-31", "31/01", "Thekla", "Wuttke", "17"):
        assert secret not in text
    source = (pack / "source.yaml").read_text()
    assert 'file: "patients-*-*.csv"' in source or "patients-*" in source
    assert "DOB: {path: birthDate, date: DD/MM/YYYY}" in source.replace('"', "")
    assert "codes: {F: female, M: male}" in source
    assert "decimal: comma, unit_from: Unit" in source
    assert all(result.passed for result in run_examples(pack))


def test_a_date_that_could_be_read_two_ways_says_so(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text("id,dob\n1,03/04/1980\n2,05/06/1990\n")
    assert look_at(path).columns[1].date == "DD/MM/YYYY|MM/DD/YYYY"
    path.write_text("id,dob\n1,03/14/1980\n2,05/06/1990\n")
    assert look_at(path).columns[1].date == "MM/DD/YYYY"


def test_the_release_is_the_one_with_fewest_faults() -> None:
    for hospital, version in VERSIONS.items():
        messages = [message for lane in lanes(hospital, SOMEBODY[hospital]) for message in lane.messages]
        assert release_of(r for m in messages for r, _ in resources_in(m)).value == version
    assert release_of([{"resourceType": "Encounter", "status": "completed", "class": [{}]}]) is FhirVersion.R5


def observed(*codings: dict[str, Any], **more: Any) -> str:
    """Observations, one a line."""
    return "\n".join(
        json.dumps(
            {
                "resourceType": "Observation",
                "id": f"o{number}",
                "status": "final",
                "code": {"coding": [coding]},
                "subject": {"reference": "Patient/p"},
                **more,
            }
        )
        for number, coding in enumerate(codings)
    )


def test_codes_without_a_system_get_a_table_whose_rows_translate_them(tmp_path: Path) -> None:
    (tmp_path / "s.ndjson").write_text(observed({"code": "GLU", "display": "Glucose"}))
    pack = tmp_path / "fresh"
    assert main(["map", "new", str(pack), "--from", str(tmp_path / "s.ndjson")]) == 0
    table = pack / "codes" / "observation-code.csv"
    assert table.read_text().splitlines()[1].startswith("GLU,Glucose,1,,")
    table.write_text("code,target_system,target_code\nGLU,http://loinc.org,2345-7\n")
    sent = json.loads(observed({"code": "GLU"}))
    codings = preview(sent, FhirVersion.R4, load_ruleset(pack)).body["code"]["coding"]
    assert codings == [{"system": "http://loinc.org", "code": "2345-7"}, {"code": "GLU"}]


def test_each_system_is_looked_up_in_the_dictionary_that_has_most_of_it(tmp_path: Path) -> None:
    """Numbers that stand in another's column by chance are no evidence."""
    labs, findings = [str(n) for n in range(100, 140)], [str(n) for n in range(130, 160)]
    codings = [{"system": "urn:x:labs", "code": c} for c in labs] + [
        {"system": "urn:x:dx", "code": c} for c in findings
    ]
    (tmp_path / "s.ndjson").write_text(observed(*codings))
    (tmp_path / "Lab tests.txt").write_text("no;loinc\n" + "".join(f"{c};2345-7\n" for c in labs))
    (tmp_path / "dx.csv").write_text("no,sct\n" + "".join(f"{c},386725007\n" for c in findings))
    call = ["map", "new", str(tmp_path / "fresh"), "--from", str(tmp_path / "s.ndjson")]
    both = ["--dictionary", str(tmp_path / "Lab tests.txt"), "--dictionary", str(tmp_path / "dx.csv")]
    assert main([*call, *both]) == 0
    source = (tmp_path / "fresh" / "source.yaml").read_text()
    files = re.findall(r"  (labs|dx):\n    guess: true.*\n    file: (\S+)", source)
    assert files == [("labs", "codes/dictionary-lab-tests.csv"), ("dx", "codes/dictionary-dx.csv")]
    call[2] = str(tmp_path / "again")
    assert main([*call, "--dictionary", str(tmp_path / "Lab tests.txt")]) == 0
    source = (tmp_path / "again" / "source.yaml").read_text()
    assert "file: codes/dictionary.csv" in source
    assert "  dx:\n    file: codes/dx.csv" in source, "10 of 30 by chance"


def test_times_without_an_offset_are_told_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.ndjson").write_text(observed({"system": "urn:x", "code": "1"}, issued="2020-01-01T10:00:00"))
    assert main(["map", "new", str(tmp_path / "fresh"), "--from", str(tmp_path / "s.ndjson")]) == 0
    assert "times without an offset: 1; refused until source.yaml's 'time_zone' says whose" in capsys.readouterr().out


def test_a_wide_table_is_told_how_it_can_be_taken_apart(tmp_path: Path) -> None:
    head = "PatNr;Datum;Gluc mmol/l;Na;K;Krea;CRP mg/l\n"
    (tmp_path / "labor.csv").write_text(head + "1;02.03.2026;5,6;140;4,1;80;3\n2;03.03.2026;5,1;141;4,3;70;<3\n")
    assert main(["map", "new", str(tmp_path / "fresh"), "--from", str(tmp_path / "labor.csv")]) == 0
    assert "'spread' them (docs/csv.md)" in (tmp_path / "fresh" / "source.yaml").read_text()
