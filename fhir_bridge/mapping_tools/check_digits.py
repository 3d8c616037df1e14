"""Check digits of the two large code systems, which catch most mistyped codes without a copy of either.

LOINC: a hyphen and a digit by Luhn's mod-10 rule (LOINC Users' Guide, "Check digit"). SNOMED CT: Verhoeff's dihedral
check over the whole identifier, whose second and third last digits say what it is (Release File Specification,
section 5.5, "SCTID").
"""

from __future__ import annotations

import re

LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"

_LOINC = re.compile(r"(?P<prefix>L[ALPG])?(?P<digits>\d{1,8})-(?P<check>\d)")
_SNOMED = re.compile(r"[1-9]\d{5,17}")
_CONCEPT = ("00", "10")
# Multiplication in the dihedral group of order ten, and Verhoeff's permutation of positions.
_PRODUCT = [[(a + b) % 5 if b < 5 else (a + b) % 5 + 5 for b in range(10)] for a in range(5)] + [
    [(a - b) % 5 + 5 if b < 5 else (a - b) % 5 for b in range(10)] for a in range(5, 10)
]
_TURN = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def fault_of_code(system: str, code: str) -> tuple[str, str] | None:
    """Return what is wrong with a code as (kind of finding, words), or None; other systems are not judged."""
    if system == LOINC:
        return _of_loinc(code)
    if system == SNOMED:
        return _of_snomed(code)
    return None


def _of_loinc(code: str) -> tuple[str, str] | None:
    match = _LOINC.fullmatch(code)
    if match is None:
        return "odd-code", f"{code} is not written as LOINC writes its codes: digits, a hyphen, a check digit"
    right = luhn(match["digits"])
    # Answers, parts and lists (LA33-6) count their letters in by a rule that the guide does not give.
    if match["prefix"] is None and int(match["check"]) != right:
        return "check-digit", f"{code} is no LOINC code: its check digit would be {right}"
    return None


def _of_snomed(code: str) -> tuple[str, str] | None:
    if not _SNOMED.fullmatch(code):
        return "odd-code", f"{code} is not written as SNOMED CT writes its identifiers: 6 to 18 digits"
    if not is_verhoeff(code):
        return "check-digit", f"{code} is no SNOMED CT identifier: its check digit is wrong"
    if code[-3:-1] not in _CONCEPT:
        return "odd-code", f"{code} identifies no concept of SNOMED CT but a description or a relationship"
    return None


def luhn(digits: str) -> int:
    """Return the check digit of a number by Luhn's rule."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        number = int(digit) * (2 if position % 2 == 0 else 1)
        total += number - 9 if number > 9 else number
    return -total % 10


def is_verhoeff(digits: str) -> bool:
    """Tell whether a number's last digit is right by Verhoeff's rule."""
    check = 0
    for position, digit in enumerate(reversed(digits)):
        turned = int(digit)
        for _ in range(position % 8):
            turned = _TURN[turned]
        check = _PRODUCT[check][turned]
    return check == 0
