"""Judge the values that rules write: codes of LOINC and SNOMED CT, and codes that the standard binds an element to.

A value is told only where every release in which its path may stand excludes it, and no rule translates the element
afterwards: what is set for another rule to translate is no mistake.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fhir_bridge.fhir.path_syntax import PathNotUnderstood
from fhir_bridge.fhir.path_syntax import read as read_path
from fhir_bridge.fhir.tables import Definitions, Element
from fhir_bridge.mapping_tools.check_digits import fault_of_code
from fhir_bridge.mapping_tools.conditions import elements_of, some_of
from fhir_bridge.mapping_tools.findings import Finding, found
from fhir_bridge.mapping_tools.reading import RuleText, StepText
from fhir_bridge.normalize.rules import ANY, releases_of
from fhir_bridge.normalize.yaml_text import Keys

_WRITING = ("set", "default")
_CONSTANT = "%source."


def literal_findings(rules: Sequence[RuleText]) -> Iterator[Finding]:
    """Yield what is wrong with the values that rules write."""
    translated = {step.texts.get("path") for rule in rules for step in rule.steps if step.verb == "translate"}
    for rule in rules:
        for step in rule.steps:
            for system, code in _codings(step.args.value):
                fault = fault_of_code(system, code)
                if fault is not None:
                    yield found(step.args.spot, *fault)
            if step.verb in _WRITING and step.texts.get("path") not in translated:
                yield from _outside(rule, step)


def _codings(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        system, code = value.get("system"), value.get("code")
        if isinstance(system, str) and isinstance(code, str):
            yield system, code
        for each in value.values():
            yield from _codings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _codings(each)


def _outside(rule: RuleText, step: StepText) -> Iterator[Finding]:
    """A code that the required value set of the element, or of a part of the value, does not have."""
    args = step.args.value
    if not isinstance(args, Keys) or "path" not in step.texts or "value" not in args:
        return
    releases = releases_of(rule.release)
    for type_name in rule.types:
        start = "DomainResource" if type_name == ANY else type_name
        problems = [_problem(step.texts["path"], args["value"], start, each) for each in releases]
        if all(problems):
            yield found(args.places["value"][1], "outside-binding", f"{rule.name}: {problems[0]}")
            return


def _problem(path: str, value: Any, type_name: str, definitions: Definitions) -> str | None:
    try:
        elements = elements_of(read_path(path), type_name, definitions)
    except PathNotUnderstood:
        return None
    if elements is None or len(elements) != 1 or elements[0].is_choice:
        return None
    return next(_faults(elements[0], value, definitions), None)


def _faults(element: Element, value: Any, definitions: Definitions) -> Iterator[str]:
    for each in value if isinstance(value, list) else [value]:
        codes = list(_given(element.types[0], each))
        if element.codes and codes:
            known = definitions.codes[element.codes]
            if not any(_is_known(system, code, known) for system, code in codes):
                every = {code for codes in known.values() for code in codes}
                yield f"{element.name} is never {codes[0][1]!r}, but one of {some_of(every)}"
        row = definitions.types.get(element.types[0])
        for key, part in each.items() if row is not None and isinstance(each, dict) else ():
            below = row.elements.get(key) if row is not None else None
            if below is not None:
                yield from _faults(below, part, definitions)


def _given(kind: str, value: Any) -> Iterator[tuple[str | None, str]]:
    """The codes that a value of a type gives: ``(system, code)``, the system None where none is named."""
    if isinstance(value, str):
        if kind == "code" and _CONSTANT not in value:
            yield None, value
    elif isinstance(value, dict) and kind == "Coding":
        system, code = value.get("system"), value.get("code")
        if isinstance(code, str) and _CONSTANT not in f"{system}{code}":
            yield system, code
    elif isinstance(value, dict) and kind == "CodeableConcept":
        codings = value.get("coding")
        for each in codings if isinstance(codings, list) else ():
            yield from _given("Coding", each)


def _is_known(system: str | None, code: str, known: Any) -> bool:
    if system is None:
        return any(code in codes for codes in known.values())
    return code in known.get(system, ())
