"""Our own Consents of the same meaning as the 23 examples of IHE PCF 1.1 come out as its sentences say.

Everything is written here, so that a machine without IHE's files tests the same; ``pcf_sentences`` says which
sentence each case comes from.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import IndexRow
from tests.unit.consent.consent_samples import (
    HARBOR,
    Json,
    actor,
    consent,
    decision,
    labels,
    provision,
    purposes,
    row,
)
from tests.unit.consent.pcf_sentences import SENTENCES

TPO = purposes("TREAT", "HPAYMT", "HOPERAT")
DOCTOR = "Practitioner/dr-p"
GROUP = "Group/privileged"
FOO = {"purpose": [{"system": "http://example.org/purposes", "code": "Foo"}]}

CLINICIAN = HARBOR
NAMED = replace(CLINICIAN, practitioner="dr-p")
RESEARCH = replace(CLINICIAN, purpose="HRESCH")
BREAKING = replace(CLINICIAN, purpose="BTG", groups=(GROUP,))
PROJECT = replace(CLINICIAN, institution_id="org-project", purpose="http://example.org/purposes|Foo")

IN_2022, IN_2021 = (19_100, 19_101), (18_800, 18_801)
"""Days since 1970: 2022-04-18 and 2021-06-22."""

ROWS: dict[str, IndexRow] = {
    "visit": row("Encounter", "visit", labelled=("N",), days=IN_2021),
    "weight": row(record_id="weight", labelled=("N",), days=IN_2021, references=("Encounter/visit",)),
    "sugar": row(
        record_id="sugar", labelled=("N",), days=IN_2022, references=(DOCTOR,), search={"performer": (DOCTOR,)}
    ),
    "alcohol": row(record_id="alcohol", labelled=("R",), days=IN_2022),
    "mind": row(record_id="mind", labelled=("R", "PSY"), days=IN_2021),
    "violence": row(record_id="violence", labelled=("R", "SDV"), days=IN_2021, references=("Encounter/visit",)),
}
ALL = " ".join(ROWS)
NORMAL = "visit weight sugar"


def data(meaning: str, *references: str) -> Json:
    return {"data": [{"meaning": meaning, "reference": {"reference": each}} for each in references]}


def only(*nested: Json, **elements: Json) -> Json:
    """A Consent that permits treatment, payment and operations, narrowed and with exceptions."""
    return consent(provision("permit", *nested, **{**TPO, **elements}))


def but(**elements: Json) -> Json:
    return only(provision("deny", **elements))


def focused(*codes: str) -> Json:
    return provision("permit", **labels(*codes), actor=[actor(DOCTOR)])


YEAR = {"dataPeriod": {"start": "2022-01-01", "end": "2022-12-31"}}
TREAT = consent(provision("permit", **TPO))
BREAK_GLASS: Json = {**purposes("BTG"), "actor": [actor(GROUP)]}
ONE_PURPOSE = consent(
    provision("permit", actor=[actor("Organization/org-project")], **FOO),
    policy=[{"uri": "https://profiles.ihe.net/ITI/PCF/Policy-basic-normal"}],
)
DISSENT = consent(
    provision("deny", provision("permit", **BREAK_GLASS)),
    policy=[{"uri": "https://profiles.ihe.net/ITI/PCF/Policy-break-glass-only"}],
)
N, R = labels("N"), labels("R")

CASES: list[tuple[str, Json, Requester, str]] = [
    ("consent-basic-treat", TREAT, CLINICIAN, ALL),
    ("consent-basic-treat", TREAT, RESEARCH, ""),
    ("consent-basic-treat-infant", TREAT | {"performer": [{"reference": "Patient/mother"}]}, CLINICIAN, ALL),
    ("consent-basic-ink", TREAT | {"sourceReference": {"reference": "DocumentReference/ink"}}, CLINICIAN, ALL),
    ("consent-basic-reject", consent(provision("deny", **TPO)), CLINICIAN, ""),
    ("consent-basic-research", consent(provision("permit", **purposes("HRESCH"))), RESEARCH, ALL),
    ("consent-basic-research", consent(provision("permit", **purposes("HRESCH"))), CLINICIAN, ""),
    ("consent-intermediate-authoredby", only(**data("authoredby", DOCTOR)), CLINICIAN, "sugar"),
    (
        "consent-intermediate-not-authoredby",
        but(**data("authoredby", DOCTOR)),
        CLINICIAN,
        f"{NORMAL} alcohol mind violence -sugar",
    ),
    (
        "consent-intermediate-data",
        only(**data("instance", "Observation/weight", "Observation/mind")),
        CLINICIAN,
        "weight mind",
    ),
    ("consent-intermediate-not-data", but(**data("instance", "Observation/alcohol")), CLINICIAN, f"{ALL} -alcohol"),
    (
        "consent-intermediate-encounter",
        only(**data("related", "Encounter/visit")),
        CLINICIAN,
        "visit weight violence",
    ),
    (
        "consent-intermediate-not-encounter",
        but(**data("related", "Encounter/visit")),
        CLINICIAN,
        "sugar alcohol mind",
    ),
    ("consent-intermediate-timeframe", only(**YEAR), CLINICIAN, "sugar alcohol"),
    ("consent-intermediate-not-timeframe", but(**YEAR), CLINICIAN, "visit weight mind violence"),
    ("consent-intermediate-purpose", ONE_PURPOSE, PROJECT, ALL),
    ("consent-intermediate-purpose", ONE_PURPOSE, replace(PROJECT, institution_id="org-harbor"), ""),
    ("consent-intermediate-purpose", ONE_PURPOSE, replace(PROJECT, purpose="HRESCH"), ""),
    ("dissent-intermediate-break-glass", DISSENT, CLINICIAN, ""),
    ("dissent-intermediate-break-glass", DISSENT, BREAKING, ALL),
    ("dissent-intermediate-break-glass", DISSENT, replace(BREAKING, groups=()), ""),
    ("consent-advanced-normal", only(**N), CLINICIAN, NORMAL),
    ("consent-advanced-normal-not-restricted", only(provision("deny", **R), **N), CLINICIAN, NORMAL),
    ("consent-advanced-normal-restricted", only(**labels("N", "R")), CLINICIAN, ALL),
    ("consent-advanced-normal-focused-restricted", only(focused("R"), **N), CLINICIAN, NORMAL),
    ("consent-advanced-normal-focused-restricted", only(focused("R"), **N), NAMED, ALL),
    (
        "consent-advanced-normal-break-glass-restricted",
        only(provision("permit", **R, **BREAK_GLASS), **N),
        CLINICIAN,
        NORMAL,
    ),
    (
        "consent-advanced-normal-break-glass-restricted",
        only(provision("permit", **R, **BREAK_GLASS), **N),
        BREAKING,
        ALL,
    ),
    ("consent-advanced-normal-focused-psy", only(focused("PSY"), **N), CLINICIAN, NORMAL),
    ("consent-advanced-normal-focused-psy", only(focused("PSY"), **N), NAMED, f"{NORMAL} mind"),
    (
        "consent-advanced-normal-focused-psy-or-sdv",
        only(focused("PSY", "SDV"), **N),
        NAMED,
        f"{NORMAL} mind violence",
    ),
    ("consent-advanced-normal-focused-psy-or-sdv", only(focused("PSY", "SDV"), **N), CLINICIAN, NORMAL),
]
"""Name of the example, our Consent, who asks, what is seen; ``-name`` takes one away."""


def seen(body: Json, who: Requester, at: datetime = datetime(2026, 3, 1, tzinfo=UTC)) -> set[str]:
    permits = decision(who, body, at=at, rows=tuple(ROWS.values())).permits
    return {name for name, each in ROWS.items() if permits(each)}


@pytest.mark.parametrize(("name", "body", "who", "expected"), CASES)
def test_a_consent_of_the_same_meaning_comes_out_as_the_sentence_says(
    name: str, body: Json, who: Requester, expected: str
) -> None:
    words = expected.split()
    due = {each for each in words if each[0] != "-"} - {each[1:] for each in words if each[0] == "-"}
    assert seen(body, who) == due, SENTENCES[name]


def test_a_consent_ends_with_its_period() -> None:
    body = consent(provision("permit", **TPO, period={"end": "2022-12-31"}))
    assert seen(body, CLINICIAN, datetime(2022, 12, 31, 23, 59, tzinfo=UTC)) == set(ROWS)
    assert seen(body, CLINICIAN, datetime(2023, 1, 1, tzinfo=UTC)) == set()


def test_each_of_the_23_sentences_has_a_case() -> None:
    assert len(SENTENCES) == 23
    assert set(SENTENCES) == {name for name, *_ in CASES} | {"consent-expired-treat"}
