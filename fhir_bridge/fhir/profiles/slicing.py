"""Compile slicing: which values of a repeating element or a choice belong to which slice of a profile.

For ``compile.py``. A slice is told by its discriminators (FHIR R4 profiling.html#discriminator): ``value`` and
``pattern`` by the fixed value, pattern or binding at a path, ``exists`` by its cardinality there, ``type`` by the
type of the value, of a resource or of what a reference shows, ``profile`` by conforming to one.

Invariants:
    * a value whose slice cannot be told is counted neither as missing nor as one too many;
    * slices that no discriminator can tell apart are in the compiler's notes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fhir_bridge.fhir.path_syntax import PathNotUnderstood
from fhir_bridge.fhir.paths import Scope, compile_path
from fhir_bridge.fhir.profiles.demands import Demands, without_resolve
from fhir_bridge.fhir.profiles.snapshots import HL7, Group, Json, Node, Snapshot
from fhir_bridge.fhir.profiles.values import GroupCheck, Item, ItemCheck, target_type, trial
from fhir_bridge.fhir.run import Place, Run

if TYPE_CHECKING:
    from fhir_bridge.fhir.profiles.compile import ProfileCompiler

Test = Callable[[Item, Run], bool | None]
"""Whether a value belongs to a slice; None where that cannot be told."""
_BY_URL: Json = {"type": "value", "path": "url"}
_BY_TYPE: Json = {"type": "type", "path": "$this"}


class NotTold(Exception):
    """A discriminator that cannot tell the slice apart; the text says why."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """One slice, ready: how it is told, how many there may be, and what holds for each by type."""

    name: str
    test: Test
    least: int
    most: int | None
    checks: Mapping[str, ItemCheck]
    parts: GroupCheck | None

    @property
    def says_something(self) -> bool:
        """False for a slice that only has a name."""
        return bool(self.least or self.most is not None or self.checks or self.parts)


class SlicingCompiler:
    """Makes the check of an element's slices."""

    def __init__(self, compiler: ProfileCompiler) -> None:
        self._compiler = compiler
        self._demands = Demands(compiler)

    def compile(self, group: Group, keys: Mapping[str, str], name: str, snapshot: Snapshot) -> GroupCheck | None:
        """Return the check of all values of an element, or None where no slice says anything."""
        if not group.slices:
            return None
        first = next(iter(group.slices.values()))
        slicing = self._compiler.slicing_of(first.id.rpartition(":")[0], snapshot)
        return self._parts(group.slices, slicing, _usual(keys, name), keys, snapshot)

    def _parts(
        self, nodes: Mapping[str, Node], slicing: Json, usual: list[Json], keys: Mapping[str, str], snapshot: Snapshot
    ) -> GroupCheck | None:
        """Slices of an element, or of one of its slices; ``usual`` are discriminators where none are written."""
        discriminators = slicing.get("discriminator") or usual
        rules = slicing.get("rules", "open")
        slices = [self._slice(part, node, discriminators, keys, snapshot) for part, node in nodes.items()]
        if not slices or (rules == "open" and not any(s.says_something for s in slices)):
            return None
        return _judge(tuple(slices), str(rules), bool(slicing.get("ordered")))

    def _slice(
        self, part: str, node: Node, discriminators: list[Json], keys: Mapping[str, str], snapshot: Snapshot
    ) -> _Slice:
        keys = _keys_of(node, part, keys)
        tests = [self._test_or_note(each, node, keys, snapshot) for each in discriminators or [{}]]
        found = {name: self._compiler.node(node, name, snapshot) for name in sorted(set(keys.values()))}
        checks = {name: check for name, check in found.items() if check is not None}
        parts = self._parts(node.parts, node.row.get("slicing", {}), discriminators, keys, snapshot)
        return _Slice(part, _every(tests), node.min, node.max, checks, parts)

    def _test_or_note(self, each: Json, node: Node, keys: Mapping[str, str], snapshot: Snapshot) -> Test:
        try:
            if not each:
                raise NotTold("the profile gives no discriminator")
            return self._test(each, node, keys, snapshot)
        except NotTold as reason:
            told_by = f"{each.get('type')} {each.get('path')}" if each else "nothing"
            self._compiler.notes.add(f"slices told by {told_by} are", str(reason), snapshot.url, node.id)
            return _unsure

    def _test(self, each: Json, node: Node, keys: Mapping[str, str], snapshot: Snapshot) -> Test:
        kind, path = str(each.get("type")), str(each.get("path", "$this"))
        try:
            match kind:
                case "value" | "pattern":
                    return self._by_value(path, node, keys, snapshot)
                case "exists":
                    return self._by_presence(path, node, keys, snapshot)
                case "type":
                    return self._by_type(path, node, keys, snapshot)
                case "profile":
                    return self._by_profile(path, node, keys, snapshot)
        except PathNotUnderstood as reason:
            raise NotTold(f"discriminator {path}: {reason}") from reason
        raise NotTold(f"discriminators of type {kind} are not known here")

    def _by_value(self, path: str, node: Node, keys: Mapping[str, str], snapshot: Snapshot) -> Test:
        demand = self._demands.at(node, path, snapshot, sorted(set(keys.values())))
        if demand is None:
            raise NotTold(f"nothing fixes the value of {path}")
        select = self._selectors(path, keys)

        def test(item: Item, run: Run) -> bool | None:
            return any(demand(found, run) for found in select(item, run))

        return test

    def _by_presence(self, path: str, node: Node, keys: Mapping[str, str], snapshot: Snapshot) -> Test:
        at = self._demands.node_at(node, path, snapshot)
        if at is None or (at.min == 0 and at.max != 0):
            raise NotTold(f"the profile neither requires nor forbids {path}")
        wanted, select = at.min > 0, self._selectors(path, keys)
        return lambda item, run: bool(select(item, run)) is wanted

    def _by_type(self, path: str, node: Node, keys: Mapping[str, str], snapshot: Snapshot) -> Test:
        plain, resolves = without_resolve(path)
        at = self._demands.node_at(node, plain, snapshot)
        if at is None:
            raise NotTold(f"the profile says nothing of {path}")
        select = self._selectors(plain, keys)
        if resolves:
            return self._by_target(at, select)
        codes = frozenset(str(each.get("code")) for each in at.types()) or frozenset(keys.values())
        if plain == "$this":
            return lambda item, _run: (
                (item.value.get("resourceType") if item.type == "Resource" else item.type) in codes
            )
        return self._by_type_below(plain, keys, codes)

    def _by_type_below(self, path: str, keys: Mapping[str, str], codes: frozenset[str]) -> Test:
        """By the type of a child: of a resource as it says itself, of anything else as its key does."""
        above, _, name = path.rpartition(".")
        select, definitions = self._selectors(above or "$this", keys), self._compiler.definitions
        wanted: dict[str, frozenset[str]] = {}
        for each in frozenset(keys.values()):
            owners = compile_path(above, each, definitions).types if above else {each}
            there: dict[str, str] = {}
            for owner in owners:
                there |= self._compiler.keys(owner, name)[1] or self._compiler.keys(owner, f"{name}[x]")[1]
            if not there:
                raise NotTold(f"{each} has no {path}")
            wanted[each] = frozenset(key for key, found in there.items() if found in codes or found == "Resource")

        def test(item: Item, run: Run) -> bool:
            return any(_has_type(found, wanted[item.type], codes) for found in select(item, run))

        return test

    def _by_target(self, at: Node, select: Select) -> Test:
        allowed = self._compiler.target_types(
            [str(url) for each in at.types() for url in each.get("targetProfile", ())]
        )
        if not allowed:
            raise NotTold("the targets of a reference are not known")
        known = allowed

        def test(item: Item, run: Run) -> bool | None:
            targets = [target_type(found, run) for found in select(item, run)]
            if any(target in known for target in targets if target is not None):
                return True
            return None if None in targets else False

        return test

    def _by_profile(self, path: str, node: Node, keys: Mapping[str, str], snapshot: Snapshot) -> Test:
        plain, resolves = without_resolve(path)
        at = self._demands.node_at(node, plain, snapshot)
        if at is None:
            raise NotTold(f"the profile says nothing of {path}")
        if resolves:
            raise NotTold("what a reference points to is not judged by its profile")
        # A type without a profile stands for the type's own definition.
        urls = at.profiles() or [HL7 + str(each.get("code")) for each in at.types()]
        missing = [url for url in urls if not self._compiler.is_loaded(url)]
        if missing or not urls:
            raise NotTold(f"{missing[0]} is not loaded" if missing else f"the profile names no type for {path}")
        checks = [self._compiler.profile(url) for url in urls]
        names = [self._compiler.type_of(url) for url in urls]
        select = self._selectors(plain, keys)

        def test(item: Item, run: Run) -> bool:
            return any(
                _conforms(found, name, check, item, run)
                for found in select(item, run)
                for name, check in zip(names, checks, strict=True)
            )

        return test

    def _selectors(self, path: str, keys: Mapping[str, str]) -> Select:
        """Return what finds the values at ``path``, for each type that an item can have."""
        if path == "$this":
            return lambda item, _run: [item.focus]
        paths = {name: compile_path(path, name, self._compiler.definitions) for name in sorted(set(keys.values()))}

        def select(item: Item, run: Run) -> list[Any]:
            found = paths.get(item.type)
            if found is None:
                return []
            return found.evaluate([item.focus], Scope(run.resource, item.focus, run.container, run.contained))

        return select


