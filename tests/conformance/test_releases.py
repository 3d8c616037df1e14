"""STU3, R4B and R5 in R4: valid, nothing lost, stable, and beside what HL7's own converter makes of the same.

HL7's official examples of each release (``make versions``) and cedar's messages. Every class of difference from the
converter is named in ``tests/peers/versions/differences.toml``; one that no class explains fails.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fhir_bridge.consent.releases import consent_in_r4
from fhir_bridge.errors import Issue
from fhir_bridge.fhir.json import parse, render
from fhir_bridge.fhir.tables import r4
from fhir_bridge.fhir.validate import validate_r4
from fhir_bridge.intake import Limits, receive
from fhir_bridge.mapping_tools.coverage import cover
from fhir_bridge.mapping_tools.sample import Message
from fhir_bridge.model.ingest import FhirVersion, Received, Validated
from fhir_bridge.normalize import Kind, load_ruleset, preview
from fhir_bridge.normalize.draft import Draft
from fhir_bridge.normalize.links import Links
from fhir_bridge.normalize.reference_places import walk
from tests.conformance.test_hospital_truth import lines
from tests.conformance.version_report import DOCUMENT, END, RELEASES, START, comparison, core, reasons, table, told
from tests.support.leaf_differences import compare, leaves, lost
from tests.support.lineage_judge import check
from tests.support.release_examples import ROOT, Json, official, refused, shipped_stu3

pytestmark = pytest.mark.slow
EVERY = pytest.mark.parametrize("release", RELEASES)

NOT_CONVERTED = {
    ("R5", "CommunicationRequest", "example"): "intent proposal: R4 has no intent, and it would read as an order",
    ("R5", "CommunicationRequest", "fm-solicit"): "intent proposal: R4 has no intent, and it would read as an order",
    ("R5", "Consent", "consent-example-CDA"): "a provision by a type of document, which R4's class cannot narrow",
    ("R5", "Communication", "fm-solicited"): "holds such a CommunicationRequest",
    ("R5", "Task", "cpg-example-1"): "doNotPerform: R4 would read as an order to do it",
}
INVALID_IN_R4 = {
    ("STU3", "Condition", "f204"): "con-4 of R4: abated, yet active",
    ("STU3", "List", "example"): "lst-3 of R4: dates of entries in a list whose mode is not working",
    ("R5", "MeasureReport", "measurereport-cms146-cat1-example"): "mrp-2 of R4: a stratum by a boolean",
    ("R5", "MeasureReport", "measurereport-cms146-cat3-example"): "mrp-2 of R4: a stratum by a boolean",
    ("R5", "MolecularSequence", "example"): "msq-3 of R4: no coordinate system was sent, and none can be guessed",
    ("R5", "Observation", "vp-oyster"): "members of a contained Group whose type R4 does not allow there",
}
"""What the validator quarantines after conversion, because R4 is stricter than the release it came in."""
REFUSED: dict[str, dict[str, set[tuple[str, str | None]]]] = {
    "STU3": {
        "ctm-1: onBehalfOf of a member that is no practitioner": {("CareTeam", "example")},
        "intent is none of the codes": {("DeviceRequest", "example"), ("DeviceRequest", "insulinpump")},
        "a reference by a UUID without urn:uuid:": {("DiagnosticReport", "report")},
        "a modifier extension, of which nobody here knows the meaning": {("Patient", None)},
    },
    "R4B": {
        "a style in the narrative that loads or runs something": {
            ("QuestionnaireResponse", "f201"),
            ("QuestionnaireResponse", "gcs"),
            ("QuestionnaireResponse", "ussg-fht-answers"),
        },
    },
    "R5": {
        "ctm-1: onBehalfOf of a member that is no practitioner": {("CareTeam", "example")},
        "a style in the narrative that loads or runs something": {
            ("QuestionnaireResponse", "f201"),
            ("QuestionnaireResponse", "gcs"),
            ("QuestionnaireResponse", "ussg-fht-answers"),
        },
        "a reference to a type that R5 does not allow there": {
            ("BiologicallyDerivedProduct", "allogeneicHCT"),
            ("BiologicallyDerivedProduct", "autologousHCT"),
            ("DocumentReference", "xray"),
            ("Encounter", "example"),
            ("Transport", "simpledelivery"),
        },
        "a reference that is no address": {
            ("GenomicStudy", "example-lungMass"),
            ("ResearchSubject", "example-crossover-placebo-to-drug"),
        },
        "ele-1: an identifier with nothing in it": {("Medication", "med0301")},
    },
}
"""HL7's examples that break a rule of the release they are of."""


