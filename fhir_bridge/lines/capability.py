"""The CapabilityStatement, made from the tables that the code itself uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from fhir_bridge import __version__
from fhir_bridge.fhir.json import render
from fhir_bridge.fhir.search import parameters_of, targets_of
from fhir_bridge.fhir.tables import patient_compartment
from fhir_bridge.model.ids import DIRECTORY_TYPES
from fhir_bridge.model.ingest import instant
from fhir_bridge.query import MODIFIERS

_READ_ONLY = frozenset({"AuditEvent", "Provenance"})
_DEFINED = {
    "everything": "http://hl7.org/fhir/OperationDefinition/Patient-everything",
    "translate": "http://hl7.org/fhir/OperationDefinition/ConceptMap-translate",
}
"""Operations that R4 defines; ours are named by URN, as there is no OperationDefinition of them."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that has a route, its name, and what it does.

    ``type`` is the type it is of, None for every type, or empty for one of the system as a whole.
    """

    type: str | None
    name: str
    does: str


def capability_statement(
    base_url: str, now: datetime, value_sets: Sequence[str] = (), operations: tuple[Operation, ...] = ()
) -> bytes:
    """Return the CapabilityStatement of this service as bytes (R4 capabilitystatement.html).

    Args:
        value_sets: ``url|version`` of the sets that are loaded, for ``:in`` and ``:not-in``.
        operations: Taken from the routes there are.
    """
    statement = {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": instant(now),
        "kind": "instance",
        "software": {"name": "fhir-bridge", "version": __version__},
        "implementation": {"description": "fhir-bridge", "url": f"{base_url}/fhir"},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json"],
        "rest": [
            {
                "mode": "server",
                "security": _security(base_url),
                "resource": _resources(operations),
                **_system(value_sets, [each for each in operations if each.type == ""]),
            }
        ],
    }
    return render(statement)


def _security(base_url: str) -> dict[str, Any]:
    coding = {"system": "http://terminology.hl7.org/CodeSystem/restful-security-service", "code": "SMART-on-FHIR"}
    oauth = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
    endpoint = {"url": oauth, "extension": [{"url": "token", "valueUri": f"{base_url}/token"}]}
    return {"extension": [endpoint], "service": [{"coding": [coding]}]}


def _system(value_sets: Sequence[str], operations: Sequence[Operation]) -> dict[str, Any]:
    loaded = f" Value sets loaded for :in and :not-in: {', '.join(value_sets)}." if value_sets else ""
    return {
        "interaction": [{"code": "transaction"}, {"code": "batch"}, {"code": "history-system"}],
        **({"operation": [_operation(each) for each in operations]} if operations else {}),
        "compartment": ["http://hl7.org/fhir/CompartmentDefinition/patient"],
        "documentation": "Searches and histories outside the directory name one patient. " + SEARCHES + loaded,
    }


SEARCHES = (
    "Every reference parameter can be chained and asked by _has. "
    "For all: _sort, _count, _total, _summary, _elements, _include and _revinclude with :iterate. "
    "Modifiers: "
    + "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in MODIFIERS.items() if names)
    + "; reference: a type it can point to. Prefer: handling=lenient ignores unknown parameters."
)


def searched_types() -> list[str]:
    """Return the types that the statement lists."""
    return sorted({*patient_compartment(), *DIRECTORY_TYPES, "Medication", "Patient"})


def searchable(name: str) -> dict[str, str]:
    """Return name → kind of the parameters that a search of a type takes."""
    if name == "Provenance":
        return {"target": "reference"}
    return {**parameters_of(name), **({"patient": "reference"} if name not in DIRECTORY_TYPES | {"Patient"} else {})}


@lru_cache(maxsize=1)
def _resources(operations: tuple[Operation, ...]) -> list[dict[str, Any]]:
    served = searched_types()
    listed = [_resource(name, [each for each in operations if each.type in (None, name)]) for name in served]
    # Types of which nothing is stored: there are operations on them and no more.
    others = sorted({each.type for each in operations if each.type} - set(served))
    alone = {name: [_operation(each) for each in operations if each.type == name] for name in others}
    return listed + [{"type": name, "operation": found} for name, found in alone.items()]


def _resource(name: str, operations: Sequence[Operation]) -> dict[str, Any]:
    interactions = ["read", "search-type"]
    if name not in _READ_ONLY:
        interactions += ["vread", "history-instance", "history-type", "create", "update", "delete"]
    entry: dict[str, Any] = {
        "type": name,
        "interaction": [{"code": code} for code in interactions],
        "versioning": "versioned-update",
        "readHistory": name not in _READ_ONLY,
        "updateCreate": name not in _READ_ONLY,
        "conditionalCreate": name not in _READ_ONLY,
        "conditionalUpdate": name not in _READ_ONLY,
        "conditionalDelete": "not-supported" if name in _READ_ONLY else "single",
        "conditionalRead": "not-supported" if name in _READ_ONLY else "full-support",
        **_includes(name),
        "searchParam": [{"name": each, "type": kind} for each, kind in sorted(searchable(name).items())],
    }
    if operations:
        entry["operation"] = [_operation(each) for each in operations]
    if name in DIRECTORY_TYPES:
        entry["documentation"] = "Directory: readable with any valid token."
    return entry


def _operation(operation: Operation) -> dict[str, str]:
    definition = _DEFINED.get(operation.name, f"urn:fhir-bridge:operation:{operation.name}")
    return {"name": operation.name, "definition": definition, "documentation": operation.does}


def _includes(name: str) -> dict[str, list[str]]:
    """What ``_include`` and ``_revinclude`` take for a type; what tells about records is made, not stored."""
    if name in _READ_ONLY:
        return {}
    forward = [f"{name}:{each}" for each, kind in sorted(parameters_of(name).items()) if kind == "reference"]
    back = [
        f"{source}:{each}"
        for source in searched_types()
        if source not in _READ_ONLY
        for each, kind in sorted(parameters_of(source).items())
        if kind == "reference" and name in (targets_of(source, each) or (name,))
    ]
    return {"searchInclude": ["*", *forward], "searchRevInclude": ["*", *back]}
