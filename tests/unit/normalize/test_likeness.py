"""Who is suggested as one human: against the hospitals' truth, and what no evidence outweighs."""

from __future__ import annotations

import csv
import gzip
import json
from functools import cache
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_bridge.normalize.likeness import Likeness, Traits, likeness, pairs, traits_of
from tests.support.hospitals import FOLDER

Json = dict[str, Any]
SSN = "http://hl7.org/fhir/sid/us-ssn"
_FILES = {"northgate": "events", "harbor": "bundles", "cedar": "bundles-stu3"}


@cache
def _everyone() -> tuple[list[Traits], list[str]]:
    """The Patients of all hospitals, and whom the generator says that each is."""
    with (FOLDER / "truth" / "identity.csv").open(newline="", encoding="utf-8") as file:
        truth = {(row["hospital"], row["patient_id"]): row["person"] for row in csv.DictReader(file)}
    found: dict[tuple[str, str], Json] = {}
    for hospital, name in _FILES.items():
        with gzip.open(FOLDER / hospital / f"{name}.ndjson.gz") as lines:
            for line in lines:
                for entry in json.loads(line)["entry"]:
                    if entry["resource"]["resourceType"] == "Patient":
                        found[hospital, entry["resource"]["id"]] = entry["resource"]
    assert found.keys() == truth.keys()
    return [traits_of(each) for each in found.values()], [truth[key] for key in found]


@pytest.mark.parametrize("trusted", [{SSN}, set()], ids=["by number", "without numbers"])
def test_every_pair_of_one_human_is_suggested_and_no_pair_of_two(trusted: set[str]) -> None:
    everyone, person = _everyone()
    compared, skipped = pairs(everyone, trusted)
    assert skipped == 0
    judged = {pair: likeness(everyone[pair[0]], everyone[pair[1]], trusted) for pair in compared}
    suggested = {pair for pair, how in judged.items() if how.bits >= 10 + 6 and not how.is_ruled_out}
    truth = {(a, b) for a, b in combinations(range(len(person)), 2) if person[a] == person[b]}
    assert len(truth) == 60
    assert suggested == truth


def patient(**more: Any) -> Traits:
    body = {
        "name": [{"family": "Müller-Lüdenscheidt", "given": ["Anna", "Maria"]}],
        "birthDate": "1980-03-05",
        "gender": "female",
        "address": [{"line": ["1 Long Street"], "city": "Boston"}],
        "telecom": [{"system": "phone", "value": "+1 555-512-4505"}],
    }
    return traits_of(body | more)


def compared(one: Traits, two: Traits) -> Likeness:
    return likeness(one, two, {SSN})


def test_twins_stay_two_and_a_shared_number_says_otherwise() -> None:
    twin = [{"family": "Müller-Lüdenscheidt", "given": ["Berta"]}]
    assert compared(patient(), patient(name=twin)).is_ruled_out
    number = [{"system": SSN, "value": "1"}]
    assert not compared(patient(identifier=number), patient(identifier=number, name=twin)).is_ruled_out
    other = [{"system": "urn:elsewhere", "value": "1"}]
    assert compared(patient(identifier=other), patient(identifier=other, name=twin)).is_ruled_out


@pytest.mark.parametrize(
    ("more", "field", "how"),
    [
        ({"name": [{"family": "MULLER LUDENSCHEIDT", "given": ["ANNA"]}]}, "family name", "same"),
        ({"name": [{"family": "Müller-Lüdenschiedt", "given": ["Anna"]}]}, "family name", "similar"),
        ({"name": [{"family": "Schmidt", "given": ["Anna"]}]}, "family name", "different"),
        (
            {"name": [{"family": "Schmidt"}, {"use": "maiden", "family": "Müller-Lüdenscheidt"}]},
            "family name",
            "same",
        ),
        ({"name": [{"given": ["A"]}]}, "given name", "similar"),
        ({"name": [{"given": ["Maria"]}]}, "given name", "similar"),
        ({"birthDate": "1980-05-03"}, "birth date", "day and month swapped"),
        ({"birthDate": "1981-03-05"}, "birth date", "similar"),
        ({"birthDate": "1979-03-05"}, "birth date", "similar"),
        ({"birthDate": "1980-03-15"}, "birth date", "similar"),
        ({"birthDate": "1991-07-05"}, "birth date", "different"),
        ({"birthDate": "1980"}, "birth date", None),
        ({"gender": "unknown"}, "sex", None),
        ({"gender": "male"}, "sex", "different"),
        ({"address": [{"line": ["2 Long Street"], "city": "BOSTON"}]}, "address", "same town"),
        ({"address": []}, "address", None),
        ({"telecom": [{"value": "5555124505"}]}, "telephone or mail", "same"),
        ({"telecom": [{"value": "unknown"}]}, "telephone or mail", None),
        ({"telecom": [{"value": "0"}]}, "telephone or mail", None),
        ({"name": [{"family": "-", "given": ["?"]}]}, "family name", None),
        ({"name": [{"family": "-", "given": ["?"]}]}, "given name", None),
    ],
    ids=str,
)
def test_each_field_says_how_it_compares(more: Json, field: str, how: str | None) -> None:
    assert compared(patient(), patient(**more)).fields.get(field) == how


def test_what_holds_nothing_is_no_evidence_that_two_are_one() -> None:
    nothing = {
        "name": [{"family": "-", "given": ["-"]}],
        "telecom": [{"value": "none"}, {"value": "000-000-0000"}],
        "address": [{"line": ["-"], "city": "."}],
    }
    how = compared(patient(**nothing), patient(**nothing))
    assert how.fields.keys() == {"birth date", "sex"}


def test_a_number_in_common_speaks_for_little_where_another_number_differs() -> None:
    both = [{"system": SSN, "value": "1"}, {"system": "urn:national", "value": "2"}]
    one, two = patient(identifier=both), patient(identifier=[both[0], both[1] | {"value": "3"}])
    how = likeness(one, two, {SSN, "urn:national"})
    assert (how.fields["identifier"], how.shares_identifier) == ("same and different", False)
    assert 0 < how.bits < likeness(one, one, {SSN, "urn:national"}).bits - 5
    assert likeness(one, two, {SSN}).fields["identifier"] == "same"


names = st.sampled_from(["", "Anna", "Ana", "Berta", "A"])
people = st.builds(
    lambda family, first, born, sex, phone: traits_of(
        {
            "name": [{"family": family or "x", "given": [first]}],
            "birthDate": born,
            "gender": sex,
            "telecom": [{"value": phone}],
        }
    ),
    st.sampled_from(["Howe", "How", "Dietrich", ""]),
    names,
    st.sampled_from(["1980-03-05", "1980-05-03", "1981-03-05", "1970", ""]),
    st.sampled_from(["male", "female", "unknown"]),
    st.sampled_from(["1", "2"]),
)


@given(people, people)
def test_likeness_does_not_depend_on_who_comes_first(one: Traits, two: Traits) -> None:
    assert compared(one, two) == compared(two, one)


def test_a_block_that_everybody_is_in_is_passed_over_and_counted() -> None:
    crowd = [patient(birthDate="1900-01-01", name=[], telecom=[], address=[]) for _ in range(501)]
    assert pairs(crowd, set()) == ([], 2)
