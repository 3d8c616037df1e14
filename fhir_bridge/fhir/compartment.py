"""Which patients a resource belongs to, by HL7's own definition of the Patient compartment.

For normalisation, which puts a record into a chart, and for ``$everything``. Source: CompartmentDefinition
``patient`` of R4 (``definitions/r4-compartment.json``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from fhir_bridge.fhir.path_syntax import PathNotUnderstood
from fhir_bridge.fhir.paths import Path, compile_path
from fhir_bridge.fhir.reference_text import contained_types, type_of
from fhir_bridge.fhir.tables import patient_compartment, r4, search_parameters

# Whom the record is about stands before who took part in it.
_PRIMARY = ("patient", "subject", "beneficiary", "individual")


def patient_references(resource: dict[str, Any]) -> list[str]:
    """Return the texts of the references that put an R4 resource into a Patient compartment, each once.

    The reference that says whom the record is about comes first. Texts stay as they are (relative, absolute,
    urn); one of unknown target type (``urn:uuid:``) is included, one that shows another type is not. A Patient
    itself is not in the list, only those it links to.
    """
    return list(dict.fromkeys(each_patient_reference(resource)))


def each_patient_reference(resource: dict[str, Any]) -> Iterator[str]:
    """Yield what :func:`patient_references` lists, found when asked for."""
    contained = contained_types(resource)
    for path in _paths(resource.get("resourceType", "")):
        for reference in path.select(resource):
            text = reference.get("reference") if type(reference) is dict else None
            if type(text) is str and type_of(reference, contained) in (None, "Patient"):
                yield text


def patient_references_as_objects(resource: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the Reference objects behind :func:`patient_references`, logical ones by identifier included."""
    found = []
    contained = contained_types(resource)
    for path in _paths(resource.get("resourceType", "")):
        for reference in path.select(resource):
            if type(reference) is dict and type_of(reference, contained) in (None, "Patient"):
                found.append(reference)
    return found


def is_in_patient_compartment(type_name: str) -> bool:
    """Tell whether resources of an R4 type can belong to a patient."""
    return bool(_known_paths(type_name))


def _paths(type_name: Any) -> tuple[Path, ...]:
    return _known_paths(type_name) if type(type_name) is str else ()


def _known_paths(type_name: str) -> tuple[Path, ...]:
    return _compiled(type_name) if type_name in patient_compartment() else ()


@cache
def _compiled(type_name: str) -> tuple[Path, ...]:
    listed = patient_compartment()[type_name]
    known = search_parameters().get(type_name, {})
    ordered = sorted(listed, key=lambda n: (_PRIMARY.index(n) if n in _PRIMARY else len(_PRIMARY), listed.index(n)))
    paths = []
    for name in dict.fromkeys(ordered):
        # ``where(resolve() is Patient)`` cannot be told of a urn:uuid; patient_references looks at the type itself.
        expression = known[name].path.replace(".where(resolve() is Patient)", "")
        try:
            paths.append(compile_path(expression, type_name, r4()))
        except PathNotUnderstood:
            continue
    return tuple(paths)