def examples(release: str) -> list[Json]:
    """Every official example of a release, those in the repository too."""
    shipped = [e for e in shipped_stu3() if e["resourceType"] != "Bundle"] if release == "STU3" else []
    return [*official(release), *shipped]


def name(release: str, source: Json) -> tuple[str, str, str]:
    """How the tables of this file name an example."""
    return release, source["resourceType"], str(source["id"])


def in_r4(release: str, source: Json) -> Draft:
    """The draft of an example that is converted, its references pointing to R4's types."""
    draft = told(release, source)
    assert isinstance(draft, Draft)
    Links(bytes(32), frozenset()).rewrite(draft, walk(draft.body).references)
    return draft


@EVERY
def test_its_own_validator_accepts_every_example_that_breaks_no_rule(release: str) -> None:
    assert refused(release) == set().union(*REFUSED[release].values())


@EVERY
def test_every_example_is_converted_or_has_its_reason(release: str) -> None:
    kept_back = {name(release, e) for e in examples(release) if isinstance(told(release, e), Issue)}
    assert kept_back == {each for each in NOT_CONVERTED if each[0] == release}


@EVERY
def test_what_comes_out_is_valid_r4_or_has_its_reason(release: str) -> None:
    found = {}
    for source in examples(release):
        if name(release, source) not in NOT_CONVERTED:
            errors = [i for i in validate_r4(in_r4(release, source).body) if i.severity == "error"]
            if errors:
                found[name(release, source)] = errors[0]
    assert {key: issue for key, issue in found.items() if key not in INVALID_IN_R4} == {}
    assert {key for key in INVALID_IN_R4 if key[0] == release} - set(found) == set()


def dropped() -> list[tuple[str, re.Pattern[str]]]:
    """Rules and the paths of leaves that they may take away; each with its reason."""
    rows = tomllib.loads((ROOT / "tests/peers/versions/dropped.toml").read_text("utf-8"))["dropped"]
    assert all(row["reason"] for row in rows)
    return [(row["rule"], re.compile(row["path"])) for row in rows]


@EVERY
def test_no_leaf_of_an_example_is_lost(release: str) -> None:
    allowed = dropped()
    missing: Counter[str] = Counter()
    for source in examples(release):
        draft = told(release, source)
        if isinstance(draft, Draft):
            missing.update(path for path, _text in lost(source, draft.body, draft.changes, allowed))
    assert missing == Counter()


@EVERY
def test_every_value_is_explained_down_to_the_bytes_that_were_sent(release: str) -> None:
    kinds: Counter[Kind] = Counter()
    for source in examples(release):
        draft = told(release, source)
        if isinstance(draft, Draft):
            made = parse(render(draft.body))
            kinds.update(each.kind for each in check(source, render(source), made, draft.changes).statements)
    assert min(kinds[kind] for kind in (Kind.UNTOUCHED, Kind.MOVED, Kind.MADE)) > 100


def test_the_search_for_what_is_lost_finds_it() -> None:
    source: Json = {"resourceType": "Patient", "gender": "male", "name": [{"family": "A"}, {"family": "B"}]}
    assert lost(source, {"resourceType": "Patient", "name": [{"family": "B"}]}, ()) == [
        ("Patient.gender", "male"),
        ("Patient.name.family", "A"),
    ]


