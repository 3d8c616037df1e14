"""Coverage: every value of a small feed whose fate is written down by hand, and nothing lost in the large ones."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from pathlib import Path

import pytest

from fhir_bridge.cli.main import main
from fhir_bridge.fhir.tables import r4
from fhir_bridge.mapping_tools.coverage import as_json, cover
from fhir_bridge.mapping_tools.coverage_page import coverage_page
from fhir_bridge.mapping_tools.fates import fates
from fhir_bridge.mapping_tools.html_page import written
from fhir_bridge.mapping_tools.sample import Message
from fhir_bridge.model.ingest import Change
from tests.support.hospitals import FOLDER, MAPPINGS
from tests.unit.mapping_tools.samples import HOUSE, bundle, feed, house, observation


def test_each_value_has_the_fate_that_the_rules_say(tmp_path: Path) -> None:
    sent = observation(
        "a",
        "TMP",
        valueQuantity={"value": 37.0, "unit": "deg"},
        note=[{"text": "asleep"}],
        method={"text": "room 7"},
        issued="2026-03-01T10:00:00Z",
    )
    found = cover(house(tmp_path / "p"), feed(sent))
    assert {path.partition(".")[2]: dict(each.fates) for path, each in found.elements.items()} == {
        "id": {"carried": 1},
        "status": {"carried": 1},
        "code.coding.system": {"consumed": 1},
        "code.coding.code": {"consumed": 1},
        "code.coding.display": {"consumed": 1},
        "subject.reference": {"carried": 1},
        "valueQuantity.value": {"consumed": 1},
        "valueQuantity.unit": {"consumed": 1},
        "note.text": {"dropped": 1},
        "method.text": {"extension": 1},
        "issued": {"carried": 1},
    }
    assert found.elements["Observation.note.text"].rules == {"house/notes": 1}


def test_a_value_that_goes_without_a_word_is_lost() -> None:
    sent = {"resourceType": "Patient", "id": "p", "birthDate": "1990-01-01", "gender": "male"}
    made = {"resourceType": "Patient", "id": "p", "gender": "female"}
    told = [Change("Patient.gender", "male", "female", "r", "w")]
    assert {f.leaf.path: (f.fate, f.rule) for f in fates(sent, made, told, r4())} == {
        "Patient.id": ("carried", ""),
        "Patient.birthDate": ("lost", ""),
        "Patient.gender": ("consumed", "r"),
    }


def test_what_stands_only_in_an_extension_of_something_else_is_kept_there() -> None:
    sent = {"resourceType": "Patient", "id": "p", "maritalStatus": {"text": "wed"}}
    made = {"resourceType": "Patient", "id": "p", "name": [{"extension": [{"valueString": "wed"}]}]}
    told = [
        Change("Patient.maritalStatus", {"text": "wed"}, None, "r", "w"),
        Change("Patient.name", None, made["name"], "r", "w"),
    ]
    assert [f.fate for f in fates(sent, made, told, r4())] == ["carried", "extension"]
    moved = [told[0], Change("Patient.name", None, [{"text": "wed"}], "r", "w")]
    assert [f.fate for f in fates(sent, made, moved, r4())] == ["carried", "consumed"]
    another = [told[0], Change("Patient.name", None, [{"text": "wed"}], "another rule", "w")]
    assert [f.fate for f in fates(sent, made, another, r4())] == ["carried", "dropped"]


def test_records_rules_codes_units_and_findings_are_counted(tmp_path: Path) -> None:
    quantity = {"value": 5, "unit": "mg/dl"}
    found = cover(
        house(tmp_path / "p"),
        feed(
            bundle(observation("a", "GLU", valueQuantity=quantity), observation("b", "NEW", valueQuantity=quantity)),
            observation("c", "NEW", status="cancelled"),
            observation("d", "GLU", colour="red"),
            observation("e", "GLU", status="finall"),
        ),
    )
    assert found.messages == 4
    assert found.records == {
        ("Observation", "passed"): 2,
        ("Observation", "quarantined"): 1,
        ("unreadable", "refused"): 2,
    }
    assert {name: (t.tried, t.fired) for name, t in found.rules.items()} == {
        "house/codes": (3, 3),
        "house/notes": (3, 0),
        "house/method": (3, 0),
        "house/cancelled": (3, 1),
    }
    assert found.unknown == {"Observation.colour": 1}
    assert found.vocabulary.systems == {HOUSE: 3}
    assert found.vocabulary.unknown_codes == {HOUSE: 2}
    assert found.vocabulary.units == {("mg/dl", ""): 2}
    assert found.findings["quarantined", "business-rule", "the house cancels by mistake"] == 1
    document = as_json(found)
    assert json.loads(json.dumps(document)) == document


@pytest.mark.parametrize(
    ("name", "file"),
    [("harbor", "bundles"), ("cedar", "bundles-stu3"), ("northgate", "events")],
)
def test_nothing_of_the_hospitals_feeds_is_lost(name: str, file: str) -> None:
    with gzip.open(FOLDER / name / f"{file}.ndjson.gz") as stream:
        lines = [line for line, _ in zip(stream, range(1), strict=False)]
    found = cover(MAPPINGS / name, (Message(str(i), line) for i, line in enumerate(lines)))
    total: Counter[str] = Counter()
    for each in found.elements.values():
        total += each.fates
    assert total["carried"] > 0
    assert total["lost"] == 0


def test_a_record_of_ten_thousand_changes_takes_no_longer_than_its_changes() -> None:
    many = 10_000
    sent = {"resourceType": "Patient", "id": "p", "photo": [{"title": f"t{n}"} for n in range(many)]}
    told = [Change(f"Patient.photo[{n}].title", f"t{n}", None, "r", "w") for n in range(many)]
    told += [Change(f"Patient.photo[{n}].extension", None, [{"valueString": f"t{n}"}], "r", "w") for n in range(many)]
    started = time.process_time()
    found = Counter(f.fate for f in fates(sent, {"resourceType": "Patient", "id": "p"}, told, r4()))
    assert found == {"carried": 1, "extension": many}
    assert time.process_time() - started < 5


def other_release(folder: Path, release: str) -> Path:
    """A pack of another release that leaves everything to the core."""
    folder.mkdir()
    (folder / "source.yaml").write_text(f"institution: x\nfhir_version: {release}\nextends: core\n")
    return folder


def test_records_of_r5_are_walked_by_the_definitions_of_r5(tmp_path: Path) -> None:
    visit = {
        "resourceType": "Encounter",
        "id": "e",
        "status": "completed",
        "subjectStatus": {"coding": [{"system": HOUSE, "code": "arrived"}]},
        "length": {"value": 3, "unit": "hours"},
        "reason": [{"value": [{"concept": {"coding": [{"system": HOUSE, "code": "R1"}]}}]}],
    }
    found = cover(other_release(tmp_path / "p", "R5"), feed(visit, {**visit, "id": "f", "hospitalization": {}}))
    assert found.records == {("Encounter", "passed"): 1, ("unreadable", "refused"): 1}
    assert {gap.value for gap in found.vocabulary.gaps.values()} == {"arrived", "R1", "hours"}
    assert found.unknown == {"Encounter.hospitalization": 1}


def test_an_order_of_stu3_passes_as_it_would_in_the_service_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    order = {
        "resourceType": "ProcedureRequest",
        "id": "o",
        "status": "active",
        "intent": "order",
        "code": {"text": "x-ray"},
        "subject": {"reference": "Patient/p"},
        "performer": {"reference": "Practitioner/d"},
        "basedOn": [{"reference": "https://cedar.example.org/ReferralRequest/r"}],
    }
    found = cover(other_release(tmp_path / "p", "STU3"), feed(order))
    assert found.records == {("ProcedureRequest", "passed"): 1}
    assert found.elements["ProcedureRequest.performer.reference"].fates == {"consumed": 1}
    assert not any(each.fates["lost"] for each in found.elements.values())


def test_the_page_stands_alone_and_escapes_what_it_shows(tmp_path: Path) -> None:
    sent = observation("a", "<script>alert(1)</script>", valueQuantity={"value": 1, "unit": '"><img src=x>'})
    page = written(coverage_page(cover(house(tmp_path / "p"), feed(sent))))
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    for outside in ("src=", 'href="http', "url(", "@import", "<link"):
        assert outside not in page.replace("&quot;&gt;&lt;img src=x&gt;", "")
    assert "default-src 'none'" in page
    assert 'lang="en"' in page
    assert page.count("<table") == page.count("<caption")


def test_the_command_prints_writes_and_counts_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = house(tmp_path / "p")
    sample = tmp_path / "feed.ndjson.gz"
    with gzip.open(sample, "wt") as stream:
        stream.write(json.dumps(observation("a", "NEW")) + "\n" + json.dumps(observation("b", "GLU")) + "\n")
    page = tmp_path / "report.html"
    assert main(["map", "coverage", str(folder), str(sample), "--html", str(page)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("2 records of 2 messages: 2 passed\n")
    assert "\x1b[" not in text
    assert "tried and never acted: house/notes, house/method, house/cancelled" in text
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert main(["map", "coverage", str(folder), str(sample), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gaps"] == [
        {"kind": "code", "system": HOUSE, "value": "NEW", "count": 1, "path": "Observation.code.coding"}
    ]


def test_what_many_rows_have_is_one_finding(tmp_path: Path) -> None:
    source = (
        "institution: c\ncsv: {t: {type: Basic, id: n, columns: {n: identifier.value, k: code.text, d: created}}}\n"
    )
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "source.yaml").write_text(source)
    rows = b"n,k,d,more\n1,x,2020,y\n2,x,soon,\n3,x,soon,\n4,x,2020,y\n"
    found = cover(tmp_path / "c", [Message("f", rows, "text/csv")])
    assert found.findings == {
        ("flag", "informational", "row …: column 4 is not in the pack and stays in the original"): 2,
        ("refused", "value", "row …, column 'd': must be a date: YYYY, YYYY-MM or YYYY-MM-DD: state its form with "
         "'date', such as date: DD.MM.YYYY"): 2,
    }  # fmt: skip
