"""What our closures select for every search parameter is what an independent FHIRPath library selects.

The library is fhirpathpy, which only tests use. It is asked the expression as HL7 wrote it, over the official R4
examples, records of one hospital, and made-up resources that fill every element. Where both differ, an entry of
``DIFFERENCES`` must say who is right by which section of FHIRPath N1 (https://hl7.org/fhirpath/N1/) or FHIR R4, and
how the question must be put for both to agree; any other difference fails, and so does an entry that explains none.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from fhirpathpy import compile as compile_with_library
from fhirpathpy.engine.nodes import ResourceNode
from fhirpathpy.models import models

from fhir_bridge.fhir.json import parse
from fhir_bridge.fhir.paths import scope_of
from fhir_bridge.fhir.search import extractors
from fhir_bridge.fhir.tables import SearchParameter, r4, search_parameters
from tests.support.hospitals import lanes
from tests.unit.fhir.fhir_samples import Json, examples
from tests.unit.fhir.filled_resources import Filler

COPIES = 40
"""Most made-up resources of a type; nearly every type needs fewer until each parameter has found something."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A class of differences.

    Attributes:
        name: What differs.
        right: ``library`` where the standard's text is on its side and ours comes to the same in the end,
            ``definitions`` where HL7's definition says less than it means, ``library-lacks`` where the library does
            not have what the standard has.
        because: Why, with the place in the standard.
        pattern: Regular expression found in the expressions that it can concern.
        asked: Gives the expression, for a type, that both must agree about.
    """

    name: str
    right: str
    because: str
    pattern: str
    asked: Callable[[str, str], str] = lambda _type, path: path


def _of_whole(type_name: str, path: str) -> str:
    return " | ".join(branch for branch in path.split(" | ") if branch != type_name)


def _of_type(_type: str, path: str) -> str:
    return re.sub(r"\(([\w.]+) as (\w+)\)", r"\1.ofType(\2)", path).replace(".as(", ".ofType(")


DIFFERENCES = (
    Difference(
        "a path that starts with Resource",
        "library-lacks",
        "N1 section 3, Path selection: a type name at the root must be the type of the context or a supertype. "
        "Resource is one of every resource; the library knows the context's own name only.",
        r"\bResource\.",
        lambda type_name, path: re.sub(r"\bResource\.", f"{type_name}.", path),
    ),
    Difference(
        "as over several items",
        "definitions",
        "N1 section 6.3.3, as type-specifier: more than one item is an error, and the library raises it. Read so, "
        "(Observation.component.value as Quantity) would fail for every panel; what R4's definitions mean is the "
        "filter of section 5.2.4, ofType(type), which later releases of FHIR write.",
        r" as |\.as\(",
        _of_type,
    ),
    Difference(
        "duplicates in a union",
        "library",
        "N1 section 6.4.1, union collections: duplicates are eliminated. Ours runs each side by itself and drops "
        "duplicates among the values taken, so that nothing is indexed twice; compared here without repetition.",
        r" \| ",
    ),
    Difference(
        "an extension stands for its value",
        "definitions",
        "N1 section 5.1 has no extension(); R4 fhirpath.html#functions gives it as extension.where(url = …). The "
        "definition ends there, but R4 search.html lets no kind of parameter match an Extension: only its value[x] "
        "can be what is looked for.",
        r"\.extension\('[^']*'\)$",
        lambda _type, path: f"{path}.value",
    ),
    Difference(
        "a composite of the whole resource",
        "library",
        "Observation | Observation.component selects the Observation too, and so it is searched; what it says as a "
        "whole stands in the index under the parameters of its components and is not taken twice.",
        r"^(\w+) \| \1\.",
        _of_whole,
    ),
)


def _resolve(resource: Json) -> Callable[[list[Any]], list[ResourceNode]]:
    """R4 fhirpath.html#functions: resolve() "locate[s] the target of the reference" and gives nothing if it fails.

    Only the type matters to the definitions: that of the contained resource, what stands before the id or the
    condition, or what ``Reference.type`` says.
    """
    contained = {f"#{each.get('id')}": each for each in resource.get("contained", ())}

    def resolve(nodes: list[Any]) -> list[ResourceNode]:
        found = []
        for node in nodes:
            value = getattr(node, "data", node)
            text = value.get("reference", "") if type(value) is dict else ""
            before = re.search(r"(?:^|/)([A-Z]\w+)(?:/[^/]+(?:/_history/[^/]+)?|\?.*)$", text)
            stated = before[1] if before else value.get("type") if type(value) is dict else None
            if text in contained:
                found.append(_node(contained[text]))
            elif stated in r4().resource_types():
                found.append(_node({"resourceType": stated}))
        return found

    return resolve


def _node(resource: Json) -> ResourceNode:
    made: ResourceNode = ResourceNode.create_node(resource)
    return made


def _has_extension(nodes: list[Any], url: str) -> list[bool]:
    """Used by one definition and defined nowhere in R4: whether there is an extension of that URL."""
    values = [getattr(node, "data", node) for node in nodes]
    return [any(e["url"] == url for v in values for e in v.get("extension", ()))]


class _Library:
    """The library, asked about one resource after another."""

    def __init__(self) -> None:
        self._resource: Json = {}
        calls = {
            "resolve": {"fn": lambda nodes: _resolve(self._resource)(nodes), "arity": {0: []}},
            "hasExtension": {"fn": _has_extension, "arity": {1: ["String"]}},
        }
        self._compiled = cache(lambda path: compile_with_library(path, models["r4"], {"userInvocationTable": calls}))

    def select(self, path: str, resource: Json) -> list[Any] | None:
        """Return what ``path`` selects; None if the library takes it for an error."""
        self._resource = resource
        try:
            return list(self._compiled(path)(resource, {"resource": resource, "rootResource": resource}))
        except ValueError as error:
            if "Expected singleton" not in str(error):
                raise
            return None


@dataclass(slots=True)
class _Comparison:
    """What was compared so far."""

    library: _Library
    found: set[tuple[str, str]]
    explained: Counter[str]

    def compare(self, resource: Json) -> None:
        """Compare every parameter over one resource."""
        type_name, scope = resource["resourceType"], scope_of(resource)
        ours: dict[str, list[Any]] = {}
        for each in extractors(type_name):
            items = [] if each.keys.isdisjoint(resource) else each.evaluate([resource], scope)
            ours.setdefault(each.name, []).extend(getattr(item, "part", item) for item in items)
        for name, items in ours.items():
            if items:
                self.found.add((type_name, name))
            self._agree(type_name, _parameter(type_name, name), resource, items)

    def _agree(self, type_name: str, parameter: SearchParameter, resource: Json, ours: list[Any]) -> None:
        path, theirs = parameter.path, self.library.select(parameter.path, resource)
        if theirs is not None and _multiset(ours) == _multiset(theirs):
            return
        known = [each for each in DIFFERENCES if re.search(each.pattern, parameter.path)]
        for each in known:
            path = each.asked(type_name, path)
        theirs = self.library.select(path, resource)
        where = f"{type_name} {parameter.name}: {parameter.path} in {resource.get('id')}"
        assert theirs is not None, f"{where}: the library refuses it"
        mine, others = _multiset(ours), _multiset(theirs)
        if " | " in parameter.path:
            mine, others = Counter(set(mine)), Counter(set(others))
        assert mine == others, f"{where}: only ours {mine - others}, only theirs {others - mine}"
        self.explained.update(each.name for each in known)


def _parameter(type_name: str, name: str) -> SearchParameter:
    table = search_parameters()
    return next(
        table[each][name] for each in (type_name, "DomainResource", "Resource") if name in table.get(each, {})
    )


def _multiset(items: Iterable[Any]) -> Counter[str]:
    return Counter(json.dumps(item, sort_keys=True, default=str) for item in items)


def _hospital_records() -> list[Json]:
    """Every twentieth record of one hospital's bundles."""
    bundles = [parse(message) for lane in lanes("harbor") for message in lane.messages[:2]]
    return [entry["resource"] for bundle in bundles for entry in bundle.get("entry", ()) if "resource" in entry][::20]


def _taken() -> set[tuple[str, str]]:
    """Types and parameters whose expression is run; the rest stands under other parameters."""
    return {(name, each.name) for name in r4().resource_types() for each in extractors(name)}


def _urls() -> list[str]:
    """URLs of the extensions that definitions name."""
    paths = (each.path for rows in search_parameters().values() for each in rows.values())
    return sorted({url for path in paths for url in re.findall(r"xtension\('([^']+)'\)", path)})


@pytest.mark.slow
def test_both_select_the_same_for_every_expression_taken() -> None:
    made = _Comparison(_Library(), set(), Counter())
    for resource in (*examples("r4"), *_hospital_records()):
        made.compare(resource)
    filler = Filler(_urls(), seed=5)
    for type_name in sorted(r4().resource_types()):
        wanted = {each for each in _taken() if each[0] == type_name}
        for number in range(COPIES):
            if number and wanted <= made.found:
                break
            made.compare(filler.resource(type_name))
    assert _taken() - made.found == set()
    assert set(made.explained) == {each.name for each in DIFFERENCES}
