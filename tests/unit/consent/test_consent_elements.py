"""Every element that R4 defines for a provision is one that the evaluator reads, and no other is."""

from __future__ import annotations

import pytest

from fhir_bridge.consent.reading import KNOWN_ACTOR, KNOWN_DATA, KNOWN_PERIOD, KNOWN_PROVISION, KNOWN_TOP
from fhir_bridge.fhir.tables import r4

MODIFIERS = {"modifierExtension", "implicitRules"}
"""An unknown one of these could mean anything: it makes a Consent not understood (R4 extensibility.html)."""


@pytest.mark.parametrize(
    ("type_name", "known"),
    [
        ("Consent", KNOWN_TOP - {"resourceType"}),
        ("Consent.provision", KNOWN_PROVISION),
        ("Consent.provision.actor", KNOWN_ACTOR),
        ("Consent.provision.data", KNOWN_DATA),
        ("Period", KNOWN_PERIOD),
    ],
)
def test_the_elements_of_the_definition_are_those_that_are_read(type_name: str, known: frozenset[str]) -> None:
    defined = {key for element in r4().types[type_name].elements.values() for key in element.json_keys()}
    assert {name for name in defined if not name.startswith("_")} - MODIFIERS == known