def test_no_leaf_of_cedar_is_lost() -> None:
    ruleset, allowed = load_ruleset(ROOT / "mappings" / "cedar"), dropped()
    missing: Counter[str] = Counter()
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for line in lines("cedar"):
        for entry in receive(Received("cedar", FhirVersion.STU3, line, moment), Limits()).entries:
            assert isinstance(entry, Validated)
            assert entry.resource is not None
            draft = told("STU3", entry.resource, ruleset)
            assert isinstance(draft, Draft)
            missing.update(path for path, _text in lost(entry.resource, draft.body, draft.changes, allowed))
    assert missing == Counter()


@EVERY
def test_converting_again_changes_nothing(release: str) -> None:
    for source in examples(release):
        draft = told(release, source)
        if isinstance(draft, Draft):
            again = told(release, source)
            assert isinstance(again, Draft)
            assert render(again.body) == render(draft.body)
            as_r4 = preview(draft.body, FhirVersion.R4, core())
            assert as_r4.changes == (), name(release, source)


@EVERY
def test_numbers_and_dates_that_stay_keep_their_text(release: str) -> None:
    written = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?|\d{4}(-\d\d){0,2}(T.*)?")
    for source in examples(release):
        draft = told(release, source)
        if isinstance(draft, Draft):
            sent = Counter(t for _p, t in leaves(parse(render(source)), "") if written.fullmatch(t))
            kept = Counter(t for _p, t in leaves(parse(render(draft.body)), "") if written.fullmatch(t))
            assert not kept - sent - MADE, name(release, source)


MADE = Counter({"0": 1, "1": 1})
"""MolecularSequence.coordinateSystem, said by a code of LOINC in R5."""


def test_r4b_of_types_that_r4_has_is_what_was_sent() -> None:
    for source in official("R4B"):
        if source["resourceType"] in r4().resource_types():
            draft = told("R4B", source)
            assert isinstance(draft, Draft)
            _equal, differences = compare(draft.body, source)
            # What core says of every record besides, whatever its release: labels, and interpretations in R4's codes.
            said_besides = (".meta.security", ".interpretation.coding")
            left = [d for d in differences if not any(each in d.path for each in said_besides)]
            assert left == [], name("R4B", source)


@EVERY
def test_each_difference_from_the_converter_of_hl7_has_a_class(release: str) -> None:
    assert Counter((each.side, each.path) for each in comparison(release).unexplained) == Counter()


def test_no_class_of_difference_is_idle_and_the_page_tells_what_was_measured() -> None:
    assert {each for each in reasons() if not any(comparison(r).classes[each] for r in RELEASES)} == set()
    page = DOCUMENT.read_text("utf-8")
    assert page[page.index(START) : page.index(END) + len(END)] == table(), (
        "python -m tests.conformance.version_report writes docs/versions.md anew"
    )


def test_a_consent_means_the_same_by_a_feed_as_from_a_persons_agent() -> None:
    read = ("status", "scope", "category", "patient", "dateTime", "policyRule", "provision")
    compared = 0
    for source in official("R5"):
        if source["resourceType"] == "Consent" and name("R5", source) not in NOT_CONVERTED:
            draft, agents = told("R5", source), consent_in_r4(source)
            assert isinstance(draft, Draft)
            assert {k: draft.body.get(k) for k in read} == {k: agents.get(k) for k in read}, source["id"]
            compared += 1
    assert compared > 5


@EVERY
def test_coverage_loses_no_value_of_an_example(release: str, tmp_path: Path) -> None:
    (tmp_path / "source.yaml").write_text(f"institution: x\nfhir_version: {release}\nextends: core\n")
    found = cover(tmp_path, (Message(f"{n}", render(each)) for n, each in enumerate(official(release))))
    assert [path for path, each in found.elements.items() if each.fates["lost"]] == []
    assert found.unknown == {}
    stopped = {kind for (kind, verdict), count in found.records.items() if verdict != "passed" and count}
    assert stopped == {kind for of, kind, _id in {*NOT_CONVERTED, *INVALID_IN_R4} if of == release}
