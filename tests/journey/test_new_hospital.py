"""The guide works as written: from an empty folder to live packs, by the commands of docs/new-hospital.md alone.

Then the values that are served are compared with what the generator wrote before valley's codes and units.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.fhir.ucum import UCUM
from fhir_bridge.model.ids import canonical_id
from tests.support.hospitals import Number
from tests.support.pages import ROOT, check_page, play, steps
from tests.support.ports import free_port
from tests.support.service import Service, running
from tests.support.state import id_key
from tests.support.valley import FORGOTTEN, OBSERVATIONS, every_entry, feed, patients_sent, values

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
GUIDE = ROOT / "docs" / "new-hospital.md"
LOINC = "http://loinc.org"
VALID_UCUM = {"pH": "[pH]"}
"""Harbor's dictionary, which valley's is made from, writes pH; UCUM reads that as picohenry."""


@dataclass(frozen=True)
class Followed:
    """The guide, followed once: the data directory it left behind, served again, and the packs."""

    work: Path
    service: Service


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    where = tmp_path_factory.mktemp("guide")
    for tool in ("bash", "curl", "jq", "awk"):
        assert shutil.which(tool), f"the guide needs {tool}: apt-get install {tool}"
    commands = where / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, called in (("fhir-bridge", "-m fhir_bridge.cli.main "), ("python", "")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {called}"$@"\n')
        (commands / name).chmod(0o755)
    guide = steps(GUIDE.read_text("utf-8").replace("PORT=8080", f"PORT={free_port()}"))
    assert len(guide) > 40
    outputs = play(guide, where)
    (work,) = where.glob("tmp.*")
    log = (work / "service.log").read_text() if (work / "service.log").is_file() else ""
    check_page(guide, outputs, log=log[-2_000:])
    with running(work / "data") as service:
        yield Followed(work, service)


def test_valleys_values_are_the_truth_within_its_rounding(followed: Followed) -> None:
    served = {r["id"]: r for r in _served(followed.service, "valley", patients_sent())}
    key = id_key(followed.service.data, "valley")
    compared = converted = 0
    for truth, tolerance in values():
        if truth["loinc"] in FORGOTTEN:
            continue
        part = _part(served[canonical_id(key, "Observation", truth["id"])], truth["loinc"])
        quantity, wanted = part["valueQuantity"], Decimal(str(truth["value"]))
        assert (quantity["system"], quantity["code"]) == (UCUM, VALID_UCUM.get(truth["ucum"], truth["ucum"])), truth
        assert abs(Decimal(quantity["value"]) - wanted) <= tolerance + abs(wanted) * Decimal("1e-9"), truth
        compared += 1
        converted += tolerance > 0
    assert compared > 400
    assert converted > 100


def test_codes_that_the_dictionary_forgot_are_kept_and_never_guessed(followed: Followed) -> None:
    forgotten = {entry.code for entry in every_entry() if entry.standard in FORGOTTEN}
    sent = _codes_sent()
    kept = dict.fromkeys(forgotten & sent.keys(), 0)
    assert len(kept) == len(FORGOTTEN)
    for resource in _served(followed.service, "valley", patients_sent()):
        for part in (resource, *resource.get("component", ())):
            codings = part.get("code", {}).get("coding", []) if resource["resourceType"] == "Observation" else []
            if any(c.get("system") == OBSERVATIONS and c["code"] in forgotten for c in codings):
                assert [c["system"] for c in codings] == [OBSERVATIONS]
                kept[codings[0]["code"]] += 1
    assert kept == {code: sent[code] for code in kept}


def test_nothing_of_a_person_stands_in_the_new_pack(followed: Followed) -> None:
    text = "".join(p.read_text("utf-8") for p in sorted((followed.work / "valley").rglob("*")) if p.is_file())
    for secret in _secrets():
        assert secret not in text


def test_rows_of_the_clinic_are_served_with_standard_codes_and_local_times(followed: Followed) -> None:
    found = [r for r in _served(followed.service, "spring", ["1001", "1002", "1003"]) if "valueQuantity" in r]
    told = {
        (r["effectiveDateTime"], r["code"]["coding"][0]["code"], r["valueQuantity"].get("comparator", ""),
         r["valueQuantity"]["value"], r["valueQuantity"]["code"])
        for r in found
    }  # fmt: skip
    assert told == {
        ("2026-03-02T08:15:00+01:00", "15074-8", "", "5.60", "mmol/L"),
        ("2026-03-02T08:15:00+01:00", "718-7", "", "131", "g/L"),
        ("2026-07-02T08:10:00+02:00", "15074-8", "", "5.9", "mmol/L"),
        ("2026-10-28T07:50:00+01:00", "15074-8", "<", "0.6", "mmol/L"),
        ("2026-02-28T07:50:00+01:00", "718-7", "", "140", "g/L"),
    }
    rest = [r for r in _served(followed.service, "spring", ["1003"]) if r["resourceType"] == "Observation"]
    (unknown,) = [r for r in rest if r["code"]["text"] == "Sondertest"]
    assert unknown["code"]["coding"] == [{"system": "https://spring.example.org/kuerzel", "code": "XYZ"}]
    assert unknown["valueString"] == "positiv"


def test_csv_by_http_updates_the_same_records_and_answers_row_by_row(followed: Followed) -> None:
    service, headers = followed.service, followed.service.token("spring")
    body = (followed.work / "lab.csv").read_bytes() + b"1003;03.03.2026 09:00;GLU;Glukose;viel;\n;;;;;\n"
    sent = service.http.post("/fhir", content=body, headers={**headers, "Content-Type": "text/csv; name=lab.csv"})
    assert sent.status_code == 200, sent.text
    entries = sent.json()["entry"]
    assert [entry["response"]["status"][:3] for entry in entries] == ["200"] * 6 + ["201", "400"]
    issue = entries[-1]["response"]["outcome"]["issue"][0]
    assert issue["diagnostics"] == "row 9, column 'PatNr': is empty, and says which record the row is about"
    other = service.http.post("/fhir/Observation", content=body, headers={**headers, "Content-Type": "text/csv"})
    assert other.status_code == 415


def _served(service: Service, institution: str, patients: list[str]) -> Iterator[dict[str, Any]]:
    key, headers = id_key(service.data, institution), service.token(institution, practitioner="dr-a")
    for patient in patients:
        path = f"Patient/{canonical_id(key, 'Patient', patient)}/$everything"
        for each in service.entries(path, headers, _count="1000"):
            yield json.loads(each, parse_float=Number, parse_int=Number)


def _part(observation: dict[str, Any], loinc: str) -> dict[str, Any]:
    for part in (observation, *observation.get("component", ())):
        if any(c.get("system") == LOINC and c["code"] == loinc for c in part["code"]["coding"]):
            return dict(part)
    raise AssertionError(f"{observation['id']} has no {loinc}")


def _codes_sent() -> dict[str, int]:
    found: dict[str, int] = {}
    for bundle in feed():
        for match in re.findall(rf'"system": "{OBSERVATIONS}", "code": "(\w+)"', json.dumps(bundle)):
            found[match] = found.get(match, 0) + 1
    return found


def _secrets() -> set[str]:
    """Names, record numbers, birth dates and ids of the people in the feed."""
    found = set()
    sent = set(patients_sent())
    with (ROOT / "tests/data/hospitals/truth/identity.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["hospital"] == "harbor" and row["patient_id"] in sent:
                found |= {row["family"], row["mrn"], row["birth_date"], row["patient_id"], *row["given"].split()}
    for bundle in feed():
        found |= {entry["resource"]["id"] for entry in bundle["entry"]}
    assert len(found) > 1_000
    return found
