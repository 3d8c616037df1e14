"""Cedar's STU3 in R4 beside what its generator itself writes in R4: how much is equal, why each other leaf is not.

``tests/peers/versions/cedar.toml`` holds the reasons, docs/cedar-in-r4.md is written from it.
"""

from __future__ import annotations

from collections import Counter

from fhir_bridge.mapping_tools.fates import DROPPED, EXTENSION, LOST
from tests.conformance.cedar_report import CHECKS, DOCUMENT, comparison, page, reasons, why_dropped

SHARES = {
    "Observation": 0.999,
    "SupplyDelivery": 1.0,
    "Condition": 1.0,
    "Device": 1.0,
    "DiagnosticReport": 0.97,
    "MedicationRequest": 0.78,
    "Encounter": 0.89,
    "ImagingStudy": 0.87,
    "Immunization": 0.83,
    "MedicationAdministration": 0.81,
    "Procedure": 0.80,
    "CarePlan": 0.74,
    "AllergyIntolerance": 0.65,
}
"""Least share of the R4 leaves that must come out; what lacks is not in the STU3 form (locations, reasons)."""


def test_cedar_in_r4_is_what_the_generator_itself_writes_in_r4() -> None:
    found = comparison()
    shares = {kind: found.equal[kind] / wanted for kind, wanted in found.wanted.items()}
    print(f"cedar as R4: {found.share:.1%} of {found.wanted.total()} leaves equal")
    assert found.share >= 0.95
    assert {kind: share for kind, share in shares.items() if share < SHARES[kind]} == {}


def test_every_difference_has_just_one_reason_and_every_listed_path_occurs() -> None:
    rows = reasons()
    told: Counter[tuple[int, str]] = Counter()
    for each, _ in comparison().differences:
        fitting = [number for number, reason in enumerate(rows) if reason.tells(each)]
        assert len(fitting) == 1, (each.path, each.side, fitting)
        told[fitting[0], each.path] += 1
    assert set(told) == {(number, path) for number, reason in enumerate(rows) for path in reason.paths}


def test_what_a_reason_claims_holds_of_every_difference_under_it() -> None:
    rows = reasons()
    untrue: Counter[tuple[str, str]] = Counter()
    for each, sent in comparison().differences:
        (reason,) = (reason for reason in rows if reason.tells(each))
        if not CHECKS[reason.holds](each, sent):
            untrue[each.path, reason.holds] += 1
    assert untrue == Counter()


def test_what_is_part_of_another_value_has_one_beside_it_that_was_not_sent() -> None:
    unsent = {path for reason in reasons() if reason.holds == "not sent" for path in reason.paths}
    for path in (path for reason in reasons() if reason.holds == "part" for path in reason.paths):
        holder = path.rpartition(".")[0]
        beside = Counter(each.path for each, _ in comparison().differences if each.path.startswith(f"{holder}."))
        others = {other for other in unsent if other.rpartition(".")[0] == holder}
        assert path in beside
        assert beside[path] in {beside[other] for other in others}, path


def test_no_value_of_cedars_is_lost_and_what_is_dropped_has_its_reason() -> None:
    found = comparison()
    assert found.fates[LOST] == 0
    assert found.fates[EXTENSION] == found.extension.total() > 0
    assert {place: len(why_dropped(*place)) for place in found.dropped} == dict.fromkeys(found.dropped, 1)
    assert found.fates[DROPPED] == found.dropped.total() > 0


def test_the_page_is_what_was_measured() -> None:
    assert DOCUMENT.read_text("utf-8") == page(), "python -m tests.conformance.cedar_report"
