"""Refuse what a profile's invariants ask that a record can make costly, and patterns that cannot be read here.

For the compiler of profiles: a package is not ours, and the text that its patterns meet is a sender's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from fhir_bridge.fhir.path_costs import refuse_powers
from fhir_bridge.fhir.path_syntax import Call, Literal, PathNotUnderstood, read
from fhir_bridge.fhir.text_patterns import compiled


def check_patterns(expression: str) -> None:
    """Accept an expression and the arguments of every ``matches()`` in it.

    Raises:
        PathNotUnderstood: A pattern is not written out, is none that Python reads, or can be costly; or the
            expression goes through the record again and again.
    """
    tree = read(expression)
    refuse_powers(tree)
    for call in _calls(tree):
        pattern = call.args[0] if call.args else None
        if not isinstance(pattern, Literal) or type(pattern.value) is not str:
            raise PathNotUnderstood("a pattern that a record gives")
        compiled(pattern.value)


def _calls(node: Any) -> Iterator[Call]:
    if isinstance(node, Call) and node.name == "matches":
        yield node
    if isinstance(node, tuple):
        for each in node:
            yield from _calls(each)
    elif is_dataclass(node):
        for each in fields(node):
            yield from _calls(getattr(node, each.name))
