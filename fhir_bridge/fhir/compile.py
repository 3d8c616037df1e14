"""Compile the definitions of one FHIR release to closures that check decoded JSON.

For ``validate.py``. Each type becomes one function over an object, each element one function over what stands
under its key; everything known from the tables is decided here, once, and not for every record.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fhir_bridge.fhir.arity import (
    Check,
    KeyCheck,
    array,
    is_filled_list,
    many_of,
    many_primitives,
    single_of,
    single_value,
)
from fhir_bridge.fhir.bindings import binding_check
from fhir_bridge.fhir.fragments import check_fragments
from fhir_bridge.fhir.narrative import check_narrative, is_active, is_blank
from fhir_bridge.fhir.path_syntax import PathNotUnderstood
from fhir_bridge.fhir.paths import Path, compile_path
from fhir_bridge.fhir.primitives import TESTS, Problem, Test, surely
from fhir_bridge.fhir.quality import check_quantity
from fhir_bridge.fhir.reference_text import ReferenceKind, parse_reference, type_of
from fhir_bridge.fhir.run import Place, Run
from fhir_bridge.fhir.shortcuts import SHORTCUTS, Surely
from fhir_bridge.fhir.stated_rules import STATED_OTHERWISE, rule_of
from fhir_bridge.fhir.tables import Definitions, Element, Invariant, TypeRow

Sure = Callable[[Any], bool]
"""Tells of a primitive's value, whatever it is, that its check would surely find nothing."""

Holds = Callable[[Any, dict[str, Any], dict[str, Any]], bool]
"""Tells of a value, ``%resource`` and the container whether an invariant holds."""

_Plan = tuple[tuple[tuple[str, Sure], ...], tuple[tuple[str, KeyCheck], ...]]
"""For objects with the same keys: those whose value a glance can pass, and those with the check of each."""

# Invariants that need what a reference points to, or functions no other definition uses.
NOT_CHECKED = frozenset({"ctm-1", "sdf-8a", "seq-4", "sdf-15", "ras-1", "mps-1"})
_R5_NOT_CHECKED = """
    apd-1 dgr-1 eld-11 exs-1 obs-9 opd-3 per-1 prc-1 prov-1 prov-2 prov-3 qrs-2 ras-1 ratrng-2 rng-2
    sdf-8a sdf-24 sdf-25 tim-9
"""
# The same of later releases; what they mean for R4 is checked on the result, which is R4.
NOT_CHECKED_OF: Mapping[str, frozenset[str]] = {
    "STU3": NOT_CHECKED,
    "R4": NOT_CHECKED,
    "R4B": NOT_CHECKED | {"apd-1", "ras-2", "sdf-24", "sdf-25"},
    "R5": frozenset(_R5_NOT_CHECKED.split()),
}
# Targets outside the definition that HL7's own R4 examples use: flagged, not refused.
_ERRATA = frozenset(
    {
        ("DeviceMetric", "parent", "DeviceDefinition"),
        ("MedicationRequest.dispenseRequest", "performer", "Practitioner"),
        ("Observation", "performer", "Encounter"),
    }
)
_SHOWN = frozenset({"string", "markdown"})
_URIS = frozenset({"uri", "url", "canonical"})
_QUANTITIES = frozenset({"Quantity", "SimpleQuantity", "Age", "Count", "Distance", "Duration", "MoneyQuantity"})
_SUGGESTIONS = 10
_MAX_SHAPES = 256
"""Sets of keys remembered for one type; a hospital's records have a few dozen."""
_NOT_OBJECT = "must be a JSON object"
_MODIFIER = "no modifier extension is understood here, so the record's meaning is not certain"
_RULES = "no implicit rules are understood here, so the record cannot be accepted"


@dataclass(frozen=True, slots=True)
class Compiled:
    """One release, ready to check.

    ``types`` maps a type name to the check of an object of that type.
    """

    definitions: Definitions
    types: Mapping[str, Check]
    resource_types: frozenset[str]
    known_keys: frozenset[str]


