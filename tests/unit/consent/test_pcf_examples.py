"""The 23 example Consents of IHE PCF 1.1 come out as its sentences say (``pcf_sentences``).

The examples are not part of this project (CC BY 4.0, kept apart): the test reads
them from ``FHIR_BRIDGE_PCF_EXAMPLES`` or from a folder beside the checkout.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fhir_bridge.consent import compile_consent, consent_in_r4
from fhir_bridge.fhir.dates import interval
from fhir_bridge.model.access import Requester
from fhir_bridge.model.ingest import FhirVersion, IndexRow, pack_values
from tests.unit.consent.consent_samples import decision, row
from tests.unit.consent.pcf_sentences import SENTENCES

BESIDE = Path(__file__).parents[3].parent / "shared" / "data" / "ihe" / "pcf"
FOLDER = Path(os.environ.get("FHIR_BRIDGE_PCF_EXAMPLES", BESIDE))

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="IHE's example Consents are not here; FHIR_BRIDGE_PCF_EXAMPLES names their folder"
)

CLINICIAN = Requester("c", institution="other", institution_id="ex-other", practitioner="dr-any", groups=())
NAMED = replace(CLINICIAN, practitioner="ex-practitioner")
BREAKING_GLASS = replace(CLINICIAN, purpose="BTG", groups=("Group/ex-privilegedUsers",))
FOO = "http://example.org/policies/purposeOfUse|FooBar"
RESEARCHER = replace(CLINICIAN, institution_id="ex-org-researcher", purpose=FOO)
WHILE_VALID = datetime(2022, 7, 1, tzinfo=UTC)

NORMAL = "weight weight-2 bloodPressure bloodSugar encounter"
ALL = f"{NORMAL} alcoholUse"
IN_2022 = "alcoholUse"
"""Of the example records only this one is dated in the year that the timeframe examples name."""


def records() -> dict[str, IndexRow]:
    """The example patient's records as index rows, without the project's own extraction."""
    rows = {}
    for path in (*FOLDER.glob("Observation-*.json"), *FOLDER.glob("Encounter-*.json")):
        body = json.loads(path.read_text())
        labelled = tuple(f"{c['system']}|{c['code']}" for c in body["meta"]["security"])
        dated = interval(body["effectiveDateTime"]) if "effectiveDateTime" in body else None
        references = [body["encounter"]["reference"]] if "encounter" in body else []
        performers = tuple(each["reference"] for each in body.get("performer", ()))
        made = row(body["resourceType"], body["id"], references=(*references, *performers))
        rows[body["id"].removeprefix("ex-")] = structs.replace(
            made, labels=labelled, data_period_us=dated, search=pack_values({"performer": performers})
        )
    return rows


CASES = [
    ("consent-basic-treat", CLINICIAN, ALL),
    ("consent-basic-treat", replace(CLINICIAN, purpose="HRESCH"), ""),
    ("consent-basic-treat-infant", CLINICIAN, ALL),
    ("consent-basic-ink", CLINICIAN, ALL),
    ("consent-basic-reject", CLINICIAN, ""),
    ("consent-basic-research", CLINICIAN, ""),
    ("consent-basic-research", replace(CLINICIAN, purpose="HRESCH"), ALL),
    ("consent-intermediate-authoredby", CLINICIAN, ""),
    ("consent-intermediate-not-authoredby", CLINICIAN, ALL),
    ("consent-intermediate-data", CLINICIAN, ALL),
    ("consent-intermediate-not-data", CLINICIAN, NORMAL),
    ("consent-intermediate-encounter", CLINICIAN, ALL),
    ("consent-intermediate-not-encounter", CLINICIAN, ""),
    ("consent-intermediate-timeframe", CLINICIAN, IN_2022),
    ("consent-intermediate-not-timeframe", CLINICIAN, "weight weight-2 bloodSugar bloodPressure"),
    ("consent-intermediate-purpose", RESEARCHER, ALL),
    ("consent-intermediate-purpose", replace(RESEARCHER, purpose="TREAT"), ""),
    ("consent-intermediate-purpose", replace(CLINICIAN, purpose=FOO), ""),
    ("dissent-intermediate-break-glass", CLINICIAN, ""),
    ("dissent-intermediate-break-glass", BREAKING_GLASS, ALL),
    ("dissent-intermediate-break-glass", replace(BREAKING_GLASS, groups=()), ""),
    ("consent-advanced-normal", CLINICIAN, NORMAL),
    ("consent-advanced-normal-not-restricted", CLINICIAN, NORMAL),
    ("consent-advanced-normal-restricted", CLINICIAN, ALL),
    ("consent-advanced-normal-focused-restricted", CLINICIAN, NORMAL),
    ("consent-advanced-normal-focused-restricted", NAMED, ALL),
    ("consent-advanced-normal-break-glass-restricted", CLINICIAN, NORMAL),
    ("consent-advanced-normal-break-glass-restricted", BREAKING_GLASS, ALL),
    ("consent-advanced-normal-focused-psy", CLINICIAN, NORMAL),
    ("consent-advanced-normal-focused-psy", NAMED, NORMAL),
    ("consent-advanced-normal-focused-psy-or-sdv", NAMED, NORMAL),
]


def visible(name: str, requester: Requester, rows: dict[str, IndexRow], at: datetime = WHILE_VALID) -> set[str]:
    body = json.loads((FOLDER / f"Consent-ex-{name}.json").read_text())
    permits = decision(requester, body, at=at, rows=tuple(rows.values())).permits
    return {each for each, candidate in rows.items() if permits(candidate)}


@pytest.mark.parametrize(("name", "requester", "expected"), CASES)
def test_an_example_comes_out_as_its_notes_say(name: str, requester: Requester, expected: str) -> None:
    assert visible(name, requester, records()) == set(expected.split()), SENTENCES[name]


def test_an_example_ends_with_its_period() -> None:
    assert visible("consent-expired-treat", CLINICIAN, records()) == set(ALL.split())
    assert visible("consent-expired-treat", CLINICIAN, records(), datetime(2023, 1, 1, tzinfo=UTC)) == set()


@pytest.mark.parametrize("topic", ["PSY", "SDV"])
def test_topics_are_carved_out_for_the_named_practitioner_alone(topic: str) -> None:
    rows = {"it": structs.replace(row(labelled=("R", topic)), data_period_us=(0, 1))}
    expected = {"it"} if topic == "PSY" else set()
    assert visible("consent-advanced-normal-focused-psy", NAMED, rows) == expected
    assert visible("consent-advanced-normal-focused-psy-or-sdv", NAMED, rows) == {"it"}
    assert visible("consent-advanced-normal-focused-psy-or-sdv", CLINICIAN, rows) == set()


def test_every_example_is_read_by_some_case() -> None:
    names = {path.stem.removeprefix("Consent-ex-") for path in FOLDER.glob("Consent-*.json")}
    assert names == set(SENTENCES)
    assert names == {name for name, _, _ in CASES} | {"consent-expired-treat"}


# --- the same examples in the words of R4B and R5


def _in_r5(body: dict[str, Any]) -> dict[str, Any]:
    """Say an example in R5: nothing but what it permits is granted, and each level negates the one above.

    R5's provisions alternate, so a permit nested in a permit stands beside it, with what it inherits; PCF lets a
    nested securityLabel replace the outer one. A denial at the root says what ``decision`` says already.
    """
    told = {name: body[name] for name in ("resourceType", "status", "category")}
    told |= {"subject": body["patient"], "date": body["dateTime"], "decision": "deny"}
    root = body["provision"]
    if "period" in root:
        told["period"] = root["period"]
    return told | {"provision": _permits(root, {})}


def _permits(node: dict[str, Any], inherited: dict[str, Any]) -> list[dict[str, Any]]:
    own = {name: value for name, value in node.items() if name not in ("type", "period", "provision")}
    if "class" in own:
        own["resourceType"] = own.pop("class")
    stated, nested = {**inherited, **own}, node.get("provision", [])
    if node["type"] == "deny":
        return [made for each in nested for made in _permits(each, {})]
    denials = [{n: v for n, v in each.items() if n != "type"} for each in nested if each["type"] == "deny"]
    permit = stated | ({"provision": denials} if denials else {})
    return [permit, *(made for each in nested if each["type"] == "permit" for made in _permits(each, stated))]


@pytest.mark.parametrize(("name", "requester", "expected"), CASES)
def test_an_example_said_in_r5_comes_out_alike(name: str, requester: Requester, expected: str) -> None:
    body = json.loads((FOLDER / f"Consent-ex-{name}.json").read_text())
    rows = records()
    said = consent_in_r4(_in_r5(body))
    assert compile_consent(said).understood
    permits = decision(requester, said, at=WHILE_VALID, rows=tuple(rows.values())).permits
    assert {each for each, candidate in rows.items() if permits(candidate)} == set(expected.split())


def test_every_example_is_typed_at_its_root_as_pcf_asks() -> None:
    bodies = [json.loads(path.read_text()) for path in FOLDER.glob("Consent-*.json")]
    assert {body["provision"].get("type") for body in bodies} == {"permit", "deny"}


@pytest.mark.parametrize("name", sorted({name for name, _, _ in CASES}))
def test_an_example_means_in_r4b_what_it_means_in_r4(name: str) -> None:
    body = json.loads((FOLDER / f"Consent-ex-{name}.json").read_text())
    assert compile_consent(body, release=FhirVersion.R4B) == compile_consent(body)
