"""Compile profiles of R4 to closures that check what they add to the base definitions.

For ``judging.py``. A record has passed the standard's own rules before, so of a snapshot only that is compiled which
is narrower than the tables: cardinality, fixed values and patterns, types, targets, required bindings, slices and
error-level invariants. Elements about which a profile adds nothing cost nothing.

Invariants:
    * what a profile demands and cannot be judged here is in ``notes``, by name;
    * ``mustSupport`` and warnings are no rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fhir_bridge.errors import ProfileBroken
from fhir_bridge.fhir.path_functions import boolean
from fhir_bridge.fhir.path_syntax import PathNotUnderstood
from fhir_bridge.fhir.paths import Path, Scope, compile_path
from fhir_bridge.fhir.primitives import TESTS
from fhir_bridge.fhir.profiles.combining import all_of, any_of, counted, excluded, nothing, simple_quantity
from fhir_bridge.fhir.profiles.expansion import NotListed, Terms
from fhir_bridge.fhir.profiles.notes import Notes
from fhir_bridge.fhir.profiles.patterns import check_patterns
from fhir_bridge.fhir.profiles.slicing import SlicingCompiler
from fhir_bridge.fhir.profiles.snapshots import HL7, Group, Json, Node, Snapshot, read_snapshot
from fhir_bridge.fhir.profiles.values import (
    Item,
    ItemCheck,
    bound_check,
    collector,
    fixed_check,
    length_check,
    limit_check,
    pattern_check,
    target_check,
    trial,
)
from fhir_bridge.fhir.run import MAX_ISSUES, Run
from fhir_bridge.fhir.tables import Definitions, Element

# Of the standard itself, checked by hand in the validator or said in ADR 0003 not to be.
_OF_THE_STANDARD = frozenset(
    {"ele-1", "ext-1", "dom-1", "dom-2", "dom-3", "dom-4", "dom-5", "txt-1", "txt-2", "ref-1"}
)
_JUDGED_ELSEWHERE = frozenset({"Extension", "Reference", "canonical"})
_ABOUT = re.compile(r"\$this(?:\s+as\s+|\.ofType\()(\w+)")
_MORE_SETS = ("elementdefinition-maxValueSet", "additional-binding")
# Profiles of data types that R4 itself has; of their rules only sqty-1 goes beyond the type.
_QUANTITY_ONLY = HL7 + "SimpleQuantity"


class ProfileCompiler:
    """Compiles the profiles of some packages, which may refer to each other."""

    def __init__(self, definitions: Definitions, structures: Mapping[str, Json], terms: Terms) -> None:
        self.definitions = definitions
        self.notes = Notes()
        self._structures = structures
        self._terms = terms
        self._snapshots: dict[str, Snapshot] = {}
        self._checks: dict[str, ItemCheck] = {}
        self._nodes: dict[tuple[str, str, str], ItemCheck | None] = {}
        self._standard = _invariants_of(definitions) | _OF_THE_STANDARD
        self._slicing = SlicingCompiler(self)

    def profile(self, url: str) -> ItemCheck:
        """Return the check of a value against a profile; compiled once.

        Raises:
            ProfileBroken: It has neither snapshot nor differential, or what it is made from is absent or itself.
        """
        found = self._checks.get(url)
        if found is None:
            self._checks[url] = self._later(url)
            if url not in self._structures:
                self._checks[url] = nothing
                return nothing
            snapshot = self.snapshot(url)
            below = self._base(snapshot)
            own = self.node(snapshot.root, snapshot.type, snapshot)
            found = self._checks[url] = all_of(tuple(c for c in (below, own) if c is not None)) or nothing
        return found

    def _base(self, snapshot: Snapshot) -> ItemCheck | None:
        """The profile that one without a snapshot is made from."""
        if not snapshot.base:
            return None
        if not self.is_loaded(snapshot.base):
            raise ProfileBroken(
                f"{snapshot.url} has no snapshot, and what it is made from is not loaded: {snapshot.base}"
            )
        above, seen = snapshot, {snapshot.url}
        while self.has_snapshot(above.base):
            above = self.snapshot(above.base)
            if above.url in seen:
                raise ProfileBroken(f"{snapshot.url} is made from itself")
            seen.add(above.url)
        return self.profile(snapshot.base)

    def slicing_of(self, id_: str, snapshot: Snapshot) -> Json:
        """Return how an element is sliced, said by the profile or by those it is made from."""
        node = snapshot.nodes.get(id_)
        found: Json | None = None if node is None else node.row.get("slicing")
        if found is None and self.has_snapshot(snapshot.base):
            found = self.slicing_of(id_, self.snapshot(snapshot.base))
        return found or {}

    def snapshot(self, url: str) -> Snapshot:
        """Return the tree of a profile that is loaded."""
        found = self._snapshots.get(url)
        if found is None:
            found = self._snapshots[url] = read_snapshot(self._structures[url])
        return found

    def has_snapshot(self, url: str) -> bool:
        """Tell whether a profile is in the packages."""
        return url in self._structures

    def is_loaded(self, url: str) -> bool:
        """Tell whether a profile is in the packages or is one of R4's own types, which is judged already."""
        return url in self._structures or url.removeprefix(HL7) in self.definitions.types

    def type_of(self, url: str) -> str:
        """Return the type that a loaded profile is about."""
        return str(self._structures[url]["type"]) if url in self._structures else url.removeprefix(HL7)

    def _later(self, url: str) -> ItemCheck:
        """For a profile that leads to itself while it is compiled."""
        return lambda item, run: self._checks[url](item, run)

    # --- nodes

    def node(self, node: Node, type_name: str, snapshot: Snapshot) -> ItemCheck | None:
        """Return the check of one value of an element, or None where the profile adds nothing."""
        key = (snapshot.url, node.id, type_name)
        if key not in self._nodes:
            self._nodes[key] = None
            checks = (*self._value_checks(node, type_name, snapshot), *self._child_checks(node, type_name, snapshot))
            self._nodes[key] = all_of(checks)
        return self._nodes[key]

    def _child_checks(self, node: Node, type_name: str, snapshot: Snapshot) -> Iterable[ItemCheck]:
        reference = node.row.get("contentReference")
        if reference is not None and not node.children:
            yield from self._referred(str(reference), type_name, snapshot)
        for name, group in node.children.items():
            element, keys = self.keys(type_name, name)
            if element is None:
                if type_name != "Resource" and not node.id.endswith("[x]"):
                    self.notes.add(
                        f"what is said of {name} is", f"{type_name} has no such element", snapshot.url, node.id
                    )
                continue
            check = self._group(group, element, keys, name, snapshot)
            if check is not None:
                yield check

    def _referred(self, reference: str, type_name: str, snapshot: Snapshot) -> Iterable[ItemCheck]:
        """An element that is defined as another of the same profile, often one that it is in itself."""
        target = snapshot.nodes.get(reference.rpartition("#")[2])
        if target is None:
            return
        key, nodes = (snapshot.url, target.id, type_name), self._nodes

        def check(item: Item, run: Run) -> None:
            found = nodes.get(key)
            if found is not None:
                found(item, run)

        yield check

    def keys(self, type_name: str, name: str) -> tuple[Element | None, Mapping[str, str]]:
        """Return the base element and its JSON keys; ``valueQuantity`` is one key of ``value[x]``."""
        row = self.definitions.types.get(type_name)
        if row is None:
            return None, {}
        element = row.elements.get(name)
        if element is not None:
            return element, element.json_keys()
        for each in row.elements.values():
            if each.is_choice and name in each.json_keys():
                return each, {name: each.json_keys()[name]}
        return None, {}

    def _group(
        self, group: Group, element: Element, keys: Mapping[str, str], name: str, snapshot: Snapshot
    ) -> ItemCheck | None:
        whole = group.whole
        least, most = (0, None) if whole is None else (whole.min, whole.max)
        allowed = self._allowed(whole, element, keys)
        found = {} if whole is None else {t: self.node(whole, t, snapshot) for t in sorted(set(allowed.values()))}
        checks: dict[str, ItemCheck] = {t: c for t, c in found.items() if c is not None}
        if len(allowed) < len(keys):
            refuse = excluded(f"must be one of {', '.join(allowed)}")
            checks |= dict.fromkeys(set(keys.values()) - set(allowed.values()), refuse)
        slicing = self._slicing.compile(group, allowed, name, snapshot)
        # What the base says as strictly has been judged.
        least = 0 if least <= element.min else least
        most = None if most is not None and most >= 1 and not element.many else most
        if not (least or most is not None or checks or slicing):
            return None
        return counted(name, collector(keys), least, most, checks, slicing)

    def _allowed(self, whole: Node | None, element: Element, keys: Mapping[str, str]) -> Mapping[str, str]:
        if whole is None or not element.is_choice:
            return keys
        codes = {each.get("code") for each in whole.types()}
        return {key: name for key, name in keys.items() if name in codes} if codes else keys

    # --- values

    def _value_checks(self, node: Node, type_name: str, snapshot: Snapshot) -> Iterable[ItemCheck]:
        fixed, pattern = node.value("fixed"), node.value("pattern")
        if fixed is not None:
            yield fixed_check(fixed)
        if pattern is not None:
            yield pattern_check(pattern)
        if type(node.row.get("maxLength")) is int:
            yield length_check(node.row["maxLength"])
        for stem in ("minValue", "maxValue"):
            limit = node.value(stem)
            if limit is not None:
                yield limit_check(limit, is_least=stem == "minValue")
                if type_name == "Quantity" and type(limit) is dict:
                    why = "units are not converted"
                    self.notes.add("limits of quantities in another unit are", why, snapshot.url, node.id)
        yield from self._bound(node, type_name, snapshot)
        if type_name == "Reference":
            yield from self._targets(node, snapshot)
        yield from self._typed(node, type_name, snapshot)
        yield from self._invariants(node, type_name, snapshot)

    def _bound(self, node: Node, type_name: str, snapshot: Snapshot) -> Iterable[ItemCheck]:
        # R4 itself gives every resource's language a maximum set.
        is_language = node.row.get("base", {}).get("path") == "Resource.language"
        for extension in () if is_language else node.row.get("binding", {}).get("extension", ()):
            if str(extension.get("url")).endswith(_MORE_SETS):
                why = "this kind of binding is not known here"
                self.notes.add("maximum and additional value sets are", why, snapshot.url, node.id)
        codes = self.bound_codes(node, snapshot)
        if codes is not None and not self._is_bound_already(node, snapshot):
            check = bound_check(str(node.row["binding"]["valueSet"]), codes, type_name)
            if check is not None:
                yield check

    def bound_codes(self, node: Node, snapshot: Snapshot) -> Any:
        """Return the codes of an element's required binding, or None without one that can be listed."""
        binding = node.row.get("binding", {})
        if binding.get("strength") != "required" or "valueSet" not in binding:
            return None
        try:
            return self._terms.codes(str(binding["valueSet"]))
        except NotListed as reason:
            url = str(binding["valueSet"]).partition("|")[0]
            self.notes.add(f"required bindings to {url} are", str(reason), snapshot.url, node.id)
            return None

    def _is_bound_already(self, node: Node, snapshot: Snapshot) -> bool:
        """Whether the tables bind the element to the same set; they know more of what hospitals may send."""
        element = self._of_base(str(node.row.get("base", {}).get("path", node.row.get("path", ""))))
        return element is not None and element.codes == str(node.row["binding"]["valueSet"]).partition("|")[0]

    def _targets(self, node: Node, snapshot: Snapshot) -> Iterable[ItemCheck]:
        urls = [
            str(url)
            for each in node.types()
            if each.get("code") == "Reference"
            for url in each.get("targetProfile", ())
        ]
        allowed = self.target_types(urls)
        if urls and allowed is None:
            self.notes.add("some references are", "a target's profile is not loaded", snapshot.url, node.id)
        elif allowed and "Resource" not in allowed and not self._are_targets_already(node, allowed):
            yield target_check(allowed)

    def target_types(self, urls: Iterable[str]) -> frozenset[str] | None:
        """Return the types that some profiles are about; None where one is not known."""
        found: set[str] = set()
        for url in urls:
            plain = url.partition("|")[0]
            if not self.is_loaded(plain):
                return None
            found.add(self.type_of(plain))
        return frozenset(found)

    def _are_targets_already(self, node: Node, allowed: frozenset[str]) -> bool:
        element = self._of_base(str(node.row.get("base", {}).get("path", "")))
        return element is not None and bool(element.targets) and allowed.issuperset(element.targets)

    def _of_base(self, path: str) -> Element | None:
        owner, _, name = path.rpartition(".")
        row = self.definitions.types.get(owner)
        return None if row is None else row.elements.get(name)

    def _typed(self, node: Node, type_name: str, snapshot: Snapshot) -> Iterable[ItemCheck]:
        """Profiles of the type. Those of extensions are met wherever the extension stands (``judging.py``)."""
        if type_name == "Resource":
            yield from self._resource(node, snapshot)
        elif node is not snapshot.root and type_name not in _JUDGED_ELSEWHERE and type_name not in TESTS:
            urls = node.profiles(None if len(list(node.types())) == 1 else type_name)
            yield from self._one_of(urls, snapshot, node)

    def _one_of(self, urls: list[str], snapshot: Snapshot, node: Node) -> Iterable[ItemCheck]:
        if _QUANTITY_ONLY in urls:
            yield simple_quantity
            return
        for url in urls:
            if not self.is_loaded(url):
                self.notes.add(f"values of the profile {url} are", "it is not loaded", snapshot.url, node.id)
                return
        if len(urls) == 1:
            self.profile(urls[0])
            yield self._later(urls[0])
        elif urls:
            yield any_of([self.profile(url) for url in urls], urls)

    def _resource(self, node: Node, snapshot: Snapshot) -> Iterable[ItemCheck]:
        """A resource inside another: of the types that are named, and of their profiles."""
        profiles: dict[str, list[str]] = {}
        for each in node.types():
            urls = [str(url).partition("|")[0] for url in each.get("profile", ())]
            if each.get("code") != "Resource":
                profiles.setdefault(str(each.get("code")), []).extend(urls)
            for url in urls if each.get("code") == "Resource" else ():
                if not self.is_loaded(url):
                    self.notes.add(f"values of the profile {url} are", "it is not loaded", snapshot.url, node.id)
                    return
                profiles.setdefault(self.type_of(url), []).append(url)
        if not profiles or not profiles.keys() <= self.definitions.resource_types():
            return
        checks = {name: tuple(self._one_of(urls, snapshot, node)) for name, urls in profiles.items()}
        wrong = f"must be a resource of type {', '.join(sorted(profiles))}"

        def check(item: Item, run: Run) -> None:
            name = item.value.get("resourceType")
            if name not in checks:
                run.error("structure", wrong, item.place)
                return
            inner = trial(run, item.value)
            for each in checks[name]:
                each(item._replace(type=name), inner)
            run.issues += inner.issues[: MAX_ISSUES - len(run.issues)]
            run.found += inner.found

        yield check

    def _invariants(self, node: Node, type_name: str, snapshot: Snapshot) -> Iterable[ItemCheck]:
        for rule in node.row.get("constraint", ()):
            key, expression = str(rule.get("key")), rule.get("expression")
            if rule.get("severity") != "error" or self._is_of_the_standard(rule, snapshot):
                continue
            if type(expression) is not str:
                self.notes.add(f"the invariant {key} is", "it has no FHIRPath", snapshot.url, node.id)
                continue
            try:
                check_patterns(expression)
                path = compile_path(expression, type_name, self.definitions, resource=self._resource_of(snapshot))
            except PathNotUnderstood as reason:
                self.notes.add(f"the invariant {key} is", str(reason), snapshot.url, node.id)
                continue
            yield _invariant(key, str(rule.get("human", "")), path, _is_about_another(expression, type_name))

    def _is_of_the_standard(self, rule: Json, snapshot: Snapshot) -> bool:
        """Whether an invariant is R4's own and judged already; a profile may give another of its own the same key."""
        if str(rule.get("key")) not in self._standard or snapshot.base:
            return str(rule.get("key")) in _OF_THE_STANDARD
        return "source" not in rule or str(rule["source"]).removeprefix(HL7) in self.definitions.types

    def _resource_of(self, snapshot: Snapshot) -> str:
        """What ``%resource`` is; a data type and an extension can be in any."""
        return snapshot.type if snapshot.type in self.definitions.resource_types() else "Resource"


def _invariant(key: str, human: str, path: Path, is_about_another: bool) -> ItemCheck:
    """Broken by false, and by nothing, as HL7's validator decides: ``a or b`` of absent elements gives nothing.

    An expression about another type of the choice than this (``$this as dateTime`` for a Period) is broken by false
    alone.
    """
    text = f"{key}: {human}"

    def check(item: Item, run: Run) -> None:
        told = boolean(path.evaluate([item.focus], Scope(run.resource, item.focus, run.container, run.contained)))
        if told is False or (told is None and not is_about_another):
            run.error("invariant", text, item.place)

    return check


def _is_about_another(expression: str, type_name: str) -> bool:
    return any(found != type_name for found in _ABOUT.findall(expression))


def _invariants_of(definitions: Definitions) -> frozenset[str]:
    """Keys of the standard's own invariants, which are judged already."""
    found = {rule.key for row in definitions.types.values() for rule in row.invariants}
    found |= {r.key for t in definitions.types.values() for e in t.elements.values() for r in e.invariants}
    return frozenset(found)