def compile_release(definitions: Definitions) -> Compiled:
    """Compile every type of ``definitions``; invariants follow when their type is first met."""
    return _Compiler(definitions).release()


class _Compiler:
    """Holds the table of types while they refer to each other."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._types: dict[str, Check] = {}
        self._resource_types = definitions.resource_types()
        self._known = definitions.element_names() | {"resourceType"}

    def release(self) -> Compiled:
        for name, row in self._definitions.types.items():
            if row.kind != "primitive-type":
                self._types[name] = self._lazily(row)
        self._types["Resource"] = self._any_resource
        return Compiled(self._definitions, self._types, self._resource_types, self._known)

    def _lazily(self, row: TypeRow) -> Check:
        """A check that is compiled when first used; most of 680 types never are."""

        def first(value: Any, place: Place, run: Run) -> None:
            made = self._object(row)
            self._types[row.name] = made
            made(value, place, run)

        return first

    def _object(self, row: TypeRow) -> Check:
        checks, sure = self._key_checks(row)
        names = frozenset(checks)
        required, choices, one_of = _cardinalities(row)
        invariants = self._invariants(row.name, row.invariants)
        is_resource = row.kind == "resource"
        extra = _by_hand(row, self._definitions.release)
        sound: dict[tuple[str, ...], _Plan] = {}

        def check_all(value: dict[str, Any], place: Place, run: Run) -> None:
            before = run.found
            for key, item in value.items():
                found = checks.get(key)
                if found is not None:
                    found(item, (place, key), run, value)
                elif not (is_resource and key == "resourceType"):
                    _unknown(key, place, run, names)
            for name in required:
                if name not in value and "_" + name not in value:
                    run.error("required", "a required element is missing", (place, name))
            if choices:
                _check_choices(value, place, run, choices, one_of)
            if not is_resource and (not value or (len(value) == 1 and "id" in value)):
                run.error("structure", "an object must not be empty (ele-1)", place)
            # A sender who makes up ever new sets of keys has each of them looked at.
            if run.found == before and len(sound) < _MAX_SHAPES:
                sound[tuple(value)] = _plan(value, checks, sure)

        def check(value: Any, place: Place, run: Run) -> None:
            if type(value) is not dict:
                run.error("structure", _NOT_OBJECT, place)
                return
            before = run.found
            # With these keys an object was found without fault before: only what stands under them can be wrong.
            plan = sound.get(tuple(value))
            if plan is None:
                check_all(value, place, run)
            else:
                leaves, branches = plan
                for key, is_sure in leaves:
                    if not is_sure(value[key]):
                        check_all(value, place, run)
                        break
                else:
                    for key, found in branches:
                        found(value[key], (place, key), run, value)
            # An invariant says nothing useful about an object that is malformed already.
            if run.found == before:
                for invariant, holds in invariants:
                    if not holds(value, run.resource, run.container):
                        run.error("invariant", f"{invariant.key}: {invariant.human}", place)
                for rule in extra:
                    rule(value, place, run)

        return check

    def _key_checks(self, row: TypeRow) -> tuple[dict[str, KeyCheck], dict[str, Sure]]:
        """Return the check of each key; beside those of single primitives, what can tell that they find nothing."""
        checks: dict[str, KeyCheck] = {}
        sure: dict[str, Sure] = {}
        for element in row.elements.values():
            if row.kind == "resource" and element.name == "contained":
                checks["contained"] = self._contained
                continue
            for key, type_name in element.json_keys().items():
                self._add_key(checks, key, type_name, element, row.name)
                is_sure = None if element.many else self._sure(type_name, element)
                if is_sure is not None:
                    sure[key] = is_sure
        return checks, sure

    def _add_key(self, checks: dict[str, KeyCheck], key: str, type_name: str, element: Element, owner: str) -> None:
        invariants = self._invariants(type_name, element.invariants)
        if type_name in TESTS:
            single = self._primitive(type_name, element, invariants)
            checks[key] = many_primitives(single, key) if element.many else single_value(single)
            checks["_" + key] = self._sibling(key, element.many)
            return
        judged = self._modifier(owner) if key == "modifierExtension" else None
        judged = judged or self._complex(type_name, element, invariants, owner)
        if judged is None:
            checks[key] = many_of(self._types, type_name) if element.many else single_of(self._types, type_name)
        else:
            checks[key] = array(judged) if element.many else single_value(judged)

    def _primitive(self, type_name: str, element: Element, invariants: list[tuple[Invariant, Holds]]) -> Check:
        test: Test = TESTS[type_name]
        is_narrative = type_name == "xhtml"
        if is_narrative:
            test = _xhtml
        bound = binding_check(element, type_name, self._definitions)
        is_uri, is_rules = type_name in _URIS, element.name == "implicitRules"
        if not (is_narrative or bound or is_uri or invariants):
            return _of_form(test) if type_name not in _SHOWN else _of_text(test)

        def check(value: Any, place: Place, run: Run) -> None:
            problem = test(value)
            if problem is not None:
                _report(problem, value, place, run)
                return
            if is_narrative and is_blank(value):
                run.flag("invariant", "txt-2: the narrative should have some text or an image", place)
            if bound is not None:
                bound(value, place, run)
            if is_uri:
                if value[0] == "#":
                    run.fragments.append((value[1:], place, run.resource))
                if is_rules:
                    run.error("not-supported", _RULES, place)
            for invariant, holds in invariants:
                if not holds(value, run.resource, run.container):
                    run.error("invariant", f"{invariant.key}: {invariant.human}", place)

        return check

    def _sure(self, type_name: str, element: Element) -> Sure | None:
        """Return the short way of :meth:`_primitive`, for what is judged by form and list of codes alone."""
        if type_name not in TESTS or type_name == "xhtml" or element.name == "implicitRules":
            return None
        if self._invariants(type_name, element.invariants):
            return None
        if element.codes is None:
            sure = surely(type_name)
            return sure if type_name not in _SHOWN else lambda value: sure(value) and "<" not in value
        if binding_check(element, type_name, self._definitions) is None:
            return None
        test, listed = TESTS[type_name], self._definitions.codes[element.codes].values()
        codes = frozenset(code for code in frozenset().union(*listed) if code[:1] != "#" and test(code) is None)
        return lambda value: type(value) is str and value in codes

    def _complex(
        self, type_name: str, element: Element, invariants: list[tuple[Invariant, Holds]], owner: str
    ) -> Check | None:
        """Return the check of one value, None for one that is judged by its type alone."""
        types = self._types
        bound = binding_check(element, type_name, self._definitions)
        reference = None
        if type_name == "Reference":
            reference = _reference_check(owner, element, self._resource_types)
        if bound is None and reference is None and not invariants:
            return None

        def check(value: Any, place: Place, run: Run) -> None:
            before = run.found
            types[type_name](value, place, run)
            if run.found != before:
                return
            if bound is not None:
                bound(value, place, run)
            if reference is not None:
                reference(value, place, run)
            for invariant, holds in invariants:
                if not holds(value, run.resource, run.container):
                    run.error("invariant", f"{invariant.key}: {invariant.human}", place)

        return check

    def _modifier(self, owner: str) -> Check:
        """Refuse, but for Basic: nobody acts on one without its definition, and that covers its modifiers."""
        types = self._types

        def check(value: Any, place: Place, run: Run) -> None:
            types["Extension"](value, place, run)
            refuse = run.flag if owner == "Basic" else run.error
            refuse("not-supported", _MODIFIER, place)

        return check

    def _sibling(self, key: str, many: bool) -> KeyCheck:
        """``_key``: the id and extensions of a primitive."""
        types = self._types

        def check_one(value: Any, place: Place, run: Run) -> None:
            types["Element"](value, place, run)

        if not many:
            return single_value(check_one)

        def check(value: Any, place: Place, run: Run, owner: dict[str, Any]) -> None:
            if not is_filled_list(value, place, run):
                return
            values = owner.get(key)
            if type(values) is list and len(values) != len(value):
                run.error("structure", "must be as long as the array of values beside it", place)
            for index, item in enumerate(value):
                if item is not None:
                    check_one(item, (place, index), run)
                elif type(values) is not list:
                    run.error("structure", "null stands for neither a value nor an extension", (place, index))

        return check

    def _contained(self, value: Any, place: Place, run: Run, _owner: dict[str, Any]) -> None:
        """``contained``: each checked as a resource, with ``%resource`` set to it."""
        if run.resource is not run.container:
            run.error("invariant", "dom-2: a contained resource must not contain others", place)
            return
        if not is_filled_list(value, place, run):
            return
        for index, item in enumerate(value):
            run.resource = item
            self._typed_resource(item, (place, index), run)
        run.resource = run.container

    def _any_resource(self, value: Any, place: Place, run: Run) -> None:
        """A resource inside a Bundle or Parameters: a world of its own for contained resources."""
        if not run.entries:
            return
        inner = Run(value, run.known_keys)
        inner.issues, inner.found = run.issues, run.found
        self._typed_resource(value, place, inner)
        check_fragments(place, inner)
        run.found = inner.found

    def _typed_resource(self, value: Any, place: Place, run: Run) -> None:
        name = value.get("resourceType") if type(value) is dict else None
        if type(name) is str and name in self._resource_types:
            self._types[name](value, place, run)
        else:
            run.error("structure", "must be a resource with a known resourceType", place)

    def _invariants(self, type_name: str, rules: tuple[Invariant, ...]) -> list[tuple[Invariant, Holds]]:
        compiled = []
        for rule in rules:
            expression = STATED_OTHERWISE.get(rule.key, rule.expression)
            try:
                path = compile_path(expression, type_name, self._definitions)
                compiled.append((rule, _either(SHORTCUTS.get(expression), path)))
            except PathNotUnderstood:
                if rule.key not in NOT_CHECKED_OF[self._definitions.release]:
                    raise
        return compiled


def _plan(value: Iterable[str], checks: Mapping[str, KeyCheck], sure: Mapping[str, Sure]) -> _Plan:
    """Return how objects with these keys are judged: first what can be told at a glance, then the rest."""
    known = [key for key in value if key in checks]
    return (
        tuple((key, sure[key]) for key in known if key in sure),
        tuple((key, checks[key]) for key in known if key not in sure),
    )


def _either(surely: Surely | None, path: Path) -> Holds:
    if surely is None:
        return path.holds
    return lambda value, resource, container: surely(value) or path.holds(value, resource, container)


def _of_form(test: Test) -> Check:
    """A primitive that is judged by its form alone."""

    def check(value: Any, place: Place, run: Run) -> None:
        problem = test(value)
        if problem is not None:
            _report(problem, value, place, run)

    return check


def _of_text(test: Test) -> Check:
    """A text that somebody will show: FHIR allows any, and not every page escapes it."""

    def check(value: Any, place: Place, run: Run) -> None:
        problem = test(value)
        if problem is not None:
            _report(problem, value, place, run)
        elif "<" in value and is_active(value):
            run.flag("security", "the text holds a tag that a browser would run; show it escaped", place)

    return check


def _report(problem: Problem, value: Any, place: Place, run: Run) -> None:
    code = "structure" if type(value) in (dict, list, type(None)) else problem.code
    run.error(code, problem.text, place)


def _cardinalities(row: TypeRow) -> tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]:
    """Required single names, choice key → stem, and stems of which one is required."""
    required = tuple(e.name for e in row.elements.values() if e.min and not e.is_choice)
    choices = {key: e.name[:-3] for e in row.elements.values() if e.is_choice for key in e.json_keys()}
    choices |= {"_" + key: stem for key, stem in choices.items()}
    one_of = tuple(e.name[:-3] for e in row.elements.values() if e.min and e.is_choice)
    return required, choices, one_of


def _check_choices(
    value: dict[str, Any], place: Place, run: Run, choices: dict[str, str], one_of: tuple[str, ...]
) -> None:
    present = value.keys() & choices.keys()
    if len(present) > 1:
        seen: dict[str, str] = {}
        for key in (k for k in value if k in present):
            plain = key.removeprefix("_")
            if seen.setdefault(choices[key], plain) != plain:
                run.error("structure", f"only one of {choices[key]}[x] may be given", (place, plain))
    if one_of:
        given = {choices[key] for key in present}
        for stem in one_of:
            if stem not in given:
                run.error("required", f"one of {stem}[x] is required", (place, f"{stem}[x]"))


def _unknown(key: str, place: Place, run: Run, names: frozenset[str]) -> None:
    """Name the key only when FHIR has it somewhere: any other text is the sender's and may be personal."""
    text = "an element is not defined here"
    # Looking for likeness is slow, and a sender with many such faults sent another thing altogether.
    near = difflib.get_close_matches(key[:64], names, n=1, cutoff=0.75) if run.found < _SUGGESTIONS else []
    if near:
        text += f" (did you mean {near[0]}?)"
    known = key in run.known_keys or key.removeprefix("_") in run.known_keys
    run.error("structure", text, (place, key) if known else place)


