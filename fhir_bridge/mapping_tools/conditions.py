"""Tell from a condition alone that no record can meet it.

Only what is certain is told: a code that the element's required value set does not have, a text where the element is
no text, two different values at once, a claim together with its own denial.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from fhir_bridge.fhir.path_syntax import Binary, Call, Literal, Node, PathNotUnderstood, Step, read
from fhir_bridge.fhir.tables import Definitions, Element

_NUMBERS = frozenset({"integer", "decimal", "positiveInt", "unsignedInt"})
_STRUCTURES = ("complex-type", "resource")
_SHOWN = 8
_DENIALS = (("exists", "empty"), ("empty", "exists"))


def why_never(condition: str, type_name: str, releases: tuple[Definitions, ...]) -> str | None:
    """Return why ``condition`` never holds for records of a type, or None where it may."""
    try:
        node = read(condition)
    except PathNotUnderstood:
        return None
    reasons = [_never(node, type_name, definitions) for definitions in releases]
    # An element may stand in one release only, so every release must exclude it.
    return reasons[0] if all(reasons) else None


def exclude_each_other(one: str | None, other: str | None) -> bool:
    """Tell that two conditions cannot both hold for one record."""
    if one is None or other is None:
        return False
    try:
        parts = [*_conjuncts(read(one)), *_conjuncts(read(other))]
    except PathNotUnderstood:
        return False
    return _contradiction(parts) is not None


def is_over(condition: str | None, path: str, value: object) -> bool:
    """Tell that a condition asks for another value at ``path`` than the one that stands there now."""
    try:
        asked, there = (list(_conjuncts(read(condition))), read(path)) if condition is not None else ([], None)
    except PathNotUnderstood:
        return False
    return any(
        isinstance(part, Binary)
        and part.op == "="
        and part.left == there
        and isinstance(part.right, Literal)
        and part.right.value != value
        for part in asked
    )


def some_of(known: Collection[str]) -> str:
    """Return some words of many, for a message."""
    return ", ".join(sorted(known)[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")


def _never(node: Node, type_name: str, definitions: Definitions) -> str | None:
    if isinstance(node, Literal):
        return "it is always false" if node.value is False else None
    parts = list(_conjuncts(node))
    for part in parts:
        reason = _comparison(part, type_name, definitions) or _filter(part, type_name, definitions)
        if reason:
            return reason
    if isinstance(node, Binary) and node.op == "or":
        both = [_never(side, type_name, definitions) for side in (node.left, node.right)]
        return both[0] if all(both) else None
    return _contradiction(parts)


def _conjuncts(node: Node) -> Iterator[Node]:
    if isinstance(node, Binary) and node.op == "and":
        yield from _conjuncts(node.left)
        yield from _conjuncts(node.right)
    else:
        yield node


def _comparison(node: Node, type_name: str, definitions: Definitions) -> str | None:
    """``element = literal`` where the element can never be that."""
    if not isinstance(node, Binary) or node.op != "=" or not isinstance(node.right, Literal):
        return None
    elements = elements_of(node.left, type_name, definitions)
    if elements is None or len(elements) != 1:
        return None
    element, value = elements[0], node.right.value
    if element.is_choice or len(element.types) != 1:
        return None
    kind = element.types[0]
    if kind == "boolean" and not isinstance(value, bool):
        return f"{element.name} is true or false, never {value!r}"
    if kind in _NUMBERS and not isinstance(value, int):
        return f"{element.name} is a number, never {value!r}"
    row = definitions.types.get(kind)
    if row is not None and row.kind in _STRUCTURES:
        return f"{element.name} is a {kind}, which no text is equal to"
    if kind == "code" and element.codes and isinstance(value, str):
        known = {code for codes in definitions.codes[element.codes].values() for code in codes}
        if value not in known:
            return f"{element.name} is never {value!r}, but one of {some_of(known)}"
    return None


def _filter(node: Node, type_name: str, definitions: Definitions) -> str | None:
    """``….where(condition).exists()`` where the condition never holds."""
    if not isinstance(node, Call) or node.name not in ("exists", "where"):
        return None
    inner = node.base
    if node.name == "exists" and not node.args:
        return _filter(inner, type_name, definitions) if isinstance(inner, Call) else None
    elements = [] if inner is None else elements_of(inner, type_name, definitions)
    kinds = {kind for element in elements or () for kind in element.types}
    if len(kinds) != 1 or not node.args:
        return None
    return _never(node.args[0], kinds.pop(), definitions)


def elements_of(node: Node, type_name: str, definitions: Definitions) -> list[Element] | None:
    """The elements that a plain path means; None where it is more than names."""
    if isinstance(node, Call) and node.name == "where" and node.base is not None:
        return elements_of(node.base, type_name, definitions)
    if not isinstance(node, Step):
        return None
    if node.base is None:
        owners = [type_name]
    else:
        above = elements_of(node.base, type_name, definitions)
        if above is None:
            return None
        owners = [kind for element in above for kind in element.types]
    rows = [definitions.types[name] for name in owners if name in definitions.types]
    return [e for row in rows for e in row.elements.values() if e.name in (node.name, f"{node.name}[x]")]


def _contradiction(parts: list[Node]) -> str | None:
    values: dict[Node, object] = {}
    for part in parts:
        if isinstance(part, Binary) and part.op == "=" and isinstance(part.right, Literal):
            held = values.setdefault(part.left, part.right.value)
            if held != part.right.value:
                return f"nothing is both {held!r} and {part.right.value!r}"
    for part in parts:
        if any(denial in parts for denial in _denials(part)):
            return "it asks for something and for its contrary"
    return None


def _denials(part: Node) -> Iterator[Node]:
    yield Call(part, "not", ())
    if isinstance(part, Call) and not part.args:
        for name, contrary in _DENIALS:
            if part.name == name:
                yield Call(part.base, contrary, ())