Select = Callable[[Item, Run], list[Any]]


def _usual(keys: Mapping[str, str], name: str) -> list[Json]:
    """Discriminators that need not be written (profiling.html#slicing): extensions by url, choices by type."""
    if "Extension" in keys.values():
        return [_BY_URL]
    return [_BY_TYPE] if name.endswith("[x]") else []


def _keys_of(node: Node, part: str, keys: Mapping[str, str]) -> Mapping[str, str]:
    """The keys of a choice that a slice of it is about: those of its types, or the one it is named after."""
    codes = {each.get("code") for each in node.types()}
    if len(keys) > 1 and codes:
        return {key: name for key, name in keys.items() if name in codes} or keys
    return {part: keys[part]} if part in keys else keys


def _unsure(_item: Item, _run: Run) -> None:
    """The test of a slice that cannot be told apart."""


def _has_type(owner: Any, keys: frozenset[str], codes: frozenset[str]) -> bool:
    """Whether one of these elements is there; a resource among them must be of one of the types."""
    for key in keys if type(owner) is dict else ():
        value = owner.get(key, owner.get("_" + key))
        kind = value.get("resourceType") if type(value) is dict else None
        if value is not None and (kind is None or kind in codes):
            return True
    return False


def _every(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]

    def test(item: Item, run: Run) -> bool | None:
        told: bool | None = True
        for each in tests:
            found = each(item, run)
            if found is False:
                return False
            told = told if found else None
        return told

    return test


