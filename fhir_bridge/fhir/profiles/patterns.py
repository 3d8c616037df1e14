"""Refuse regular expressions of a profile's invariants that cannot be read here, or that a text can make costly.

For the compiler of profiles: a package is not ours, and the text that its patterns meet is a sender's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from fhir_bridge.fhir.path_syntax import Call, Literal, PathNotUnderstood, read
from fhir_bridge.fhir.text_patterns import compiled


def check_patterns(expression: str) -> None:
    """Accept the arguments of every ``matches()`` in an expression.

    Raises:
        PathNotUnderstood: One is not written out, is none that Python reads, or repeats what varies.
    """
    for call in _calls(read(expression)):
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
