"""Find what a slice demands at the path of its discriminator.

For ``slicing.py``. The path is walked over the profile's tree: through child elements, through patterns that hold
them, and through profiles of the type, until something fixes the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fhir_bridge.fhir.path_syntax import Call, Literal, PathNotUnderstood, Step, TypeOp, Variable, read
from fhir_bridge.fhir.path_syntax import Node as Syntax
from fhir_bridge.fhir.profiles.snapshots import Node, Snapshot
from fhir_bridge.fhir.profiles.values import Item, fits, is_coded, is_equal, trial
from fhir_bridge.fhir.run import Run

if TYPE_CHECKING:
    from fhir_bridge.fhir.profiles.compile import ProfileCompiler

Demand = Callable[[Any, Run], bool]
_RESOLVE = "resolve()"


def without_resolve(path: str) -> tuple[str, bool]:
    """Split ``resolve()`` off the end of a discriminator's path."""
    if path == _RESOLVE:
        return "$this", True
    return path.removesuffix("." + _RESOLVE), path.endswith("." + _RESOLVE)


class Demands:
    """Walks the trees of one compiler's profiles."""

    def __init__(self, compiler: ProfileCompiler) -> None:
        self._compiler = compiler

    def at(self, node: Node, path: str, snapshot: Snapshot, types: list[str]) -> Demand | None:
        """Return the test of a value at ``path`` of ``node``; None where nothing fixes it.

        Raises:
            PathNotUnderstood: The path is none that a discriminator may have.
        """
        return self._walk(node, _steps(read(path)), snapshot, types)

    def node_at(self, node: Node, path: str, snapshot: Snapshot) -> Node | None:
        """Return the definition at ``path`` of ``node``, or None."""
        found: Node | None = node
        for step in _steps(read(path)):
            group = None if found is None else _child(found, step)
            found = group
        return found

    def _walk(self, node: Node, steps: list[str], snapshot: Snapshot, types: list[str]) -> Demand | None:
        fixed, pattern = node.value("fixed"), node.value("pattern")
        for wanted, test in ((fixed, is_equal), (pattern, fits)):
            if wanted is not None:
                found = _within(wanted, steps)
                if found:
                    return _any_matches(found, test)
        if not steps:
            return self._here(node, snapshot, types)
        if steps == ["url"] and "Extension" in types and node.profiles():
            return _any_matches(node.profiles(), is_equal)
        for child in _children(node, steps[0]):
            below = self._walk(child, steps[1:], snapshot, self._types(child, types, steps[0]))
            if below is not None:
                return below
        for url in node.profiles():
            if self._compiler.has_snapshot(url):
                other = self._compiler.snapshot(url)
                return self._walk(other.root, steps, other, [other.type])
        return None

    def _types(self, child: Node, types: list[str], step: str) -> list[str]:
        """Types that a child element can have, as the tables name them."""
        codes = {str(each.get("code")) for each in child.types()}
        found = {name for each in types for name in self._compiler.keys(each, step)[1].values()}
        return sorted(name for name in found if name in codes or "." in name) or sorted(found)

    def _here(self, node: Node, snapshot: Snapshot, types: list[str]) -> Demand | None:
        codes = self._compiler.bound_codes(node, snapshot)
        if codes is not None:
            return lambda value, _run: is_coded(value, codes)
        if len(types) != 1 or not node.children:
            return None
        check = self._compiler.node(node, types[0], snapshot)
        if check is None:
            return None

        def conforms(value: Any, run: Run) -> bool:
            beside = trial(run)
            check(Item(value, None, (None, types[0]), types[0]), beside)
            return not any(issue.severity == "error" for issue in beside.issues)

        return conforms


def _steps(node: Syntax) -> list[str]:
    match node:
        case Variable("this"):
            return []
        case Step(base, name):
            return [*([] if base is None else _steps(base)), name]
        case Call(base, "extension", (Literal(url),)):
            return [*([] if base is None else _steps(base)), f"extension|{url}"]
        case TypeOp("as", base, _):
            return _steps(base)
    raise PathNotUnderstood("a discriminator is a path of elements, extension() and ofType()")


def _children(node: Node, step: str) -> Iterator[Node]:
    """The definitions of a child: of all its values, then of slices that are always there."""
    name, _, url = step.partition("|")
    group = node.children.get(name) or node.children.get(f"{name}[x]")
    if group is None:
        return
    if url:
        yield from (each for each in group.slices.values() if url in each.profiles())
        return
    if group.whole is not None:
        yield group.whole
    yield from (each for each in group.slices.values() if each.min > 0)


def _child(node: Node, step: str) -> Node | None:
    return next(_children(node, step), None)


def _within(wanted: Any, steps: list[str]) -> list[Any]:
    """What a fixed value or pattern holds at a path."""
    found = [wanted]
    for step in steps:
        below = [each[step] for each in found if type(each) is dict and step in each]
        found = [value for each in below for value in (each if type(each) is list else [each])]
    return found


def _any_matches(wanted: list[Any], test: Callable[[Any, Any], bool]) -> Demand:
    return lambda value, _run: any(test(each, value) for each in wanted)