def _conforms(found: Any, name: str, check: ItemCheck, item: Item, run: Run) -> bool:
    is_resource = type(found) is dict and "resourceType" in found
    if is_resource and found["resourceType"] != name:
        return False
    beside = trial(run, found if is_resource else None)
    check(Item(found, None, item.place, name), beside)
    return not any(issue.severity == "error" for issue in beside.issues)


def _judge(slices: tuple[_Slice, ...], rules: str, is_ordered: bool) -> GroupCheck:
    """Sort values into slices, judge each there, and count."""

    def check(items: list[Item], place: Place, run: Run) -> None:
        found: list[list[Item]] = [[] for _ in slices]
        unsure = [0] * len(slices)
        last = -1
        for item in items:
            at, perhaps = _slice_of(item, slices, run)
            for each in perhaps:
                unsure[each] += 1
            if at is None:
                if rules == "closed" and not perhaps:
                    run.error("structure", "belongs to no slice, and the profile allows no other values", item.place)
                last = len(slices) if rules == "openAtEnd" and not perhaps else last
                continue
            if at < last and (is_ordered or rules == "openAtEnd"):
                run.error(
                    "structure", f"the slice {slices[at].name} must stand before those that follow it", item.place
                )
            last = max(at, last) if is_ordered or last == len(slices) else last
            found[at].append(item)
            judge = slices[at].checks.get(item.type)
            if judge is not None:
                judge(item, run)
        for one, group, doubts in zip(slices, found, unsure, strict=True):
            _count(len(group), doubts, one, place, run)
            if one.parts is not None:
                one.parts(group, place, run)

    return check


def _slice_of(item: Item, slices: tuple[_Slice, ...], run: Run) -> tuple[int | None, list[int]]:
    """The slice of a value, or those of which it may be one."""
    perhaps: list[int] = []
    for at, each in enumerate(slices):
        found = each.test(item, run)
        if found:
            return at, []
        if found is None:
            perhaps.append(at)
    return None, perhaps


def _count(count: int, unsure: int, each: _Slice, place: Place, run: Run) -> None:
    if count + unsure < each.least:
        run.error("required", f"the slice {each.name} is required {each.least} times, found {count}", place)
    if each.most is not None and count > each.most:
        run.error("structure", f"the slice {each.name} may be given {each.most} times, found {count}", place)
