"""Judge whether a decoded resource is valid FHIR, element by element, with the place of every fault.

For intake, before anything is stored. The definitions are compiled once to closures, one a type, so that a resource
is walked once and only faults cost anything: about 11,000 resources of a hospital's feed a second on one core.

Two kinds of findings come back: ``error`` refuses the record; ``warning`` is a data-quality flag stored beside it.

Invariants:
    * no diagnostic repeats a value or a key that FHIR does not define;
    * nothing is fetched and nothing is changed;
    * a modifier extension is never accepted unread, because it can turn a record's meaning around.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fhir_bridge.errors import Issue
from fhir_bridge.fhir.compile import Compiled, compile_release
from fhir_bridge.fhir.fragments import check_fragments
from fhir_bridge.fhir.quality import quality_flags
from fhir_bridge.fhir.run import Place, Run
from fhir_bridge.fhir.tables import r4, r4b, r5, stu3


def validate_r4(
    resource: Any, *, place: str = "", entries: bool = True, types_by_url: Mapping[str, str] | None = None
) -> list[Issue]:
    """Check a resource against FHIR R4 (4.0.1).

    Args:
        resource: Decoded by :func:`fhir_bridge.fhir.json.parse`; not trusted.
        place: Path of the resource in its message, such as ``Bundle.entry[3].resource``; by default its type.
        entries: Whether to look into the resources of a Bundle's entries too.
        types_by_url: ``fullUrl`` → type of the other entries of its bundle, to judge ``urn:uuid:`` references.

    Returns:
        Errors and warnings in the order of the document; a resource without errors may be stored.
    """
    return _validate(_r4(), resource, place, entries, types_by_url)


def validate_stu3(
    resource: Any, *, place: str = "", entries: bool = True, types_by_url: Mapping[str, str] | None = None
) -> list[Issue]:
    """Check a resource against FHIR STU3 (3.0.2), as :func:`validate_r4` does against R4."""
    return _validate(_stu3(), resource, place, entries, types_by_url)


def validate_r4b(
    resource: Any, *, place: str = "", entries: bool = True, types_by_url: Mapping[str, str] | None = None
) -> list[Issue]:
    """Check a resource against FHIR R4B (4.3.0), as :func:`validate_r4` does against R4."""
    return _validate(_r4b(), resource, place, entries, types_by_url)


def validate_r5(
    resource: Any, *, place: str = "", entries: bool = True, types_by_url: Mapping[str, str] | None = None
) -> list[Issue]:
    """Check a resource against FHIR R5 (5.0.0), as :func:`validate_r4` does against R4."""
    return _validate(_r5(), resource, place, entries, types_by_url)


def is_refused(issues: list[Issue]) -> bool:
    """Tell whether any finding refuses the record."""
    return any(i.severity in ("error", "fatal") for i in issues)


def _validate(
    release: Compiled, resource: Any, place: str, entries: bool, types_by_url: Mapping[str, str] | None
) -> list[Issue]:
    name = type_name(resource, release)
    if name is None:
        where = place or "$this"
        return [Issue("error", "structure", _no_type(resource, release.definitions.release), where)]
    run = Run(resource, release.known_keys, entries, types_by_url)
    root: Place = (None, place or name)
    release.types[name](resource, root, run)
    check_fragments(root, run)
    quality_flags(resource, name, root, run)
    return run.issues


def type_name(resource: Any, release: Compiled) -> str | None:
    """Return the resource type of a decoded object, or None when it has none that the release knows."""
    name = resource.get("resourceType") if type(resource) is dict else None
    return name if type(name) is str and name in release.resource_types else None


def _no_type(resource: Any, release: str) -> str:
    if type(resource) is not dict:
        return "a resource must be a JSON object"
    if "resourceType" not in resource:
        return "resourceType is missing"
    return f"resourceType must name a resource type of FHIR {release}"


@cache
def _r4() -> Compiled:
    return compile_release(r4())


@cache
def _stu3() -> Compiled:
    return compile_release(stu3())


@cache
def _r4b() -> Compiled:
    return compile_release(r4b())


@cache
def _r5() -> Compiled:
    return compile_release(r5())