def _by_hand(row: TypeRow, release: str) -> tuple[Check, ...]:
    if row.name == "Extension":
        return (_extension,)
    if row.name in _QUANTITIES:
        return (check_quantity,)
    stated = rule_of(row) if release == "R4" else None
    found = (stated,) if stated is not None else ()
    return (_only_in_container, *found) if row.kind == "resource" else found


def _extension(value: dict[str, Any], place: Place, run: Run) -> None:
    has_value = any(k.startswith(("value", "_value")) for k in value)
    if has_value == ("extension" in value):
        run.error("invariant", "ext-1: an extension has either extensions or a value, not both", place)


def _only_in_container(value: dict[str, Any], place: Place, run: Run) -> None:
    if value is run.container:
        return
    meta = value.get("meta", {})
    if "versionId" in meta or "lastUpdated" in meta:
        run.error("invariant", "dom-4: a contained resource has no version of its own", (place, "meta"))
    if "security" in meta:
        run.error("invariant", "dom-5: a contained resource has no security label of its own", (place, "meta"))


def _xhtml(value: Any) -> Problem | None:
    return TESTS["string"](value) or check_narrative(value)


def _reference_check(owner: str, element: Element, resource_types: frozenset[str]) -> Check:
    """Form of the text, agreement with ``Reference.type`` and, where given, allowed targets."""
    allowed = frozenset(element.targets) or resource_types
    listed = ", ".join(sorted(allowed)) if element.targets else "a resource type of this release"
    wrong = f"must point to {listed}"

    def check(value: Any, place: Place, run: Run) -> None:
        text, stated = value.get("reference"), value.get("type")
        target: str | None = None
        if type(text) is str:
            parsed = parse_reference(text)
            target = parsed.type
            if parsed.kind is ReferenceKind.OTHER and ":" not in text:
                run.error("value", "must be a relative, absolute, urn: or #contained reference", (place, "reference"))
            if parsed.kind is ReferenceKind.CONTAINED:
                run.fragments.append((parsed.id or "", (place, "reference"), run.resource))
            if parsed.kind is ReferenceKind.URN and run.types_by_url and text not in run.types_by_url:
                run.flag("not-found", "no entry of this bundle has that fullUrl", (place, "reference"))
            if parsed.type is not None and type(stated) is str and stated != parsed.type:
                run.error("invalid", "type and reference name different types", (place, "type"))
        target = target or type_of(value, run.contained) or run.types_by_url.get(text or "")
        if target is not None and target not in allowed:
            refuse = run.flag if (owner, element.name, target) in _ERRATA else run.error
            refuse("invalid", wrong, (place, "reference" if type(text) is str else "type"))

    return check
