"""The Unified Code for Units of Measure: what a unit means, and values from one unit in another.

The front door for whoever meets a unit: data-quality flags, the rules of packs, comparisons of quantities. Codes are
the case sensitive ones. What they mean comes from ``ucum-essence.xml`` as its keepers publish it.

Invariants:
    * a factor is an exact fraction; rounding happens once, at the end, and only if there is no end of digits;
    * an arbitrary unit such as ``[iU]`` is like nothing but itself;
    * a unit is parsed once: everything about a code is remembered.
"""

from __future__ import annotations

from fhir_bridge.fhir.ucum.canonical import AMOUNTS, Canonical, canonical
from fhir_bridge.fhir.ucum.conversion import commensurable, convert, exactly, is_falling, is_measure
from fhir_bridge.fhir.ucum.names import display
from fhir_bridge.fhir.ucum.syntax import is_in_capitals, is_ucum

__all__ = [
    "AMOUNTS",
    "UCUM",
    "Canonical",
    "canonical",
    "commensurable",
    "convert",
    "display",
    "exactly",
    "is_falling",
    "is_in_capitals",
    "is_measure",
    "is_ucum",
]

UCUM = "http://unitsofmeasure.org"
"""The system of these codes in FHIR."""
