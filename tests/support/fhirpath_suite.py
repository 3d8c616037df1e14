"""The official FHIRPath test suite for R4, read from HL7's jar of test cases (``make cases``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zipfile import ZipFile

from fhir_bridge.fhir.json import parse
from tests.support.fhir_xml import resource_from_xml

ROOT = Path(__file__).resolve().parents[2]
_R4 = "org/hl7/fhir/testcases/r4/"
_SUITE = _R4 + "fhirpath/tests-fhir-r4.xml"
_NO_INPUT = "patient-example.xml"
"""What the suite's runner takes where a test names none, as its expressions start at literals."""


@dataclass(frozen=True, slots=True)
class Case:
    """One test.

    Attributes:
        invalid: What must go wrong (``syntax``, ``semantic``, ``execution``), or None.
        outputs: Type, or None where the suite names none, and text of each expected item.
        is_predicate: The result counts as a boolean.
        is_ordered: The items must come in this order.
    """

    name: str
    input: str
    expression: str
    invalid: str | None
    outputs: tuple[tuple[str | None, str], ...]
    is_predicate: bool
    is_ordered: bool


@cache
def jar() -> ZipFile:
    """HL7's test cases; what is missing is a failure."""
    found = sorted((ROOT / ".build/cases").glob("fhir-test-cases-*.jar"))
    assert found, "HL7's test cases are missing: make cases"
    return ZipFile(found[-1])


@cache
def cases() -> tuple[Case, ...]:
    """Every test of the suite; names that stand twice carry a number."""
    root = ElementTree.fromstring(jar().read(_SUITE))
    return tuple(_numbered(_case(element) for element in root.iter("test")))


def _numbered(found: Iterator[Case]) -> Iterator[Case]:
    seen: dict[str, int] = {}
    for case in found:
        seen[case.name] = number = seen.get(case.name, 0) + 1
        yield case if number == 1 else Case(f"{case.name}#{number}", *_rest(case))


def _rest(case: Case) -> tuple[Any, ...]:
    return (case.input, case.expression, case.invalid, case.outputs, case.is_predicate, case.is_ordered)


def _case(element: ElementTree.Element) -> Case:
    expression = element.find("expression")
    assert expression is not None
    return Case(
        element.attrib["name"],
        element.get("inputfile") or element.get("inputFile") or _NO_INPUT,
        expression.text or "",
        expression.get("invalid"),
        tuple((each.get("type"), each.text or "") for each in element.findall("output")),
        element.get("predicate") == "true",
        element.get("ordered") != "false",
    )


@cache
def resource(name: str) -> dict[str, Any]:
    """An input of the suite, in its JSON form."""
    content = jar().read(_R4 + name)
    return resource_from_xml(content) if name.endswith(".xml") else parse(content)
