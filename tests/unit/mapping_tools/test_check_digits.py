"""Check digits: against published codes of LOINC and SNOMED CT, and against every single mistake in one."""

from __future__ import annotations

import pytest

from fhir_bridge.mapping_tools.check_digits import LOINC, SNOMED, fault_of_code, is_verhoeff

# Codes that FHIR R4's own examples use (CC0) and the worked examples of the two guides.
LOINC_CODES = ("2339-0", "8310-5", "85354-9", "4548-4", "29463-7", "55284-4", "LA33-6", "LA9633-4")
SNOMED_CODES = ("44054006", "73211009", "22298006", "38341003", "271649006", "10939881000119105")


@pytest.mark.parametrize("code", LOINC_CODES)
def test_codes_of_loinc_hold(code: str) -> None:
    assert fault_of_code(LOINC, code) is None


@pytest.mark.parametrize("code", SNOMED_CODES)
def test_codes_of_snomed_hold(code: str) -> None:
    assert fault_of_code(SNOMED, code) is None


def test_every_wrong_digit_of_a_loinc_code_is_noticed() -> None:
    for place in range(4):
        for digit in "0123456789":
            changed = "2339-0"[:place] + digit + "2339-0"[place + 1 :]
            assert (fault_of_code(LOINC, changed) is None) is (changed == "2339-0")


def test_every_wrong_digit_and_every_swap_of_a_snomed_code_is_noticed() -> None:
    code = "44054006"
    for place in range(len(code)):
        for digit in "0123456789":
            changed = code[:place] + digit + code[place + 1 :]
            assert is_verhoeff(changed) is (changed == code)
    for place in range(len(code) - 1):
        swapped = code[:place] + code[place + 1] + code[place] + code[place + 2 :]
        assert is_verhoeff(swapped) is (swapped == code)


@pytest.mark.parametrize(
    ("system", "code", "kind"),
    [
        (LOINC, "2339-1", "check-digit"),
        (LOINC, "glucose", "odd-code"),
        (SNOMED, "73211008", "check-digit"),
        (SNOMED, "0441", "odd-code"),
        (SNOMED, "751689013", "odd-code"),  # a description of 44054006's release, not a concept
    ],
)
def test_a_fault_is_named(system: str, code: str, kind: str) -> None:
    fault = fault_of_code(system, code)
    assert fault is not None
    assert fault[0] == kind


def test_other_systems_are_not_judged() -> None:
    assert fault_of_code("http://hl7.org/fhir/sid/icd-10", "whatever") is None
