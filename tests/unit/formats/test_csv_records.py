"""Rows become records: identity, references, refusals in the sender's words, and nothing that blocks a neighbour."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fhir_bridge.formats.csv_table import id_from
from fhir_bridge.intake import Limits
from fhir_bridge.model.ingest import FhirVersion, Interaction, Refusal, Validated
from fhir_bridge.normalize import Ruleset
from tests.unit.formats.csv_samples import LABS, PATIENTS, pack, received, resources, told


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Ruleset:
    return pack(tmp_path_factory.mktemp("packs") / "clinic")


def test_a_row_becomes_the_resource_that_the_pack_describes(rules: Ruleset) -> None:
    row = '17;Müller;"Anna  Maria";03.04.1980;w;private\r\n'
    reception = received(rules, (PATIENTS + row).encode("cp1252"), "text/csv; name=patients-2026.csv")
    (entry,) = reception.entries
    assert isinstance(entry, Validated)
    assert entry.resource == {
        "resourceType": "Patient",
        "id": "17",
        "active": True,
        "identifier": [{"system": "https://clinic.example.org/pat", "value": "17"}],
        "name": [{"family": "Müller", "given": ["Anna", "Maria"]}],
        "birthDate": "1980-04-03",
        "gender": "female",
    }
    assert entry.interaction == Interaction("PUT", "Patient", "17")
    assert entry.original == (PATIENTS + row).encode("cp1252")
    assert entry.flags == ()


def test_a_lab_row_has_its_patient_its_local_time_and_its_unit_as_written(rules: Ruleset) -> None:
    rows = (
        "17;03.04.2026;08:15;GLU;Glukose;1.005,60;mmol/l\r\n"
        "17;03.04.2026;08:15;UBG;Urobilinogen;neg.;\r\n"
        "A/3;03.12.2026;08:15;CRP;CRP;<0,5;mg/l\r\n"
    )
    glucose, urine, crp = resources(received(rules, (LABS + rows).encode()))
    assert glucose["valueQuantity"] == {"value": Decimal("1005.60"), "unit": "mmol/l"}
    assert glucose["code"] == {
        "coding": [{"system": "https://clinic.example.org/codes/lab", "code": "GLU"}],
        "text": "Glukose",
    }
    assert glucose["subject"] == {"reference": "Patient/17"}
    assert glucose["effectiveDateTime"] == "2026-04-03T08:15:00+02:00"
    assert (urine["valueString"], "valueQuantity" in urine) == ("neg.", False)
    assert crp["valueQuantity"]["comparator"] == "<"
    assert crp["effectiveDateTime"] == "2026-12-03T08:15:00+01:00"


def test_an_id_that_fhir_does_not_take_is_the_same_in_the_record_and_in_what_refers_to_it(rules: Ruleset) -> None:
    (patient,) = resources(received(rules, (PATIENTS + "A/3;B;;03.04.1980;;\n").encode()))
    (lab,) = resources(received(rules, (LABS + "A/3;03.12.2026;08:15;CRP;CRP;1;mg/l\n").encode()))
    assert lab["subject"]["reference"] == f"Patient/{patient['id']}"


def test_key_columns_tell_records_apart_however_their_texts_join(rules: Ruleset) -> None:
    rows = "1;03.04.2026;08:15;2A;x;1;\n12;03.04.2026;08:15;A;x;1;\n"
    first, second = resources(received(rules, (LABS + rows).encode()))
    assert first["id"] != second["id"]
    assert id_from(["1", "2A"]) != id_from(["12", "A"])
    (again,) = resources(received(rules, (LABS + "1;03.04.2026;08:15;2A;other;7;mg\n").encode()))
    assert again["id"] == first["id"]


def test_one_bad_row_is_refused_with_row_column_and_remedy_and_blocks_nobody(rules: Ruleset) -> None:
    rows = (
        "1;A;;31.02.1980;w;\n2;B;;01.01.1990;x;\n3;C;;01.01.1990;\n;D;;01.01.1990;w;\n5;E;;-;w;\n6;F;;01.01.1990;m;\n"
    )
    reception = received(rules, (PATIENTS + rows).encode(), "text/csv; name=patients.csv; row=502")
    assert [type(e) for e in reception.entries] == [Refusal] * 5 + [Validated]
    assert told(reception) == [
        "row 502, column 'Geburt': there is no such day, month or year",
        "row 503, column 'Sex': holds a word that is not among the 'codes' of column 'Sex': add it",
        "row 504 has 5 cells and the header 6: quote cells that hold the delimiter",
        "row 505, column 'PatNr': is empty, and says which record the row is about",
        "row 506, column 'Geburt': is empty, and the pack says that it is required",
    ]


def test_what_the_validator_finds_is_told_by_row_and_column(tmp_path: Path) -> None:
    text = (
        "institution: c\ncsv: {o: {type: Observation, id: n, columns: {n: identifier.value, s: {path: valueString}}}}"
    )
    reception = received(pack(tmp_path / "c", text), b"n,s\n1,a\n")
    assert told(reception) == [
        "row 2: a required element is missing",
        "row 2: a required element is missing",
    ]
    text = text.replace("s: {path: valueString}", "s: status").replace("}}}}", "}, constants: {code.text: x}}}")
    words = told(received(pack(tmp_path / "d", text), b"n,s\n1,finished\n"))
    assert words[0].startswith("row 2, column 's': must be one of amended")


def test_a_constant_beside_columns_waits_for_one_of_them(rules: Ruleset) -> None:
    header = PATIENTS.replace("Notiz", "Notiz;Telefon")
    rows = "1;A;;01.01.1990;w;;030-1\n2;B;;01.01.1990;w;;\n"
    first, second = resources(received(rules, (header + rows).encode()))
    assert first["telecom"] == [{"system": "phone", "value": "030-1"}]
    assert "telecom" not in second


def test_a_column_that_the_pack_does_not_name_is_flagged_by_number_never_by_name(rules: Ruleset) -> None:
    rows = "1;A;;01.01.1990;w;;secret\n2;B;;01.01.1990;w;;\n"
    first, second = received(rules, (PATIENTS.replace("Notiz", "Notiz;Mustermann") + rows).encode()).entries
    assert isinstance(first, Validated)
    assert isinstance(second, Validated)
    (flag,) = first.flags
    assert flag.diagnostics == "row 2: column 7 is not in the pack and stays in the original"
    assert second.flags == ()


@pytest.mark.parametrize(
    ("header", "kind", "words"),
    [
        ("PatNr;Nachname;Vorname;geburt;Sex\n", "text/csv; name=patients.csv",
         "the header has no column 'Geburt', which the pack names for 'patients'; column 4 is nearly that"),
        (PATIENTS.replace("Vorname", "Nachname"), "text/csv; name=patients.csv", "has the column 'Nachname' twice"),
        ("Meier;Hans;1\n", "text/csv", "the header matches none of the pack's files: patients (patients*.csv), labs"),
        ("Meier;Hans;1\n", "text/csv; name=x.csv", "neither name nor header of the file match"),
        (PATIENTS, "text/csv; charset=utf-8; name=patients.csv", "is windows-1252"),
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_refuses_the_file_with_what_to_change(
    rules: Ruleset, header: str, kind: str, words: str
) -> None:
    reception = received(rules, header.encode() + b"1;2;3\n", kind)
    assert words in told(reception)[0]
    assert reception.entries == ()
    assert "Meier" not in " ".join(told(reception))


def test_csv_goes_to_institutions_whose_pack_describes_it_as_r4_and_to_no_record(rules: Ruleset) -> None:
    body = PATIENTS.encode()
    plain = dataclasses.replace(rules, formats=())
    assert "add 'csv' to its source.yaml" in told(received(plain, body))[0]
    assert "--fhir-version R4" in told(received(rules, body, fhir_version=FhirVersion.STU3))[0]
    asked = Interaction("PUT", "Patient", "1")
    assert "to the base" in told(received(rules, body, interaction=asked))[0]


def test_a_message_has_its_limits(rules: Ruleset) -> None:
    body = (PATIENTS + "1;A;;01.01.1990;w;\n" * 4).encode()
    assert "at most 3 rows" in told(received(rules, body, limits=Limits(max_entries=3)))[0]
    assert "at most 10 bytes" in told(received(rules, body, limits=Limits(max_bytes=10)))[0]


_LINE = st.text(st.sampled_from('17;"A.-<,ö\n\r\0é:3 \t'), max_size=40)
_GOOD = st.just("17;03.04.2026;08:15;GLU;Glukose;5,6;mmol/l\r\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.lists(st.one_of(_LINE, _GOOD), max_size=8), st.sampled_from(["utf-8", "cp1252", "latin-1"]))
def test_whatever_comes_every_row_is_a_record_or_a_refusal(rules: Ruleset, lines: list[str], encoding: str) -> None:
    data = LABS.encode() + "".join(line if line.endswith("\n") else f"{line}\n" for line in lines).encode(
        encoding, "replace"
    )
    reception = received(rules, data, "text/csv; name=labor.csv")
    assert not reception.refused
    taken = [e for e in reception.entries if isinstance(e, Validated)]
    refused = [e for e in reception.entries if isinstance(e, Refusal)]
    assert len(taken) + len(refused) == len(reception.entries)
    assert [e.index for e in reception.entries] == list(range(len(reception.entries)))
    assert all(any(i.severity == "error" and i.diagnostics.startswith("row ") for i in e.issues) for e in refused)
    for entry in taken:
        assert _alone(rules, entry.original) == entry.resource, "the sealed original gives the record again"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=200), st.text(max_size=30))
def test_no_bytes_and_no_content_type_bring_it_down(rules: Ruleset, data: bytes, parameters: str) -> None:
    reception = received(rules, data, f"text/csv; {parameters}")
    assert reception.refused or all(isinstance(e, Validated | Refusal) for e in reception.entries)


def _alone(rules: Ruleset, original: bytes) -> object:
    (entry,) = received(rules, original).entries
    assert isinstance(entry, Validated)
    return entry.resource


def test_good_rows_among_bad_ones_are_all_taken(rules: Ruleset) -> None:
    good: Callable[[int], str] = lambda n: f"{n};03.04.2026;08:15;GLU;Glukose;5,6;mmol/l\n"  # noqa: E731 - a line of CSV by its number
    data = LABS + "".join(good(n) + f'{n};"never closed\n' for n in range(30))
    assert [r["subject"]["reference"] for r in resources(received(rules, data.encode()))] == [
        f"Patient/{n}" for n in range(30)
    ]
