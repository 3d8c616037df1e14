"""SMART scopes, against the table of SMART App Launch 2.2 "Scopes for requesting FHIR resources"."""

from __future__ import annotations

import pytest

from fhir_bridge.model.access import Requester
from fhir_bridge.model.scopes import ScopeUnknown, allows, is_within, parse_scopes, readable_types


def institution(*scopes: str) -> Requester:
    return Requester("c", institution="northgate", institution_id="org-n", scopes=scopes)


def patient(*scopes: str) -> Requester:
    return Requester("c", patient="p123", scopes=scopes)


@pytest.mark.parametrize(
    ("scope", "interaction", "expected"),
    [
        ("system/Observation.r", "read", True),
        ("system/Observation.r", "vread", True),
        ("system/Observation.r", "history", True),
        ("system/Observation.r", "search", False),
        ("system/Observation.s", "search", True),
        ("system/Observation.s", "history-type", True),
        ("system/Observation.s", "read", False),
        ("system/Observation.c", "create", True),
        ("system/Observation.c", "update", False),
        ("system/Observation.u", "update", True),
        ("system/Observation.u", "patch", True),
        ("system/Observation.d", "delete", True),
        ("system/Observation.cru", "delete", False),
        ("system/Observation.read", "search", True),
        ("system/Observation.read", "create", False),
        ("system/Observation.write", "delete", True),
        ("system/Observation.write", "read", False),
        ("system/Observation.*", "delete", True),
        ("system/*.rs", "everything", True),
        ("system/*.r", "everything", False),
        ("user/Observation.r", "read", True),
        ("patient/Observation.r", "read", False),
        ("system/Patient.cruds", "read", False),
        ("system/Observation.rs?category=lab", "read", False),
        ("system/*.cruds", "launch-missiles", False),
    ],
)
def test_an_institutions_scope_allows(scope: str, interaction: str, expected: bool) -> None:
    assert allows(institution(scope), "Observation", interaction) is expected


def test_no_scope_allows_nothing() -> None:
    assert not allows(institution(), "Observation", "read")


def test_a_whole_system_interaction_needs_a_scope_on_every_type() -> None:
    assert allows(institution("system/*.s"), "*", "search")
    assert not allows(institution("system/Observation.s", "system/Patient.s"), "*", "search")


@pytest.mark.parametrize("scope", ["patient/*.cruds", "system/*.cruds", "user/*.cruds"])
def test_a_patient_writes_consent_and_nothing_else_whatever_the_scope(scope: str) -> None:
    who = patient(scope)
    assert not allows(who, "Observation", "create")
    assert not allows(who, "Observation", "update")
    assert not allows(who, "Observation", "delete")
    assert allows(who, "Consent", "delete") is scope.startswith("patient/")
    assert allows(who, "Consent", "create") is scope.startswith("patient/")
    assert allows(who, "Observation", "read") is scope.startswith("patient/")


def test_a_patient_who_may_update_a_consent_may_delete_it_for_both_withdraw() -> None:
    assert allows(patient("patient/Consent.cu"), "Consent", "delete")
    assert not allows(patient("patient/Consent.c"), "Consent", "delete")
    assert not allows(institution("system/Consent.cu"), "Consent", "delete")


def test_types_outside_the_scopes_are_not_readable() -> None:
    is_readable = readable_types(institution("system/Patient.rs", "system/Observation.s"))
    assert is_readable("Patient")
    assert not is_readable("Observation")
    assert not is_readable("Condition")


@pytest.mark.parametrize(
    ("requested", "allowed", "expected"),
    [
        ("system/*.rs", "system/*.cruds", True),
        ("system/Patient.rs", "system/Patient.r system/*.s", True),
        ("system/*.rs", "system/Patient.rs", False),
        ("system/*.rs", "user/*.rs", False),
        ("", "system/*.rs", True),
    ],
)
def test_within(requested: str, allowed: str, expected: bool) -> None:
    assert is_within(parse_scopes(requested), parse_scopes(allowed)) is expected


@pytest.mark.parametrize(
    "text", ["system/*.", "system/*.sr", "system/*.x", "openid", "system/*.rs?a=b", "system/patient.rs"]
)
def test_what_is_no_resource_scope_is_refused(text: str) -> None:
    with pytest.raises(ScopeUnknown) as refused:
        parse_scopes(text)
    assert text not in str(refused.value)
